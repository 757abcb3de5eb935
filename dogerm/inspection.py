"""What a family is made of and whether it fits together and into memory; reads no weights.

But for timing a disk that a merge would wait for: `Plan.merge_seconds` reads part of a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch

from dogerm.checkpoint import Checkpoint
from dogerm.compatibility import Compatibility, compare
from dogerm.errors import CheckpointError, CheckpointMismatch
from dogerm.family import PARENT, Family
from dogerm.hub import is_here
from dogerm.live import devices_named, live_dtype
from dogerm.plan import WORDS, Plan, make_plan, seconds_text, shortage, size_text
from dogerm.provenance import described
from dogerm.quantised import Quantised
from dogerm.weights import TensorInfo


@dataclass(frozen=True)
class Model:
    """One checkpoint, as its headers and settings say.

    Args:
        architecture: the class that its config names.
        says: what its own files say it was made from.
        parameters, nbytes: of all tensors in its files.
        dtype: that most of it is stored in.
        dtypes: how many tensors are stored in each.
        rows: of its embedding table.
        head: of a reward model its score head with shapes, of an LM its output head; None
            where the output head is the embedding table.
        tied: whether its config ties the output head to the embeddings.
        shared, rm_only, own, moved: tokens it has in common with the reward model,
            that only the reward model has, that only this one has, and those in common
            that have another id here. None for the reward model itself.
        left_out: tensors of its files that a reward model has no place for.
    """

    source: str
    architecture: str
    says: tuple[str, ...]
    parameters: int
    nbytes: int
    dtype: str
    dtypes: Mapping[str, int]
    rows: int
    head: str | None
    tied: bool
    chat_template: bool
    pad_is_eos: bool
    shared: int | None = None
    rm_only: int | None = None
    own: int | None = None
    moved: int | None = None
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """A family as `inspect` found it.

    Args:
        parent: the pretrained model all were fine-tuned from; None when none is named, or
            it is not within reach.
        parent_planned: whether the plan's sources include it.
        merged, kept: parameters merged, and kept from the reward model.
        appended: tokens that only LMs have.
        rows: of the merged embedding table.
    """

    family: Mapping[str, object]
    rm: Model
    lms: Mapping[str, Model]
    parent: Model | None
    parent_planned: bool
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
    quantised: Quantised | None = None,
    parent: bool | None = None,
) -> Inspection:
    """How the family's checkpoints fit together, and what loading them will take.

    A parent that the family names is compared like an LM.

    Args:
        device, dtype, quantised: as for `Engine.load`.
        parent: plan with the parent, as a method may need it; None: if it is on this
            machine, which is when `Engine.load` loads it unasked.

    Raises:
        CheckpointError, CheckpointMismatch: as loading the family would.
    """
    choices = devices_named(device)
    rm = Checkpoint(family.rm, "the reward model", weights=False)
    lms = {
        name: Checkpoint(source, name, weights=False)
        for name, source in family.lms.items()
    }
    base, warnings = _parent(family, needed=bool(parent))
    models = {**lms, **({PARENT: base} if base else {})}
    fit = compare(rm, models)
    planned = base is not None and (
        is_here(family.parent, PARENT) if parent is None else parent
    )
    kind = choices[0][0]
    precision = live_dtype(dtype or family.dtype, rm.dtype, kind, quantised)
    sources = models if planned else lms
    plan = make_plan(rm, sources, fit, choices, precision, quantised)
    return Inspection(
        family=described(family),
        rm=_reward_model(rm, fit),
        lms={name: _lm(lm, name, rm, fit) for name, lm in lms.items()},
        parent=_lm(base, PARENT, rm, fit) if base else None,
        parent_planned=planned,
        merged=fit.merged,
        kept=fit.kept,
        appended=fit.vocabulary.appended,
        rows=fit.vocabulary.size,
        plan=plan,
        warnings=(*warnings, *fit.warnings, *_warnings(family, rm, lms, plan)),
    )


def facts(found: Inspection) -> list[tuple[str, ...]]:
    """The models side by side, in words: a row of names, then a row for each fact."""
    models = {"reward model": found.rm, **found.lms}
    if found.parent:
        models["parent"] = found.parent
    rows = {
        "from": lambda m: m.source,
        "says it comes from": lambda m: ", ".join(m.says),
        "architecture": lambda m: m.architecture,
        "parameters": lambda m: f"{m.parameters:,}",
        "stored": lambda m: f"{size_text(m.nbytes)} {_dtypes(m)}",
        "embedding rows": lambda m: f"{m.rows:,}",
        "tokens shared": lambda m: _count(m.shared),
        "  of those with another id": lambda m: _count(m.moved),
        "tokens only the RM has": lambda m: _count(m.rm_only),
        "tokens only it has": lambda m: _count(m.own),
        "head": lambda m: m.head or "the embeddings",
        "tied embeddings": lambda m: "yes" if m.tied else "no",
        "chat template": lambda m: "yes" if m.chat_template else "no",
        "pad token is eos": lambda m: "yes" if m.pad_is_eos else "no",
        "left out": lambda m: ", ".join(m.left_out),
    }
    table = [
        (row, *(of(m) or "–" for m in models.values())) for row, of in rows.items()
    ]
    return [("", *models), *table]


def in_words(found: Inspection) -> list[str]:
    """What is merged and kept, and the memory plan: a sentence or two each."""
    plan = found.plan
    weights = f"{plan.quantised} beside {plan.dtype}" if plan.quantised else plan.dtype
    merged = (
        f"Merged: {len(found.merged)} parameters, {found.rows:,} embedding rows "
        f"({len(found.appended)} appended). Kept: {', '.join(found.kept)}."
    )
    parent = ""
    if found.parent_planned:
        parent = " with the parent"
    elif found.parent:
        parent = f" ({size_text(found.parent.nbytes)} more with the parent)"
    seconds = plan.merge_seconds()
    time = (
        "as fast as the disk" if seconds is None else f"about {seconds_text(seconds)}"
    )
    memory = (
        f"Memory on {plan.device}: {size_text(plan.needed)} of {size_text(plan.free)} free. "
        f"Live model {size_text(plan.live)} in {weights}; sources "
        f"{size_text(plan.sources)}{parent}, {WORDS[plan.place]}; batches of "
        f"{plan.batch_tokens:,} tokens. One merge waits for {plan.bottleneck}: {time}."
    )
    spread = [
        f"On {part.device}: {size_text(part.needed(plan.place == 'device'))} of "
        f"{size_text(part.free)} free, {_blocks(plan, part.device)}."
        for part in plan.parts
        if plan.blocks
    ]
    return [merged, memory, *spread]


def _blocks(plan: Plan, device: str) -> str:
    own = [block for block, place in plan.blocks.items() if place == device]
    return f"{own[0]} to {own[-1]}" if own[1:] else "".join(own) or "nothing"


def _parent(family: Family, needed: bool) -> tuple[Checkpoint | None, list[str]]:
    """The parent that the family names, and what there is to say when it is out of reach."""
    if not family.parent:
        return None, []
    try:
        return Checkpoint(family.parent, PARENT, weights=False), []
    except CheckpointMismatch:
        raise
    except CheckpointError as error:
        if needed:
            raise
        sentence = f"Methods that need the parent cannot be used: {error}"
        return None, [sentence]


def _reward_model(rm: Checkpoint, fit: Compatibility) -> Model:
    heads = [f"{name} {rm.tensors[name].shape}" for name in fit.kept]
    return _model(rm, fit, head=", ".join(heads))


def _model(checkpoint: Checkpoint, fit: Compatibility, **tokens) -> Model:
    tokenizer = checkpoint.tokenizer
    return Model(
        source=checkpoint.source,
        architecture=(checkpoint.config.architectures or ["not named"])[0],
        says=checkpoint.named_bases,
        parameters=sum(map(_numel, checkpoint.tensors.values())),
        nbytes=checkpoint.nbytes,
        dtype=_short(checkpoint.dtype),
        dtypes=dict(Counter(_short(i.dtype) for i in checkpoint.tensors.values())),
        rows=checkpoint.tensors[fit.embedding].shape[0],
        tied=bool(getattr(checkpoint.config, "tie_word_embeddings", False)),
        chat_template=bool(tokenizer.chat_template),
        pad_is_eos=tokenizer.pad_token is not None
        and tokenizer.pad_token == tokenizer.eos_token,
        **tokens,
    )


def _lm(lm: Checkpoint, name: str, rm: Checkpoint, fit: Compatibility) -> Model:
    ours, theirs = (checkpoint.tokenizer.get_vocab() for checkpoint in (rm, lm))
    shared = ours.keys() & theirs.keys()
    left_out = tuple(sorted(set(fit.left_out[name]) & set(lm.tensors)))
    heads = [n for n in left_out if len(lm.tensors[n].shape) == 2]
    return _model(
        lm,
        fit,
        head=", ".join(f"{n} {lm.tensors[n].shape}" for n in heads) or None,
        shared=len(shared),
        rm_only=len(ours) - len(shared),
        own=len(theirs) - len(shared),
        moved=sum(ours[token] != theirs[token] for token in shared),
        left_out=left_out,
    )


def _dtypes(model: Model) -> str:
    """The dtype that most is stored in, and how many tensors are in others."""
    others = [
        f"{count} in {dtype}"
        for dtype, count in model.dtypes.items()
        if dtype != model.dtype
    ]
    return model.dtype + (f" (tensors: {', '.join(others)})" if others else "")


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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
        found.append(f"{shortage(plan)} {' '.join(plan.advice)}")
    return found
