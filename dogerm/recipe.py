"""Recipe: which merge is meant. A value: frozen, compared by content, with text and JSON forms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any

from dogerm.errors import RecipeError

MAX_GRID = 1001  # a finer λ grid than 0.001 is a typing slip


@dataclass(frozen=True)
class Recipe:
    """θ = (1 - lam)·θ_RM + lam·Σ share·θ_LM, or what `method` makes of these numbers.

    Two recipes are equal when they ask for the same weights in the same way: shares
    are normalised to sum to 1, zero shares dropped and names sorted.

    Args:
        lam: total share of the domain LMs, 0 (the plain reward model) to 1.
        shares: a non-negative weight per domain LM; need not sum to 1.
        method: name of an entry of `dogerm.merge.METHODS`.
        options: the method's own settings by name.

    Raises:
        RecipeError: lam is not a number in [0, 1]; a share is negative or not a
            number; all shares are zero.
    """

    lam: float
    shares: Mapping[str, float]
    method: str = "linear"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lam", checked_lam(self.lam))
        object.__setattr__(self, "shares", MappingProxyType(_normalised(self.shares)))
        object.__setattr__(
            self, "options", MappingProxyType(dict(sorted(self.options.items())))
        )

    def __hash__(self) -> int:
        return hash((self.lam, tuple(self.shares.items()), self.method))

    @property
    def coefficients(self) -> dict[str, float]:
        """What each model counts for in a linear merge: `rm` first, then each LM; sums to 1."""
        lms = {name: self.lam * share for name, share in self.shares.items()}
        return {"rm": 1 - self.lam} | lms

    @property
    def formula(self) -> str:
        """The merge with its numbers, e.g. `0.65·RM + 0.25·math + 0.10·code`."""
        names = {"rm": "RM"}
        terms = [f"{c:.2f}·{names.get(n, n)}" for n, c in self.coefficients.items()]
        text = " + ".join(terms)
        return text if self.method == "linear" else f"{self.method}({text})"

    def with_lam(self, lam: float) -> Recipe:
        return Recipe(lam, self.shares, self.method, self.options)

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "lam": self.lam,
            "shares": dict(self.shares),
            "method": self.method,
        }
        return out | ({"options": dict(self.options)} if self.options else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        return cls(
            data["lam"],
            data["shares"],
            data.get("method", "linear"),
            data.get("options", {}),
        )

    def __str__(self) -> str:
        shares = " ".join(f"{name}={share:g}" for name, share in self.shares.items())
        options = "".join(f" {name}={value}" for name, value in self.options.items())
        return f"{self.method} λ={self.lam:g} {shares}{options}"


def checked_lam(lam: Any) -> float:
    """lam as a float in [0, 1], or RecipeError. Never clamped: a slip must be seen."""
    try:
        value = float(lam)
    except (TypeError, ValueError):
        raise RecipeError(f"λ must be a number between 0 and 1, got {lam!r}.") from None
    if not 0 <= value <= 1:  # also false for NaN
        raise RecipeError(f"λ must be between 0 and 1, got {value:g}.")
    return value


def lam_grid(text: str) -> list[float]:
    """The λ values that `start:stop:step` or `a,b,c` stands for, ascending, without rounding noise.

    Raises:
        RecipeError: not of that form, outside [0, 1], fewer than two points, or more than 1001.
    """
    try:
        if ":" in text:
            start, stop, step = (Decimal(part.strip()) for part in text.split(":"))
            if not step > 0 or not (start.is_finite() and stop.is_finite()):
                raise ValueError
            count = int((stop - start) / step) + 1
            if count > MAX_GRID:
                raise RecipeError(
                    f"a λ grid of {count} points is too fine; at most {MAX_GRID}."
                )
            lams = [float(start + i * step) for i in range(count)]
        else:
            lams = [float(Decimal(part.strip())) for part in text.split(",")]
    except (ValueError, InvalidOperation, OverflowError):
        raise RecipeError(
            f"a λ grid is start:stop:step or a,b,c, for example 0:1:0.05, got {text!r}."
        ) from None
    return checked_grid(lams)


def checked_grid(lams: list[float]) -> list[float]:
    """Distinct λs in ascending order; RecipeError when fewer than two are left."""
    grid = sorted({checked_lam(lam) for lam in lams})
    if len(grid) < 2:
        raise RecipeError(
            f"a λ grid needs at least two points, got {len(grid)}. "
            "To look at a single λ, score it instead."
        )
    if len(grid) > MAX_GRID:
        raise RecipeError(
            f"a λ grid of {len(grid)} points is too fine; at most {MAX_GRID}."
        )
    return grid


def _normalised(shares: Mapping[str, float]) -> dict[str, float]:
    checked = {}
    for name, share in shares.items():
        try:
            value = float(share)
        except (TypeError, ValueError):
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise RecipeError(
                f"the share of {name!r} must be a number that is not negative, got {share!r}."
            )
        checked[name] = value
    total = sum(checked.values())
    if total <= 0:
        names = ", ".join(checked) or "none named"
        raise RecipeError(
            f"all domain weights are zero ({names}): raise at least one of them."
        )
    # Rounded so that 0.3 and 0.3/(0.3+0.7) are the same share.
    return {
        name: round(checked[name] / total, 12)
        for name in sorted(checked)
        if checked[name] > 0
    }
