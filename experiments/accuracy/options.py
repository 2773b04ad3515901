"""What a study of accuracy is: the options of its YAML file."""

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
    """Its architecture, and that of the parity models."""
    dataset: Dataset
    """What it is trained and judged on."""
    recipe: Recipe = Best()
    """How it is trained."""
    recipes: dict[str, Recipe] | None = Field(default=None, min_length=1)
    """How what its codes need is trained, by a name of your choice; as for all models where it is left out."""
    top: int = Field(default=1, ge=1)
    """An answer is right where the label is among this many likeliest classes; the paper takes 5 for CIFAR-100."""
    label: str | None = None
    """What figures call it; the network on the data set where it is left out."""

    @property
    def title(self) -> str:
        """What figures call it."""
        return self.label or f"{self.network.name_in_yaml()} on {self.dataset.name_in_yaml()}"


class StudiedCode(Options):
    """A code at a group size."""

    code: TensorCode = Addition()
    """The code."""
    k: int = Field(ge=2, le=32)
    """Queries in a coding group."""
    r: int = Field(default=1, ge=1, le=32)
    """Coded queries of a group; for a code that is not systematic all of them, k + stragglers."""
    losses: int = Field(default=1, ge=1)
    """Answers of a group that are lost at once."""
    label: str | None = None
    """What tables and figures call it; the code with its numbers where it is left out."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.code.check(self.k, self.r)
        spare = self.r if self.code.systematic else self.r - self.k
        if self.losses > spare:
            raise ValueError(f"losses: {self.losses} lost answers cannot be made up for with {spare} to spare")
        return self

    @property
    def title(self) -> str:
        """What tables and figures call it."""
        rows = f" r={self.r}" if self.code.systematic and self.r > 1 else ""
        lost = f", {self.losses} lost" if self.losses > 1 else ""
        return self.label or f"{self.code.name_in_yaml()} k={self.k}{rows}{lost}"


class Known(Options):
    """What others measured of the same."""

    model: str
    """What the study calls the deployed model."""
    coding: str
    """What the study calls the code at its group size, such as `addition k=2`."""
    available: float | None = Field(default=None, ge=0, le=1)
    """Their A_a."""
    degraded: float = Field(ge=0, le=1)
    """Their A_d."""
    source: str
    """Who they are, for the legend."""


class Study(Options):
    """Deployed models, codes for them and ways to train what the codes need: every combination, for every seed."""

    study: Literal["accuracy"]
    """Says that this file is a study of accuracy."""
    name: str
    """Its name, and that of its folder where no other is given."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Seeds of weights and of the order of samples; deployed model and codes share one."""
    models: tuple[Subject, ...] = Field(min_length=1)
    """The deployed models."""
    codes: tuple[StudiedCode, ...] = Field(min_length=1)
    """The codes."""
    recipes: dict[str, Recipe] = Field(default={"best": Best()}, min_length=1)
    """How what the codes need is trained, by a name of your choice."""
    reference: tuple[Known, ...] = ()
    """Numbers that others measured: hollow marks in the figures."""
    figures: tuple[Literal["degraded", "overall"], ...] = ("degraded",)
    """`degraded`: A_a, A_d and the default answer. `overall`: A_o against the fraction unavailable."""

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, name: str) -> str:
        if not FOLDER_NAME.fullmatch(name):
            raise ValueError(f"'{name}' cannot name a folder: use up to 100 letters, digits, '.', '_' and '-'")
        return name

    @model_validator(mode="after")
    def _names_are_clear(self) -> Self:
        models, codes = [one.title for one in self.models], [one.title for one in self.codes]
        for key, titles in (("models", models), ("codes", codes)):
            twice = next((title for title in titles if titles.count(title) > 1), None)
            if twice is not None:
                raise ValueError(f"{key}: two of them are called '{twice}'; tell them apart with a 'label' each")
        for known in self.reference:
            for name, titles in ((known.model, models), (known.coding, codes)):
                if name not in titles:
                    near = difflib.get_close_matches(name, titles, n=1)
                    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(titles)}"
                    raise ValueError(f"reference: nothing here is called '{name}'; {hint}")
        return self

    def only(self, titles: Collection[str]) -> Study:
        """Return the study of the deployed models called so. Raises ValueError for a name that no model has."""
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
        """Yield every combination, those of one deployed model together."""
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
    """Of its training, and of that of the code's parts."""
    coding: StudiedCode
    """The code."""
    recipe_name: str
    """What the study calls the recipe."""
    recipe: Recipe
    """How the code's parts are trained."""
