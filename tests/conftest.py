"""Small random checkpoints in Hugging Face layout, made once per run."""

import json
import os
import socket
import tempfile
from concurrent.futures import Future
from pathlib import Path
from typing import Self

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that needs the network is a broken test
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# What is kept between runs of the program is not kept between runs of the tests.
os.environ["HF_ASSETS_CACHE"] = tempfile.mkdtemp(prefix="dogerm-tests-")

import pytest
import torch
from browsing import ANSWERS, BROKEN, CHROMIUM, FLAGS, LEFT, PROMPT, whole
from safetensors.torch import load_file
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


def family_file(folders, root: Path) -> Path:
    """The tiny family with two examples, as a TOML file in root."""
    examples = [
        {"title": "Primes", "prompt": PROMPT, "responses": ANSWERS},
        {"title": "Two", "prompt": "Say <b>hi</b>.", "responses": ["Hi!", "<i>No</i>"]},
    ]
    (root / "examples.jsonl").write_text("\n".join(map(json.dumps, examples)))
    (root / "tiny.toml").write_text(
        f'title = "Tiny <family>"\nrm = "{folders["rm"]}"\nexamples = "examples.jsonl"\n'
        f'parent = "{folders["moved"]}"\n'
        f'[lms]\nmath = "{folders["plain"]}"\ncode = "{folders["padded"]}"\n'
        "[default]\nlam = 0.5\n"
    )
    return root / "tiny.toml"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def url(folders, tmp_path_factory):
    from dogerm.ui import serve

    file, port = family_file(folders, tmp_path_factory.mktemp("family")), free_port()
    app = serve(file, port=port, device="cpu", block=False)
    yield f"http://127.0.0.1:{port}/"
    app.close()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium here: install it (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, url):
    """Opens the page with off-host traffic blocked; fails on such traffic and on page errors."""
    contexts, faults, broken = [], [], []

    def said(message):
        if message.type == "error" and LEFT not in message.text:
            (broken if BROKEN in message.text else faults).append(message.text)

    def route(request_route):
        address = request_route.request.url
        if address.startswith((url, "data:", "blob:")):
            request_route.continue_()
        else:
            faults.append(f"asked for {address}")
            request_route.abort()

    def open_page(width=1280, height=800, path="", **options):
        context = browser.new_context(
            viewport={"width": width, "height": height}, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)  # a busy machine is no fault of the page
        page.route("**/*", route)
        page.on("pageerror", lambda error: faults.append(f"page error: {error}"))
        page.on("console", said)
        page.on("framenavigated", lambda frame: broken.clear())
        page.goto(url + path)
        whole(page)
        return page

    yield open_page
    found = faults + broken
    for context in contexts:
        context.close()
    assert not found


class AtOnce:
    """A ThreadPoolExecutor whose tasks are done at once, in the thread that asks for them."""

    def __init__(self, workers: int):
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        pass

    def submit(self, task, *args) -> Future:
        done = Future()
        done.set_result(task(*args))
        return done

    def shutdown(self, **_) -> None:
        pass


def plain_reward(model, tokenizer, prompt: str, response: str) -> float:
    """What a transformers model itself gives a single conversation, alone."""
    turns = [("user", prompt), ("assistant", response)]
    text = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns], tokenize=False
    )
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        return model(ids).logits[0, 0].item()


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, read by safetensors itself."""
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def bits(tensor: torch.Tensor) -> bytes:
    """What the tensor is made of, to compare it bit for bit."""
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


def source(folders) -> list[str]:
    """The options that name a reward model and LMs to a command."""
    lms = [f"--lm=math={folders['plain']}", f"--lm=code={folders['padded']}"]
    return [f"--rm={folders['rm']}", *lms]
