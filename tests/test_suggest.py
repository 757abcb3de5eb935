"""Suggestions: chosen on validation pairs, judged on others, by tests computed by hand here."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
from typer.testing import CliRunner

from dogerm.benchmarks.paired import Paired, holm
from dogerm.cli import app
from dogerm.engine import Engine
from dogerm.errors import InputError, RecipeError
from dogerm.family import Family
from dogerm.merge import options_of
from dogerm.nano.pairs import write_pairs
from dogerm.recipe import SHAPES, Recipe
from dogerm.rows import read_rows, tokenise_rows
from dogerm.scoring import score
from dogerm.suggest import _Space, check_pairs, merit, shapes_for, suggest
from dogerm.sweep import GRID

WORDS = [
    "seven",
    "nine",
    "eleven",
    "blue",
    "red",
    "green",
    "cat",
    "dog",
    "ox",
    "zebra",
    "yes",
    "no",
]


def pair(index: int, **more) -> dict:
    chosen, rejected = WORDS[index % 12], WORDS[(5 * index + 1) % 12]
    return {
        "prompt": f"Which, {index}?",
        "chosen": f"{chosen} {index}",
        "rejected": rejected,
    } | more


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path):
    validation = write(tmp_path / "v.jsonl", [pair(i) for i in range(12)])
    return validation, write(tmp_path / "t.jsonl", [pair(i) for i in range(12, 32)])


def tokenised(engine, files):
    return [tokenise_rows(engine, read_rows(file)) for file in files]


def accuracy(engine, recipe, file) -> float:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    groups = [(row["prompt"], [row["chosen"], row["rejected"]]) for row in rows]
    found = score(engine, recipe, groups)
    return sum(chosen > rejected for chosen, rejected in found) / len(rows)


# The test


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (3, 9), (9, 3), (40, 12)])
def test_the_paired_test_is_mcnemars_and_the_interval_bonett_and_prices(gained, lost):
    n = 60
    ours = [1.0] * gained + [-1.0] * lost + [1.0] * (n - gained - lost)
    theirs = [-1.0] * gained + [1.0] * lost + [1.0] * (n - gained - lost)
    found = Paired.of_margins(ours, theirs)
    assert (found.n, found.gained, found.lost) == (n, gained, lost)
    discordant, fewer = gained + lost, min(gained, lost)
    tail = sum(math.comb(discordant, k) for k in range(fewer + 1)) / 2**discordant
    assert found.p == pytest.approx(min(1, 2 * tail))
    a, b = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    reach = 1.959963984540054 * math.sqrt((a + b - (a - b) ** 2) / (n + 2))
    assert found.low == pytest.approx(a - b - reach)
    assert found.high == pytest.approx(a - b + reach)
    assert found.difference == pytest.approx((gained - lost) / n)
    swapped = Paired.of_margins(theirs, ours)
    assert (swapped.p, swapped.low) == pytest.approx((found.p, -found.high))


def test_a_tied_pair_is_not_right_and_nothing_judged_is_not_measured():
    assert Paired.of_margins([0.0, 1.0], [0.0, 0.0]).gained == 1
    assert Paired.of([], []).difference is None


def test_what_could_be_chance_is_called_not_significant():
    assert Paired.of_margins([1.0] * 5, [-1.0] * 5).verdict == "not significant"
    assert Paired.of_margins([1.0] * 6, [-1.0] * 6).verdict == "significantly better"
    assert Paired.of_margins([-1.0] * 6, [1.0] * 6).verdict == "significantly worse"


def test_over_several_runs_a_pair_counts_once():
    ours, theirs = [2 / 3, 1.0, 1 / 3, 0.0], [1 / 3, 1.0, 2 / 3, 1.0]
    found = Paired.of(ours, theirs)
    assert (found.gained, found.lost, found.n) == (1, 2, 4)
    assert found.difference == pytest.approx(-1 / 4)


def test_holm_multiplies_the_smallest_by_how_many_there_are():
    found = holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.9})
    assert found == pytest.approx({"b": 0.04, "c": 0.09, "a": 0.09, "d": 0.9})


# The search


def test_one_more_pair_right_outweighs_any_clearness():
    barely = [1e-9, 1e-9, -100.0, -100.0]
    clearly = [100.0, -1e-9, -1e-9, -1e-9]
    assert merit(barely) > merit(clearly)
    assert merit([1.0, 2.0, -3.0]) == pytest.approx(merit([10.0, 20.0, -30.0]))
    assert merit([1.0, 2.0, -0.1]) > merit([1.0, 2.0, -3.0])
    assert merit([0.0, 0.0]) < merit([1e-9, 0.0])


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_mix_can_be_written_as_parameters_of_the_search(count):
    from optuna.trial import FixedTrial

    names = ["math", "code", "law", "chat"][:count]
    space = _Space(names, ["linear", "slerp"], ["constant", "ramp"])
    mixes = [{name: 1} for name in names]
    mixes += [{a: 0.25, b: 0.75} for a, b in pairwise(names)]
    mixes += [dict.fromkeys(names, 1)] if count in (2, 4) else []
    for mix in mixes:
        recipe = Recipe(0.37, mix)
        assert space.recipe(FixedTrial(space.parameters(recipe))) == recipe
        ramp = replace(recipe, layers="ramp")
        assert space.recipe(FixedTrial(space.parameters(ramp))) == ramp


def test_the_suggestion_is_the_best_on_validation_and_judged_on_other_pairs(
    engine, files
):
    found = suggest(engine, *tokenised(engine, files), trials=6, seed=1)
    validation, test = files
    at = {lam: Recipe(lam, {"math": 1, "code": 1}) for lam in GRID}
    right = {lam: accuracy(engine, recipe, validation) for lam, recipe in at.items()}
    assert right[found.linear.lam] == max(right.values())
    assert found.linear == at[found.linear.lam]
    assert found.validation["suggested"].accuracy == max(
        judged.metric.accuracy for judged in found.judged
    )
    for name, recipe in (
        ("base", at[0]),
        ("linear", found.linear),
        ("suggested", found.recipe),
    ):
        assert found.test[name].accuracy == accuracy(engine, recipe, test)
        assert found.test[name].n == 20
    assert len(found.judged) == 21 + 6
    ours, theirs = found.test["suggested"], found.test["linear"]
    assert found.against_linear.difference == pytest.approx(
        ours.accuracy - theirs.accuracy
    )


def test_layers_are_searched_in_the_shapes_that_the_model_has(engine, files):
    found = suggest(engine, *tokenised(engine, files), trials=14, seed=2)
    tried = {judged.recipe.layers for judged in found.judged}
    assert tried == {
        "constant",
        "ramp",
        "ramp-down",
    }  # of two layers none is in the middle
    assert found.settings["layers"] == ["constant", "ramp", "ramp-down"]
    assert {judged.recipe.layers for judged in found.judged[: len(GRID)]} == {
        "constant"
    }
    ramp = next(j for j in found.judged if j.recipe.layers == "ramp")
    assert ramp.to_json()["layers"] == "ramp"
    assert ramp.metric.accuracy == accuracy(engine, ramp.recipe, files[0])
    assert shapes_for(1) == shapes_for(0) == ["constant"]
    assert shapes_for(3) == list(SHAPES)


def test_the_same_seed_suggests_the_same(engine, files):
    tokens = tokenised(engine, files)
    one, two, other = (
        suggest(engine, *tokens, trials=14, seed=seed).to_json() for seed in (3, 3, 4)
    )
    assert one == two
    assert one["judged"] != other["judged"]


def test_options_are_searched_within_what_a_method_takes_and_seeds_are_not(
    folders, files
):
    lms = {"math": folders["plain"], "code": folders["padded"]}
    family = Family.of(folders["rm"], lms, parent=str(folders["moved"]))
    engine = Engine.load(family, device="cpu", dtype="float32", parent=True)
    methods = ("della", "breadcrumbs")
    found = suggest(engine, *tokenised(engine, files), methods, trials=12)
    tried = [judged.recipe for judged in found.judged[len(GRID) :]]
    assert {recipe.method for recipe in tried} == set(methods)
    for recipe in tried:
        values = options_of(recipe)
        assert values.get("seed", 0) == 0 and "seed" not in recipe.options
    assert len({recipe.options["density"] for recipe in tried}) > 3


def test_a_method_that_cannot_be_used_is_refused_before_any_merge(engine, files):
    tokens, before = tokenised(engine, files), engine.recipe
    with pytest.raises(RecipeError, match="'ties' needs the pretrained model"):
        suggest(engine, *tokens, ("linear", "ties"))
    with pytest.raises(RecipeError, match="no merge method 'stir'"):
        suggest(engine, *tokens, ("stir",))
    assert engine.recipe == before


# The files


def test_a_pair_in_both_files_is_refused_whichever_way_round(tmp_path):
    rows = [pair(i) for i in range(4)]
    turned = {
        "prompt": [{"role": "user", "content": rows[2]["prompt"]}],
        "chosen": rows[2]["rejected"],
        "rejected": rows[2]["chosen"],
    }
    validation = read_rows(write(tmp_path / "v.jsonl", rows))
    test = read_rows(write(tmp_path / "t.jsonl", [pair(9), turned]))
    with pytest.raises(InputError) as caught:
        check_pairs(validation, test)
    assert "1 of 2 held-out pairs" in str(caught.value)
    assert "line 2 of t.jsonl and line 3 of v.jsonl" in str(caught.value)


def test_a_prompt_in_both_files_is_counted(tmp_path):
    rows = [pair(i) for i in range(4)]
    validation = read_rows(write(tmp_path / "v.jsonl", rows))
    held_out = [rows[0] | {"chosen": "another"}, pair(8), pair(9)]
    assert check_pairs(validation, read_rows(write(tmp_path / "t", held_out))) == 1


def test_responses_without_a_best_one_cannot_choose(tmp_path):
    rows = [pair(0), {"prompt": "p", "responses": ["a", "b"]}]
    file = read_rows(write(tmp_path / "v.jsonl", rows))
    with pytest.raises(InputError, match="line 2 of v.jsonl: it does not say which"):
        check_pairs(file, read_rows(write(tmp_path / "t.jsonl", [pair(1)])))


# The command


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_command_says_what_it_suggests_and_what_that_is_worth(tmp_path):
    files = [tmp_path / "v.jsonl", tmp_path / "t.jsonl"]
    for file, split in zip(files, ("validation", "test")):
        write_pairs("math", 0, 8, file, split)
    out = tmp_path / "found.json"
    found = run("suggest", *files, "--trials=4", "--method=ties", f"--out={out}")
    assert found.exit_code == 0, found.output
    data = json.loads(out.read_text())
    assert f"--lam {data['suggested']['lam']:g}" in found.stdout
    assert data["verdict"] in found.stdout
    assert data["against_linear"]["verdict"] == "not significant"  # of 8 pairs
    assert {row["method"] for row in data["judged"]} == {"linear", "ties"}
    assert len(data["judged"]) == 25 and len(data["margins"]["base"]) == 8
    assert data["settings"]["seed"] == 0 and "Optuna" in data["settings"]["optimiser"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method=stir"], "no merge method 'stir'"),
        (["--method=ties"], "needs the pretrained model"),
    ],
)
def test_a_slip_is_one_sentence_before_any_model_is_loaded(
    folders, files, options, words
):
    nowhere = ["--rm=/nowhere/rm", "--lm=math=/nowhere/lm"]
    found = run("suggest", *files, *nowhere, *options)
    assert found.exit_code == 1 and found.stderr.startswith("error: ")
    assert words in found.stderr and found.stderr.count("\n") == 1


def test_the_same_file_twice_is_refused(files):
    found = run("suggest", files[0], files[0])
    assert found.exit_code == 1
    assert "12 of 12 held-out pairs are validation pairs too" in found.stderr
