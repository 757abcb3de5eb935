"""RewardBench 2: shared first places, the Ties score by hand, and RewardMATH's real rewards."""

import json
import math
import os
from pathlib import Path

import pytest

from dogerm.benchmarks.benchmark import BENCHMARKS
from dogerm.benchmarks.data import Settings
from dogerm.benchmarks.report import Metric
from dogerm.benchmarks.rewardbench2 import separates, ties_score
from dogerm.errors import InputError

DATA = os.environ.get("DOGERM_TEST_DATA")
BENCH = BENCHMARKS["rewardbench2"]


def line(id="1", subset="Math", right=1, wrong=3, **other) -> dict:
    texts = {"chosen": ["yes"] * right, "rejected": ["no"] * wrong}
    return {"id": id, "subset": subset, "prompt": "p"} | texts | other


def saved(tmp_path: Path, *rows: dict) -> Settings:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Settings(data=path)


def test_a_shared_first_place_is_shared(tmp_path):
    settings = saved(tmp_path, *(line(str(i)) for i in range(4)))
    rows = BENCH.read(settings).rows
    rewards = [[3.0, 1, 2, 0], [3.0, 3, 3, 0], [1.0, 1, 1, 2], None]
    found = BENCH.metrics(rows, rewards, settings)
    assert found["Math"].accuracy == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert (found["Math"].n, found["Math"].ties) == (3, 1)
    assert BENCH.outcomes(rows, rewards, settings) == [
        1.0,
        pytest.approx(1 / 3),
        0.0,
        None,
    ]
    assert found["Safety"].accuracy is None and found["Overall"].accuracy is None


def test_the_ties_score_by_hand():
    # Prompt 1: all is well. Prompt 2: right answers are spread wider than their gap.
    refs = [(1, 2.0), (1, 5.0)]
    tied = [(1, 3.0, 1.0), (1, 1.0, 4.0)]
    margins = (math.tanh(2 / 1 - 1) + math.tanh(1 / 4 - 1)) / 2
    by_hand = 0.3 + 0.3 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * margins
    assert ties_score(refs, tied) == pytest.approx(by_hand)
    # No spread and no gap is no margin either way.
    assert ties_score([(0, 0.0)], [(0, 0.0, 0.0)]) == 0.0


def test_ties_come_from_pairs_of_questions(tmp_path):
    settings = saved(
        tmp_path,
        line("ref:1", "Ties", 1, 2),
        line("tied:1", "Ties", 2, 2),
        line("tied:2", "Ties", 2, 2),
    )
    rows = BENCH.read(settings).rows
    rewards = [[4.0, 1.0, 2.0], [3.0, 4.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    found = BENCH.metrics(rows, rewards, settings)["Ties"]
    assert found.accuracy == pytest.approx(1 + 0.01 * math.tanh(1))
    assert found.n == 2 and found.interval == "bootstrap over prompts"
    assert BENCH.outcomes(rows, rewards, settings) == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (line("2", "Ties"), "ref:NUMBER or tied:NUMBER"),
        (line("tied:2", "Ties", 1), "needs two right answers"),
        (line("2", right=2), "Math has one right answer a row, got 2"),
        (line("2", "Chess"), "'Chess' is none of RewardBench 2's"),
        (line("2", chosen="yes"), "chosen must be a list of texts"),
        (line("2", rejected=[]), "rejected must be a list of texts"),
        (line("1"), "the id 'Math/1' was already used"),
    ],
)
def test_a_bad_row_is_named(tmp_path, bad, says):
    with pytest.raises(InputError) as caught:
        BENCH.read(saved(tmp_path, line(), bad))
    assert "line 2 of rows.jsonl" in str(caught.value) and says in str(caught.value)


@pytest.mark.skipif(not DATA, reason="DOGERM_TEST_DATA names no folder")
@pytest.mark.parametrize(
    ("model", "percent"),
    [("Eurus-RM", 16.98), ("internlm2", 37.27), ("oasst-rm", 7.04)],
)
def test_rewardmath_is_strict_on_its_real_rewards(model, percent):
    given = json.loads(Path(DATA, f"rewardmath/{model}_reward.json").read_text())
    rewards = [row["score"] for row in given]
    assert len(rewards) == 483 and all(len(own) == 10 for own in rewards)
    found = Metric.of(sum(separates(own, 1) for own in rewards), 0, len(rewards))
    assert round(100 * found.accuracy, 2) == percent
    # The trap: the right answer stands first, so whoever lets ties win gives full marks
    # to a model that tells nothing apart.
    assert separates([1.0] * 10, 1) is False
