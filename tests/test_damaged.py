"""What people hand over by mistake, or after a download that went wrong: one sentence each."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from conftest import save_lm, save_rm
from safetensors.torch import save_file

from dogerm.engine import Engine
from dogerm.errors import CheckpointError
from dogerm.family import Family
from dogerm.recipe import Recipe
from dogerm.scoring import score

MODULE = "model.layers.1.mlp.up_proj"


def changed(file: str, **settings):
    """Sets keys of a JSON file; which is written anew when the value of `whole` is given."""

    def change(folder: Path) -> None:
        data = json.loads((folder / file).read_text()) | settings
        (folder / file).write_text(json.dumps(data.get("whole", data)))

    return change


def config(**settings):
    return changed("config.json", **settings)


def weight_file(content: bytes):
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(content)

    return change


def numbered(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({0: torch.ones(2)}, folder / "pytorch_model.bin")


def safetensors_file(content: bytes):
    return lambda folder: (folder / "model.safetensors").write_bytes(content)


def with_a_global(folder: Path) -> None:
    weight_file(pickle.dumps({"a": Path("a")}, protocol=2))(folder)


LFS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 13476839\n"
)
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"
NOISE = bytes(range(7, 256)) * 20

DAMAGED = {
    "layers": (config(num_hidden_layers="five"), ["config.json", "num_hidden_layers"]),
    "7 heads": (config(num_attention_heads=7), ["config.json", "cannot be"]),
    "0 heads": (config(num_attention_heads=0), ["config.json", "cannot be"]),
    "a number": (config(whole=3), ["config.json does not hold a JSON object"]),
    "activation": (config(hidden_act="gleu"), ["config.json", "gleu"]),
    "rope": (
        config(rope_parameters={"rope_type": "yearn", "rope_theta": 1e4}),
        ["config.json", "yearn"],
    ),
    "rope theta": (
        config(rope_parameters={"rope_type": "linear"}),
        ["config.json", "cannot be"],
    ),
    "no type": (config(model_type="lama"), ["config.json", "lama"]),
    "tokenizer list": (
        changed("tokenizer_config.json", whole=[]),
        ["the tokenizer of", "cannot be read"],
    ),
    "tokenizer file": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        ["the tokenizer of", "cannot be read"],
    ),
    "integer keys": (numbered, ["pytorch_model.bin", "names a tensor 0"]),
    "LFS .bin": (weight_file(LFS), ["pytorch_model.bin is a Git LFS", "git lfs pull"]),
    "page .bin": (weight_file(PAGE), ["pytorch_model.bin is a web page"]),
    "noise .bin": (weight_file(NOISE), ["pytorch_model.bin is truncated or not a"]),
    "empty .bin": (weight_file(b""), ["pytorch_model.bin is empty"]),
    "old pickle": (with_a_global, ["pytorch_model.bin holds more than tensors"]),
    "LFS": (safetensors_file(LFS), ["model.safetensors is a Git LFS pointer"]),
    "page": (safetensors_file(PAGE), ["model.safetensors is a web page"]),
    "page config": (
        lambda folder: (folder / "config.json").write_bytes(PAGE),
        ["config.json is a web page"],
    ),
}


def said(rm: Path, lm: Path) -> str:
    """The sentence that loading them is refused with."""
    with pytest.raises(CheckpointError) as caught:
        Engine.load(Family.of(rm, {"math": lm}), "cpu", "float32")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("which", ["rm", "lm"])
@pytest.mark.parametrize("wrong", DAMAGED)
def test_a_damaged_folder_is_one_sentence_that_names_the_file(tmp_path, wrong, which):
    change, words = DAMAGED[wrong]
    folders = {"rm": save_rm(tmp_path / "rm"), "lm": save_lm(tmp_path / "lm", 3)}
    change(folders[which])
    found = said(**folders)
    for part in (*words, {"rm": "the reward model", "lm": "math"}[which]):
        assert part in found


def adapter(folder: Path, **settings) -> Path:
    folder.mkdir()
    pair = settings.pop(
        "pair", {"lora_A": torch.ones(2, 32), "lora_B": torch.ones(64, 2)}
    )
    named = {f"base_model.model.{MODULE}.{k}.weight": v for k, v in pair.items()}
    save_file(named, folder / "adapter_model.safetensors")
    plain = {"peft_type": "LORA", "lora_alpha": 8, "r": 2}
    text = json.dumps(plain | {"base_model_name_or_path": "../lm"} | settings)
    (folder / "adapter_config.json").write_text(text)
    return folder


BASE = "base_model_name_or_path"
ADAPTERS = {
    "no base": ({BASE: None}, [f"{BASE} is null"]),
    "empty base": ({BASE: ""}, [f'{BASE} is ""']),
    "a number": ({BASE: 7}, [f"{BASE} is 7"]),
    "itself": ({BASE: "../lora"}, ["its own base"]),
    "alpha": ({"lora_alpha": "eight"}, ['lora_alpha is "eight"']),
    "alpha true": ({"lora_alpha": True}, ["lora_alpha is true"]),
    "list": ({"alpha_pattern": ["up_proj"]}, ['alpha_pattern is ["up_proj"]']),
    "pattern": ({"alpha_pattern": {"up_(": 4}}, ['alpha_pattern is {"up_(": 4}']),
    "its alpha": ({"alpha_pattern": {"up": None}}, ["alpha_pattern is"]),
    "not 2-D": (
        {"pair": {"lora_A": torch.ones(2, 4, 8), "lora_B": torch.ones(64, 2)}},
        [f"{MODULE}.lora_A.weight", "(2, 4, 8)", "a matrix"],
    ),
    "rank 0": (
        {"pair": {"lora_A": torch.ones(0, 32), "lora_B": torch.ones(64, 0)}},
        [f"{MODULE}.lora_A.weight", "(0, 32)", "a matrix"],
    ),
}


@pytest.mark.parametrize("wrong", ADAPTERS)
def test_a_damaged_adapter_is_one_sentence(tmp_path, wrong):
    settings, words = ADAPTERS[wrong]
    rm, _ = save_rm(tmp_path / "rm"), save_lm(tmp_path / "lm", 3)
    found = said(rm, adapter(tmp_path / "lora", **settings))
    for part in (*words, "math", "adapter_"):
        assert part in found


def test_two_adapters_that_are_each_others_base_are_refused(tmp_path):
    rm = save_rm(tmp_path / "rm")
    adapter(tmp_path / "one", base_model_name_or_path="../two")
    two = adapter(tmp_path / "two", base_model_name_or_path="../one")
    assert "its own base" in said(rm, two)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages + 1 }}", "TypeError"),
        ("{{ messages[0].content.nowhere() }}", "nowhere"),
        ("{% for %}", "chat template"),
    ],
)
def test_a_chat_template_that_fails_is_one_sentence(tmp_path, template, words):
    rm, lm = save_rm(tmp_path / "rm"), save_lm(tmp_path / "lm", 3)
    (rm / "chat_template.jinja").write_text(template)
    family = Family.of(rm, {"math": lm}, name="mine")
    engine = Engine.load(family, "cpu", "float32")
    with pytest.raises(CheckpointError, match=words) as caught:
        score(engine, Recipe(0, {"math": 1}), [("Hi", ["Hello"])])
    assert "\n" not in str(caught.value)
    for part in ("the chat template of 'mine'", "`template`"):
        assert part in str(caught.value)


def test_a_language_model_given_as_the_reward_model_is_called_one(tmp_path):
    found = said(save_lm(tmp_path / "rm", 1), save_lm(tmp_path / "lm", 3))
    for part in ("the reward model", "LlamaForCausalLM", "no score head"):
        assert part in found
    assert "labels" not in found


def test_a_reward_model_given_as_an_lm_is_called_one(tmp_path):
    rm, lm = save_rm(tmp_path / "rm"), save_rm(tmp_path / "lm", 3)
    found = said(rm, lm)
    for part in ("'math'", "score.weight", "not a language model"):
        assert part in found
    assert "belongs nowhere" not in found
