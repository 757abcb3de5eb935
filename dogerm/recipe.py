"""Recipe: which merge is meant. A value: frozen, compared by content, with text and JSON forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from itertools import product
from types import MappingProxyType
from typing import Any

from dogerm.errors import RecipeError

MAX_GRID = 1001  # a finer λ grid than 0.001 is a typing slip
PARTS = ("attention", "mlp", "norms", "embeddings")
# λ's factor at a depth from 0, the first layer, to 1, the last.
SHAPES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda depth: 1.0,
    "ramp": lambda depth: depth,
    "ramp-down": lambda depth: 1 - depth,
    "middle": lambda depth: 1 - abs(2 * depth - 1),
}


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
        layers: what λ is multiplied with over depth: constant, ramp (0 at the first
            layer to 1 at the last), ramp-down, middle (0 at both ends, 1 half way), or
            a number in [0, 1] for each layer, as a list or as text like `0,0.5,1`.
            Embeddings go with the first layer, a final norm with the last.
        parts: what λ is multiplied with in attention, mlp, norms or embeddings, in
            [0, 1]; 1 where none is given.

    Raises:
        RecipeError: lam, or a number of layers or parts, is not in [0, 1]; a share is
            negative or not a number; all shares are zero; no such shape or part.
    """

    lam: float
    shares: Mapping[str, float]
    method: str = "linear"
    options: Mapping[str, Any] = field(default_factory=dict)
    layers: str | Sequence[float] = "constant"
    parts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lam", checked_lam(self.lam))
        object.__setattr__(self, "shares", MappingProxyType(_normalised(self.shares)))
        object.__setattr__(
            self, "options", MappingProxyType(dict(sorted(self.options.items())))
        )
        object.__setattr__(self, "layers", _checked_layers(self.layers))
        object.__setattr__(self, "parts", MappingProxyType(_checked_parts(self.parts)))

    def __hash__(self) -> int:
        shares = tuple(self.shares.items())
        return hash((self.lam, shares, self.method, self.layers, tuple(self.parts)))

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
        text = text if self.method == "linear" else f"{self.method}({text})"
        return f"{text}, λ times {self.reach}" if self.reach else text

    @property
    def reach(self) -> str:
        """Where λ holds less than whole, e.g. `ramp over the layers, 0.5 in attention`; or empty."""
        layers = f"{self.layers_text} over the layers"
        return ", ".join(
            ([] if self.layers == "constant" else [layers])
            + [f"{factor:g} in {part}" for part, factor in self.parts.items()]
        )

    @property
    def layers_text(self) -> str:
        """`layers` as one writes it: the shape's name, or its numbers with commas."""
        if isinstance(self.layers, str):
            return self.layers
        return ",".join(f"{factor:.12g}" for factor in self.layers)

    def depth(self, layers: int) -> tuple[float, ...]:
        """What λ is multiplied with in each layer of a model that has so many.

        Raises:
            RecipeError: the recipe lists another number of layers, or has a middle of
                fewer than three.
        """
        if not isinstance(self.layers, str):
            if len(self.layers) != layers:
                raise RecipeError(
                    f"layers lists {len(self.layers)} numbers; this model has {layers} "
                    f"layers and needs {layers} numbers from 0 to 1."
                )
            return self.layers
        if self.layers == "middle" and layers < 3:
            raise RecipeError(
                f"a model of {layers} layers has no middle; it needs at least 3. "
                "Use constant, ramp, ramp-down, or a number for each layer."
            )
        shape = SHAPES[self.layers]
        return tuple(shape(layer / max(1, layers - 1)) for layer in range(layers))

    def with_lam(self, lam: float) -> Recipe:
        return replace(self, lam=lam)

    def everywhere(self, factor: float) -> Recipe:
        """The recipe at λ·factor in every layer and part alike: what one parameter sees."""
        return replace(self, lam=self.lam * factor, layers="constant", parts={})

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "lam": self.lam,
            "shares": dict(self.shares),
            "method": self.method,
        }
        if self.options:
            out["options"] = dict(self.options)
        if self.layers != "constant":
            shape = isinstance(self.layers, str)
            out["layers"] = self.layers if shape else list(self.layers)
        if self.parts:
            out["parts"] = dict(self.parts)
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        return cls(
            data["lam"],
            data["shares"],
            data.get("method", "linear"),
            data.get("options", {}),
            data.get("layers", "constant"),
            data.get("parts", {}),
        )

    def __str__(self) -> str:
        shares = " ".join(f"{name}={share:g}" for name, share in self.shares.items())
        options = "".join(f" {name}={value}" for name, value in self.options.items())
        reach = f", λ times {self.reach}" if self.reach else ""
        return f"{self.method} λ={self.lam:g} {shares}{options}{reach}"


def checked_lam(lam: Any) -> float:
    """lam as a float in [0, 1], or RecipeError. Never clamped: a slip must be seen."""
    try:
        value = float(lam)
    except (TypeError, ValueError, OverflowError):
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


def mix_grid(names: Sequence[str], step: float) -> list[dict[str, float]]:
    """Every mix of the domains whose shares are multiples of step and sum to 1.

    From all of the first domain to all of the last.

    Raises:
        RecipeError: step is not 1 over a whole number, or gives more than 1001 mixes.
    """
    parts = round(1 / step) if 0 < step <= 1 else 0
    if not parts or abs(parts * step - 1) > 1e-9:
        raise RecipeError(
            f"the step between mixes must be 1 over a whole number, like 0.25, got {step:g}."
        )
    count = math.comb(parts + len(names) - 1, parts)
    if count > MAX_GRID:
        raise RecipeError(
            f"{count} mixes of {len(names)} domains are too many; at most {MAX_GRID}. "
            "Take larger steps."
        )
    splits = [
        split
        for split in product(range(parts, -1, -1), repeat=len(names))
        if sum(split) == parts
    ]
    return [
        {name: part / parts for name, part in zip(names, split)} for split in splits
    ]


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


def _checked_layers(layers: str | Sequence[float]) -> str | tuple[float, ...]:
    if isinstance(layers, str) and layers in SHAPES:
        return layers
    wanted = (
        f"layers must be {', '.join(SHAPES)}, or a number from 0 to 1 for each layer"
    )
    try:
        numbers = layers.split(",") if isinstance(layers, str) else layers
        factors = tuple(float(number) for number in numbers)
    except (TypeError, ValueError, OverflowError):
        raise RecipeError(f"{wanted}, got {layers!r}.") from None
    for layer, factor in enumerate(factors):
        if not 0 <= factor <= 1:  # also true for NaN
            raise RecipeError(f"{wanted}, got {factor:g} for layer {layer}.")
    if not factors:
        raise RecipeError(f"{wanted}, got none.")
    return factors


def _checked_parts(parts: Mapping[str, float]) -> dict[str, float]:
    checked = {}
    for name, factor in parts.items():
        if name not in PARTS:
            raise RecipeError(
                f"there is no part {name!r}; a model has {', '.join(PARTS)}."
            )
        try:
            value = float(factor)
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if not 0 <= value <= 1:
            raise RecipeError(
                f"the part {name} takes a number from 0 to 1, got {factor!r}."
            )
        checked[name] = value
    return {name: checked[name] for name in PARTS if checked.get(name, 1) < 1}


def _normalised(shares: Mapping[str, float]) -> dict[str, float]:
    checked = {}
    for name, share in shares.items():
        try:
            value = float(share)
        except (TypeError, ValueError, OverflowError):
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
