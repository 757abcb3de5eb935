"""Auto-J's pairs: which count where, ties left out, bad rows named."""

import json
import os
from pathlib import Path

import pytest

from dogerm.benchmarks.benchmark import BENCHMARKS
from dogerm.benchmarks.data import Settings
from dogerm.errors import InputError

DATA = os.environ.get("DOGERM_TEST_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="DOGERM_TEST_DATA names no folder")
AUTOJ = BENCHMARKS["autoj"]


def line(label=0, scenario="chitchat", **other) -> dict:
    texts = {"prompt": "p", "response 1": "one", "response 2": "two"}
    return texts | {"label": label, "scenario": scenario} | other


def saved(tmp_path: Path, *rows: dict) -> Settings:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Settings(data=path)


def test_the_preferred_response_comes_first_and_ties_are_counted(tmp_path):
    found = AUTOJ.read(saved(tmp_path, line(0), line(2), line(1)))
    assert [row.responses for row in found.rows] == [("one", "two"), ("two", "one")]
    assert [row.id for row in found.rows] == ["0", "2"]
    assert found.left_out == {
        "line 2 of pairs.jsonl": "a tie: people preferred neither (label 2)"
    }
    assert found.to_json()["left_out"] == {
        "a tie: people preferred neither (label 2)": 1
    }


def test_scenarios_count_in_their_group_and_a_tied_reward_is_no_win(tmp_path):
    rows = [
        line(0, "math_reasoning"),
        line(1, "code_generation"),
        line(0, "solving_exam_question_without_math"),
    ]
    settings = saved(tmp_path, *rows)
    rewards = [[2.0, 1.0], [1.0, 1.0], None]
    rows = AUTOJ.read(settings).rows
    found = AUTOJ.metrics(rows, rewards, settings)
    assert list(found) == ["Math", "Code", "Others", "Overall"]
    assert (found["Math"].accuracy, found["Math"].n) == (1.0, 1)
    assert (found["Code"].accuracy, found["Code"].ties) == (0.0, 1)
    assert (found["Others"].accuracy, found["Others"].n) == (None, 0)
    assert (found["Overall"].accuracy, found["Overall"].n) == (0.5, 2)
    assert AUTOJ.outcomes(rows, rewards, settings) == [1.0, 0.0, None]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (line(3), "label must be 0"),
        (line(True), "label must be 0"),
        ({k: v for k, v in line().items() if k != "label"}, "got None"),
        ({k: v for k, v in line().items() if k != "scenario"}, "scenario is missing"),
        (
            {k: v for k, v in line().items() if k != "response 2"},
            "response 2 is missing",
        ),
        (line(prompt=" "), "the instruction is empty"),
        (line(prompt=7), "prompt must be text"),
        (line(id=1), "the id '1' was already used at line 1"),
    ],
)
def test_a_bad_row_is_named_and_skipped_only_when_asked(tmp_path, bad, says):
    settings = saved(tmp_path, line(id=1), bad)
    with pytest.raises(InputError) as caught:
        AUTOJ.read(settings)
    assert "line 2 of pairs.jsonl" in str(caught.value) and says in str(caught.value)
    found = AUTOJ.read(Settings(data=settings.data, bad_rows="skip"))
    assert len(found.rows) == 1 and says in found.left_out["line 2 of pairs.jsonl"]


def test_without_its_file_autoj_says_where_to_get_it():
    with pytest.raises(InputError, match="testdata_pairwise.jsonl"):
        AUTOJ.read(Settings())


@needs_data
def test_the_groups_have_the_counts_of_the_paper():
    settings = Settings(data=Path(DATA, "autoj/testdata_pairwise.jsonl"))
    found = AUTOJ.read(settings)
    length = [[float(len(text)) for text in row.responses] for row in found.rows]
    measured = AUTOJ.metrics(found.rows, length, settings)
    counts = {name: metric.n for name, metric in measured.items()}
    assert counts == {"Math": 32, "Code": 84, "Others": 903, "Overall": 1019}
    assert len(found.rows) + len(found.left_out) == 1392
    # A stand-in scorer, reward = length, by plain counting.
    rows = [json.loads(text) for text in settings.data.read_text().splitlines()]
    right = sum(
        (len(row["response 1"]) - len(row["response 2"])) * (1 - 2 * row["label"]) > 0
        for row in rows
        if row["label"] != 2
    )
    assert measured["Overall"].accuracy == right / 1019
