"""The original weights that every merge starts from: held on the device or in host memory, or mapped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from dogerm.checkpoint import Checkpoint
from dogerm.compatibility import Compatibility
from dogerm.errors import CheckpointError
from dogerm.family import PARENT, Family
from dogerm.hub import check_space
from dogerm.live import Slot
from dogerm.merge import METHODS, merge_parameter
from dogerm.plan import Place
from dogerm.recipe import Recipe
from dogerm.vocabulary import aligned_tables
from dogerm.weights import all_finite


@dataclass(frozen=True)
class Tensors:
    """One parameter of the models that a merge reads, all on one device.

    No LMs for a parameter that is kept, or at lam = 0; the parent where it is needed.

    Args:
        recipe: with λ as it is for this parameter.
    """

    recipe: Recipe
    rm: Tensor
    lms: list[Tensor] = field(default_factory=list)
    parent: Tensor | None = None


class Sources:
    """The original weights of a reward model and its LMs, by parameter name.

    Args:
        rm, lms: open checkpoints, as `open_models` gives them.
        fit: what `compare` found about them.
        place: held on the device, in pinned host memory, or mapped from their files.
            The merge is the same wherever they are, bit for bit.
        slots: of the live model, which the weights on the device are held beside, in the
            dtype that a merge writes if that loses nothing.
    """

    def __init__(
        self,
        rm: Checkpoint,
        lms: Mapping[str, Checkpoint],
        fit: Compatibility,
        place: Place = "mapped",
        slots: Mapping[str, Slot] | None = None,
    ):
        self.rm, self.lms, self.fit = rm, lms, fit
        self._held: dict[str, tuple[Tensor, dict[str, Tensor]]] = {}
        self._finite: set[tuple[str, str]] = set()  # (model, parameter) looked through
        if place == "mapped":
            return
        for name in (*fit.merged, *fit.kept):
            ours, theirs = self.read(name)
            if place == "pinned":
                held = {n: t.pin_memory() for n, t in theirs.items()}
                self._held[name] = ours.pin_memory(), held
            else:
                held = {n: _held(t, slots[name]) for n, t in theirs.items()}
                self._held[name] = _held(ours, slots[name]), held

    def read(self, name: str) -> tuple[Tensor, dict[str, Tensor]]:
        """The reward model's tensor and each LM's, all of one shape; not to be written to.

        No LM's of one that is kept.
        """
        if name in self._held:
            return self._held[name]
        if name == self.fit.embedding:
            return self._tables
        return self._stored(name)

    @cached_property
    def _tables(self) -> tuple[Tensor, dict[str, Tensor]]:
        return aligned_tables(*self._stored(self.fit.embedding), self.fit.vocabulary)

    def _stored(self, name: str) -> tuple[Tensor, dict[str, Tensor]]:
        lms = {} if name in self.fit.kept else self.lms
        return self.rm.read(name), {n: lm.read(name) for n, lm in lms.items()}

    def check(self, name: str, given: Tensors) -> None:
        """Look through what `fetch` gave for a parameter, each model's the first time only.

        A merge is about to read those tensors, so that this comes to a second pass in
        memory, once; later merges look up that it was done.

        Raises:
            CheckpointError: a source of the parameter holds NaN or infinity.
        """
        read = zip(given.recipe.shares, given.lms)  # no LMs where none is merged
        for model, tensor in [("", given.rm), (PARENT, given.parent), *read]:
            if tensor is None or (model, name) in self._finite:
                continue
            if not all_finite(tensor) and (sentence := self._not_finite(name)):
                raise CheckpointError(sentence)
            self._finite.add((model, name))

    def _not_finite(self, name: str) -> str | None:
        """A sentence on the first model whose parameter holds NaN or infinity, if one does."""
        lms = () if name in self.fit.kept else self.lms.values()
        for checkpoint in (self.rm, *lms):
            if wrong := int((~checkpoint.read(name).isfinite()).sum()):
                return (
                    f"{checkpoint.name}: {name} in {checkpoint.tensors[name].file} holds "
                    f"{wrong} value{'s' if wrong > 1 else ''} of NaN or infinity."
                )
        return None

    def merge_into(self, out: Tensor, name: str, recipe: Recipe) -> None:
        """Write the recipe's merge of one parameter into out; kept ones are copied."""
        merge(out, name, self.fetch(name, recipe, out.device))

    def merge_rows_into(self, out: Tensor, rows: slice, recipe: Recipe) -> None:
        """Write some rows of the merged embedding table into out, reading no others.

        For elementwise methods only.
        """
        name = self.fit.embedding
        recipe = self.fit.anatomy.local(recipe, name)
        rm, lms = aligned_tables(*self._stored(name), self.fit.vocabulary, rows)
        chosen = [lms[n].to(out.device) for n in recipe.shares] if recipe.lam else []
        merge(out, name, Tensors(recipe, rm.to(out.device), chosen))

    def fetch(self, name: str, recipe: Recipe, device: torch.device) -> Tensors:
        """What the recipe's merge of a parameter reads, on the device.

        Moved whole before merging: the blocks of a merge are views then, whatever the place.
        """
        if name in self.fit.kept:
            return Tensors(recipe, self.read(name)[0].to(device))
        recipe = self.fit.anatomy.local(recipe, name)
        rm, lms = self.read(name)
        if recipe.lam == 0:
            return Tensors(recipe, rm.to(device, non_blocking=True))
        parent = lms[PARENT] if METHODS[recipe.method].needs_parent else None
        return Tensors(
            recipe,
            rm.to(device, non_blocking=True),
            [lms[n].to(device, non_blocking=True) for n in recipe.shares],
            None if parent is None else parent.to(device, non_blocking=True),
        )


def merge(out: Tensor, name: str, given: Tensors) -> None:
    """Write the merge of what `Sources.fetch` gave for a parameter into out."""
    if given.lms:
        merge_parameter(out, given.rm, given.lms, given.recipe, given.parent, name)
    else:
        out.copy_(given.rm)


def open_models(
    family: Family, parent: bool = False
) -> tuple[Checkpoint, dict[str, Checkpoint]]:
    """The family's reward model, and its LMs by name; with `parent`, under PARENT, that too.

    Downloads what is not on this machine, after weighing it.
    """
    sources = dict(family.lms)
    if parent and family.parent:
        sources[PARENT] = family.parent
    check_space({"the reward model": family.rm, **sources})
    lms = {name: Checkpoint(source, name) for name, source in sources.items()}
    return Checkpoint(family.rm, "the reward model"), lms


def _held(tensor: Tensor, slot: Slot) -> Tensor:
    """A copy beside the slot, in its dtype if that loses nothing: a merge rounds once, at its end."""
    lossless = torch.promote_types(tensor.dtype, slot.dtype) == slot.dtype
    return tensor.to(slot.device, slot.dtype if lossless else None, copy=True)
