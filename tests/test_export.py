"""A merge on disk: the live engine's bits, plain transformers' layout, whole or not there."""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import (
    AtOnce,
    bits,
    byte_tokenizer,
    llama_config,
    save_lm,
    save_rm,
    source,
    stored,
)
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForSequenceClassification,
)
from typer.testing import CliRunner

from dogerm.cli import app
from dogerm.engine import Engine
from dogerm.errors import CheckpointError, RecipeError
from dogerm.export import LOCK, export, push_to_hub
from dogerm.family import Family
from dogerm.provenance import _sha256
from dogerm.recipe import Recipe
from dogerm.scoring import rewards, score, tokenise
from dogerm.synthetic import write_checkpoint

HEAD = "score.weight"
EMBEDDING = "model.embed_tokens.weight"
DTYPES = ["float32", "bfloat16", "float16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kept_as", [torch.float16, torch.float32])
def test_the_weights_are_the_live_engines_bit_for_bit(
    tmp_path, dtype, kept_as, monkeypatch
):
    monkeypatch.setattr("dogerm.export.PIECE", 32 * 100)  # the table in three pieces
    rm = save_rm(tmp_path / "rm", dtype=kept_as)
    lms = {
        "math": save_lm(tmp_path / "math", 1, dtype=kept_as),
        "code": save_lm(tmp_path / "code", 2, extra=["[PAD]"], dtype=kept_as),
    }
    family = Family.of(rm, lms)
    recipe = Recipe(0.35, {"math": 2, "code": 1})
    engine = Engine.load(family, "cpu", dtype)
    engine.apply(recipe)
    export(family, recipe, tmp_path / "out", dtype)
    written = stored(tmp_path / "out")
    assert set(written) == set(engine.slots)
    for name, parameter in engine.model.named_parameters():
        assert bits(written[name]) == bits(parameter), name


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_weights_are_the_formula_in_float32_then_cast(
    folders, tmp_path, lam, dtype
):
    family = Family.of(folders["rm"], {"code": folders["padded"]})
    name = str(dtype).removeprefix("torch.")
    export(family, Recipe(lam, {"code": 1}), tmp_path / "out", name)
    written = stored(tmp_path / "out")
    rm, lm = stored(folders["rm"]), stored(folders["padded"])
    assert bits(written.pop(HEAD)) == bits(rm.pop(HEAD).to(dtype))
    assert bits(written[EMBEDDING][-1]) == bits(lm[EMBEDDING][-1].to(dtype))  # [PAD]
    written[EMBEDDING], lm[EMBEDDING] = written[EMBEDDING][:-1], lm[EMBEDDING][:-1]
    for name, tensor in rm.items():
        merged = (1 - lam) * tensor.float() + lam * lm[name].float()
        wanted = merged.to(dtype)
        assert tensor.shape == written[name].shape and written[name].dtype == dtype
        # One unit in the last place, and float32's own rounding where parts cancel.
        unit = torch.finfo(dtype).eps * wanted.float().abs()
        slack = (
            2 * torch.finfo(torch.float32).eps * tensor.float().abs().clamp(min=1e-3)
        )
        difference = (written[name].float() - wanted.float()).abs()
        assert (difference <= unit + slack).all(), name


def test_plain_transformers_loads_it_and_gives_the_live_rewards(
    family, engine, tmp_path
):
    out = tmp_path / "out"
    recipe = Recipe(0.4, {"math": 1, "code": 1})
    export(family, recipe, out, "float32")
    model = AutoModelForSequenceClassification.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert isinstance(model, LlamaForSequenceClassification)
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer) == 263
    assert tokenizer.convert_tokens_to_ids("[PAD]") == 262
    talk = [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "It is 4 😀"},
    ]
    text = tokenizer.apply_chat_template(talk, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.inference_mode():
        reward = model(ids).logits.item()
    [[wanted]] = score(engine, recipe, [("2 + 2?", ["It is 4 😀"])])
    assert reward == pytest.approx(wanted, abs=1e-5)


def test_large_models_are_written_in_shards_with_an_index(family, tmp_path):
    recipe = family.recipe(0.5)
    whole = export(family, recipe, tmp_path / "whole")
    parts = export(family, recipe, tmp_path / "parts", shard_bytes=20_000)
    assert whole.files == ("model.safetensors",)
    assert len(parts.files) > 2
    index = json.loads((tmp_path / "parts/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == parts.nbytes
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / "parts" / file)
    for file in parts.files:
        one = load_file(tmp_path / "parts" / file)
        assert len(one) == 1 or sum(t.nbytes for t in one.values()) <= 20_000
    shards, single = stored(tmp_path / "parts"), stored(tmp_path / "whole")
    assert {n: bits(t) for n, t in shards.items()} == {
        n: bits(t) for n, t in single.items()
    }
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "parts")
    assert bits(loaded.score.weight) == bits(single[HEAD])


def test_the_dtype_is_the_reward_models_unless_named(family, folders, tmp_path):
    export(family, family.recipe(), tmp_path / "out")
    assert stored(tmp_path / "out")[HEAD].dtype == torch.float16
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "float16"


def test_the_card_and_the_record_name_the_recipe(family, tmp_path):
    recipe = Recipe(0.35, {"math": 0.6, "code": 0.4})
    export(family, recipe, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    for part in (recipe.formula, "[PAD]", HEAD, "from_pretrained", "0.21", "0.14"):
        assert part in card
    assert str(tmp_path.parent) not in card  # made to be published
    record = json.loads((tmp_path / "out/dogerm.json").read_text())
    assert Recipe.from_json(record["recipe"]) == recipe
    assert record["versions"]["torch"] == torch.__version__


def test_the_card_and_the_record_name_every_source_by_its_hash(folders, tmp_path):
    """A folder's files, and a hub copy whose cache calls a large file by its hash."""
    blobs = tmp_path / "models--org--lm" / "blobs"
    snapshot = blobs.parent / "snapshots" / ("c0ffee" * 7)[:40]
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in folders["plain"].iterdir():
        blob = blobs / ("5e" * 32 if file.suffix == ".safetensors" else file.name)
        shutil.copy(file, blob)
        os.symlink(blob, snapshot / file.name)
    lms = {"math": snapshot, "unused": folders["padded"]}
    export(Family.of(folders["rm"], lms), Recipe(0.4, {"math": 1}), tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    text = (tmp_path / "out/dogerm.json").read_text()
    models = json.loads(text)["models"]
    assert list(models) == ["rm", "math"]
    weights = (folders["rm"] / "model.safetensors").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    assert models["rm"]["files"]["model.safetensors"] == digest and digest in card
    assert models["math"]["files"]["model.safetensors"] == "5e" * 32
    config = hashlib.sha256((snapshot / "config.json").read_bytes()).hexdigest()
    assert models["math"]["files"]["config.json"] == config
    assert models["math"]["revision"] == snapshot.name and snapshot.name in card
    assert str(tmp_path.parent) not in card + text


def test_a_file_is_hashed_once_as_soon_as_nothing_more_is_read_of_it(
    tmp_path, monkeypatch
):
    """While its pages are in memory: read again at the end it would come from the disk."""
    sources = {"rm": tmp_path / "rm", "math": tmp_path / "math"}
    for seed, (name, folder) in enumerate(sources.items()):
        config = llama_config(len(byte_tokenizer()))
        write_checkpoint(folder, config, seed, name == "rm", torch.float16, 20_000)
    written, hashed = [], []

    def recorded(file):
        hashed.append((file, len(written)))
        return _sha256(file)

    monkeypatch.setattr("dogerm.provenance._sha256", recorded)
    monkeypatch.setattr("dogerm.provenance.ThreadPoolExecutor", AtOnce)
    export(
        Family.of(sources["rm"], {"math": sources["math"]}),
        Recipe(0.4, {"math": 1}),
        tmp_path / "out",
        on_progress=lambda new, total: written.append(new),
    )
    models = json.loads((tmp_path / "out/dogerm.json").read_text())["models"]
    when = dict(hashed)
    assert len(when) == len(hashed)
    for name, folder in sources.items():
        shards = sorted(folder.glob("*.safetensors"))
        assert len(shards) > 2 and when[shards[0]] < when[shards[1]] < len(written)
        for file in shards:
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            assert models[name]["files"][file.name] == digest


def test_tokens_whose_ids_would_not_fit_their_rows_are_not_added(folders, tmp_path):
    config = llama_config(270, num_labels=1)  # eight rows that no token names
    LlamaForSequenceClassification(config).half().save_pretrained(tmp_path / "rm")
    byte_tokenizer().save_pretrained(tmp_path / "rm")
    family = Family.of(tmp_path / "rm", {"code": folders["padded"]})
    written = export(family, family.recipe(0.5), tmp_path / "out")
    assert written.appended == ("[PAD]",) and not written.tokens_added
    assert stored(tmp_path / "out")[EMBEDDING].shape[0] == 271
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == 262
    assert "unknown to the tokenizer" in (tmp_path / "out/README.md").read_text()
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize(
    ("value", "lam"), [(torch.nan, 0.5), (torch.inf, 0.5), (-torch.inf, 1.0)]
)
def test_weights_that_are_no_numbers_are_named_and_counted(
    folders, tmp_path, value, lam
):
    lm = save_lm(tmp_path / "lm", 4)
    tensors = load_file(lm / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][3, 5:8] = value
    save_file(tensors, lm / "model.safetensors", metadata={"format": "pt"})
    family = Family.of(folders["rm"], {"math": lm})
    with pytest.raises(CheckpointError) as caught:
        export(family, family.recipe(lam), tmp_path / "out")
    for part in (name, "of math", str(lm / "model.safetensors"), "3 values"):
        assert part in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["lm"]  # not a trace of it


def test_a_merge_beyond_float16_says_so(folders, tmp_path):
    rm = save_rm(tmp_path / "rm", dtype=torch.float32)
    tensors = load_file(rm / "model.safetensors")
    tensors["model.norm.weight"][:2] = 1e6
    save_file(tensors, rm / "model.safetensors", metadata={"format": "pt"})
    family = Family.of(rm, {"math": folders["plain"]})
    with pytest.raises(CheckpointError, match="2 merged values of model.norm.weight"):
        export(family, family.recipe(0.5), tmp_path / "out", "float16")
    export(family, family.recipe(0.5), tmp_path / "out", "bfloat16")


def test_a_folder_with_something_in_it_is_left_alone(family, tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(CheckpointError, match="is there already"):
        export(family, family.recipe(), tmp_path)
    with pytest.raises(CheckpointError, match="is there already"):
        export(family, family.recipe(), tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "kept"
    (tmp_path / "empty").mkdir()
    export(family, family.recipe(), tmp_path / "empty")
    assert (tmp_path / "empty/model.safetensors").is_file()


def test_a_merge_cut_short_leaves_no_folder(family, tmp_path):
    def interrupted(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(family, family.recipe(), tmp_path / "out", on_progress=interrupted)
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_said_before_anything_is_written(
    family, tmp_path, monkeypatch
):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(
        CheckpointError, match="take 0.05 MB, 67.11 MB more .* has 0.00 MB free"
    ):
        export(family, family.recipe(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@contextmanager
def full_disk(kind: str, folder: Path):
    """A folder whose files cannot grow as large as the weights."""
    folder.mkdir()
    if kind == "limit":
        _, hard = old = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=72k", "tmpfs", folder]
    if not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("kind", ["limit", "tmpfs"])
def test_a_disk_that_fills_up_is_said_and_nothing_is_left(
    family, tmp_path, monkeypatch, kind
):
    monkeypatch.setattr("dogerm.export._check_room", lambda out, nbytes: None)
    disk = tmp_path / "disk"
    with full_disk(kind, disk):
        with pytest.raises(CheckpointError, match="disk is full. Nothing") as caught:
            export(family, family.recipe(), disk / "out")
        assert str(disk / "out") in str(caught.value)
        assert list(disk.iterdir()) == []


KILLED = """
import os, signal, sys
from dogerm.export import export
from dogerm.family import Family
rm, lm, out = sys.argv[1:]
family = Family.of(rm, {"math": lm})
stop = lambda done, total: os.kill(os.getpid(), signal.SIGKILL)
export(family, family.recipe(), out, on_progress=stop)
"""


def test_a_killed_export_leaves_nothing_that_looks_whole_and_the_next_removes_it(
    folders, tmp_path
):
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, folders["rm"], folders["plain"], out]
    killed = subprocess.run(command, cwd=Path(__file__).parent.parent, check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.") and (left / "model.safetensors").exists()
    family = Family.of(folders["rm"], {"math": folders["plain"]})
    export(family, family.recipe(), out)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert not (out / LOCK).exists()


def test_an_export_at_work_is_not_taken_for_a_dead_one(family, tmp_path):
    out, found = tmp_path / "out", []

    def another(done, total):
        if not found:
            found.append([file.name for file in tmp_path.iterdir()])
            export(family, family.recipe(), tmp_path / "other" / ".." / "out2")
            with pytest.raises(CheckpointError, match="could not be written"):
                export(family, family.recipe(), out, on_progress=broken)
            found.append([file.name for file in tmp_path.iterdir()])

    def broken(done, total):
        raise OSError(5, "Input/output error")

    (tmp_path / "other").mkdir()
    export(family, family.recipe(), out, on_progress=another)
    assert set(found[0]) < set(found[1])  # the hidden folder stayed through both
    assert (out / "model.safetensors").is_file()


def test_a_recipe_that_cannot_be_meant_writes_nothing(family, tmp_path):
    with pytest.raises(RecipeError, match="no domain LM 'law'"):
        export(family, Recipe(0.5, {"law": 1}), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_where_it_wrote_and_how_to_load_it(folders, tmp_path):
    out = tmp_path / "out"
    command = ["merge", *source(folders), "--lam=0.2", f"--out={out}"]
    result = CliRunner().invoke(app, [*command, "--dtype=bfloat16"])
    assert result.exit_code == 0, result.output
    assert str(out) in result.stdout and "from_pretrained" in result.stdout
    assert "[PAD]" in result.stdout and result.stderr == ""
    assert "score.weight kept" in result.stdout
    heads = "left out: lm_head.weight of math, lm_head.weight of code;"
    assert heads in result.stdout
    assert stored(out)[HEAD].dtype == torch.bfloat16
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 1
    assert again.stderr.startswith(f"error: {out} is there already.")


def test_a_value_heads_constant_is_left_out_and_said(folders, tmp_path):
    rm = save_lm(tmp_path / "rm", 9)
    head = {
        "v_head.summary.weight": torch.randn(1, 32),
        "v_head.summary.bias": torch.full((1,), 3.0),
    }
    save_file(head, rm / "value_head.safetensors")
    family = Family.of(rm, {"math": folders["plain"]})
    recipe = Recipe(0.4, {"math": 1})
    written = export(family, recipe, tmp_path / "out", "float32")
    assert written.left_out == ("score.bias",)
    assert "score.bias" in (tmp_path / "out" / "README.md").read_text()
    command = ["merge", f"--rm={rm}", f"--lm=math={folders['plain']}"]
    said = CliRunner().invoke(app, [*command, f"--out={tmp_path / 'told'}"]).stdout
    heads = "score.bias, lm_head.weight of the reward model, lm_head.weight of math;"
    assert f"left out: {heads}" in said
    engine = Engine.load(family, device="cpu", dtype="float32")
    tokens = tokenise(engine, "Hi", ["Hello"]).sequences[0]
    live = rewards(engine, recipe, [tokenise(engine, "Hi", ["Hello"])])[0][0]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        saved = model(torch.tensor([tokens])).logits.item()
    assert live - saved == pytest.approx(3, abs=1e-4)


def test_pushing_uploads_the_folder_or_says_how_to(folders, tmp_path, monkeypatch):
    import huggingface_hub

    asked = {}

    class Hub:
        def create_repo(self, repository, exist_ok):
            asked["repository"] = repository
            return f"https://hub/{repository}"

        def upload_folder(self, repo_id, folder_path):
            asked["files"] = {file.name for file in folder_path.iterdir()}

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    family = Family.of(folders["rm"], {"math": folders["plain"]})
    export(family, Recipe(0.4, {"math": 1}), tmp_path / "out")
    assert push_to_hub(tmp_path / "out", "me/mine") == "https://hub/me/mine"
    assert asked["repository"] == "me/mine"
    assert {"model.safetensors", "config.json", "README.md"} <= asked["files"]
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="whole on this disk.*hf upload me/mine"):
        push_to_hub(tmp_path / "out", "me/mine")


def test_a_name_the_hub_would_refuse_is_said_before_anything_is_read(
    folders, tmp_path, monkeypatch
):
    def read(*arguments, **settings):
        raise AssertionError("something was read")

    monkeypatch.setattr("dogerm.export.open_models", read)
    for name in ("bad id!!", "a/b/c", "-me/mine", ""):
        command = ["merge", *source(folders), f"--out={tmp_path / 'out'}"]
        result = CliRunner().invoke(app, [*command, f"--push-to-hub={name}"])
        assert result.exit_code == 1 and result.stderr.count("\n") == 1, result.output
        assert repr(name) in result.stderr and "ORG/NAME" in result.stderr
    assert list(tmp_path.iterdir()) == []
