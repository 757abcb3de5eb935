"""What a family is made of and whether it fits together and into memory; reads no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch

from dogerm.checkpoint import Checkpoint, Compatibility, TensorInfo, compare
from dogerm.family import Family
from dogerm.live import device_named, live_dtype
from dogerm.plan import Plan, make_plan, size_text
from dogerm.provenance import described


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
class Inspection:
    """A family as `inspect` found it."""

    family: Mapping[str, object]
    rm: Model
    lms: Mapping[str, Model]
    merged: tuple[str, ...]
    kept: tuple[str, ...]
    appended: tuple[str, ...]
    rows: int
    plan: Plan
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"plan": self.plan.to_json()}


def inspect(
    family: Family,
    device: str = "auto",
    dtype: str | None = None,
    load_in_8bit: bool = False,
) -> Inspection:
    """How the family's checkpoints fit together, and what loading them will take.

    Raises:
        CheckpointError, CheckpointMismatch: as loading the family would.
    """
    place = device_named(device)
    rm = Checkpoint(family.rm, "the reward model", weights=False)
    lms = {
        name: Checkpoint(source, name, weights=False)
        for name, source in family.lms.items()
    }
    fit = compare(rm, lms)
    precision = live_dtype(dtype or family.dtype, rm.dtype, place, load_in_8bit)
    plan = make_plan(rm, lms, fit, place, precision, load_in_8bit)
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
        plan=plan,
        warnings=(*fit.warnings, *_warnings(family, rm, lms, plan)),
    )


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


def _numel(info: TensorInfo) -> int:
    return torch.Size(info.shape).numel()


def _warnings(
    family: Family,
    rm: Checkpoint,
    lms: Mapping[str, Checkpoint],
    plan: Plan,
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
    if not plan.fits:
        found.append(
            f"{size_text(plan.needed)} are needed on {plan.device} and "
            f"{size_text(plan.free)} are free. {' '.join(plan.advice)}"
        )
    return found
