"""The table method x domain: chosen on validation pairs, judged on test pairs, against linear."""

import json
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from dogerm.benchmarks.paired import Paired
from dogerm.cli import app
from dogerm.errors import InputError
from dogerm.merge import METHODS, options_of
from dogerm.nano.corpus import GENERATORS, distinct_pairs
from dogerm.nano.methods import (
    LAMS,
    VALUES,
    Judge,
    compare_methods,
    cost,
    measure,
    open_family,
    search,
    table,
)
from dogerm.recipe import Recipe
from dogerm.scoring import score, tokenise

SHIPPED = Path(__file__).parent.parent / "assets" / "nano"
MIX = {"math": 0.5, "code": 0.5}


@pytest.fixture(scope="module")
def compared():
    """Two methods on the shipped family, taken for two seeds, on few pairs."""
    told = []
    found = compare_methods(
        [SHIPPED, SHIPPED],
        pairs=8,
        validation=4,
        methods=("linear", "nearswap"),
        on_pairs=told.append,
    )
    return found, sum(told)


def test_every_option_that_may_be_searched_has_values_to_try():
    for method in METHODS.values():
        for name, option in method.options.items():
            assert not option.searched or VALUES[name]


@pytest.mark.parametrize("method", METHODS)
def test_only_recipes_that_can_be_meant_are_tried(method):
    tried = search(method, MIX, lambda recipe: recipe.lam)
    assert {recipe.lam for recipe in tried} == {*LAMS, 0.9}
    for recipe in tried:
        assert recipe.method == method
        options_of(recipe)


def test_the_search_refines_lambda_and_then_each_option():
    def merit(recipe):
        density = recipe.options.get("density", 0.5)
        return -abs(recipe.lam - 0.31) - abs(density - 0.2)

    tried = search("ties", MIX, merit)
    best = max(tried, key=tried.get)
    assert (best.lam, dict(best.options)) == (0.3, {"density": 0.2})
    assert len(tried) == 5 + 2 + 2


class Accuracies:
    """A judge that knows accuracies by λ instead of running a model."""

    def __init__(self, by_lam):
        self.by_lam, self.pairs = by_lam, dict.fromkeys(GENERATORS, ())

    def accuracy(self, recipe, domain):
        return self.by_lam(recipe.lam)[domain]

    def right(self, recipe, domain):
        return [True]


def test_what_costs_chat_or_safety_is_not_chosen_and_a_tie_goes_to_the_smaller_lambda():
    def by_lam(lam):
        gains = {0.0: 0.5, 0.2: 0.6, 0.4: 0.7, 0.6: 0.7, 0.8: 0.9}.get(lam, 0.55)
        chat = 0.8 if lam == 0.8 else 0.89
        return {"chat": 0.9 if not lam else chat, "safety": 1.0} | dict.fromkeys(
            MIX, gains
        )

    judge = Accuracies(by_lam)
    assert measure("linear", MIX, judge, judge).recipe == Recipe(0.4, MIX)
    worse = Accuracies(lambda lam: dict.fromkeys(GENERATORS, 0.5 - lam / 10))
    assert measure("slerp", MIX, worse, worse).recipe.lam == 0


def test_a_judge_agrees_with_plain_scores_and_judges_once():
    engine = open_family(SHIPPED)
    drawn = distinct_pairs("math", Random(3), "test", 6)
    tokens = [tokenise(engine, p.prompt, [p.chosen, p.rejected]) for p in drawn]
    told = []
    judge = Judge(engine, {"math": tokens}, told.append)
    recipe = Recipe(0.7, MIX, "ties")
    groups = [(p.prompt, [p.chosen, p.rejected]) for p in drawn]
    wanted = [a > b for a, b in score(engine, recipe, groups)]
    assert judge.right(recipe, "math") == wanted == judge.right(recipe, "math")
    assert told == [6]


def test_the_report_holds_every_pair_and_its_numbers_follow_from_them(compared):
    found, told = compared
    assert json.loads(json.dumps(found)) == found
    seed = json.loads((SHIPPED / "training.json").read_text())["seed"]
    assert [family["seed"] for family in found["families"]] == [seed, seed]
    linear, near = (
        [family["methods"][name] for family in found["families"]]
        for name in ("linear", "nearswap")
    )
    for own in (*linear, *near):
        for domain in GENERATORS:
            outcomes = own["right"][domain]
            assert len(outcomes) == 8
            assert own["metrics"][domain]["accuracy"] == outcomes.count("1") / 8

    def rates(results):
        texts = ["".join(own["right"][d] for d in ("code", "math")) for own in results]
        return [sum(map(int, wins)) / 2 for wins in zip(*texts)]

    wanted = Paired.of(rates(near), rates(linear)).to_json()
    assert found["summary"]["nearswap"]["against_linear"]["merged domains"] == (
        pytest.approx(wanted)
    )
    assert found["summary"]["linear"]["against_linear"]["merged domains"]["p"] == 1
    assert told <= cost(2, 8, 4, methods=("linear", "nearswap"))[1] + 2 * 2 * 4 * 8
    text = table(found)
    assert "| `nearswap` |" in text and "not significant" in text
    assert f"{100 * linear[0]['metrics']['chat']['accuracy']:.1f}" in text


def test_slips_are_said(tmp_path):
    with pytest.raises(InputError, match="holds no trained family"):
        compare_methods([tmp_path])
    with pytest.raises(InputError, match="compared with linear"):
        compare_methods([SHIPPED], methods=("ties",))
    with pytest.raises(InputError, match="no domain LM 'law'; it has math, code"):
        compare_methods([SHIPPED], shares={"law": 1})


def test_the_command_writes_json_and_table(tmp_path):
    out = tmp_path / "methods.json"
    found = CliRunner().invoke(
        app,
        ["nano", "methods", str(SHIPPED), f"--out={out}", "--pairs=2", "--validation=2"]
        + ["--share=math=1", "--method=slerp"],
    )
    assert found.exit_code == 0, found.output
    data = json.loads(out.read_text())
    assert data["settings"]["shares"] == {"math": 1} and set(data["summary"]) == {
        "linear",
        "slerp",
        "base",
    }
    assert out.with_suffix(".md").read_text().startswith(found.stdout.split("\n")[0])
    assert "pairs to judge" in found.stderr
    found = CliRunner().invoke(
        app, ["nano", "methods", str(SHIPPED), f"--out={out}", "--method=stir"]
    )
    assert found.exit_code == 1 and "no merge method 'stir'" in found.stderr
