"""Two models on the same pairs: which gets more of them right, and could that be chance?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import binomtest, norm

LEVEL = 0.05
_Z = float(norm.ppf(1 - LEVEL / 2))


@dataclass(frozen=True)
class Paired:
    """A model, *ours*, against another, *theirs*, on the same n pairs.

    Args:
        n: pairs that both judged.
        gained, lost: pairs that only ours, and that only theirs, gets right.
        difference: accuracy of ours minus theirs; None when n is 0.
        low, high: its 95% interval, by Bonett and Price: a pair gained and a pair lost are
            added first, so that it is sound for few pairs too. -1 to 1 when n is 0.
        p: two-sided p-value of McNemar's exact test: were gained and lost pairs equally
            likely, how often would they differ this much?

    Sources: Q. McNemar, Psychometrika 12, 1947; D. G. Bonett and R. M. Price, J. Educ.
    Behav. Stat. 37, 2012.
    """

    n: int
    gained: int
    lost: int
    difference: float | None
    low: float
    high: float
    p: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Paired:
        """From how right each is on each pair: 0 or 1, or the part of several runs in which it is.

        With several runs a pair counts as gained when ours is right in more of them, and
        the test is a sign test over pairs.
        """
        changes = [own - other for own, other in zip(ours, theirs, strict=True)]
        gained = sum(change > 0 for change in changes)
        lost = sum(change < 0 for change in changes)
        if not changes:
            return cls(0, 0, 0, None, -1.0, 1.0, 1.0)
        p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        n = len(changes) + 2
        middle = sum(changes) / n
        spread = math.sqrt((sum(c * c for c in changes) + 2) / n - middle**2)
        reach = _Z * spread / math.sqrt(n)
        return cls(
            len(changes),
            gained,
            lost,
            sum(changes) / len(changes),
            max(-1.0, middle - reach),
            min(1.0, middle + reach),
            float(p),
        )

    @classmethod
    def of_margins(cls, ours: Sequence[float], theirs: Sequence[float]) -> Paired:
        """From margins: a pair is right when its margin is strictly positive."""
        return cls.of([float(m > 0) for m in ours], [float(m > 0) for m in theirs])

    @property
    def significant(self) -> bool:
        return self.p < LEVEL

    @property
    def verdict(self) -> str:
        if not self.significant:
            return "not significant"
        return f"significantly {'better' if self.gained > self.lost else 'worse'}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict}

    def __str__(self) -> str:
        if self.difference is None:
            return "not measured (n = 0)"
        return (
            f"{100 * self.difference:+.1f} points [{100 * self.low:+.1f}, "
            f"{100 * self.high:+.1f}]; {self.gained} pairs gained, {self.lost} lost of "
            f"{self.n}, exact McNemar p {p_text(self.p)}: {self.verdict}"
        )


def p_text(p: float) -> str:
    return f"= {p:.2g}" if p >= 0.001 else "< 0.001"


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for being one of several: each is compared with 0.05 as before.

    Source: S. Holm, Scand. J. Statist. 6, 1979.
    """
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(ps, key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in ps}
