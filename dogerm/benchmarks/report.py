"""Report: what a benchmark measured under each recipe, in the format every chart and table reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import binomtest

from dogerm.engine import Engine
from dogerm.provenance import versions
from dogerm.recipe import Recipe
from dogerm.rows import Tokenised


@dataclass(frozen=True)
class Metric:
    """A fraction of n, with its 95% interval.

    Args:
        accuracy: None when n is 0: not measured.
        n: how many were judged.
        ties: how many of them had equal rewards; a tie is no win.
        low, high: Wilson's interval; 0 to 1 when n is 0.
    """

    accuracy: float | None
    n: int
    ties: int
    low: float
    high: float

    @classmethod
    def of(cls, wins: int, ties: int, n: int) -> Metric:
        if n == 0:
            return cls(None, 0, 0, 0.0, 1.0)
        interval = binomtest(wins, n).proportion_ci(method="wilson")
        return cls(wins / n, n, ties, float(interval.low), float(interval.high))

    @classmethod
    def of_margins(cls, margins: Sequence[float]) -> Metric:
        """Accuracy of pairs: the margin, chosen minus rejected, is strictly positive."""
        wins = sum(margin > 0 for margin in margins)
        return cls.of(wins, sum(margin == 0 for margin in margins), len(margins))

    def __str__(self) -> str:
        if self.accuracy is None:
            return "not measured (n = 0)"
        ties = f", {self.ties} tied" if self.ties else ""
        return f"{self.accuracy:.1%} [{self.low:.1%}, {self.high:.1%}] (n = {self.n}{ties})"


@dataclass(frozen=True, eq=False)
class Measured:
    """One recipe's metrics by the benchmark's groups."""

    recipe: Recipe
    metrics: Mapping[str, Metric]


@dataclass(frozen=True)
class Report:
    """A benchmark of one family under several recipes.

    Args:
        benchmark: its name, e.g. "pairs".
        family: name, rm, lms.
        settings: dtype, device, versions, and what happened to conversations that are
            too long.
        recipes: in the order they were run.
    """

    benchmark: str
    family: Mapping[str, Any]
    settings: Mapping[str, Any]
    recipes: Sequence[Measured]

    def to_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "family": dict(self.family),
            "settings": dict(self.settings),
            "recipes": [
                point.recipe.to_json()
                | {"metrics": {name: asdict(m) for name, m in point.metrics.items()}}
                for point in self.recipes
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        points = [
            Measured(
                Recipe.from_json(point),
                {name: Metric(**metric) for name, metric in point["metrics"].items()},
            )
            for point in data["recipes"]
        ]
        return cls(data["benchmark"], data["family"], data["settings"], points)


def settings(engine: Engine, rows: Tokenised) -> dict[str, Any]:
    """What the numbers depend on beside weights and rows."""
    return {
        "dtype": engine.dtype,
        "device": str(engine.device),
        "max_tokens": engine.max_tokens,
        "too_long": rows.too_long,
        "skipped": len(rows.skipped),
        "cut": rows.cut,
        "versions": versions(),
    }
