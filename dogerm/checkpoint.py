"""A checkpoint on disk, and the empty model that its weights would fill.

No code from a checkpoint is ever run.
"""

from __future__ import annotations

import threading
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
from dogerm.conversion import as_loaded
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
)

# Value heads as TRL and LLaMA-Factory save them, under the names transformers gives a
# reward model's head.
VALUE_HEAD = {
    "v_head.summary.weight": "score.weight",
    "v_head.summary.bias": "score.bias",
}

_MODELS = {
    AutoModelForCausalLM: MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForSequenceClassification: MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
}
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
        for info in self.tensors.values():
            if info.dtype not in DTYPES.values():
                continue
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


def empty_lm(checkpoint: Checkpoint) -> PreTrainedModel:
    """The causal LM of that architecture with weights yet to be filled, as above.

    Raises:
        CheckpointMismatch: transformers has no such model.
    """
    return _empty(AutoModelForCausalLM, checkpoint)


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
