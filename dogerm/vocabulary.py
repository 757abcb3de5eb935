"""One vocabulary out of several: tokens are matched by their strings, not by their ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dogerm.family import PARENT

if TYPE_CHECKING:
    from dogerm.checkpoint import Checkpoint


@dataclass(frozen=True)
class Vocabulary:
    """The union of the vocabularies, in the order of the merged embedding table.

    The reward model's rows come first, unchanged; tokens that only LMs have follow. What
    only the pretrained parent has is left out: it changes no merge by being at hand.

    Args:
        size: rows of the merged table.
        rows: per LM, its row for each row of the union, -1 where it has none; the
            key is absent, here and below, when the LM's table is the union's already.
        appended: the tokens that only LMs have, in the order of their new rows.
        rm_only: per LM, tokens that only the reward model has: they keep its row.
        moved: per LM, tokens that both have under different ids.
    """

    size: int
    rows: Mapping[str, Tensor]
    appended: tuple[str, ...]
    rm_only: Mapping[str, tuple[str, ...]]
    moved: Mapping[str, tuple[str, ...]]


def align(rm: Checkpoint, lms: Mapping[str, Checkpoint], embedding: str) -> Vocabulary:
    """Match the vocabularies by token string, whatever the ids.

    A table padded beyond its tokenizer has rows that no token names. Those of the
    reward model are matched by position; those that only an LM has are dropped, as
    no text can reach them.
    """
    ours = rm.rows(embedding)
    theirs = {name: lm.rows(embedding) for name, lm in lms.items()}
    union = dict.fromkeys(ours)
    for name, tokens in theirs.items():
        if name == PARENT:
            continue
        named = (t for row, t in enumerate(tokens) if t != f"<row {row}>")
        union.update(dict.fromkeys(named))
    rows, rm_only, moved = {}, {}, {}
    for name, tokens in theirs.items():
        if tokens == list(union):
            continue
        row_of = {token: row for row, token in enumerate(tokens)}
        rows[name] = torch.tensor([row_of.get(token, -1) for token in union])
        rm_only[name] = tuple(t for t in ours if t not in row_of)
        moved[name] = tuple(
            t for row, t in enumerate(ours) if row_of.get(t, row) != row
        )
    return Vocabulary(len(union), rows, tuple(union)[len(ours) :], rm_only, moved)


def aligned_tables(
    rm: Tensor,
    lms: Mapping[str, Tensor],
    vocabulary: Vocabulary,
    rows: slice = slice(None),
) -> tuple[Tensor, dict[str, Tensor]]:
    """Embedding tables over the union of the vocabularies, so that a merge is row by row.

    A token that an LM lacks gets the reward model's row, so that the merge leaves it
    alone; one that only LMs have gets the mean of their rows in every table that
    lacks it, so that with one such LM the merge is that LM's row at every λ. The
    parent's rows are its own where it has them, and count in no mean.

    Args:
        rm: (V_rm, d). lms: (V_lm, d) each. Any float dtype; each keeps its own.
        rows: of the union, those that are wanted.
    """
    size, width = vocabulary.size, rm.shape[1]
    if size == rm.shape[0] and not vocabulary.rows:
        return rm[rows], {name: lm[rows] for name, lm in lms.items()}
    own = {n: vocabulary.rows.get(n, torch.arange(size))[rows] for n in lms}
    ours = rm[rows]  # fewer than the union's rows, or none, at its end
    count = torch.zeros(len(range(size)[rows]), 1)
    total = torch.zeros(len(count), width)
    domains = {name: lm for name, lm in lms.items() if name != PARENT}
    for name, lm in domains.items():
        has = own[name] >= 0
        total[has] += lm[own[name][has]].float()
        count[has] += 1
    filler = total / count.clamp(min=1)
    filler[: len(ours)] = ours.float()
    tables = {}
    for name, lm in lms.items():
        if name not in vocabulary.rows:
            tables[name] = lm[rows]
            continue
        has = own[name] >= 0
        # Wide enough for both, so that a filled-in row is exactly the other table's.
        tables[name] = filler.to(_widest(rm, lm), copy=True)
        tables[name][has] = lm[own[name][has]].to(tables[name].dtype)
    return filler.to(_widest(rm, *domains.values())), tables


def _widest(*tensors: Tensor) -> torch.dtype:
    dtype = tensors[0].dtype
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
