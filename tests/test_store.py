"""Rewards on disk: nothing lost, nothing twice, nothing mixed up with another run's."""

import sqlite3
from dataclasses import replace

import pytest

from dogerm.errors import StoreError
from dogerm.recipe import Recipe
from dogerm.rows import Row
from dogerm.store import FORMAT, Job, Store

RECIPES = [Recipe(lam, {"math": 1}) for lam in (0, 0.5, 1)]
ROWS = [
    Row(
        f"line {i} of x", {"prompt": "p", "n": i, "text": "שלום"}, "p", ("a", "b"), True
    )
    for i in range(4)
]
ABOUT = {
    "dtype": "float32",
    "versions": {"dogerm": "0.1.0"},
    "models": {"rm": {"source": "/here", "files": {"model.safetensors": "ab12"}}},
}
JOB = Job(ABOUT, RECIPES, ROWS, {2: "it is too long"})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rewards.sqlite"


def begun(path, job=JOB) -> Store:
    store = Store(path)
    store.begin(job)
    return store


def refusal(path, job) -> str:
    with Store(path) as store, pytest.raises(StoreError) as found:
        store.begin(job, resume=True)
    return str(found.value)


def test_what_was_added_is_read_back_bit_for_bit(path):
    rewards = {(0, 1): [0.1, -1e-7], (2, 3): [1.5]}
    with begun(path) as store:
        store.add(rewards)
    with Store(path) as store:
        assert store.read() == rewards
        assert store.done() == set(rewards)
        assert store.job == JOB


def test_a_row_cannot_be_scored_twice(path):
    with begun(path) as store:
        store.add({(0, 0): [1.0]})
        with pytest.raises(sqlite3.IntegrityError):
            store.add({(0, 1): [1.0], (0, 0): [2.0]})
        assert store.read() == {(0, 0): [1.0]}  # all or none


def test_a_second_user_is_refused_while_the_first_has_it_open(path):
    with begun(path), pytest.raises(StoreError, match="another process is using"):
        Store(path)
    Store(path).close()


def test_it_is_not_begun_twice_unless_resumed(path):
    with begun(path) as store:
        store.add({(0, 0): [1.0]})
    with Store(path) as store:
        with pytest.raises(StoreError, match="with 1 results. Pass --resume"):
            store.begin(JOB)
        store.begin(JOB, resume=True)
        assert store.count == 1


def test_a_store_whose_maker_was_killed_at_once_is_begun_anew(path):
    path.touch()
    with begun(path) as store:
        assert store.job == JOB


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        (replace(JOB, recipes=RECIPES[:2]), "number of recipes is 3 there, 2 here"),
        (
            replace(JOB, recipes=[*RECIPES[:2], Recipe(0.9, {"math": 1})]),
            "recipe 3 is linear λ=1 math=1 there, linear λ=0.9 math=1 here",
        ),
        (
            replace(JOB, provenance=ABOUT | {"dtype": "bfloat16"}),
            "dtype is float32 there, bfloat16 here",
        ),
        (
            replace(JOB, provenance=ABOUT | {"versions": {"dogerm": "0.2.0"}}),
            "versions dogerm is 0.1.0 there, 0.2.0 here",
        ),
        (
            replace(JOB, provenance=ABOUT | {"models": {"rm": {"revision": "c0ffee"}}}),
            "models rm revision is absent there, c0ffee here",
        ),
    ],
)
def test_another_runs_store_is_refused_and_what_differs_is_said(path, job, sentence):
    begun(path).close()
    assert sentence in refusal(path, job)


def test_the_same_models_found_elsewhere_are_the_same_run(path):
    begun(path).close()
    rm = ABOUT["models"]["rm"] | {"source": "/there"}
    with Store(path) as store:
        store.begin(
            replace(JOB, provenance=ABOUT | {"models": {"rm": rm}}), resume=True
        )
        assert store.job == JOB  # as it was begun


def test_other_files_are_refused_and_left_as_they_are(path, tmp_path):
    path.write_bytes(b"not a database, but a long enough file" * 50)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not a store of results"):
        Store(path)
    assert path.read_bytes() == before

    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE mine (x)")
    database.close()
    before = other.read_bytes()
    with pytest.raises(StoreError, match="another program's database"):
        Store(other)
    assert other.read_bytes() == before


def test_a_store_of_another_format_is_refused(path):
    begun(path).close()
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {FORMAT + 1}")
    database.close()
    with pytest.raises(StoreError, match="another version of dogerm"):
        Store(path)


def test_a_damaged_store_is_reported(path):
    with begun(path, replace(JOB, rows=ROWS * 50, skipped={})) as store:
        store.add({(0, row): [0.5] * 20 for row in range(200)})
    data = bytearray(path.read_bytes())
    data[8192:] = b"\xff" * len(data[8192:])
    path.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"), Store(path) as store:
        store.read()


def test_a_store_takes_over_what_another_of_the_same_job_has(path, tmp_path):
    with begun(path) as store, begun(tmp_path / "part") as part:
        store.add({(0, 0): [1.0]})
        part.add({(0, 0): [1.0], (1, 1): [2.0]})
        store.absorb(part)
        assert store.read() == {(0, 0): [1.0], (1, 1): [2.0]}
