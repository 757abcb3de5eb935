"""What `inspect` says of a family: from headers and settings, the parent beside the LMs."""

import json
from dataclasses import replace

import pytest
import torch
from conftest import bits, byte_tokenizer, llama_config, save_lm, source, stored
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

from dogerm.cli import app
from dogerm.engine import Engine
from dogerm.errors import CheckpointError, CheckpointMismatch
from dogerm.export import export
from dogerm.family import Family
from dogerm.inspection import facts, inspect
from dogerm.recipe import Recipe

HEAD = "score.weight"
EMBEDDING = "model.embed_tokens.weight"


def test_inspect_counts_tokens_and_tensors_without_reading_weights(
    folders, monkeypatch
):
    def read(self, name):
        raise AssertionError(f"{name} was read")

    monkeypatch.setattr("dogerm.checkpoint.Checkpoint.read", read)
    family = Family.of(folders["rm"], {"m": folders["moved"], "p": folders["padded"]})
    found = inspect(family, "cpu", "float16")
    rm = stored(folders["rm"])
    values = sum(tensor.numel() for tensor in rm.values())
    assert found.rm.parameters == values and found.rm.nbytes == 2 * values
    assert found.plan.live == 2 * (values + rm[EMBEDDING].shape[1])  # and [PAD]'s row
    assert len(found.merged) == len(rm) - 1 and found.kept == (HEAD,)
    assert found.appended == ("[PAD]",) and found.rows == 263
    padded, moved = found.lms["p"], found.lms["m"]
    assert (padded.shared, padded.own, padded.rm_only, padded.moved) == (262, 1, 0, 0)
    assert (moved.shared, moved.own, moved.moved) == (262, 0, 256)
    assert padded.left_out == ("lm_head.weight",) and not padded.pad_is_eos


def test_inspect_prints_a_table_or_json(folders):
    result = CliRunner().invoke(app, ["inspect", *source(folders)])
    assert result.exit_code == 0, result.output
    assert "lm_head.weight" in result.stdout and "1 appended" in result.stdout
    result = CliRunner().invoke(app, ["inspect", *source(folders), "--json"])
    found = json.loads(result.stdout)
    assert found["lms"]["code"]["own"] == 1 and found["rm"]["dtype"] == "float16"
    assert found["plan"]["needed"] > found["plan"]["live"]


def test_inspect_compares_the_pretrained_parent_that_is_named(folders, tmp_path):
    parent = save_lm(tmp_path / "base", 11, extra=["<own>"], dtype=torch.float32)
    family = Family.of(folders["rm"], {"math": folders["plain"]}, parent=str(parent))
    found = inspect(family, "cpu")
    assert (found.parent.own, found.parent.shared, found.parent.rm_only) == (1, 262, 0)
    assert found.parent.dtype == "float32" and found.appended == ()
    assert found.parent.head == "lm_head.weight (263, 32)"
    without = inspect(family, "cpu", parent=False)
    assert found.parent_planned and not without.parent_planned
    merged = sum(t.nbytes for n, t in stored(parent).items() if n != "lm_head.weight")
    extra_row = 4 * 32
    grown = found.plan.merge_bytes - without.plan.merge_bytes
    assert grown == merged - extra_row
    options = [*source(folders)[:2], f"--parent={parent}"]
    for method, planned in (("ties", True), ("linear", False)):
        command = ["inspect", *options, f"--method={method}"]
        result = CliRunner().invoke(app, [*command, "--json"])
        assert json.loads(result.stdout)["parent_planned"] == planned, result.output
        table = CliRunner().invoke(app, command).stdout
        assert " parent " in table and ("with the parent, " in table) == planned
    result = CliRunner().invoke(app, ["inspect", *source(folders), "--method=ties"])
    assert result.exit_code == 1 and "name it with --parent" in result.stderr


def test_a_parent_of_another_shape_or_out_of_reach_is_said(folders, tmp_path):
    config = llama_config(262)
    config.intermediate_size = 96
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    family = Family.of(folders["rm"], {"math": folders["plain"]})
    other = replace(family, parent=str(tmp_path / "base"))
    with pytest.raises(
        CheckpointMismatch, match=r"\(64, 32\).*\(96, 32\) in 'the parent'"
    ):
        inspect(other, "cpu")
    far = replace(family, parent="org/gated")
    found = inspect(far, "cpu")
    assert found.parent is None and "org/gated is neither" in found.warnings[0]
    with pytest.raises(CheckpointError, match="org/gated is neither"):
        inspect(far, "cpu", parent=True)
    Engine.load(far, "cpu")  # for methods that need none


def test_a_parent_at_hand_changes_no_bit_of_a_linear_merge(folders, tmp_path):
    """Its own tokens are left out; a token it shares with one LM keeps that LM's row."""
    parent = save_lm(tmp_path / "base", 11, ["[PAD]", "<own>"], dtype=torch.float32)
    family = Family.of(folders["rm"], {"code": folders["padded"]})
    recipe = Recipe(0.6, {"code": 1})
    export(family, recipe, tmp_path / "without")
    engine = Engine.load(replace(family, parent=str(parent)), "cpu", "float16")
    engine.apply(recipe)
    assert "the parent" in engine.sources.lms
    for name, tensor in stored(tmp_path / "without").items():
        assert bits(engine.model.get_parameter(name)) == bits(tensor), name


def test_inspect_shows_what_the_files_say_they_come_from(folders, tmp_path):
    lm = save_lm(tmp_path / "lm", 3)
    config = json.loads((lm / "config.json").read_text())
    config["_name_or_path"] = "/their/disk/base"
    (lm / "config.json").write_text(json.dumps(config))
    card = "---\nbase_model:\n- org/base\n- org/other\n---\n# Mine\n"
    (lm / "README.md").write_text(card)
    family = Family.of(folders["rm"], {"math": lm})
    assert inspect(family).lms["math"].says == (
        "org/base",
        "org/other",
        "/their/disk/base",
    )
    (lm / "README.md").write_text("---\nbase_model: [\n---\n")  # not YAML
    assert inspect(family).lms["math"].says == ("/their/disk/base",)
    assert "says it comes from" in "".join(facts(inspect(family))[2])


def test_inspect_names_heads_ties_and_every_dtype(folders, tmp_path):
    tokenizer = byte_tokenizer()
    config = llama_config(len(tokenizer), tie_word_embeddings=True)
    LlamaForCausalLM(config).to(torch.float16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = inspect(Family.of(folders["rm"], {"math": tmp_path}))
    tied = found.lms["math"]
    assert tied.tied and tied.head is None and not found.lms["math"].left_out
    assert tied.dtypes == {"float16": len(tensors) - 1, "float32": 1}
    assert found.rm.head == "score.weight (1, 32)"
    shown = {row[0]: row[1:] for row in facts(found)}
    assert shown["head"] == ("score.weight (1, 32)", "the embeddings")
    assert shown["stored"][1].endswith("float16 (tensors: 1 in float32)")


def test_inspect_warns_of_settings_that_differ(folders, tmp_path):
    lm = save_lm(tmp_path / "lm", 3)
    config = json.loads((lm / "config.json").read_text())
    (lm / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    (lm / "chat_template.jinja").write_text("{{ messages }}")
    found = inspect(Family.of(folders["rm"], {"math": lm}))
    assert any("rms_norm_eps" in warning for warning in found.warnings)
    assert any("chat template of 'math'" in warning for warning in found.warnings)
