"""A checkpoint on disk, and how a reward model and its LMs fit together.

No code from a checkpoint is ever run.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from huggingface_hub import metadata_load
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from yaml import YAMLError

from dogerm.anatomy import Anatomy, dissect
from dogerm.conversion import as_loaded, ignored
from dogerm.errors import CheckpointError, CheckpointMismatch
from dogerm.family import RewardAt
from dogerm.hub import located, outline
from dogerm.weights import (
    DTYPES,
    Adapted,
    TensorInfo,
    Weights,
    adapter_settings,
    open_file,
    open_weights,
    read_json,
    reading,
    require_floats,
)

# Value heads as TRL and LLaMA-Factory save them, under the names transformers gives a
# reward model's head.
VALUE_HEAD = {
    "v_head.summary.weight": "score.weight",
    "v_head.summary.bias": "score.bias",
}
# Settings that change what the same weights compute; a difference is worth a warning.
_TELLING = ("hidden_act", "rms_norm_eps", "rope_parameters", "sliding_window")


_MODELS = {
    AutoModelForCausalLM: MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForSequenceClassification: MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
}
# A row of an embedding table that no token names, as `Checkpoint.rows` calls it.
UNNAMED = re.compile(r"<row \d+>")

# How the pretrained base is called among the LMs; no LM can have this name.
PARENT = "the parent"

# Held while a model is built: transformers and accelerate patch torch itself meanwhile.
BUILDING = threading.RLock()


class Checkpoint:
    """One model on disk: a whole one, or a LoRA adapter folded into its base as it is read.

    Args:
        source: a folder in Hugging Face layout, or a hub id with an optional @revision.
        name: how errors call it: 'the reward model', 'math', …
        weights: False to look at it only: of a hub repository the headers are enough.
        adapters: the folders of the adapters that it is the base of.

    Raises:
        CheckpointError: the folder, a file in it, or the hub repository is not there
            or cannot be read. Says which file.
    """

    def __init__(
        self,
        source: str | Path,
        name: str,
        weights: bool = True,
        adapters: tuple[Path, ...] = (),
    ):
        self.source, self.name = str(source), name
        self.folder = (located if weights else outline)(self.source, name)
        self.base: Checkpoint | None = None
        if (self.folder / "adapter_config.json").is_file():
            above = (*adapters, self.folder.resolve())
            if above[-1] in adapters:
                raise CheckpointError(
                    f"{name}: the adapter in {self.folder} is its own base, as its "
                    "adapter_config.json says. Name there the model it was trained on."
                )
            self.base = Checkpoint(
                self._base_source(), f"the base of {name}", weights, above
            )
            self.config = self.base.config
            self._weights: Weights = Adapted(self.base._weights, self.folder, name)
        else:
            self.config = self._read_config()
            self._weights = self._as_loaded(open_weights(self.folder, name))
        self._found = {
            stored: (self._weights, stored) for stored in self._weights.tensors
        }
        self._find_value_head()
        self.tensors: dict[str, TensorInfo] = {
            name: weights.tensors[stored]
            for name, (weights, stored) in self._found.items()
        }

    def read(self, name: str) -> Tensor:
        """The tensor, on the CPU, in its stored dtype; memory-mapped, not to be written to."""
        weights, stored = self._found[name]
        return weights.read(stored)

    def release(self) -> None:
        """Unmap the files: pages that were read no longer count as this process's memory."""
        for weights, _ in self._found.values():
            weights.release()

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self.tensors.values())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that most of the weights are stored in."""
        sizes: dict[torch.dtype, int] = {}
        for info in filter(_is_float, self.tensors.values()):
            sizes[info.dtype] = sizes.get(info.dtype, 0) + info.nbytes
        return max(sizes, key=sizes.__getitem__)

    @property
    def is_reward_model(self) -> bool:
        """Whether it says that it gives scores: by its class, or by its score head."""
        return self._is_classifier or "score.weight" in self.tensors

    @property
    def _is_classifier(self) -> bool:
        classes = getattr(self.config, "architectures", None) or []
        return any(name.endswith("ForSequenceClassification") for name in classes)

    @property
    def reward_at(self) -> RewardAt:
        """Where in a conversation it was trained to give its reward.

        transformers' classifiers pass over trailing padding, by its token; the value heads
        of TRL and LLaMA-Factory are read at the last token.
        """
        valued = any(stored in VALUE_HEAD for _, stored in self._found.values())
        return "end" if valued else "text-end"

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        with reading(f"the tokenizer of {self.name} ({self.folder})"):
            return AutoTokenizer.from_pretrained(
                self._tokenizer_folder(), trust_remote_code=False
            )

    @cached_property
    def named_bases(self) -> tuple[str, ...]:
        """What its own files say it was made from, which may be wrong, or a path elsewhere."""
        if self.base:
            return (self._base_source(),)
        config = read_json(self.folder / "config.json", self.name)
        named = [
            *_bases_on_card(self.folder / "README.md"),
            config.get("_name_or_path"),
        ]
        return tuple(dict.fromkeys(str(base) for base in named if base))

    def rows(self, embedding: str) -> list[str]:
        """What each row of the embedding table stands for: its token, or `<row N>` where none does."""
        names = [f"<row {row}>" for row in range(self.tensors[embedding].shape[0])]
        for token, row in self.tokenizer.get_vocab().items():
            if row < len(names):
                names[row] = token
        return names

    @property
    def settings_file(self) -> Path:
        """What says of which architecture and size it is."""
        return self.base.settings_file if self.base else self.folder / "config.json"

    def _read_config(self) -> PretrainedConfig:
        file = self.settings_file
        if not file.is_file():
            raise CheckpointError(f"{self.name}: {file} is missing.")
        config = read_json(file, self.name)
        if "auto_map" in config and config.get("model_type") not in _model_types():
            raise CheckpointError(
                f"{self.name}: {file} asks for code of its own (auto_map), which is never "
                "run here. Only architectures that transformers knows are read."
            )
        with reading(f"{self.name}: {file}"):
            return AutoConfig.from_pretrained(self.folder, trust_remote_code=False)

    def _as_loaded(self, stored: Weights) -> Weights:
        """The tensors as transformers would load them, where it has a model for them."""
        kind = (
            AutoModelForSequenceClassification
            if self._is_classifier
            else AutoModelForCausalLM
        )
        if type(self.config) not in _MODELS[kind]:
            return stored  # `compare` says so, or finds another architecture
        with torch.device("meta"):
            return as_loaded(stored, _empty(kind, self), self.name)

    def _base_source(self) -> str:
        """Where the adapter's base is: beside the adapter, if its path says so, or as named."""
        named = adapter_settings(self.folder, self.name)["base_model_name_or_path"]
        beside = self.folder / named
        return str(beside) if beside.is_dir() else named

    def _tokenizer_folder(self) -> Path:
        own = (self.folder / "tokenizer_config.json").is_file()
        return self.folder if own or not self.base else self.base._tokenizer_folder()

    def _find_value_head(self) -> None:
        """Gives a value head, in the weights or in a file of its own, a reward head's names."""
        for end in ("safetensors", "bin"):
            file = self.folder / f"value_head.{end}"
            if file.is_file() and not set(VALUE_HEAD) & set(self._found):
                head = open_file(file, self.name)
                self._found |= {stored: (head, stored) for stored in head.tensors}
        for stored, name in VALUE_HEAD.items():
            if stored in self._found:
                self._found[name] = self._found.pop(stored)
                self.config.num_labels = 1


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


def anatomy_of(rm: Checkpoint) -> Anatomy:
    """Which layer and part each parameter of a reward model belongs to; reads no weights."""
    with torch.device("meta"):
        return dissect(empty_reward_model(rm))


def empty_reward_model(rm: Checkpoint) -> PreTrainedModel:
    """The reward model with weights yet to be filled, on the current default device.

    Raises:
        CheckpointMismatch: it has not one label; transformers has no such model, or one
            that is not merged here, as it reads pictures, or shares weights between layers.
    """
    if rm.config.num_labels != 1:
        raise CheckpointMismatch(
            f"the reward model has {rm.config.num_labels} labels; a reward model has one. "
            "Is this a classifier?"
            if rm.is_reward_model
            else f"the reward model ({rm.folder}) is a {_class_of(rm)} with no score head. "
            "Name a *ForSequenceClassification with one label, or a model with a value head."
        )
    if not hasattr(rm.config, "vocab_size"):
        raise CheckpointMismatch(
            f"a {rm.config.model_type} classifier reads more than text; only models of text "
            "alone are read as reward models."
        )
    model = _empty(AutoModelForSequenceClassification, rm)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    if len(names) > len(list(model.parameters())):
        raise CheckpointMismatch(
            f"a {rm.config.model_type} classifier shares weights between its layers, which "
            "cannot be merged here."
        )
    name, head = head_of(model)
    if f"{name}.bias" in rm.tensors and head.bias is None:
        head.bias = nn.Parameter(head.weight.new_empty(1))
    return model


def head_of(model: PreTrainedModel) -> tuple[str, nn.Linear]:
    """The score head and its name: the one part of the model outside its backbone.

    Raises:
        CheckpointMismatch: it is none that is read at a text's last token: encoders have
            a classifier of their first token, some decoders one of several layers.
    """
    parts = {
        name: part
        for name, part in model.named_children()
        if name != model.base_model_prefix and any(True for _ in part.parameters())
    }
    if list(parts) != ["score"] or not isinstance(parts["score"], nn.Linear):
        raise CheckpointMismatch(
            f"a {model.config.model_type} classifier gives its score by "
            f"{' and '.join(parts) or 'no part of its own'}; only models with one linear "
            "layer `score`, read at a text's last token, are read as reward models."
        )
    return "score", parts["score"]


def embedding_name(model: PreTrainedModel) -> str:
    """Name of the parameter that holds the input embeddings."""
    table = model.get_input_embeddings().weight
    return next(name for name, p in model.named_parameters() if p is table)


def _empty(auto_class: type, checkpoint: Checkpoint) -> PreTrainedModel:
    if type(checkpoint.config) not in _MODELS[auto_class]:
        raise CheckpointMismatch(
            f"transformers has no {auto_class.__name__.removeprefix('AutoModelFor')} model "
            f"of type {checkpoint.config.model_type}, which {checkpoint.name} is "
            f"({checkpoint.folder})."
        )
    # In float32, torch's own default: a 16-bit config would change that default for
    # all threads while the model is built, and one may not find it restored.
    with reading(f"{checkpoint.name}: {checkpoint.settings_file}"), BUILDING:
        return auto_class.from_config(checkpoint.config, dtype=torch.float32)


def _class_of(checkpoint: Checkpoint) -> str:
    """What its config calls it."""
    named = getattr(checkpoint.config, "architectures", None) or []
    return named[0] if named else f"{checkpoint.config.model_type} model"


def _body(model: PreTrainedModel) -> str:
    return model.base_model_prefix + "."


def _own_head(checkpoint: Checkpoint, wanted: Mapping[str, object]) -> set[str]:
    """The language-model head among a checkpoint's tensors: a reward model has no place for it."""
    if not (extra := set(checkpoint.tensors) - set(wanted)):
        return set()
    with torch.device("meta"):
        model = _empty(AutoModelForCausalLM, checkpoint)
    known = set(model.state_dict())
    return {name for name in extra if name in known or ignored(model, name)}


def _is_float(info: TensorInfo) -> bool:
    return info.dtype in DTYPES.values()


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


def _bases_on_card(card: Path) -> list[str]:
    """`base_model` of a model card; none where there is no card, or it cannot be read."""
    try:
        bases = (metadata_load(card) or {}).get("base_model") or []
    except (OSError, ValueError, YAMLError):
        return []
    return bases if isinstance(bases, list) else [bases]


def _model_types() -> set[str]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return set(CONFIG_MAPPING_NAMES)
