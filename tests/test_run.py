"""Runs of a benchmark: the same rewards with and without a stop, nothing lost, nothing twice."""

from dataclasses import replace

import pytest

from dogerm.benchmarks import run as module
from dogerm.benchmarks.run import STORE, Progress, run
from dogerm.errors import StoreError
from dogerm.family import Family
from dogerm.recipe import Recipe
from dogerm.rows import Row, tokenise_rows
from dogerm.scoring import rewards, score
from dogerm.store import Store

RECIPES = [Recipe(lam, {"math": 1}) for lam in (0, 0.3, 0.7)]
PROMPT = "A prompt of some length, so that computing it once for both is worth it."
ROWS = [
    Row(
        f"line {i}",
        {"n": i},
        PROMPT if i % 2 else "Hi",
        ("yes" * (1 + i % 5), "no"),
        True,
    )
    for i in range(12)
]
TOO_LONG = Row("line 99", {}, "x" * 300, ("a", "b"), True)


@pytest.fixture(scope="module")
def tokens(engine):
    return tokenise_rows(engine, [*ROWS, TOO_LONG], "skip")


@pytest.fixture
def start(engine, tokens, tmp_path):
    def start(folder="run", resume=True, **more):
        about = {"benchmark": "pairs"}
        settings = {"batch_tokens": 200} | more
        return run(
            engine, tokens, RECIPES, tmp_path / folder, about, resume, **settings
        )

    return start


def read(tmp_path, folder="run"):
    with Store(tmp_path / folder / STORE) as store:
        return store.read()


def test_every_row_is_scored_under_every_recipe_as_by_itself(start, engine, tmp_path):
    steps = list(start())
    assert steps[0] == Progress(0, 36) and steps[-1] == Progress(36, 36)
    found = read(tmp_path)
    assert set(found) == {(recipe, row) for recipe in range(3) for row in range(12)}
    for place, recipe in enumerate(RECIPES):
        plain = score(engine, recipe, [(row.prompt, row.responses) for row in ROWS])
        for row, wanted in enumerate(plain):
            assert found[place, row] == pytest.approx(wanted, abs=1e-5)


def test_a_skipped_row_is_kept_with_its_reason(start, tmp_path):
    list(start())
    with Store(tmp_path / "run" / STORE) as store:
        assert "at most 256" in store.job.skipped[12]
        assert store.job.rows[12] == TOO_LONG
        assert store.job.provenance["too_long"] == "skip"


def test_a_stopped_run_goes_on_where_it_was_and_gives_the_same_bits(
    start, tmp_path, monkeypatch
):
    scored = []

    def counting(engine, recipe, items, **more):
        scored.extend((recipe.lam, item.sequences) for item in items)
        return rewards(engine, recipe, items, **more)

    monkeypatch.setattr(module, "rewards", counting)
    list(start("whole"))
    whole, scored[:] = list(scored), []
    sessions = 0
    while True:
        going = start()
        steps = [step for step, _ in zip(going, range(4))]  # three batches, then stop
        going.close()
        sessions += 1
        if steps[-1].done == steps[-1].total:
            break
    assert sessions > 3
    assert sorted(scored) == sorted(whole) and len(whole) == 36
    assert read(tmp_path) == read(tmp_path, "whole")


def test_a_batch_cut_short_leaves_nothing_half_written(start, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    going = start()
    done = [next(going), next(going)][-1].done
    monkeypatch.setattr(module, "rewards", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(going)
    assert len(read(tmp_path)) == done > 0


def test_a_finished_run_scores_nothing_again(start, monkeypatch):
    list(start())
    monkeypatch.setattr(module, "rewards", None)
    assert list(start()) == [Progress(36, 36)]


def test_a_run_goes_on_in_the_batches_it_was_begun_with(start, tmp_path):
    next(going := start(batch_tokens=123))
    going.close()
    list(start(batch_tokens=None))
    with Store(tmp_path / "run" / STORE) as store:
        assert store.job.provenance["batch_tokens"] == 123


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_goes_on(start):
    first = start()
    next(first)
    with pytest.raises(StoreError, match="another process is using"):
        next(start())
    first.close()


def test_a_folder_with_results_is_not_run_into_without_resume(start):
    list(start())
    with pytest.raises(StoreError, match="Pass --resume"):
        next(start(resume=False))


def test_what_differs_from_the_run_that_was_begun_is_said(
    start, engine, tokens, folders, tmp_path
):
    list(start())
    folder, about = tmp_path / "run", {"benchmark": "pairs"}

    def refused(engine=engine, tokens=tokens, recipes=RECIPES, about=about) -> str:
        with pytest.raises(StoreError) as found:
            next(run(engine, tokens, recipes, folder, about, True))
        return str(found.value)

    assert "benchmark is pairs there, autoj here" in refused(
        about={"benchmark": "autoj"}
    )
    assert "number of recipes is 3 there, 2 here" in refused(recipes=RECIPES[1:])
    other = [replace(ROWS[0], responses=("other", "no")), *ROWS[1:]]
    assert "rows sha256 is" in refused(tokens=tokenise_rows(engine, other))
    lms = {"math": folders["moved"], "code": folders["padded"]}
    family = Family.of(folders["rm"], lms, name="tiny")
    moved = type(engine).load(family, "cpu", "bfloat16")
    assert "models math files model.safetensors is" in refused(engine=moved)
