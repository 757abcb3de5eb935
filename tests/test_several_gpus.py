"""A model spread over several GPUs, on pretended ones: each value where it is needed."""

from dataclasses import replace

import pytest
import torch
from pretended import pretended_gpus
from test_architectures import ANSWERS, BOTH, PROMPT, REFUSED, pair

from dogerm.engine import Engine
from dogerm.family import Family
from dogerm.merge import METHODS
from dogerm.recipe import Recipe
from dogerm.scoring import score

GROUPS = [(PROMPT, ANSWERS), ("Hi", ["a", "b" * 90])]  # a shared prompt, and none
RECIPE = Recipe(0.35, {"math": 2, "code": 1})


@pytest.fixture
def gpus(monkeypatch):
    with pretended_gpus(monkeypatch, 2):
        yield


def on_cpu(family, held=None, recipe=RECIPE):
    engine = Engine.load(family, "cpu", "float32", held)
    return score(engine, recipe, GROUPS), engine.along([1, 9, 8, 7])


@pytest.mark.parametrize("held", [None, "int8", "nf4"])
@pytest.mark.parametrize("keep", ["device", "pinned", "mapped"])
def test_two_gpus_score_as_the_cpu_does(family, held, keep, monkeypatch):
    if held:
        pytest.importorskip("bitsandbytes")
    wanted, along = on_cpu(family, held)
    with pretended_gpus(monkeypatch, 2):
        engine = Engine.load(family, "cuda:0,cuda:1", "float32", held, keep=keep)
        assert {p.device.index for p in engine.model.parameters()} == {0, 1}
        assert engine.plan.place == keep
        for table, row in zip(score(engine, RECIPE, GROUPS), wanted):
            assert table == pytest.approx(row, abs=1e-5)
        torch.testing.assert_close(engine.along([1, 9, 8, 7]), along)


@pytest.mark.parametrize("kind", sorted(set(BOTH) - REFUSED))
def test_an_architecture_scores_on_two_gpus_as_on_the_cpu(kind, tmp_path, monkeypatch):
    rm, lm, _ = pair(kind, tmp_path)
    family, recipe = Family.of(rm, {"math": lm}), Recipe(0.3, {"math": 1})
    wanted, along = on_cpu(family, recipe=recipe)
    with pretended_gpus(monkeypatch, 2):
        engine = Engine.load(family, "cuda:0,cuda:1", "float32")
        assert {p.device.index for p in engine.model.parameters()} == {0, 1}
        for table, row in zip(score(engine, recipe, GROUPS), wanted):
            assert table == pytest.approx(row, abs=1e-5)
        torch.testing.assert_close(engine.along([1, 9, 8, 7]), along)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_merges_on_gpus_as_on_the_cpu(method, family, folders, monkeypatch):
    family = replace(family, parent=str(folders["moved"]))
    recipe = Recipe(0.35, {"math": 2, "code": 1}, method)
    cpu = Engine.load(family, "cpu", "float32")
    cpu.apply(recipe)
    with pretended_gpus(monkeypatch, 2):
        engine = Engine.load(family, "cuda:0,cuda:1", "float32")
        engine.apply(recipe)
        found = {n: p.cpu() for n, p in engine.model.named_parameters()}
    for name, wanted in cpu.model.named_parameters():
        torch.testing.assert_close(found[name], wanted, atol=1e-6, rtol=1e-5)


def test_inputs_that_stay_on_another_gpu_are_noticed(family, gpus, monkeypatch):
    """The pretence itself: without what brings a block its inputs nothing can be scored."""
    monkeypatch.setattr("dogerm.live._bring_inputs", lambda model, plan: None)
    engine = Engine.load(family, "cuda:0,cuda:1", "float32")
    with pytest.raises(RuntimeError, match="same device.*cuda:0, cuda:1"):
        score(engine, RECIPE, GROUPS)


def test_a_merge_is_made_where_each_tensor_lives(family, gpus):
    engine = Engine.load(family, "cuda:0,cuda:1", "float16")
    for name in engine.fit.merged:
        given = engine.sources.fetch(name, RECIPE, engine.slots[name].device)
        assert {given.rm.device, *(t.device for t in given.lms)} == {
            engine.model.get_parameter(name).device
        }


def test_auto_takes_one_gpu_where_one_is_enough(family, gpus):
    engine = Engine.load(family, "auto")
    assert engine.plan.device == "cuda:0" and not engine.plan.blocks
    assert engine.dtype == "float16"  # as the family is stored
