"""A study file: arms, seeds, what is compared, and the recipe of every cell of the grid."""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from sieverl.errors import UsageError, first_line, nearest
from sieverl.files import user_path
from sieverl.recipe import Recipe, build
from sieverl.recipe.load import merge, read
from sieverl.recipe.tables import JsonObject, Table
from sieverl.run_dir.manifest import digest

NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
OWN_CODE = re.compile(r'"([^"]+\.py):[^"]*"')  # FILE.py:NAME in JSON


class Until(Table):
    """The first step at which a metric reaches a value, on average over its last `over` values."""

    metric: str = Field("", description="a metric; empty: the held-out accuracy")
    reaches: float
    over: int = Field(1, ge=1, description="values that are averaged")


class Quantity(Table):
    """A number of a run: a metric at its last step, or its mean or sum over steps, or until something is reached."""

    metric: str = Field("", description="a metric; empty: the held-out accuracy")
    steps: Literal["last", "all"] | tuple[int, int] = Field("last", description="last, all, or [first, last]")
    reduce: Literal["mean", "sum"] = Field("mean", description="of the values at these steps")
    over: int | None = Field(None, ge=1, description="only the last so many of these steps")
    until: Until | None = Field(None, description="with steps = all: only up to where another metric reaches a value")
    log: bool = Field(False, description="compare by ratio: means are geometric, differences are factors")
    change: bool = Field(False, description="less its value before training; with log, in proportion to it")
    label: str = Field("", description="what a table calls it; empty: the metric")

    @model_validator(mode="after")
    def _all(self) -> Self:
        if self.until and self.steps != "all":
            raise ValueError("until goes with steps = 'all'")
        if self.over and self.steps == "last":
            raise ValueError("over goes with steps = 'all' or [first, last]")
        if self.change and (self.until or self.reduce == "sum"):
            raise ValueError("change is of a value or a mean; it does not go with until, nor with reduce = 'sum'")
        if isinstance(self.steps, tuple) and not 0 <= self.steps[0] <= self.steps[1]:
            raise ValueError(f"steps are [first, last], such as [1, 50], not {list(self.steps)}")
        return self

    @property
    def title(self) -> str:
        """What a table calls it.

        >>> Quantity(metric="policy/entropy", steps=(1, 50)).title, Quantity(metric="a", reduce="sum").title
        ('policy/entropy, steps 1 to 50', 'sum of a')
        """
        over = "" if isinstance(self.steps, str) else f", steps {self.steps[0]} to {self.steps[1]}"
        if self.until:
            over = f" until {self.until.metric or 'held-out accuracy'} reaches {self.until.reaches:g}"
        if self.over:
            over = f", the last {self.over} steps{over.replace(', steps', ' of')}"
        kind = "sum of " if self.reduce == "sum" else "change of " if self.change else ""
        return self.label or f"{kind}{self.metric or 'held-out accuracy'}{over}"

    @property
    def metrics(self) -> list[str]:
        """Those that it reads; empty: the held-out accuracy."""
        return [self.metric, *([self.until.metric] if self.until else [])]

    def plain(self, value: float) -> float:
        """What a mean or a difference is to a reader: of logarithms a geometric mean or a factor.

        >>> Quantity(log=True).plain(0.0), Quantity().plain(0.5)
        (1.0, 0.5)
        """
        return math.exp(min(value, 700.0)) if self.log else value


class Comparison(Quantity):
    """What a claim says of one arm beside another: `arm` minus `against` is above, below or within `margin`.

    `no lower` and `no higher` are one side of `same`: not by more than the margin in that direction.
    """

    arm: str
    against: str = Field("", description="empty: the baseline")
    expect: Literal["higher", "lower", "same", "no lower", "no higher"]
    margin: float = Field(
        0.0,
        ge=0,
        le=1e9,
        description="same, no lower: the largest difference that does not matter; of a ratio, a factor",
    )

    @model_validator(mode="after")
    def _factor(self) -> Self:
        if self.log and 0 < self.margin <= 1:
            raise ValueError(f"the margin of a ratio is a factor above 1, such as 1.5, not {self.margin:g}")
        return self

    @property
    def distance(self) -> float:
        """The margin, as differences have it."""
        return math.log(self.margin) if self.log and self.margin else self.margin


class Claim(Table):
    """A sentence that holds if all its comparisons do; undecided in a study of fewer steps than `horizon`."""

    text: str
    horizon: int = Field(0, ge=0, description="steps from which on the claim is about what it says")
    note: str = Field("", description="what else could explain it")
    compare: Annotated[list[Comparison], Field(min_length=1)]


class Study(Table):
    """A study file. `settings` and `arms` are tables of the recipe; those of an arm go on top."""

    about: str = ""
    recipe: list[str] = Field([], description="recipe files or names of shipped ones, left to right")
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    baseline: str = Field("", description="the arm that the others are compared with; empty: none")
    columns: list[Quantity] = Field([], description="of the table; the first is the held-out accuracy by default")
    settings: JsonObject = Field({}, description="tables of the recipe for all arms")
    arms: Annotated[dict[str, JsonObject], Field(min_length=1)]
    claims: list[Claim] = Field([], description="what the study is to decide")
    processes: int = Field(0, ge=0, description="cells at a time; 0: one for each GPU, or for each `threads` cores")
    command: list[str] = Field([], description="how a cell is started; {recipe} is its file")

    @field_validator("recipe", mode="before")
    @classmethod
    def _one(cls, given: object) -> object:
        """A name alone is a list of one."""
        return [given] if isinstance(given, str) else given

    @field_validator("columns", mode="before")
    @classmethod
    def _metrics(cls, given: object) -> object:
        """A text is a metric."""
        return [{"metric": one} if isinstance(one, str) else one for one in given] if isinstance(given, list) else given

    @property
    def size(self) -> int:
        """How many runs it has."""
        return len(self.arms) * len(self.seeds)

    @property
    def shown(self) -> Sequence[Quantity]:
        """The columns of the table."""
        return self.columns or [Quantity()]

    @property
    def quantities(self) -> Iterator[Quantity]:
        """All that is read of a run."""
        yield from self.shown
        for claim in self.claims:
            yield from claim.compare

    @property
    def metrics(self) -> list[str]:
        """Those that are read of a run; empty: the held-out accuracy."""
        return list(dict.fromkeys(name for quantity in self.quantities for name in quantity.metrics))


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    arm: str
    seed: int
    recipe: Recipe

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{self.arm}-{self.seed}"

    @cached_property
    def digest(self) -> str:
        """What its numbers depend on: its recipe, but for where it is kept and who is told of it, and files it names.

        These are code and data, as they were when this was first asked for.
        """
        recipe = self.recipe
        whole = recipe.model_dump(mode="json", exclude={"run_dir", "trackers", "checkpoint"})
        code = OWN_CODE.findall(json.dumps([recipe.algorithm, recipe.verify.spec], ensure_ascii=False))
        files = map(user_path, [*code, *filter(None, (recipe.data.source, recipe.evaluate.source))])
        parts = [digest(file) for file in files if file.is_file()]
        return hashlib.sha256(json.dumps([whole, parts], sort_keys=True).encode()).hexdigest()[:16]


def read_study(*paths: Path) -> Study:
    """The study in TOML files, merged from left to right as recipes are. Raises a UsageError that names the key."""
    tables: JsonObject = {}
    for path in paths:
        try:
            tables = merge(tables, tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the study {path} cannot be read: {first_line(error)}") from error
        except RecursionError as error:
            raise UsageError(f"{path}: it is nested too deep") from error
        except ValueError as error:
            raise UsageError(f"{path} is not valid TOML: {first_line(error)}") from error
    where = " + ".join(map(str, paths))
    try:
        study = Study.model_validate(tables)
    except (ValidationError, RecursionError) as error:
        raise UsageError(f"{where}: {_explain(error)}") from error
    _check(study, where)
    return study


def cells_of(study: Study, output: Path) -> list[Cell]:
    """Every cell, in the order in which they are run: all arms of a seed before the next seed.

    Raises a UsageError where an arm is no recipe. A run uses one thread unless the study says otherwise, so that its
    numbers do not depend on how many run at a time.
    """
    common: JsonObject = {"threads": 1}
    for name in study.recipe:
        common = merge(common, read(name))
    common = merge(common, study.settings)
    cells = []
    for seed in study.seeds:
        for arm, tables in study.arms.items():
            own = {"seed": seed, "run_dir": str(output / "runs" / f"{arm}-{seed}")}
            recipe = build(merge(merge(common, tables), own), where=f"arms.{arm}")
            cells.append(Cell(arm, seed, recipe))
    for cell in cells[: len(study.arms)]:
        _check_evaluated(study, cell)
    return cells


def _check(study: Study, files: str) -> None:
    """Raise a UsageError for names that do not fit together."""
    for arm in study.arms:
        if not NAME.fullmatch(arm):
            raise UsageError(f"{files}: arms.{arm!r} is no name for files; use letters, digits and _ . + -")
    named = {"baseline": study.baseline} if study.baseline else {}
    for number, claim in enumerate(study.claims):
        for place, one in enumerate(claim.compare):
            where = f"claims.{number}.compare.{place}"
            named |= {f"{where}.arm": one.arm, f"{where}.against": one.against or study.baseline}
            if not one.against and not study.baseline:
                raise UsageError(f"{files}: {where} says no arm to compare {one.arm} with; set against, or baseline")
            if one.arm == (one.against or study.baseline):
                raise UsageError(f"{files}: {where} compares {one.arm} with itself; set against to another arm")
            if one.expect not in ("higher", "lower") and not one.margin:
                raise UsageError(
                    f"{files}: {where} expects {one.expect!r} and needs a margin: how much does not matter?"
                )
    for key, arm in named.items():
        if arm not in study.arms:
            raise UsageError(f"{files}: {key} = {arm!r} is no arm.{nearest(arm, study.arms)}")
    if twice := sorted({seed for seed in study.seeds if study.seeds.count(seed) > 1}):
        raise UsageError(f"{files}: seeds has {twice[0]} twice; the same seed gives the same run")
    for key in ("seed", "run_dir"):
        if key in study.settings or any(key in tables for tables in study.arms.values()):
            raise UsageError(f"{files}: {key} is set by the study; leave it out (seeds = [...] are the seeds)")


def _check_evaluated(study: Study, cell: Cell) -> None:
    """Raise a UsageError for evaluations and steps that the runs will not have, before one is run."""
    settings = cell.recipe.evaluate
    k, name = settings.samples, settings.name
    if "" in study.metrics and not settings.source:
        raise UsageError(
            f"the held-out accuracy is asked for, and arms.{cell.arm} evaluates nothing: set evaluate.source, or name "
            "the metric of each column and comparison"
        )
    for quantity in study.quantities:
        if isinstance(quantity.steps, tuple) and quantity.steps[1] > cell.recipe.steps:
            raise UsageError(f"{quantity.title} is asked for, and arms.{cell.arm} has {cell.recipe.steps} steps")
    scores = [f"avg@{k}", f"pass@{k}", f"maj@{k}", "length_mean", "truncated", "no_answer"]
    known = [f"eval/{name}/{score}" for score in [*scores, *(["kl_ref"] if settings.kl_prompts else [])]]
    for metric in study.metrics:
        if metric.startswith("eval/") and metric not in known:
            raise UsageError(
                f"{metric} is asked for, and arms.{cell.arm} evaluates {name} with {k} samples a prompt: its metrics "
                f"are {', '.join(known)}"
            )


def _explain(error: Exception) -> str:
    """The first fault of a study in a line."""
    if not isinstance(error, ValidationError):
        return "it is nested too deep"
    faults = error.errors()
    first = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])  # a typo explains others
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        hint = nearest(str(first["loc"][-1]), [*Study.model_fields, *Claim.model_fields, *Comparison.model_fields])
        return f"there is no key {key!r}.{hint}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{key}: {message[:1].lower()}{message[1:]}"
