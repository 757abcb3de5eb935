"""The table method x domain: chosen on validation pairs, judged on test pairs, against linear."""

import json
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from dogerm.benchmarks.paired import Paired
from dogerm.cli import app
from dogerm.errors import InputError, StoreError
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
from dogerm.scoring import rewards, score, tokenise

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
    assert {recipe.lam for recipe in tried} == {*LAMS, 0.75, 1.0}
    for recipe in tried:
        assert recipe.method == method
        options_of(recipe)


def test_the_search_refines_lambda_and_then_each_option():
    def merit(recipe):
        density = recipe.options.get("density", 0.5)
        return -abs(recipe.lam - 0.44) - abs(density - 0.2)

    tried = search("ties", MIX, merit)
    best = max(tried, key=tried.get)
    assert (best.lam, dict(best.options)) == (0.45, {"density": 0.2})
    assert len(tried) == 3 + 2 + 2


class Accuracies:
    """A judge that knows accuracies by λ, on the first pairs and on all, instead of running a model."""

    def __init__(self, first, all):
        self.first, self.all, self.pairs = first, all, dict.fromkeys(GENERATORS, ())

    def accuracy(self, recipe, domain, blocks=None):
        by_lam = self.first if blocks else self.all
        return by_lam(recipe.lam)[domain]

    def right(self, recipe, domain):
        return [True]


def test_of_the_best_two_on_few_pairs_the_best_on_all_is_taken_that_keeps_chat_and_safety():
    few = {0.0: 0.5, 0.3: 0.6, 0.45: 0.7, 0.6: 0.8, 0.75: 0.9}
    many = {0.0: 0.5, 0.3: 0.6, 0.45: 0.95, 0.6: 0.85, 0.75: 0.75}

    def first(lam):
        return dict.fromkeys(GENERATORS, few.get(lam, 0.55))

    def all(costs):
        def by_lam(lam):
            manners = {"chat": 0.8 if lam in costs else 0.89 + 0.01 * (not lam)}
            return manners | {"safety": 1.0} | dict.fromkeys(MIX, many.get(lam, 0.55))

        return by_lam

    def chosen(*costs):
        judge = Accuracies(first, all(costs))
        return measure("linear", MIX, judge, judge).recipe

    assert chosen() == Recipe(0.6, MIX)  # 0.45 was not among the best two
    assert chosen(0.6) == Recipe(0.75, MIX)
    assert chosen(0.6, 0.75) == Recipe(0.45, MIX)
    assert chosen(0.3, 0.45, 0.6, 0.75, 0.9) == Recipe(0, MIX)


def test_of_equals_the_smaller_lambda_is_taken_and_a_useless_method_stays_at_zero():
    same = Accuracies(
        *2 * [lambda lam: dict.fromkeys(GENERATORS, 0.5 + 0.1 * (lam > 0))]
    )
    assert measure("linear", MIX, same, same).recipe == Recipe(0.15, MIX)
    worse = Accuracies(*2 * [lambda lam: dict.fromkeys(GENERATORS, 0.5 - lam / 10)])
    assert measure("slerp", MIX, worse, worse).recipe.lam == 0


def test_a_judge_agrees_with_plain_scores_and_judges_once(monkeypatch):
    monkeypatch.setattr("dogerm.nano.methods.BLOCK", 4)
    engine = open_family(SHIPPED)
    drawn = distinct_pairs("math", Random(3), "test", 6)
    tokens = [tokenise(engine, p.prompt, [p.chosen, p.rejected]) for p in drawn]
    told = []
    judge = Judge(engine, {"math": tokens}, told.append)
    recipe = Recipe(0.7, MIX, "ties")
    groups = [(p.prompt, [p.chosen, p.rejected]) for p in drawn]
    wanted = [a > b for a, b in score(engine, recipe, groups)]
    assert judge.right(recipe, "math", blocks=1) == wanted[:4] and told == [4]
    assert judge.right(recipe, "math") == wanted == judge.right(recipe, "math")
    assert told == [4, 2] and judge.recipes == {recipe}


def test_a_run_that_was_stopped_goes_on_and_finds_the_same(
    tmp_path, monkeypatch, compared
):
    wanted, _ = compared
    kept = tmp_path / "kept.jsonl"
    settings = {
        "pairs": 8,
        "validation": 4,
        "methods": ("linear", "nearswap"),
        "kept": kept,
    }

    def stop_after(blocks):
        def on_pairs(count):
            nonlocal blocks
            blocks -= 1
            if not blocks:
                raise KeyboardInterrupt

        return on_pairs

    with pytest.raises(KeyboardInterrupt):
        compare_methods([SHIPPED, SHIPPED], on_pairs=stop_after(9), **settings)
    lines = kept.read_text().splitlines()
    assert len(lines) == 9
    kept.write_text("\n".join(lines) + '\n{"of": "cut sho')
    judged = []

    def counted(engine, recipe, items):
        judged.append((recipe, len(items)))
        return rewards(engine, recipe, items)

    monkeypatch.setattr("dogerm.nano.methods.rewards", counted)
    found = compare_methods([SHIPPED, SHIPPED], **settings)
    assert found["summary"] == wanted["summary"]
    total = len(kept.read_text().splitlines())
    assert (
        len(judged) == total - 9
    )  # what was kept is not judged again, nor the second family
    compare_methods([SHIPPED, SHIPPED], **settings)
    assert len(judged) == total - 9
    kept.write_text('{"seed": 1}\n')
    with pytest.raises(StoreError, match="line 1 of .*kept.jsonl is not an outcome"):
        compare_methods([SHIPPED], **settings)


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
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    found = CliRunner().invoke(
        app, ["nano", "methods", str(SHIPPED), f"--out={out}", "--method=stir"]
    )
    assert found.exit_code == 1 and "no merge method 'stir'" in found.stderr
