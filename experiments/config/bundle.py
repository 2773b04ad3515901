"""Bundles: YAML files that name several experiments, which run one after the other into one folder."""

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
    """Several experiments that one command runs."""

    name: str = Field(pattern=f"^{FOLDER_NAME.pattern}$")
    """Name of the bundle and, without --out, of the folder of its run directories."""
    experiments: tuple[Path, ...] = Field(min_length=1)
    """Files of the experiments, relative to the bundle; each runs into a directory with the experiment's name."""


@dataclass(frozen=True)
class Selection:
    """The experiments that a file names."""

    experiments: list[tuple[Path, Experiment]]
    """Pairs of file and experiment."""
    bundle: str | None = None
    """Name of the bundle; None for a single experiment."""

    def folder(self, out: Path | None, experiment: Experiment) -> Path:
        """Return the run directory of an experiment; `out` is the value of --out."""
        if self.bundle is None:
            return out or Path("runs") / experiment.name
        return (out or Path("runs") / self.bundle) / experiment.name


def load(path: Path, overrides: Sequence[str] = (), plugins: Sequence[str] = ()) -> Selection:
    """Read an experiment or all experiments of a bundle with `loader.load`; overrides apply to each.

    Raises ParmError with all mistakes of the first file that has any.
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
            source.complain(("experiments", index), f"{file} is itself a bundle; name its experiments instead")
    loader.refuse(source)
    found = [(file, loader.load(file, overrides, plugins)) for file in files]
    names = [experiment.name for _, experiment in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ParmError(f"{path}: two of its experiments have the name '{twice}' and would share a run directory.")
    return Selection(found, bundle.name)
