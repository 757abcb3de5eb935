"""What a family is made of and whether it fits together and into memory; reads no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import psutil
import torch

from dogerm.benchmarks.report import described
from dogerm.checkpoint import Checkpoint, Compatibility, TensorInfo, compare
from dogerm.engine import worth_holding
from dogerm.family import Family
from dogerm.live import device_named, live_dtype


@dataclass(frozen=True)
class Model:
    """One checkpoint, as its headers and settings say.

    Args:
        architecture: the class that its config names.
        parameters, nbytes: of all tensors in its files.
        dtype: that most of it is stored in.
        rows: of its embedding table.
        shared, rm_only, own, moved: tokens it has in common with the reward model,
            that only the reward model has, that only this one has, and those in common
            that have another id here. None for the reward model itself.
        left_out: tensors of its files that a reward model has no place for.
    """

    source: str
    architecture: str
    parameters: int
    nbytes: int
    dtype: str
    rows: int
    chat_template: bool
    pad_is_eos: bool
    shared: int | None = None
    rm_only: int | None = None
    own: int | None = None
    moved: int | None = None
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Memory:
    """What the live model and its sources take, in bytes, before activations.

    Args:
        live: the model whose weights are merged, in `dtype`.
        sources: the original weights, as they are held or mapped.
        held: whether the sources are held on the device; mapped from disk if not.
        largest: the working set of the largest parameter.
        available: free now on the device.
    """

    device: str
    dtype: str
    live: int
    sources: int
    held: bool
    largest: int
    available: int

    @property
    def needed(self) -> int:
        return self.live + (self.sources if self.held else self.largest)


@dataclass(frozen=True)
class Inspection:
    """A family as `inspect` found it."""

    family: Mapping[str, object]
    rm: Model
    lms: Mapping[str, Model]
    merged: tuple[str, ...]
    kept: tuple[str, ...]
    appended: tuple[str, ...]
    rows: int
    memory: Memory
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        data = asdict(self)
        data["memory"]["needed"] = self.memory.needed
        return data


def inspect(
    family: Family, device: str = "auto", dtype: str | None = None
) -> Inspection:
    """How the family's checkpoints fit together, and what loading them will take.

    Raises:
        CheckpointError, CheckpointMismatch: as loading the family would.
    """
    place = device_named(device)
    rm = Checkpoint(family.rm, "the reward model")
    lms = {name: Checkpoint(source, name) for name, source in family.lms.items()}
    fit = compare(rm, lms)
    memory = _memory(rm, lms, fit, place, dtype or family.dtype)
    own = _model(rm, fit)
    models = {name: _lm(lm, name, rm, fit) for name, lm in lms.items()}
    return Inspection(
        family=described(family),
        rm=own,
        lms=models,
        merged=fit.merged,
        kept=fit.kept,
        appended=fit.vocabulary.appended,
        rows=fit.vocabulary.size,
        memory=memory,
        warnings=(*fit.warnings, *_warnings(family, rm, lms, memory)),
    )


def size_text(nbytes: int) -> str:
    """Bytes for people: 13.48 GB, 5.41 MB."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.2f} MB"


def _model(checkpoint: Checkpoint, fit: Compatibility, **tokens) -> Model:
    tokenizer = checkpoint.tokenizer
    return Model(
        source=checkpoint.source,
        architecture=(checkpoint.config.architectures or ["not named"])[0],
        parameters=sum(map(_numel, checkpoint.tensors.values())),
        nbytes=checkpoint.nbytes,
        dtype=str(checkpoint.dtype).removeprefix("torch."),
        rows=checkpoint.tensors[fit.embedding].shape[0],
        chat_template=bool(tokenizer.chat_template),
        pad_is_eos=tokenizer.pad_token is not None
        and tokenizer.pad_token == tokenizer.eos_token,
        **tokens,
    )


def _lm(lm: Checkpoint, name: str, rm: Checkpoint, fit: Compatibility) -> Model:
    ours, theirs = (checkpoint.tokenizer.get_vocab() for checkpoint in (rm, lm))
    shared = ours.keys() & theirs.keys()
    return _model(
        lm,
        fit,
        shared=len(shared),
        rm_only=len(ours) - len(shared),
        own=len(theirs) - len(shared),
        moved=sum(ours[token] != theirs[token] for token in shared),
        left_out=tuple(sorted(set(fit.left_out[name]) & set(lm.tensors))),
    )


def _memory(
    rm: Checkpoint,
    lms: Mapping[str, Checkpoint],
    fit: Compatibility,
    place: torch.device,
    dtype: str | None,
) -> Memory:
    precision = live_dtype(dtype, rm.dtype, place)
    checkpoints = (rm, *lms.values())
    stored = sum(checkpoint.nbytes for checkpoint in checkpoints)
    held = worth_holding(stored, place)
    sources = {
        name: sum(
            _numel(info) * max(info.dtype.itemsize, precision.itemsize if held else 0)
            for info in (checkpoint.tensors[name] for checkpoint in checkpoints)
        )
        for name in fit.merged
    }
    numel = {name: _numel(rm.tensors[name]) for name in (*fit.merged, *fit.kept)}
    rows = rm.tensors[fit.embedding].shape[0]
    numel[fit.embedding] = numel[fit.embedding] // rows * fit.vocabulary.size
    return Memory(
        device=str(place),
        dtype=str(precision).removeprefix("torch."),
        live=sum(numel.values()) * precision.itemsize,
        sources=sum(sources.values()),
        held=held,
        largest=max(sources.values()),
        available=torch.cuda.mem_get_info(place)[0]
        if place.type == "cuda"
        else psutil.virtual_memory().available,
    )


def _numel(info: TensorInfo) -> int:
    return torch.Size(info.shape).numel()


def _warnings(
    family: Family,
    rm: Checkpoint,
    lms: Mapping[str, Checkpoint],
    memory: Memory,
) -> list[str]:
    found = []
    own = rm.tokenizer.chat_template
    if not (family.template or own):
        found.append(
            "the reward model has no chat template; set `template` in the family file."
        )
    elif not family.template:
        found += [
            f"the chat template of {name!r} is not the reward model's, whose is used."
            for name, lm in lms.items()
            if lm.tokenizer.chat_template and lm.tokenizer.chat_template != own
        ]
    if memory.needed > memory.available:
        found.append(
            f"{size_text(memory.needed)} are needed on {memory.device} and "
            f"{size_text(memory.available)} are free."
        )
    return found
