"""Others' ways to one λ: they make the models that dogerm makes, and are timed step by step."""

import os
import sys
import venv
from pathlib import Path

import pytest
import torch
from conftest import save_lm, save_rm
from typer.testing import CliRunner

from dogerm.cli import app
from dogerm.engine import Engine
from dogerm.errors import PeerError
from dogerm.family import Family
from dogerm.peers import (
    REFERENCE_SCRIPT,
    against_mergekit,
    against_reference,
    check,
)
from dogerm.scoring import tokenise

# mergekit's call as its 0.1.5 documents it, computed plainly.
STAND_IN = '''
"""Stands in for mergekit: the call that is measured, and nothing else."""
import torch

def merge_state_dicts(models, method, *, parameters, strict, dtype, out_dtype):
    assert method == "linear" and not strict and parameters["normalize"] is False
    names = set.intersection(*(set(tensors) for tensors in models.values()))
    weights = parameters["weight"]
    return {
        name: sum(weights[key] * models[key][name].to(dtype) for key in models).to(out_dtype)
        for name in names
    }
'''


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    root = tmp_path_factory.mktemp("peers")
    lms = {"math": save_lm(root / "math", 1), "code": save_lm(root / "code", 2)}
    family = Family.of(save_rm(root / "rm"), lms)
    return Engine.load(family, device="cpu", dtype="float16")


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    """An interpreter of an empty environment."""
    root = tmp_path_factory.mktemp("bare")
    venv.create(root, symlinks=True, with_pip=False)
    return root / "bin" / "python"


@pytest.fixture
def with_stand_in(tmp_path, monkeypatch) -> Path:
    package = tmp_path / "mergekit" / "merge_methods"
    package.mkdir(parents=True)
    (package / "api.py").write_text(STAND_IN)
    facts = tmp_path / "mergekit-0.1.5.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Name: mergekit\nVersion: 0.1.5\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Path(sys.executable)


def test_the_reference_gives_our_rewards_at_every_step_that_it_takes(engine, tmp_path):
    item = tokenise(engine, "What is 2 + 2?", ["4", "It is five, I think."])
    found = against_reference(engine, item, 1, tmp_path)
    assert list(found.steps) == [
        *("start", "load", "merge", "save"),
        *("start again", "load again", "score"),
    ]
    assert list(found.ours) == ["merge", "score"]
    assert all(seconds > 0 for seconds in found.steps.values())
    # Both in float16: sums of two roundings, on rewards of size 0.1.
    assert found.largest_difference < 1e-3
    before = sum(found.steps.values()) - found.steps["score"]
    assert found.merge_ratio == pytest.approx(before / found.ours["merge"])
    assert found.score_ratio == pytest.approx(
        found.steps["score"] / found.ours["score"]
    )
    total = found.ready + found.steps["score"]
    assert found.ratio == pytest.approx(total / sum(found.ours.values()))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_merge_would_be_seen_in_the_reference(engine, tmp_path, monkeypatch):
    item = tokenise(engine, "What is 2 + 2?", ["4", "It is five, I think."])
    wrong = tmp_path / "wrong.py"
    right = REFERENCE_SCRIPT.read_text("utf-8")
    wrong.write_text(right.replace('lam = settings["lam"]', "lam = 0.0"), "utf-8")
    monkeypatch.setattr("dogerm.peers.REFERENCE_SCRIPT", wrong)
    assert against_reference(engine, item, 1, tmp_path).largest_difference > 5e-3


def test_a_reference_that_fails_gives_its_last_line(engine, tmp_path, monkeypatch):
    item = tokenise(engine, "What is 2 + 2?", ["4", "It is five, I think."])
    broken = tmp_path / "broken.py"
    broken.write_text("raise OSError('no space left')", "utf-8")
    monkeypatch.setattr("dogerm.peers.REFERENCE_SCRIPT", broken)
    with pytest.raises(PeerError, match="OSError: no space left"):
        against_reference(engine, item, 1, tmp_path)


def test_mergekit_runs_in_its_own_interpreter(engine, with_stand_in, tmp_path):
    found = against_mergekit(engine, with_stand_in, 2, tmp_path)
    assert (found.version, found.compared) == ("0.1.5", "weights")
    assert list(found.once) == ["load"] and list(found.steps) == ["merge"]
    # Both round once to float16, of weights below 0.25.
    assert found.largest_difference < 2**-12
    assert found.ratio == found.merge_ratio > 0 and found.score_ratio is None


@pytest.mark.skipif(
    "DOGERM_MERGEKIT_PYTHON" not in os.environ, reason="names no Python with mergekit"
)
def test_mergekit_itself_gives_our_weights(engine, tmp_path):
    python = Path(os.environ["DOGERM_MERGEKIT_PYTHON"])
    found = against_mergekit(engine, python, 1, tmp_path)
    assert found.version == "0.1.5" and found.largest_difference < 2**-12


@pytest.mark.parametrize("missing", ["no python", "not there", "no mergekit"])
def test_a_missing_mergekit_is_said_with_the_commands_to_make_it(missing, bare_python):
    python = {
        "no python": None,
        "not there": Path("nowhere/python"),
        "no mergekit": bare_python,
    }
    with pytest.raises(PeerError, match="-m venv mergekit-env.*mergekit==0.1.5"):
        check(["mergekit"], python[missing])


def test_a_mergekit_that_fails_gives_its_last_line(engine, with_stand_in, tmp_path):
    api = tmp_path / "mergekit" / "merge_methods" / "api.py"
    api.write_text("raise ImportError('no such thing')")
    with pytest.raises(PeerError, match="ImportError: no such thing"):
        against_mergekit(engine, with_stand_in, 1, tmp_path)


def test_a_peer_that_cannot_be_run_is_said_before_anything_is_measured():
    for name, words in (
        ("mergekit", "no Python with mergekit"),
        ("x", "use reference"),
    ):
        result = CliRunner().invoke(app, ["speed", "--against", name])
        assert result.exit_code == 1 and words in result.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_the_reference_gives_our_rewards_on_a_gpu(engine, tmp_path):
    live = Engine.load(engine.family, device="cuda", dtype="float16")
    item = tokenise(live, "What is 2 + 2?", ["4", "It is five, I think."])
    assert against_reference(live, item, 1, tmp_path).largest_difference < 1e-3
