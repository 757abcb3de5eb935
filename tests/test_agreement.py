"""Quantised against 16-bit rewards: counted rightly, measured once, measured anew when it must be."""

import json
import os

import pytest
from conftest import save_lm, save_rm
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from dogerm import agreement as module
from dogerm.agreement import agreement, agreement_words
from dogerm.cli import app
from dogerm.engine import Engine
from dogerm.errors import DeviceError
from dogerm.family import Family

GROUP = [("What is a prime?", ["Seven, for one.", "Nine", "I cannot say"])]

pytest.importorskip("bitsandbytes")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder that agreements are kept in."""
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path / "assets" / "dogerm" / "agreement"


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """The families that were measured, one entry a time."""
    names = []

    def counted(engine, other, groups):
        names.append(engine.family.name)
        return agreement(engine, other, groups)

    monkeypatch.setattr(module, "agreement", counted)
    return names


@pytest.fixture
def own(tmp_path):
    """A family whose files a test may change."""
    rm, lm = save_rm(tmp_path / "rm"), save_lm(tmp_path / "lm", 1)
    return Family.of(rm, {"math": lm}, name="own")


def in_8bit(family: Family) -> Engine:
    return Engine.load(family, "cpu", "float32", "int8")


def test_orders_and_centred_differences_are_counted(engine, monkeypatch):
    tables = {
        "ours": [[[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0]]],
        "theirs": [[[11.0, 12.0, 13.0]], [[12.0, 11.0, 13.0]]],
    }

    class Fake:
        family, dtype = engine.family, "float16"

        def __init__(self, name):
            self.tables = iter(tables[name])

    monkeypatch.setattr(module, "score", lambda one, recipe, groups: next(one.tables))
    found = agreement(Fake("ours"), Fake("theirs"), GROUP)
    # The constant 10 does not count; the swapped pair does, by 1 and 1.
    assert (found.orders, found.same) == (6, 5)
    assert (found.mean, found.largest) == pytest.approx((2 / 6, 1))


def test_a_family_is_measured_once(own, kept, measured):
    first = agreement_words(in_8bit(own))
    assert first.startswith("int8 ranks ") and "as float32 does" in first
    assert agreement_words(in_8bit(own)) == first and measured == ["own"]
    assert len(list(kept.iterdir())) == 1
    other = agreement_words(Engine.load(own, "cpu", "float32", "nf4"))
    assert other.startswith("nf4 ranks ") and "as float32 does" in other
    assert len(list(kept.iterdir())) == len(measured) == 2
    assert agreement_words(Engine.load(own, "cpu", "float32")) == ""


def test_it_is_measured_anew_when_a_file_has_changed(own, kept, measured, tmp_path):
    before = agreement_words(in_8bit(own))
    file = tmp_path / "lm" / "model.safetensors"
    was = file.stat()
    tensors = load_file(file)
    save_file(
        {name: tensor * 3 for name, tensor in tensors.items()},
        file,
        metadata={"format": "pt"},
    )
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))  # as some copying tools do
    assert file.stat().st_size == was.st_size
    assert agreement_words(in_8bit(own)) != before
    assert measured == ["own", "own"]


def test_it_is_measured_anew_with_other_settings_and_programs(
    own, kept, measured, monkeypatch
):
    agreement_words(in_8bit(own))
    agreement_words(Engine.load(own, "cpu", "bfloat16", "int8"))
    monkeypatch.setattr(module, "version", lambda package: "9")
    agreement_words(in_8bit(own))
    assert len(measured) == 3


@pytest.mark.parametrize("damage", ["{", "{}", '{"of": 1, "agreement": {}}', "moved"])
def test_what_was_kept_is_not_trusted_blindly(own, kept, measured, damage):
    said = agreement_words(in_8bit(own))
    (file,) = kept.iterdir()
    if damage == "moved":  # another family's, under this one's name
        found = json.loads(file.read_text())
        found["of"]["files"]["rm"] = {}
        damage = json.dumps(found)
    file.write_text(damage)
    assert agreement_words(in_8bit(own)) == said and len(measured) == 2


def test_a_folder_that_cannot_be_written_costs_only_time(own, kept, caplog):
    kept.parent.mkdir(parents=True)
    kept.write_text("a file where a folder should be")
    assert agreement_words(in_8bit(own)).startswith("int8 ranks")
    assert "cannot be written" in caplog.text


def test_sixteen_bits_that_fit_nowhere_are_said(own, kept, monkeypatch):
    engine = in_8bit(own)

    def full(*arguments, **settings):
        raise DeviceError("no room")

    monkeypatch.setattr(Engine, "load", full)
    assert (
        agreement_words(engine) == "int8, not compared: float32 does not fit beside it"
    )


@pytest.mark.parametrize("bits, held", [(8, "int8"), (4, "nf4")])
def test_the_command_line_says_it_beside_the_rewards(
    folders, kept, tmp_path, bits, held
):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Hi", "responses": ["a", "b"]}\n')
    models = [f"--rm={folders['rm']}", f"--lm=math={folders['plain']}"]
    command = ["score", str(rows), *models, "--device=cpu"]
    found = CliRunner().invoke(app, [*command, f"--load-in-{bits}bit"])
    assert found.exit_code == 0 and f"{held} ranks " in found.stderr, found.output
    assert held not in CliRunner().invoke(app, command).stderr
    assert len(list(kept.iterdir())) == 1
