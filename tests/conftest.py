"""Small random checkpoints in Hugging Face layout, made once per run."""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that needs the network is a broken test
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from dogerm.engine import Engine
from dogerm.family import Family

SPECIAL = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}<|end|>"
    "{% else %}<|user|>{{ m['content'] }}{% endif %}{% endfor %}"
)


def byte_tokenizer(extra: list[str] = (), order: int = 1) -> PreTrainedTokenizerFast:
    """One token a byte; `extra` tokens follow, `order=-1` gives the bytes other ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[::order]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet, *extra])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=SPECIAL[3:],
    )
    fast.chat_template = TEMPLATE
    return fast


def llama_config(vocab_size: int, **settings) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **settings,
    )


def save_rm(folder: Path, seed: int = 0, dtype=torch.float16, **settings) -> Path:
    tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    config = llama_config(len(tokenizer), num_labels=1, **settings)
    LlamaForSequenceClassification(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_lm(
    folder: Path, seed: int, extra: list[str] = (), order: int = 1, dtype=torch.float16
) -> Path:
    tokenizer = byte_tokenizer(extra, order)
    torch.manual_seed(seed)
    config = llama_config(len(tokenizer), tie_word_embeddings=False)
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A reward model and LMs: `plain`, `padded` (an extra [PAD]), `moved` (other ids)."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        "rm": save_rm(root / "rm"),
        "plain": save_lm(root / "plain", 1),
        "padded": save_lm(root / "padded", 2, extra=["[PAD]"]),
        "moved": save_lm(root / "moved", 3, order=-1),
    }


@pytest.fixture(scope="session")
def family(folders) -> Family:
    lms = {"math": folders["plain"], "code": folders["padded"]}
    return Family.of(folders["rm"], lms, name="tiny", lam=0.5)


@pytest.fixture(scope="session")
def engine(family) -> Engine:
    return Engine.load(family, device="cpu", dtype="float32")
