"""Report: what a benchmark measured under each recipe, in the format every chart and table reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import norm

from dogerm.engine import Engine
from dogerm.provenance import versions
from dogerm.recipe import Recipe
from dogerm.rows import Tokenised

_Z = float(norm.ppf(0.975))


@dataclass(frozen=True)
class Metric:
    """A fraction of n, with its 95% interval.

    Args:
        accuracy: None when n is 0: not measured.
        n: how many were judged.
        ties: how many of them had equal rewards; a tie is no win.
        low, high: 0 to 1 when n is 0.
        interval: how low and high were found.
    """

    accuracy: float | None
    n: int
    ties: int
    low: float
    high: float
    interval: str = "Wilson"

    @classmethod
    def of(cls, wins: float, ties: int, n: int) -> Metric:
        """wins of n. They may be a sum of fractions (a shared first place, a random
        pick): the interval is then wider than it need be, never narrower.
        """
        if n == 0:
            return cls(None, 0, 0, 0.0, 1.0)
        share = wins / n
        centre = share + _Z**2 / (2 * n)
        spread = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
        low, high = ((centre + sign * spread) / (1 + _Z**2 / n) for sign in (-1, 1))
        return cls(
            share, n, ties, max(0.0, min(low, share)), min(1.0, max(high, share))
        )

    @classmethod
    def combined(cls, parts: Sequence[tuple[float, Metric]]) -> Metric:
        """The mean of independent metrics with these weights; those not measured drop out.

        The interval combines theirs by the squares of their arms (MOVER, Zou and
        Donner 2008); with one part it is that part's.
        """
        parts = [(weight, m) for weight, m in parts if m.accuracy is not None]
        total = sum(weight for weight, _ in parts)
        if not total:
            return cls.of(0, 0, 0)
        mean = sum(weight * m.accuracy for weight, m in parts) / total
        arms = [
            math.hypot(*(weight * arm(m) / total for weight, m in parts))
            for arm in (lambda m: m.accuracy - m.low, lambda m: m.high - m.accuracy)
        ]
        n, ties = (sum(getattr(m, key) for _, m in parts) for key in ("n", "ties"))
        low, high = max(0.0, mean - arms[0]), min(1.0, mean + arms[1])
        return cls(mean, n, ties, low, high, "MOVER of its parts")

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

    @property
    def mixes(self) -> list[list[Measured]]:
        """The points by what is merged besides λ, each list with its λs ascending."""
        found: dict[Recipe, list[Measured]] = {}
        for point in self.recipes:
            found.setdefault(point.recipe.with_lam(1), []).append(point)
        return [sorted(own, key=lambda p: p.recipe.lam) for own in found.values()]

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
