"""Base classes: everything that YAML names by `kind` is a frozen pydantic class derived from `Kind`.

A family (a distribution, a straggler, a policy, ...) is an abstract subclass without a `kind` field. Its members add
`kind: Literal["their_name"] = "their_name"`, their options as fields, and their behaviour as methods. A field annotated
with the family accepts any member, written in YAML as a mapping with `kind`, or as the bare name where every option has
a default. There is no registry: members are the imported subclasses, so importing a plugin adds its members.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import textwrap
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError


class Options(BaseModel):
    """A frozen mapping of options that rejects unknown keys. Base of everything in an experiment's YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def resolved(self) -> dict[str, Any]:
        """Return the options with every default written out, as plain data for YAML or JSON."""
        return self.model_dump(mode="json", serialize_as_any=True, by_alias=True)


class Kind(Options):
    """Base of every family. The module's docstring says how a family is made."""

    family: ClassVar[str] = "kind"
    """What members of this family are called in messages, such as `distribution`."""

    @classmethod
    def name_in_yaml(cls) -> str | None:
        """The value of `kind` that names this class, or None for an abstract one."""
        field = cls.model_fields.get("kind")
        return None if field is None or not isinstance(field.default, str) else field.default

    @classmethod
    def members(cls) -> dict[str, type[Self]]:
        """Every concrete class of this family that has been imported, by the name that YAML uses, sorted."""
        found: dict[str, type[Self]] = {}
        waiting: list[type[Self]] = [cls]
        while waiting:
            candidate = waiting.pop()
            waiting.extend(candidate.__subclasses__())
            name = candidate.name_in_yaml()
            if name is not None:
                found[name] = candidate
        return dict(sorted(found.items()))

    @classmethod
    def from_shorthand(cls, value: Any) -> Any:
        """Turn a shorthand into a mapping; by default only the bare name of a member is one."""
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="wrap")
    @classmethod
    def _choose_member(cls, value: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        if isinstance(value, cls):
            return value
        if cls.name_in_yaml() is not None:
            return handler(value)
        value = cls.from_shorthand(value)
        names = cls.members()
        if not isinstance(value, dict):
            raise PydanticCustomError(
                "kind_type", "a {family} is a mapping with 'kind', or the bare name of one", {"family": cls.family}
            )
        if "kind" not in value:
            raise PydanticCustomError(
                "kind_missing",
                "a {family} needs 'kind': one of {names}",
                {"family": cls.family, "names": ", ".join(names)},
            )
        member = names.get(value["kind"]) if isinstance(value["kind"], str) else None
        if member is None:
            near = difflib.get_close_matches(str(value["kind"]), names, n=1)
            raise PydanticCustomError(
                "kind_unknown",
                "there is no {family} '{given}'{hint}; there are {names}",
                {
                    "family": cls.family,
                    "given": str(value["kind"]),
                    "hint": f" (did you mean '{near[0]}'?)" if near else "",
                    "names": ", ".join(names),
                },
            )
        return member.model_validate(value, context=info.context)


def about(options: type[BaseModel], name: str) -> str:
    """Return what the string below a field says, in the class or in the base from which it has it; else nothing."""
    bases = (base for base in options.mro() if issubclass(base, BaseModel))
    return next((text for base in bases if (text := _strings_below_fields(base).get(name))), "")


@cache
def _strings_below_fields(options: type[BaseModel]) -> dict[str, str]:
    """Return them for the class's own fields.

    pydantic can note them as descriptions, but would read the source of every class that is imported, which takes a
    third of the time in which a process starts.
    """
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(options))).body[0]
    except (OSError, TypeError, SyntaxError):  # its source is not in a file
        return {}
    return {
        field.target.id: inspect.cleandoc(below.value.value)
        for field, below in pairwise(getattr(body, "body", ()))
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def find_file(name: Path, context: dict[str, Any] | None) -> Path:
    """Return the file that YAML names, looked for in the folders of `context["paths"]` (by default the working one).

    `~` is the home folder.

    Raises ValueError, which names the folders, where there is none.
    """
    name = name.expanduser()
    folders = [Path(folder) for folder in (context or {}).get("paths", [Path.cwd()])]
    for folder in folders:
        if (folder / name).is_file():
            return name if folder == Path.cwd() else folder / name
    raise ValueError(f"there is no file '{name}' in {' or '.join(dict.fromkeys(str(folder) for folder in folders))}")
