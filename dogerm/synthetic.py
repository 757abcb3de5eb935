"""Checkpoints of random weights that look on disk like real ones: to measure and to test with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from dogerm.errors import CheckpointError
from dogerm.export import PIECE, SHARD_BYTES, write_weights
from dogerm.family import Family
from dogerm.weights import one_line

TEMPLATE = (
    "<s>{% for m in messages %} <{{ m['role'] }}> {{ m['content'] }}{% endfor %} </s>"
)
SPECIAL = ("<pad>", "<s>", "</s>", "<user>", "<assistant>", "<system>")
SCALE = 0.02  # standard deviation of the weights, as transformers initialises them


def write_checkpoint(
    folder: Path,
    config: PretrainedConfig,
    seed: int,
    head: bool,
    dtype: torch.dtype = torch.float16,
    shard_bytes: int = SHARD_BYTES,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write config, safetensors and tokenizer of a random model; plain transformers loads them.

    Any size: memory holds some millions of values at a time. One seed gives one and the
    same file, byte for byte. The tokenizer has a token for each word `w6`, `w7`, … that
    the vocabulary has room for, and a chat template.

    Args:
        folder: not there yet; returned.
        config: of any architecture that transformers has with both heads.
        head: a reward model (one label) if true, else a causal LM.
        shard_bytes: a weight file is no larger; more than one get an index.
        on_progress: called with the bytes written since the last call, and in all.
    """
    folder.mkdir(parents=True)
    config = deepcopy(config)
    config.dtype, config.num_labels = dtype, 1
    kind = AutoModelForSequenceClassification if head else AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(config)
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}

    def random(name: str) -> Iterator[torch.Tensor]:
        rows, *rest = shapes[name]
        if not rest:
            yield torch.ones(rows, dtype=dtype)  # norms, which scale
            return
        step = max(1, PIECE // torch.Size(rest).numel())
        for start in range(0, rows, step):
            shape = (min(step, rows - start), *rest)
            yield torch.randn(shape, generator=generator).mul_(SCALE).to(dtype)

    write_weights(folder, shapes, dtype, random, shard_bytes, on_progress)
    _tokenizer(config.vocab_size).save_pretrained(folder)
    return folder


def write_family(
    root: Path, config: PretrainedConfig, dtype: torch.dtype = torch.float16
) -> Family:
    """A random reward model with a math and a code LM, in three folders under root."""
    for seed, name in enumerate(("rm", "math", "code")):
        write_checkpoint(root / name, config, seed, name == "rm", dtype)
    lms = {"math": root / "math", "code": root / "code"}
    return Family.of(root / "rm", lms, name="synthetic")


def config_at(folder: Path) -> PretrainedConfig:
    """The shapes in a folder's config.json, which needs no weights beside it.

    Raises:
        CheckpointError: there is none, or transformers does not know its architecture.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{file} is missing.")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise CheckpointError(f"{file} cannot be read: {one_line(error)}") from None


def llama_240m() -> LlamaConfig:
    """A Llama of 238M parameters, on which merging is measured."""
    return LlamaConfig(
        vocab_size=32000,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=16,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def llama_7b(vocab_size: int = 32000) -> LlamaConfig:
    """The shapes of Llama-2-7B. MetaMath-7B and MAmmoTH-7B have one token more."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def _tokenizer(size: int) -> PreTrainedTokenizerFast:
    words = [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), size))]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, "<pad>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
    )
    fast.chat_template = TEMPLATE
    return fast
