"""Merge methods: pure functions on tensors, listed in METHODS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dogerm.errors import RecipeError
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
    wide = None if same else torch.empty(block, dtype=torch.float32, device=out.device)
    sources = [tensor.reshape(-1).split(block) for tensor in (rm, *lms)]
    for target, base, *parts in zip(out.view(-1).split(block), *sources):
        # The mix goes where the result will: no buffer of its own competes for the cache.
        result = target if same else wide[: target.numel()]
        _mix([part.to(result) for part in parts], shares, result)
        torch.lerp(base.to(result), result, recipe.lam, out=result)
        if result is not target:
            target.copy_(result)


def _mix(parts: Sequence[Tensor], shares: Sequence[float], out: Tensor) -> None:
    """Write Σ share·part into out by weighted means of two: no pass over unscaled sums."""
    if len(parts) == 1:
        out.copy_(parts[0])
        return
    so_far, weight = parts[0], shares[0]
    for part, share in zip(parts[1:], shares[1:]):
        weight += share
        torch.lerp(so_far, part, share / weight, out=out)
        so_far = out


@dataclass(frozen=True)
class Method:
    """An entry of METHODS.

    Args:
        merge: writes the merge of one parameter into its first argument; called only
            for 0 < lam, since lam = 0 is the reward model itself for every method.
        formula: shown to people.
        source: where the formula comes from.
    """

    merge: Callable[[Tensor, Tensor, Sequence[Tensor], Recipe], None]
    formula: str
    source: str


METHODS: Mapping[str, Method] = {
    "linear": Method(linear, "(1-λ)·RM + λ·Σ sᵢ·LMᵢ", "arXiv:2407.01470"),
}


def merge_parameter(out: Tensor, rm: Tensor, lms: Sequence[Tensor], recipe: Recipe):
    """Write the recipe's merge of one parameter into out. At lam = 0, rm bit for bit."""
    if recipe.lam == 0:
        out.copy_(rm)
    else:
        METHODS[recipe.method].merge(out, rm, lms, recipe)


def check_method(recipe: Recipe) -> None:
    """RecipeError when the recipe's method or one of its options is not known."""
    if recipe.method not in METHODS:
        raise RecipeError(
            f"there is no merge method {recipe.method!r}. Known: {', '.join(METHODS)}."
        )
    if recipe.options:
        raise RecipeError(
            f"the method {recipe.method!r} has no option {next(iter(recipe.options))!r}."
        )
