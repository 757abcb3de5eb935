"""How far 8-bit rewards are from 16-bit or 32-bit ones, on some texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from dogerm.engine import Engine
from dogerm.scoring import Group, score


@dataclass(frozen=True)
class Agreement:
    """Two engines of one family compared, at λ = 0 and at the family's default recipe.

    Args:
        against: dtype of the other engine.
        orders: pairs of responses to one prompt; same: those both rank the same way.
        mean, largest: difference between rewards, each minus the mean of its prompt's
            responses, since only differences between rewards mean something.
    """

    against: str
    orders: int
    same: int
    mean: float
    largest: float

    def __str__(self) -> str:
        return (
            f"ranks {self.same} of {self.orders} pairs of example responses as "
            f"{self.against} does; rewards differ by {self.mean:.3f} on average, "
            f"{self.largest:.3f} at most"
        )


def agreement(engine: Engine, other: Engine, groups: Sequence[Group]) -> Agreement:
    """Compare the rewards of two engines of one family."""
    differences: list[float] = []
    orders = same = 0
    for recipe in (engine.family.recipe(0), engine.family.recipe()):
        tables = (score(one, recipe, groups) for one in (engine, other))
        for ours, theirs in zip(*tables):
            ours, theirs = _centred(ours), _centred(theirs)
            differences += [abs(a - b) for a, b in zip(ours, theirs)]
            for i, j in combinations(range(len(ours)), 2):
                orders += 1
                same += (ours[i] > ours[j]) == (theirs[i] > theirs[j])
    mean = sum(differences) / len(differences)
    return Agreement(other.dtype, orders, same, mean, max(differences))


def _centred(rewards: Sequence[float]) -> list[float]:
    mean = sum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]
