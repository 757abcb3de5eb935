"""Reports that earlier runs left on disk: found under a folder, read back, and what is best in them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dogerm.benchmarks.report import Measured, Metric, Report
from dogerm.errors import DogermError, StoreError
from dogerm.recipe import Recipe


@dataclass(frozen=True)
class Best:
    """The recipe that is best for a group.

    Args:
        metric: the group's, under the recipe.
        rule: "validation": chosen on other rows than metric is of. "oracle": on the same.
        chosen_on: how many rows it was chosen on.
        against: that recipe against the first on the same rows, as in choices.json.
    """

    recipe: Recipe
    metric: Metric
    rule: str
    chosen_on: int
    against: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Stored:
    """A report on disk.

    Args:
        name: its folder's, below the one that was looked in.
        choices: what choices.json holds; nothing for a sweep, which makes no choices.
    """

    name: str
    report: Report
    choices: Sequence[Mapping[str, Any]] = ()

    def best(self, group: str) -> Best | None:
        """What was chosen for the group; where nothing was chosen at all, the oracle.

        None where others were chosen for, and not this group.
        """
        for choice in self.choices:
            if choice["group"] == group:
                return Best(
                    Recipe.from_json(choice["recipe"]),
                    Metric(**choice["metrics"][group]),
                    choice["rule"],
                    choice["chosen_on"],
                    choice.get("against_first"),
                )
        return None if self.choices else oracle(self.report.recipes, group)


def oracle(points: Sequence[Measured], group: str) -> Best | None:
    """The point of highest accuracy, the first of equals; None where the group was not measured."""
    found = [p for p in points if _accuracy(p, group) is not None]
    if not found:
        return None
    point = max(found, key=lambda p: _accuracy(p, group))
    metric = point.metrics[group]
    return Best(point.recipe, metric, "oracle", metric.n)


def read_stored(root: Path) -> tuple[list[Stored], list[str]]:
    """Every report.json under a folder, by name; and why others could not be read.

    Folders whose names begin with a dot are passed over: runs that are under way.
    """
    found, faults = [], []
    for file in sorted(root.glob("**/report.json")):
        folder = file.parent.relative_to(root)
        if any(part.startswith(".") for part in folder.parts):
            continue
        try:
            found.append(_read(folder.as_posix().strip(".") or root.name, file))
        except DogermError as error:
            faults.append(str(error))
    return found, faults


def _read(name: str, file: Path) -> Stored:
    try:
        report = Report.from_json(json.loads(file.read_text("utf-8")))
        beside = file.with_name("choices.json")
        choices = json.loads(beside.read_text("utf-8")) if beside.exists() else []
        stored = Stored(name, report, choices)
        for group in report.recipes[0].metrics:
            stored.best(group)
        return stored
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise StoreError(
            f"{file} is no report that this version can read. `bench report` writes it "
            "anew from its store."
        ) from None


def _accuracy(point: Measured, group: str) -> float | None:
    metric = point.metrics.get(group)
    return metric.accuracy if metric else None
