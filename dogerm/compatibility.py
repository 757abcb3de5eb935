"""How a reward model and its LMs fit together, found without reading weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedModel

from dogerm.anatomy import Anatomy, dissect
from dogerm.checkpoint import Checkpoint, embedding_name, empty_lm, empty_reward_model
from dogerm.conversion import ignored
from dogerm.errors import CheckpointMismatch
from dogerm.family import PARENT
from dogerm.vocabulary import Vocabulary, align
from dogerm.weights import require_floats

# Settings that change what the same weights compute; a difference is worth a warning.
_TELLING = ("hidden_act", "rms_norm_eps", "rope_parameters", "sliding_window")
# A row of an embedding table that no token names, as `Checkpoint.rows` calls it.
UNNAMED = re.compile(r"<row \d+>")


@dataclass(frozen=True)
class Compatibility:
    """How a reward model and its LMs fit together; found without reading weights.

    Args:
        merged: parameters that are merged.
        kept: parameters kept from the reward model (its score head).
        left_out: per LM, tensors of its file that a reward model has no place for;
            `rm` for those of the reward model's own file, if any.
        embedding: name of the embedding table, which `vocabulary` aligns.
        anatomy: the layer and part of every merged parameter.
        linear: the weights of the backbone's linear layers, which alone are quantised.
        warnings: sentences on settings that differ and should not.
    """

    merged: tuple[str, ...]
    kept: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]
    embedding: str
    vocabulary: Vocabulary
    anatomy: Anatomy
    linear: frozenset[str]
    warnings: tuple[str, ...] = field(default=())


def compare(rm: Checkpoint, lms: Mapping[str, Checkpoint]) -> Compatibility:
    """How these checkpoints fit together.

    Raises:
        CheckpointMismatch: another architecture, a tensor of another shape, one that
            is missing, or one that belongs nowhere: names it, with both shapes. Another
            vocabulary.
    """
    with torch.device("meta"):
        model = empty_reward_model(rm)
    embedding = embedding_name(model)
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    head = {name for name in expected if not name.startswith(_body(model))}
    merged = [name for name in expected if name not in head]
    allowed = _own_head(rm, expected) | _buffers(rm)
    _check_tensors(rm, expected, rm.name, allowed)
    left_out, warnings = {}, []
    if allowed:
        left_out["rm"] = tuple(sorted(allowed))
    for name, lm in lms.items():
        if lm.config.model_type != rm.config.model_type:
            raise CheckpointMismatch(
                f"the reward model is a {rm.config.model_type} model but {name!r} is "
                f"{lm.config.model_type}. Both must be fine-tuned from the same base model."
            )
        if heads := sorted(head & set(lm.tensors)):
            raise CheckpointMismatch(
                f"{name!r} ({lm.folder}) has a score head, {heads[0]}: it is a reward model "
                "or a classifier, not a language model. Name a causal LM that was "
                "fine-tuned from the same base model."
            )
        # The embedding's rows are aligned by token, so only its width must agree.
        wanted = {key: expected[key] for key in merged}
        allowed = _own_head(lm, wanted) | _buffers(lm)
        _check_tensors(lm, wanted, repr(name), allowed, embedding)
        left_out[name] = tuple(sorted(allowed))
        warnings += _differing_settings(rm, lm, name)
    vocabulary = align(rm, lms, embedding)
    _check_shared(rm, vocabulary, embedding)
    return Compatibility(
        merged=tuple(merged),
        kept=tuple(sorted(head)),
        left_out=left_out,
        embedding=embedding,
        vocabulary=vocabulary,
        anatomy=dissect(model),
        linear=frozenset(
            f"{name}.weight"
            for name, part in model.named_modules()
            if isinstance(part, nn.Linear) and name.startswith(_body(model))
        ),
        warnings=(*warnings, *_lacking(rm, vocabulary, embedding)),
    )


def _lacking(rm: Checkpoint, vocabulary: Vocabulary, embedding: str) -> Iterator[str]:
    """A sentence on each LM that lacks tokens of the reward model; rows without one do not count."""
    ours = [row for row in rm.rows(embedding) if not UNNAMED.fullmatch(row)]
    for name, lacking in vocabulary.rm_only.items():
        count = sum(not UNNAMED.fullmatch(token) for token in lacking)
        appended = vocabulary.size - len(vocabulary.appended)
        own = (vocabulary.rows[name][appended:] >= 0).sum() if name != PARENT else 0
        if count:
            yield (
                f"{name!r} lacks {count:,} of the reward model's {len(ours):,} tokens, which "
                f"keep its rows{f'; {own:,} of its own are appended' if own else ''}."
            )


def _check_shared(rm: Checkpoint, vocabulary: Vocabulary, embedding: str) -> None:
    """CheckpointMismatch where an LM lacks most of the reward model's tokens."""
    rows = rm.tensors[embedding].shape[0]
    for name, lacking in vocabulary.rm_only.items():
        if 2 * len(lacking) > rows:
            raise CheckpointMismatch(
                f"the tokenizer of {name!r} has {rows - len(lacking)} of the reward model's "
                f"{rows} tokens. Both must be fine-tuned from the same base model."
            )


def _body(model: PreTrainedModel) -> str:
    return model.base_model_prefix + "."


def _own_head(checkpoint: Checkpoint, wanted: Mapping[str, object]) -> set[str]:
    """The language-model head among a checkpoint's tensors: a reward model has no place for it."""
    if not (extra := set(checkpoint.tensors) - set(wanted)):
        return set()
    with torch.device("meta"):
        model = empty_lm(checkpoint)
    known = set(model.state_dict())
    return {name for name in extra if name in known or ignored(model, name)}


def _buffers(checkpoint: Checkpoint) -> set[str]:
    """Rotary tables that old versions of transformers saved; computed anew, never merged."""
    return {n for n in checkpoint.tensors if n.endswith(".rotary_emb.inv_freq")}


def _check_tensors(
    checkpoint: Checkpoint,
    wanted: Mapping[str, tuple[int, ...]],
    who: str,
    allowed: set[str],
    by_row: str | None = None,
) -> None:
    used = {n: i for n, i in checkpoint.tensors.items() if n not in allowed}
    require_floats(used, checkpoint.name)
    for name, shape in wanted.items():
        info = checkpoint.tensors.get(name)
        if info is None:
            raise CheckpointMismatch(
                f"{name} {shape} is in the reward model but missing in {who} "
                f"({checkpoint.folder}). Both must be fine-tuned from the same base model."
                if by_row
                else f"{name} {shape} is missing in {who} ({checkpoint.folder})."
            )
        rows = 1 if name == by_row else 0
        if info.shape[rows:] != shape[rows:]:
            raise CheckpointMismatch(
                f"{name} is {shape} in the reward model but {info.shape} in {who}. "
                "Both must be fine-tuned from the same base model."
                if by_row
                else f"{name} is {info.shape} in {who} but its config.json asks for {shape}."
            )
    if unexpected := sorted(set(checkpoint.tensors) - set(wanted) - allowed):
        info = checkpoint.tensors[unexpected[0]]
        raise CheckpointMismatch(
            f"{unexpected[0]} {info.shape} in {who} ({checkpoint.folder}) belongs nowhere in "
            f"a {checkpoint.config.model_type} model"
            + (f", nor do {len(unexpected) - 1} more." if unexpected[1:] else ".")
        )


def _differing_settings(rm: Checkpoint, lm: Checkpoint, name: str) -> list[str]:
    return [
        f"{key} is {ours!r} in the reward model but {theirs!r} in {name!r}."
        for key in _TELLING
        if (ours := getattr(rm.config, key, None))
        != (theirs := getattr(lm.config, key, None))
    ]
