"""λ chosen on some rows and reported on others, flips and the paired bootstrap."""

import math
import random

import pytest

from dogerm.benchmarks.benchmark import BENCHMARKS
from dogerm.benchmarks.data import Settings
from dogerm.benchmarks.statistics import Bootstrap, Flips, bootstrap, choose, validation
from dogerm.errors import InputError
from dogerm.rows import Row

PAIRS = BENCHMARKS["pairs"]


def pairs(n: int, domain: str = "math") -> list[Row]:
    return [
        Row(f"line {i}", {"domain": domain}, "p", ("c", "r"), True, f"{domain}/{i}")
        for i in range(n)
    ]


def test_the_split_has_its_size_and_follows_ids_rather_than_order():
    rows = pairs(50)
    settings = Settings(validation=0.3, seed=4)
    chosen = {row.id for row, mine in zip(rows, validation(rows, settings)) if mine}
    assert len(chosen) == 15
    random.Random(0).shuffle(rows)
    again = {row.id for row, mine in zip(rows, validation(rows, settings)) if mine}
    assert again == chosen
    other = validation(rows, Settings(validation=0.3, seed=5))
    assert {row.id for row, mine in zip(rows, other) if mine} != chosen
    assert not any(validation(rows, Settings()))


def test_lambda_is_chosen_on_validation_rows_and_reported_on_the_rest():
    rows = pairs(40) + pairs(40, "code")
    settings = Settings(validation=0.5)
    ours = validation(rows, settings)
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    math_ = [row.data["domain"] == "math" for row in rows]
    base = [wrong for _ in rows]
    # Right on every validation row of math, and on every second of the others.
    tuned = [
        right if (mine if m else i % 2) or (m and i % 4 == 0) else wrong
        for i, (mine, m) in enumerate(zip(ours, math_))
    ]
    reported = [right if m and not mine else wrong for mine, m in zip(ours, math_)]
    found = choose(PAIRS, rows, [base, tuned, reported], settings, "math")
    assert (found.rule, found.recipe) == ("validation", 1)
    held = [i for i in range(40) if not ours[i]]
    wins = sum(tuned[i] == right for i in held)
    assert 0 < wins < len(held)
    assert found.chosen_on == 40 - len(held)
    assert found.metrics["math"].accuracy == wins / len(held)
    assert (found.against.n, found.against.gained) == (len(held), wins)
    assert found.bootstrap.difference == pytest.approx(wins / len(held))
    assert found.flips.lost == ()
    assert set(found.flips.gained) == {f"math/{i}" for i in held if tuned[i] == right}
    assert found.against.p == pytest.approx(2 * 0.5**wins if wins else 1)

    oracle = choose(PAIRS, rows, [base, reported], Settings(), "math")
    assert (oracle.rule, oracle.recipe) == ("oracle", 1)
    assert oracle.metrics["math"].n == oracle.chosen_on == 40
    assert oracle.to_json()["rule"] == "oracle"


def test_of_equal_recipes_the_first_is_chosen():
    rows = pairs(4)
    same = [[1.0, 0.0]] * 4
    assert choose(PAIRS, rows, [same, same], Settings(), "Overall").recipe == 0


def test_a_group_that_was_not_judged_cannot_be_chosen_on():
    rows = pairs(4)
    for group in ("nowhere", "math"):
        with pytest.raises(InputError, match=f"cannot be chosen for '{group}'"):
            choose(PAIRS, rows, [[None] * 4], Settings(), group)


def test_flips_name_the_rows():
    found = Flips.of(pairs(4), [1.0, 0.0, 1.0, None], [0.0, 1.0, 1.0, 0.0])
    assert found == Flips(("math/0",), ("math/1",))


def test_the_bootstrap_agrees_with_the_normal_approximation_and_repeats():
    ours = [1.0] * 120 + [0.0] * 80
    theirs = [1.0] * 90 + [0.0] * 30 + [1.0] * 10 + [0.0] * 70
    found = bootstrap(ours, theirs, seed=1)
    changes = [a - b for a, b in zip(ours, theirs)]
    mean = sum(changes) / 200
    error = math.sqrt(sum((c - mean) ** 2 for c in changes)) / 200
    assert found.difference == pytest.approx(mean) == 0.1
    # A draw's mean is a multiple of 1/200; the quantiles' own error is of that size.
    assert found.low == pytest.approx(mean - 1.96 * error, abs=0.006)
    assert found.high == pytest.approx(mean + 1.96 * error, abs=0.006)
    assert bootstrap(ours, theirs, seed=1) == found
    assert bootstrap([None], [1.0], 0, 10) == Bootstrap(None, -1.0, 1.0, 0, 10, 0)


def test_every_benchmark_says_which_metrics_a_row_counts_in():
    row = Row("x", {"subset": "hep-go"}, "p", ("c", "r"), True)
    assert BENCHMARKS["rewardbench"].groups(row) == (
        "hep-go",
        "Reasoning",
        "Reasoning/Code",
        "Overall",
    )
    row = Row("x", {"scenario": "math_reasoning"}, "p", ("c", "r"), True)
    assert BENCHMARKS["autoj"].groups(row) == ("Math", "Overall")
    row = Row("x", {"correct": [True, False]}, "p", ("c", "d"), False)
    assert BENCHMARKS["gsm8k"].groups(row) == ("best-of-2",)
