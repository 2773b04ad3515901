"""A bundle: a YAML file that names several experiments, which are run one after the other into one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from experiments.config import loader
from experiments.config.keys import FOLDER_NAME
from experiments.config.messages import sentences
from experiments.config.schema import Experiment
from sim.errors import ParmError
from sim.kinds import Options


class Bundle(Options):
    """Experiments that belong together."""

    name: str = Field(pattern=f"^{FOLDER_NAME.pattern}$")
    """Name of the bundle, and of its folder of run directories where no other is given."""
    experiments: tuple[Path, ...] = Field(min_length=1)
    """The experiments' files, from the bundle's own folder; each runs into a directory of its own name."""


@dataclass(frozen=True)
class Selection:
    """What a file asks to be run."""

    experiments: list[tuple[Path, Experiment]]
    """Each experiment with its file."""
    bundle: str | None = None
    """The bundle's name, where the file is one."""

    def folder(self, out: Path | None, experiment: Experiment) -> Path:
        """Return the run directory of one of the experiments; `out` is the user's choice for the whole plan."""
        if self.bundle is None:
            return out or Path("runs") / experiment.name
        return (out or Path("runs") / self.bundle) / experiment.name


def load(path: Path, overrides: Sequence[str] = (), plugins: Sequence[str] = ()) -> Selection:
    """Read an experiment, or all those of a bundle, as `loader.load` does; overrides apply to each.

    Raises ParmError with everything that is wrong with the first file that has mistakes.
    """
    source = loader.read(path)
    if not isinstance(source.data, dict) or "experiments" not in source.data:
        return Selection([(path, loader.load(path, overrides, plugins))])
    try:
        bundle = Bundle.model_validate(source.data)
    except ValidationError as error:
        for key, says in sentences(error, source.data, Bundle):
            source.complain(key, says)
    loader.refuse(source)
    files = [path.parent / file for file in bundle.experiments]
    for index, file in enumerate(files):
        if not file.is_file():
            source.complain(("experiments", index), f"there is no file {file}")
        elif loader.sort_of(loader.read(file).data) == "bundle":
            source.complain(("experiments", index), f"{file} is a bundle itself; name its experiments")
    loader.refuse(source)
    found = [(file, loader.load(file, overrides, plugins)) for file in files]
    names = [experiment.name for _, experiment in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ParmError(f"{path}: two of its experiments are called '{twice}', so they would share a run directory.")
    return Selection(found, bundle.name)
