"""Whatever another model has wrong with it, the one that is live stays live and right."""

import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from conftest import byte_tokenizer, llama_config, save_lm, save_rm
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from dogerm.engine import Engine
from dogerm.errors import DogermError, InputError
from dogerm.family import Family
from dogerm.recipe import Recipe
from dogerm.scoring import score
from dogerm.ui.studio import Studio

NAME = "model.layers.1.mlp.up_proj.weight"
TABLE = "model.embed_tokens.weight"
GROUP = [("What is a prime?", ["Seven, for one.", "Nine"])]
RECIPE = Recipe(0.4, {"math": 2, "code": 1})


def rewritten(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def with_value(value: float):
    def change(rm: Path, lm: Path) -> None:
        def put(tensors):
            tensors[NAME][0, :3] = value

        rewritten(lm, put)

    return change


def with_nan_for_a_token(rm, lm):
    """In a row of the embedding table that no text here reads."""
    rewritten(lm, lambda tensors: tensors[TABLE][200].fill_(math.nan))


def rm_with_nan(rm, lm):
    rewritten(rm, lambda tensors: tensors["score.weight"].fill_(math.nan))


def truncated(rm, lm):
    file = lm / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def corrupt(rm, lm):
    (lm / "model.safetensors").write_bytes(b"\xff" * 5000)


def without_a_shard(rm, lm):
    model = LlamaForCausalLM.from_pretrained(lm)
    (lm / "model.safetensors").unlink()
    model.save_pretrained(lm, max_shard_size="20KB")
    sorted(lm.glob("model-*.safetensors"))[1].unlink()


def without_a_tensor(rm, lm):
    rewritten(lm, lambda tensors: tensors.pop(NAME))


def of_another_shape(rm, lm):
    config = llama_config(262)
    config.intermediate_size = 96
    LlamaForCausalLM(config).save_pretrained(lm)


def of_another_vocabulary(rm, lm):
    tokenizer = byte_tokenizer([f"word{i}" for i in range(400)])
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"] = {f"own{i}": i for i in range(262)}
    state["added_tokens"] = []
    (lm / "tokenizer.json").write_text(json.dumps(state))


def without_a_tokenizer(rm, lm):
    for file in lm.glob("tokenizer*"):
        file.unlink()


def of_another_architecture(rm, lm):
    settings = llama_config(262).to_dict()
    for key in ("model_type", "architectures"):
        settings.pop(key, None)
    MistralForCausalLM(MistralConfig(**settings)).save_pretrained(lm)


def with_two_labels(rm, lm):
    AutoModelForSequenceClassification.from_pretrained(
        rm, num_labels=2, ignore_mismatched_sizes=True
    ).save_pretrained(rm)


def an_adapter_for_another_base(rm, lm):
    of_another_shape(rm, lm.parent / "base")
    byte_tokenizer().save_pretrained(lm.parent / "base")
    for file in lm.iterdir():
        file.unlink()
    pair = {
        f"base_model.model.{NAME.removesuffix('.weight')}.lora_A.weight": torch.ones(
            2, 32
        ),
        f"base_model.model.{NAME.removesuffix('.weight')}.lora_B.weight": torch.ones(
            64, 2
        ),
    }
    save_file(pair, lm / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "lora_alpha": 8, "r": 2}
    settings["base_model_name_or_path"] = str(lm.parent / "base")
    (lm / "adapter_config.json").write_text(json.dumps(settings))


class Danger:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


def malicious(rm, lm):
    (lm / "model.safetensors").unlink()
    with (lm / "pytorch_model.bin").open("wb") as file:
        pickle.dump({NAME: Danger(lm.parent / "executed")}, file)


WRONG = {
    "truncated": (truncated, ["math", "lm/model.safetensors is truncated"]),
    "corrupt": (corrupt, ["math", "lm/model.safetensors is truncated or not"]),
    "no shard": (without_a_shard, ["math", "model-00002-of", "is missing"]),
    "no tensor": (without_a_tensor, [NAME, "missing in 'math'"]),
    "nan": (with_value(math.nan), ["math", NAME, "lm/model.safetensors", "3 values"]),
    "inf": (with_value(-math.inf), ["math", NAME, "lm/model.safetensors", "3 values"]),
    "unread nan": (with_nan_for_a_token, ["math", TABLE, "lm/model.saf", "32 values"]),
    "rm nan": (rm_with_nan, ["the reward model", "score.weight", "32 values"]),
    "shape": (of_another_shape, ["gate_proj", "(64, 32)", "(96, 32)"]),
    "vocabulary": (of_another_vocabulary, ["'math'", "0 of the reward model's 262"]),
    "no tokenizer": (without_a_tokenizer, ["tokenizer of math", "cannot be read"]),
    "architecture": (of_another_architecture, ["llama", "'math' is mistral"]),
    "labels": (with_two_labels, ["2 labels"]),
    "adapter": (an_adapter_for_another_base, [NAME, "(64, 32)", "(96, 32)"]),
    "pickle": (malicious, ["math", "pytorch_model.bin holds more than tensors"]),
}


@pytest.fixture(scope="module")
def studio(folders):
    lms = {"math": folders["plain"], "code": folders["padded"]}
    family = Family.of(folders["rm"], lms, name="tiny", lam=0.5)
    return Studio(Engine.load(family, "cpu", "float32"), "tiny")


def family_file(folder: Path, rm: str, lm: str) -> str:
    file = folder / "other.toml"
    file.write_text(f'rm = "{rm}"\n[lms]\nmath = "{lm}"\n')
    return str(file)


@pytest.mark.parametrize("room", ["beside", "in its place"])
@pytest.mark.parametrize("wrong", WRONG)
def test_the_live_model_outlives_a_bad_one(studio, tmp_path, monkeypatch, wrong, room):
    change, words = WRONG[wrong]
    rm, lm = save_rm(tmp_path / "rm"), save_lm(tmp_path / "lm", 3)
    change(rm, lm)
    wanted = score(studio.engine, RECIPE, GROUP)
    before = studio.engine
    if room == "in its place":  # the old model has to go before the new one comes
        monkeypatch.setattr("dogerm.plan.Plan.fits", False)
        monkeypatch.setattr("dogerm.engine.require", lambda plan: None)
    with pytest.raises(DogermError) as caught:
        studio.load(family_file(tmp_path, "./rm", "./lm"), "float32", None, "cpu")
    for part in words:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert studio.source == "tiny" and studio.family.name == "tiny"
    assert room != "beside" or studio.engine is before
    assert score(studio.engine, RECIPE, GROUP) == wanted
    assert not (tmp_path / "executed").exists()


def test_the_live_model_outlives_a_hub_that_is_out_of_reach(studio, tmp_path):
    wanted = score(studio.engine, RECIPE, GROUP)
    with pytest.raises(DogermError, match="the reward model: org/rm is neither"):
        studio.load(family_file(tmp_path, "org/rm", "org/lm"), "float32", None, "cpu")
    assert score(studio.engine, RECIPE, GROUP) == wanted


@pytest.mark.parametrize(
    "where", ["dogerm.engine.build", "dogerm.engine.Engine._read_responses"]
)
def test_the_live_model_outlives_memory_that_runs_out(
    studio, tmp_path, monkeypatch, where
):
    wanted = score(studio.engine, RECIPE, GROUP)
    save_rm(tmp_path / "rm"), save_lm(tmp_path / "lm", 3)

    def short(*arguments, **settings):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr(where, short)
        with pytest.raises(DogermError, match="cpu has too little free memory"):
            studio.load(family_file(tmp_path, "./rm", "./lm"), "float32", None, "cpu")
    assert score(studio.engine, RECIPE, GROUP) == wanted
    studio.load(family_file(tmp_path, "./rm", "./lm"), "float32", None, "cpu")
    assert studio.family.name == "other"
    studio.load("tiny", "float32", None, "cpu")
    assert score(studio.engine, RECIPE, GROUP) == wanted


def test_a_token_beyond_the_table_is_said_before_a_gpu_falls_over_it(folders, tmp_path):
    rm = save_rm(tmp_path / "rm")
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(rm)
    engine = Engine.load(Family.of(rm, {"math": folders["plain"]}), "cpu", "float32")
    assert score(engine, Recipe(0, {"math": 1}), GROUP)
    with pytest.raises(InputError, match="a text holds '<tool>'.*262 rows"):
        score(engine, Recipe(0, {"math": 1}), [("Hi", ["<tool>"])])
