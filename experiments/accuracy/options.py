"""Options of the YAML file of a study of accuracy."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from experiments.config.keys import FOLDER_NAME
from parity.codes import Addition, TensorCode
from parity.networks import Network
from parity.recipes import Best, Recipe
from sim.kinds import Options
from workloads.datasets.base import Dataset


class Subject(Options):
    """A deployed model."""

    network: Network
    """Architecture of the deployed model and of the parity models."""
    dataset: Dataset
    """Data set for training and testing."""
    recipe: Recipe = Best()
    """How it is trained."""
    recipes: dict[str, Recipe] | None = Field(default=None, min_length=1)
    """Recipes for its codes' models, by a name of your choice; default: the study's `recipes`."""
    top: int = Field(default=1, ge=1)
    """An answer is correct if the label is among this many most likely classes; 5 in the paper for CIFAR-100."""
    label: str | None = None
    """Name in figures; default: the network on the data set."""

    @property
    def title(self) -> str:
        """Name in figures."""
        return self.label or f"{self.network.name_in_yaml()} on {self.dataset.name_in_yaml()}"


class StudiedCode(Options):
    """A code at a group size."""

    code: TensorCode = Addition()
    """The code."""
    k: int = Field(ge=2, le=32)
    """Queries in a coding group."""
    r: int = Field(default=1, ge=1, le=32)
    """Parity queries of a group; for a nonsystematic code all coded queries, k + stragglers."""
    losses: int = Field(default=1, ge=1)
    """Number of lost answers per group."""
    label: str | None = None
    """Name in tables and figures; default: the code with its parameters."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.code.check(self.k, self.r)
        if self.losses > self._spare():
            raise ValueError(
                f"losses: {self.losses} lost answers cannot be reconstructed with {self._spare()} to spare"
            )
        return self

    def _spare(self) -> int:
        """Return how many answers may be lost: of a systematic code own ones, else coded ones."""
        if not self.code.systematic:
            return self.r - self.k
        coded = ((1 << self.r) - 1) << self.k
        own = (((1 << self.k - lost) - 1) << lost for lost in range(1, self.k + 1))
        return sum(self.code.sufficient(self.k, self.r, coded | left) for left in own)

    @property
    def title(self) -> str:
        """Name in tables and figures."""
        rows = f" r={self.r}" if self.code.systematic and self.r > 1 else ""
        lost = f", {self.losses} lost" if self.losses > 1 else ""
        return self.label or f"{self.code.name_in_yaml()} k={self.k}{rows}{lost}"


class Known(Options):
    """A published measurement to compare with."""

    model: str
    """Name of the deployed model in the study."""
    coding: str
    """Name of the code in the study, such as `addition k=2`."""
    available: float | None = Field(default=None, ge=0, le=1)
    """Their A_a."""
    degraded: float = Field(ge=0, le=1)
    """Their A_d."""
    source: str
    """Source, for the legend."""


class Study(Options):
    """All combinations of deployed models, codes, recipes for the codes' models, and seeds."""

    study: Literal["accuracy"]
    """Marks the file as a study of accuracy."""
    name: str
    """Name of the study and, without --out, of its folder."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Seeds of the initial weights and of the order of samples; deployed model and codes share one."""
    models: tuple[Subject, ...] = Field(min_length=1)
    """The deployed models."""
    codes: tuple[StudiedCode, ...] = Field(min_length=1)
    """The codes."""
    recipes: dict[str, Recipe] = Field(default={"best": Best()}, min_length=1)
    """Recipes for the codes' models, by a name of your choice."""
    reference: tuple[Known, ...] = ()
    """Published measurements: hollow marks in the figures."""
    figures: tuple[Literal["degraded", "overall", "flop"], ...] = ("degraded",)
    """Figures to draw. `degraded`: A_a, A_d and the default answer; `overall`: A_o against the unavailable fraction;
    `flop`: A_d against the floating-point operations of training, a line for each code through its recipes."""

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, name: str) -> str:
        if not FOLDER_NAME.fullmatch(name):
            raise ValueError(
                f"'{name}' is not a valid name of a folder: use up to 100 letters, digits, '.', '_' and '-'"
            )
        return name

    @model_validator(mode="after")
    def _names_are_clear(self) -> Self:
        models, codes = [one.title for one in self.models], [one.title for one in self.codes]
        for key, titles in (("models", models), ("codes", codes)):
            twice = next((title for title in titles if titles.count(title) > 1), None)
            if twice is not None:
                raise ValueError(f"{key}: two of them have the name '{twice}'; give each a 'label' of its own")
        for known in self.reference:
            for name, titles in ((known.model, models), (known.coding, codes)):
                if name not in titles:
                    near = difflib.get_close_matches(name, titles, n=1)
                    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(titles)}"
                    raise ValueError(f"reference: nothing here is called '{name}'; {hint}")
        return self

    def only(self, titles: Collection[str]) -> Study:
        """Return the study with only these deployed models. Raises ValueError for an unknown name."""
        known = [one.title for one in self.models]
        for title in titles:
            if title not in known:
                near = difflib.get_close_matches(title, known, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
                raise ValueError(f"no model of {self.name} is called '{title}'; {hint}")
        models = tuple(one for one in self.models if one.title in titles)
        reference = tuple(one for one in self.reference if one.model in titles)
        return self.model_copy(update={"models": models, "reference": reference})

    def cases(self) -> Iterator[Case]:
        """Yield all combinations, grouped by deployed model."""
        for subject in self.models:
            for seed in self.seeds:
                for coding in self.codes:
                    for name, recipe in (subject.recipes or self.recipes).items():
                        yield Case(subject=subject, seed=seed, coding=coding, recipe_name=name, recipe=recipe)


class Case(Options):
    """One combination: a line of the table."""

    subject: Subject
    """The deployed model."""
    seed: int
    """Seed of training, for the deployed model and the code's models."""
    coding: StudiedCode
    """The code."""
    recipe_name: str
    """Name of the recipe in the study."""
    recipe: Recipe
    """How the code's models are trained."""
