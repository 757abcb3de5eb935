"""Rewards over λ as values: a curve with its flips, a map over domains. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dogerm.recipe import Recipe


def top(row: Sequence[float]) -> list[int]:
    """Indices of the highest reward: several when they are exactly equal, a tie."""
    return [index for index, reward in enumerate(row) if reward == max(row)]


def preference(margin: float) -> float:
    """Probability that the answer ahead by this margin is preferred: σ(margin).

    The Bradley-Terry model, which reward models are trained under.
    """
    if margin < 0:  # so that exp never overflows
        return 1 - preference(-margin)
    return 1 / (1 + math.exp(-margin))


@dataclass(frozen=True)
class Flip:
    """The top response changes from `before` to `after` (indices) at λ = lam."""

    lam: float
    before: int
    after: int

    def to_json(self) -> dict[str, Any]:
        return {"lam": self.lam, "before": self.before, "after": self.after}


@dataclass(frozen=True)
class Curve:
    """Rewards of a prompt's responses over λ.

    Args:
        lams: ascending.
        rewards: a row per λ, a reward per response.
        flips: where the top response changes, ascending.
        recipe: shares, method, options, layers and parts of every point; its own λ says
            nothing.
    """

    lams: tuple[float, ...]
    rewards: tuple[tuple[float, ...], ...]
    flips: tuple[Flip, ...]
    recipe: Recipe

    def to_json(self) -> dict[str, Any]:
        return {
            "lams": list(self.lams),
            "rewards": [list(row) for row in self.rewards],
            "flips": [flip.to_json() for flip in self.flips],
            "ties": [
                {"lam": lam, "responses": tied}
                for lam, row in zip(self.lams, self.rewards)
                if len(tied := top(row)) > 1
            ],
        }


@dataclass(frozen=True)
class DomainMap:
    """Rewards of a prompt's responses over λ and the mix of two or three domains.

    Args:
        domains: what is mixed. With two, `points` are λ against the second one's share;
            with three, their shares at one λ.
        points: λ and the domains' shares of each point.
        rewards: a row per point, a reward per response.
    """

    domains: tuple[str, ...]
    points: tuple[tuple[float, tuple[float, ...]], ...]
    rewards: tuple[tuple[float, ...], ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "domains": list(self.domains),
            "points": [
                {"lam": lam, "shares": dict(zip(self.domains, shares))}
                for lam, shares in self.points
            ],
            "rewards": [list(row) for row in self.rewards],
        }
