"""A checkpoint's tensors as transformers has them once it has loaded them.

What lies on disk may be named, cut and turned otherwise than the model's parameters: a
backbone saved alone lacks its prefix, and a mixture's experts lie one by one where the
model holds them in one tensor. transformers 5 keeps the rules; they are asked for here and
applied to one tensor at a time, so that a merge never holds a whole converted model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from dogerm.weights import TensorInfo, Weights, reading


def as_loaded(stored: Weights, model: PreTrainedModel, who: str) -> Weights:
    """The tensors under the names and in the shapes that this model has for them.

    Those that it has no place for keep their names. No values are read.

    Args:
        model: on the meta device.

    Raises:
        CheckpointError: some cannot be put together: experts of unlike shapes, say.
    """
    rules = _Rules(model)
    same: dict[str, str] = {}
    made: dict[str, _Recast] = {}
    for name in sorted(stored.tensors, key=dot_natural_key):
        target, pattern = rules.place(name)
        if pattern is None:
            same[target] = name
        else:
            recast = made.setdefault(target, _Recast(target, rules))
            recast.sources.append((name, pattern))
    if not made and all(target == name for target, name in same.items()):
        return stored
    return Converted(stored, same, made.values(), who)


def ignored(model: PreTrainedModel, name: str) -> bool:
    """Whether transformers passes over a tensor of this name, as of no use to the model."""
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    return any(re.search(pattern, name) for pattern in patterns)


class Converted(Weights):
    """Tensors that are renamed, or put together from several, as they are read.

    Args:
        stored: as they lie on disk.
        same: by name the one that is stored, where nothing but the name differs.
        made: those that are made of others; made anew at every read, and so a copy.
    """

    def __init__(
        self,
        stored: Weights,
        same: dict[str, str],
        made: Iterable[_Recast],
        who: str,
    ):
        self.stored, self._same = stored, same
        self._made: dict[str, _Recast] = {}
        self.tensors = {target: stored.tensors[name] for target, name in same.items()}
        for recast in made:
            first = stored.tensors[recast.sources[0][0]]
            with reading(f"{who}: {recast.target} in {first.file}"):
                found = recast.apply(lambda name: _like(stored.tensors[name]))
            for target, tensor in found.items():
                self._made[target] = recast
                self.tensors[target] = TensorInfo(
                    tuple(tensor.shape), tensor.dtype, first.file
                )

    def read(self, name: str) -> Tensor:
        if name in self._same:
            return self.stored.read(self._same[name])
        return self._made[name].apply(self.stored.read)[name]

    def release(self) -> None:
        self.stored.release()


class _Rules:
    """transformers' renamings and conversions for one model."""

    def __init__(self, model: PreTrainedModel):
        self.model, self._state = model, model.state_dict()
        found = get_model_conversion_mapping(model)
        self._renamings = [rule for rule in found if isinstance(rule, WeightRenaming)]
        self._converters = [rule for rule in found if isinstance(rule, WeightConverter)]

    def place(self, name: str) -> tuple[str, str | None]:
        """What the model calls a stored tensor, and the pattern of the converter it goes through.

        Source: transformers' convert_and_load_state_dict_in_model, whose order this keeps.
        """
        prefix = self.model.base_model_prefix
        for renamings, converters in (
            (self._renamings, self._converters),
            ([], []),
        ):
            target, pattern = rename_source_key(
                name, renamings, converters, prefix, self._state
            )
            if target in self._state:
                return target, pattern
        return name, None

    def converter(self, pattern: str) -> WeightConverter:
        """A new one of those that take this pattern."""
        takers = (rule for rule in self._converters if pattern in rule.source_patterns)
        return deepcopy(next(takers))


@dataclass
class _Recast:
    """One tensor of the model, or several, made of stored ones.

    Args:
        target: its name, or the first of their names.
        sources: the stored names in the order they are put together, each with the
            pattern of the converter that it matches.
    """

    target: str
    rules: _Rules
    sources: list[tuple[str, str]] = field(default_factory=list)

    @torch.no_grad()
    def apply(self, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """Every tensor that comes of them, by name."""
        converter = self.rules.converter(self.sources[0][1])
        for name, pattern in self.sources:
            converter.add_tensor(self.target, name, pattern, read(name))
        model = self.rules.model
        found = converter.convert(self.target, model=model, config=model.config)
        return {n: t[0] if isinstance(t, list) else t for n, t in found.items()}


def _like(info: TensorInfo) -> Tensor:
    return torch.empty(info.shape, dtype=info.dtype, device="meta")
