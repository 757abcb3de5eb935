"""Merge methods: pure functions on tensors, listed in METHODS."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dogerm import methods
from dogerm.errors import RecipeError
from dogerm.methods import Inputs
from dogerm.recipe import Recipe

# Elements merged at a time: small enough that a block stays in the last-level cache
# between its two passes, large enough that starting an operation costs nothing.
CPU_BLOCK = 1 << 21
CUDA_BLOCK = 1 << 26


def linear(out: Tensor, rm: Tensor, lms: Sequence[Tensor], recipe: Recipe) -> None:
    """Write (1 - lam)·rm + lam·Σ share·lm into out, reading and writing each byte once.

    Args:
        out: any shape S; may not share memory with a source.
        rm: shape S.
        lms: one tensor of shape S per LM that has a share, in the recipe's order.
        recipe: lam and shares.

    With all tensors of one dtype, arithmetic is that of torch.lerp (float32 inside for
    16-bit tensors); several 16-bit LMs are mixed first, and the mix is rounded to
    the dtype, half a unit in the last place on top of the result's own half unit.
    With different dtypes everything is computed in float32 and rounded once.

    Source: DogeRM, arXiv:2407.01470, section 3. Its code merges one LM a call; we take several.
    """
    shares = list(recipe.shares.values())
    dtypes = {tensor.dtype for tensor in (rm, *lms)}
    same = dtypes == {out.dtype} and len({t.device for t in (out, rm, *lms)}) == 1
    if same and len(lms) == 1:
        torch.lerp(rm, lms[0], recipe.lam, out=out)
        return
    block = CUDA_BLOCK if out.is_cuda else CPU_BLOCK
    into = same or out.dtype == torch.float32
    wide = None if into else torch.empty(block, dtype=torch.float32, device=out.device)
    sources = [tensor.reshape(-1).split(block) for tensor in (rm, *lms)]
    for target, base, *parts in zip(out.view(-1).split(block), *sources):
        # The mix goes where the result will: no buffer of its own competes for the cache.
        result = target if into else wide[: target.numel()]
        _mix(parts, shares, result)
        torch.lerp(base.to(result), result, recipe.lam, out=result)
        if result is not target:
            target.copy_(result)


def _mix(parts: Sequence[Tensor], shares: Sequence[float], out: Tensor) -> None:
    """Write Σ share·part into out by weighted means of two: no pass over unscaled sums."""
    first = parts[0]
    ready = first.dtype == out.dtype and first.device == out.device and len(parts) > 1
    so_far, weight = first if ready else out.copy_(first), shares[0]
    for part, share in zip(parts[1:], shares[1:]):
        weight += share
        torch.lerp(so_far, part.to(out), share / weight, out=out)
        so_far = out


@dataclass(frozen=True)
class Option:
    """A setting of a method: a number from low (not itself, if `above`) to high.

    Args:
        usual: the part of the range that searches try, where that is not all of it; None:
            all. By orders of magnitude when it spans several.
        searched: whether a search may choose it. Not so for a seed: the luckiest of many
            says nothing about the next pairs.
    """

    default: float
    low: float
    high: float
    meaning: str
    above: bool = False
    usual: tuple[float, float] | None = None
    searched: bool = True

    @property
    def span(self) -> tuple[float, float]:
        """The usual range, or all of it."""
        return self.usual or (self.low, self.high)

    @property
    def logarithmic(self) -> bool:
        """Whether its orders of magnitude matter rather than its values."""
        low, high = self.span
        return low > 0 and high / low > 100

    @property
    def whole(self) -> bool:
        return isinstance(self.default, int)

    def checked(self, name: str, value: object) -> float:
        """The value as a number of the default's type; RecipeError when it cannot be meant."""
        number = type(self.default)
        try:
            result = number(value)
            if not math.isfinite(result) or result != float(value):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise RecipeError(f"{self._wanted(name)}, got {value!r}.") from None
        if not self.low <= result <= self.high or (self.above and result == self.low):
            raise RecipeError(f"{self._wanted(name)}, got {value}.")
        return result

    @property
    def range(self) -> str:
        low = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        return f"{low} to {self.high:{',' if self.whole else 'g'}}"

    def _wanted(self, name: str) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"the option {name} ({self.meaning}) must be {kind} {self.range}"


@dataclass(frozen=True)
class Method:
    """An entry of METHODS.

    Args:
        formula: for people.
        source: where the formula comes from.
        merge: one parameter, from `Inputs` and the options: a tensor, or what
            `Inputs.write` gives; None for linear, which has a path of its own.
        options: its settings by name.
        needs_parent: whether it works on task vectors.
        elementwise: whether part of a parameter can be merged without the rest.
    """

    formula: str
    source: str
    merge: Callable[..., Tensor] | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    needs_parent: bool = False
    elementwise: bool = False


_KEPT = "the part of entries that is kept"
_DENSITY = Option(0.5, 0, 1, _KEPT, above=True, usual=(0.05, 1))
_SEED = Option(0, 0, 2**31 - 1, "of the random numbers", searched=False)
_EPSILON = Option(0.15, 0, 0.5, "how far keeping depends on size")
_GAMMA = Option(
    0.01, 0, 0.5, "the part of largest entries that is dropped", usual=(0, 0.2)
)
_RANDOM = {"density": _DENSITY, "seed": _SEED}
_DELLA = {"density": _DENSITY, "epsilon": _EPSILON, "seed": _SEED}
_CRUMBS = {
    "density": Option(0.9, 0, 1, _KEPT, above=True, usual=(0.05, 1)),
    "gamma": _GAMMA,
}
_ROWS = Option(0, 0, 1, "1 for an arc of each row, 0 for one of the whole")
_NEAR = Option(
    1e-3, 0, 1e3, "differences up to this are followed whole", usual=(1e-5, 1)
)


def _from_parent(
    formula: str, source: str, merge: Callable, options: Mapping | None = None
) -> Method:
    return Method(formula, source, merge, options or {}, needs_parent=True)


METHODS: Mapping[str, Method] = {
    "linear": Method("(1-λ)·RM + λ·Σ sᵢ·LMᵢ", "arXiv:2407.01470", elementwise=True),
    "task_arithmetic": _from_parent(
        "RM + λ·Σ sᵢ·τᵢ", "arXiv:2212.04089", methods.task_arithmetic
    ),
    "slerp": Method("arc from RM to Σ sᵢ·LMᵢ at λ", "Shoemake 1985", methods.slerp),
    "nuslerp": _from_parent(
        "parent + arc from τ_RM to Σ sᵢ·τᵢ at λ",
        "mergekit",
        methods.nuslerp,
        {"rows": _ROWS},
    ),
    "multislerp": Method(
        "barycentre on the sphere, weights 1-λ and λ·sᵢ", "mergekit", methods.multislerp
    ),
    "karcher": Method(
        "Karcher mean on the sphere, weights 1-λ and λ·sᵢ",
        "Karcher 1977",
        methods.karcher,
    ),
    "ties": _from_parent(
        "parent + mean of trimmed τ that agree in sign, weights 1-λ and λ·sᵢ",
        "arXiv:2306.01708",
        methods.ties,
        {"density": _DENSITY},
    ),
    "dare_linear": _from_parent(
        "RM + λ·Σ sᵢ·drop(τᵢ)/density", "arXiv:2311.03099", methods.dare_linear, _RANDOM
    ),
    "dare_ties": _from_parent(
        "TIES on drop(τ)/density", "arXiv:2311.03099", methods.dare_ties, _RANDOM
    ),
    "della_linear": _from_parent(
        "RM + λ·Σ sᵢ·magprune(τᵢ)", "arXiv:2406.11617", methods.della_linear, _DELLA
    ),
    "della": _from_parent(
        "TIES on magprune(τ)", "arXiv:2406.11617", methods.della, _DELLA
    ),
    "breadcrumbs": _from_parent(
        "RM + λ·Σ sᵢ·τᵢ without its largest and smallest entries",
        "arXiv:2312.06795",
        methods.breadcrumbs,
        _CRUMBS,
    ),
    "breadcrumbs_ties": _from_parent(
        "TIES on τ without its largest and smallest entries",
        "arXiv:2312.06795",
        methods.breadcrumbs_ties,
        _CRUMBS,
    ),
    "sce": _from_parent(
        "(1-λ)·RM + λ·(parent + select, weigh, erase(τ))",
        "arXiv:2408.07990",
        methods.sce,
        {
            "density": Option(
                1.0, 0, 1, "the part of entries selected", above=True, usual=(0.05, 1)
            )
        },
    ),
    "model_stock": _from_parent(
        "(1-λ)·RM + λ·(t·mean + (1-t)·parent)", "arXiv:2403.19522", methods.model_stock
    ),
    "nearswap": Method(
        "RM + λ·min(1, t/|d|)·d, d = Σ sᵢ·LMᵢ - RM",
        "mergekit",
        methods.nearswap,
        {"t": _NEAR},
    ),
    "arcee_fusion": Method(
        "RM + λ·d where it matters, d = Σ sᵢ·LMᵢ - RM", "mergekit", methods.arcee_fusion
    ),
}


def merge_parameter(
    out: Tensor,
    rm: Tensor,
    lms: Sequence[Tensor],
    recipe: Recipe,
    parent: Tensor | None = None,
    name: str = "",
) -> None:
    """Write the recipe's merge of one parameter into out. At lam = 0, rm bit for bit.

    Args:
        parent: the pretrained base's, for the methods that need it.
        name: of the parameter, which random methods draw from.
    """
    method = METHODS[recipe.method]
    if recipe.lam == 0:
        out.copy_(rm)
    elif method.merge is None:
        linear(out, rm, lms, recipe)
    else:
        shares = list(recipe.shares.values())
        inputs = Inputs(rm, lms, shares, recipe.lam, parent, name, out)
        result = method.merge(inputs, **options_of(recipe))
        if result is not out:
            out.copy_(result)


def options_of(recipe: Recipe) -> dict[str, float]:
    """Every option of the recipe's method, as given or by default.

    Raises:
        RecipeError: the method or an option is not known, or a value out of its range.
    """
    if recipe.method not in METHODS:
        raise RecipeError(
            f"there is no merge method {recipe.method!r}. Known: {', '.join(METHODS)}."
        )
    known = METHODS[recipe.method].options
    for name in recipe.options:
        if name not in known:
            has = f"It has {', '.join(known)}." if known else "It has none."
            raise RecipeError(
                f"the method {recipe.method!r} has no option {name!r}. {has}"
            )
    values = {
        name: option.checked(name, recipe.options.get(name, option.default))
        for name, option in known.items()
    }
    density, epsilon = values.get("density", 1), values.get("epsilon", 0)
    if density < 1 and not (density - epsilon > 0 and density + epsilon <= 1):
        raise RecipeError(
            f"density - epsilon must be above 0 and density + epsilon at most 1, got "
            f"density {density:g} and epsilon {epsilon:g}."
        )
    return values


def check_method(recipe: Recipe, parent: bool) -> None:
    """RecipeError when the recipe's method or an option is not known, or it lacks its parent.

    Args:
        parent: whether the pretrained base of all models is at hand.
    """
    options_of(recipe)
    if METHODS[recipe.method].needs_parent and not parent:
        raise RecipeError(
            f"the method {recipe.method!r} needs the pretrained model that all were "
            "fine-tuned from: name it with --parent, or as parent in the family file."
        )
