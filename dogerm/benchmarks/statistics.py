"""Which λ is best, chosen where it is not reported; which rows flip; could it be chance?"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dogerm.benchmarks.data import Rewards, Settings
from dogerm.benchmarks.paired import Paired
from dogerm.benchmarks.report import Metric
from dogerm.errors import InputError
from dogerm.rows import Row

if TYPE_CHECKING:
    from dogerm.benchmarks.benchmark import Benchmark


@dataclass(frozen=True)
class Flips:
    """Ids of the rows that one recipe gets more right (gained) or less (lost) than another."""

    gained: tuple[str, ...]
    lost: tuple[str, ...]

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        ours: Sequence[float | None],
        theirs: Sequence[float | None],
    ) -> Flips:
        """From the two recipes' outcomes; a row that one of them did not judge is neither."""
        judged = [
            (row.id, own, other)
            for row, own, other in zip(rows, ours, theirs, strict=True)
            if own is not None and other is not None
        ]
        return cls(
            tuple(id for id, own, other in judged if own > other),
            tuple(id for id, own, other in judged if own < other),
        )


@dataclass(frozen=True)
class Bootstrap:
    """Mean outcome of one recipe minus another's on the same rows.

    Args:
        difference: None when no row was judged by both.
        low, high: 95% percentile interval over the draws; -1 to 1 when there is none.
    """

    difference: float | None
    low: float
    high: float
    n: int
    draws: int
    seed: int


def bootstrap(
    ours: Sequence[float | None],
    theirs: Sequence[float | None],
    seed: int,
    draws: int = 10_000,
) -> Bootstrap:
    """The difference's interval by drawing rows with replacement, both recipes' together.

    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    pairs = zip(ours, theirs, strict=True)
    changes = np.array([a - b for a, b in pairs if a is not None and b is not None])
    n = len(changes)
    if not n:
        return Bootstrap(None, -1.0, 1.0, 0, draws, seed)
    # How often each value comes up in a draw of n rows: no table of draws x n is needed.
    values, counts = np.unique(changes, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=draws)
    low, high = np.quantile(drawn @ values / n, (0.025, 0.975))
    return Bootstrap(float(changes.mean()), float(low), float(high), n, draws, seed)


@dataclass(frozen=True)
class Choice:
    """The best of some recipes on a group.

    Args:
        rule: "validation": chosen on rows that `metrics` and `against` leave out.
            "oracle": chosen on the very rows that they report, which flatters it.
        group: whose accuracy was compared.
        recipe: the place of the chosen one; of equals, the first.
        chosen_on: how many rows of the group it was chosen on.
        metrics: the chosen recipe's, on the rows reported.
        against: the chosen recipe against the first on the group's reported rows: the
            exact McNemar test, where outcomes are right or wrong.
        bootstrap: the same difference, with the paired bootstrap's interval.
        flips: which of those rows differ.
    """

    rule: Literal["validation", "oracle"]
    group: str
    recipe: int
    chosen_on: int
    metrics: Mapping[str, Metric]
    against: Paired
    bootstrap: Bootstrap
    flips: Flips

    def to_json(self) -> dict[str, Any]:
        keys = ("rule", "group", "recipe", "chosen_on")
        return {key: getattr(self, key) for key in keys} | {
            "metrics": {name: asdict(metric) for name, metric in self.metrics.items()},
            "against_first": self.against.to_json()
            | {"bootstrap": asdict(self.bootstrap)},
            "flips": asdict(self.flips),
        }


def validation(rows: Sequence[Row], settings: Settings) -> list[bool]:
    """Which rows λ is chosen on: settings.validation of them, the same for the same ids.

    In the order of a hash of seed and id, so that it does not depend on the rows' order.
    """

    def key(place: int) -> bytes:
        return hashlib.sha256(f"{settings.seed}/{rows[place].id}".encode()).digest()

    wanted = round(settings.validation * len(rows))
    chosen = set(sorted(range(len(rows)), key=key)[:wanted])
    return [place in chosen for place in range(len(rows))]


def choose(
    benchmark: Benchmark,
    rows: Sequence[Row],
    rewards: Sequence[Rewards],
    settings: Settings,
    group: str,
) -> Choice:
    """The recipe that is best for a group, and what it gains over the first, as a rule λ = 0.

    Chosen on the validation rows and reported on the rest, or, with a validation share of
    0, an "oracle".

    Args:
        rewards: for each recipe, each row's rewards.

    Raises:
        InputError: no row of the group that it could be chosen on was judged.
    """
    mine = validation(rows, settings)
    rule = "validation" if any(mine) else "oracle"
    on = mine if any(mine) else [True for _ in rows]
    rest = [not own for own in mine]

    def measured(own: Rewards, which: Sequence[bool]) -> dict[str, Metric]:
        kept = [(row, r) for row, r, keep in zip(rows, own, which, strict=True) if keep]
        return benchmark.metrics(
            [row for row, _ in kept], [r for _, r in kept], settings
        )

    scores = [measured(own, on).get(group) for own in rewards]
    if not scores or any(s is None or s.accuracy is None for s in scores):
        raise InputError(
            f"λ cannot be chosen for {group!r}: none of its rows is among those that it "
            f"would be chosen on ({sum(on)} of {len(rows)}). Raise --validation, or "
            "leave it at 0 for the oracle."
        )
    best = max(range(len(scores)), key=lambda place: scores[place].accuracy)
    members = [keep and group in benchmark.groups(r) for r, keep in zip(rows, rest)]
    chosen, first = (
        benchmark.outcomes(rows, own, settings) for own in (rewards[best], rewards[0])
    )
    both = [
        (row, own, other)
        for row, own, other, member in zip(rows, chosen, first, members, strict=True)
        if member and own is not None and other is not None
    ]
    kept, ours, theirs = ([part[i] for part in both] for i in range(3))
    return Choice(
        rule,
        group,
        best,
        scores[best].n,
        measured(rewards[best], rest),
        Paired.of(ours, theirs),
        bootstrap(ours, theirs, settings.seed),
        Flips.of(kept, ours, theirs),
    )
