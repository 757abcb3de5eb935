"""What each merge method costs against linear: time, memory beside the result, bytes moved."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dogerm.merge import METHODS, merge_parameter
from dogerm.peers import alternating
from dogerm.recipe import Recipe

# How often a formula must visit every value: once to write the result, and before that once
# for inner products or a sum over the whole parameter, twice for exact ranks in it (their
# upper digits, then the lower ones). Ranks in a row are found while it is in the cache.
PASSES: Mapping[str, int] = {
    "linear": 1,
    "task_arithmetic": 1,
    "slerp": 2,  # the angle
    "nuslerp": 2,
    "multislerp": 2,  # all inner products
    "karcher": 2,  # the same: the iteration is in their span
    "ties": 3,  # where each task vector is cut
    "dare_linear": 1,
    "dare_ties": 1,
    "della_linear": 1,
    "della": 1,
    "breadcrumbs": 3,
    "breadcrumbs_ties": 3,
    "sce": 2,  # energy; at a density below 1 three more, for which entries are selected
    "model_stock": 2,
    "nearswap": 1,
    "arcee_fusion": 3,  # the quartiles
}

CACHE = 1 << 20  # bytes that the smallest of a core's own caches for data hold today


@dataclass(frozen=True)
class MethodSpeed:
    """One parameter merged by a method, two LMs, against linear on the same.

    Args:
        seconds: a median.
        ratio: to linear's seconds.
        extra: bytes at most held beside sources and result, in sizes of the parameter
            in float32; what an operation takes inside itself (a sort's) not counted.
        moved: bytes that its operations read from memory and write to it, in sizes of
            the parameter; what stays in a cache of CACHE bytes not counted.
        passes: over every value that its formula needs, see PASSES.
        needed: what `moved` is when each pass reads every source once and the last
            one writes the result.
    """

    method: str
    seconds: float
    ratio: float
    extra: float
    moved: float
    passes: int
    needed: int


def measure_methods(
    shape: tuple[int, int], dtype: torch.dtype, device: torch.device, repeats: int
) -> tuple[MethodSpeed, ...]:
    """Every method on one random parameter of that shape."""
    random = torch.Generator().manual_seed(0)
    parent, *deltas = (
        torch.randn(shape, generator=random).mul_(0.02) for _ in range(4)
    )
    held = parent.to(device, dtype)
    rm, *lms = ((parent + 0.1 * delta).to(device, dtype) for delta in deltas)
    out = torch.empty_like(rm)

    def merge(recipe: Recipe) -> None:
        merge_parameter(out, rm, lms, recipe, held, "w")

    recipes = [Recipe(0.35, {"a": 2, "b": 1}, method) for method in METHODS]
    seconds = alternating([partial(merge, r) for r in recipes], device, repeats)
    used = []
    for recipe in recipes:
        with Used(CACHE) as one:
            merge(recipe)
        used.append(one)
    models = {
        recipe.method: 3 + METHODS[recipe.method].needs_parent for recipe in recipes
    }
    return tuple(
        MethodSpeed(
            method=recipe.method,
            seconds=time,
            ratio=time / seconds[0],
            extra=one.most / (4 * rm.numel()),
            moved=one.moved / rm.nbytes,
            passes=PASSES[recipe.method],
            needed=PASSES[recipe.method] * models[recipe.method] + 1,
        )
        for recipe, time, one in zip(recipes, seconds, used)
    )


class Used(TorchDispatchMode):
    """Counts what torch operations do inside its block.

    Args:
        cache: bytes of a tensor that stays where it is used. Such a tensor moves none,
            nor does such a part of a larger one that is the last that was used of it.

    Attributes:
        moved: bytes read and written; views move none.
        most: bytes of new tensors that were alive together.
    """

    def __init__(self, cache: int = 0) -> None:
        super().__init__()
        self._cache = cache
        self._last: dict[int, tuple[int, int]] = {}
        self.moved = self.most = self._alive = 0
        self._holders: Counter[int] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        before = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        result = func(*args, **kwargs)
        if not func.is_view:
            written = [kwargs["out"]] if "out" in kwargs else _tensors(result)
            read = [t for t in _tensors((args, kwargs)) if t is not kwargs.get("out")]
            if func.overloadpacket is torch.ops.aten.copy_:
                read = [args[1]]
            self.moved += sum(map(self._moves, (*read, *written)))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in before or self._holders[storage._cdata]:
                self._hold(tensor, storage._cdata, storage.nbytes())
        return result

    def _moves(self, tensor: Tensor) -> int:
        storage, size = tensor.untyped_storage(), tensor.nbytes
        if storage.nbytes() <= self._cache:
            return 0
        part = tensor.storage_offset(), tensor.numel()
        again = size <= self._cache and self._last.get(storage._cdata) == part
        self._last[storage._cdata] = part
        return 0 if again else size

    def _hold(self, tensor: Tensor, key: int, nbytes: int) -> None:
        """Count the storage as alive until the last tensor on it has gone."""
        if not self._holders[key]:
            self._alive += nbytes
            self.most = max(self.most, self._alive)
        self._holders[key] += 1
        weakref.finalize(tensor, self._let_go, key, nbytes)

    def _let_go(self, key: int, nbytes: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            self._alive -= nbytes


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
