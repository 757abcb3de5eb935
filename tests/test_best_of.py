"""Best-of-N: picks, passes and votes by hand; candidate files; GSM8K's and HumanEval's real answers."""

import gzip
import json
import os
from itertools import combinations
from pathlib import Path

import pytest

from dogerm.benchmarks import best_of, code, gsm8k
from dogerm.benchmarks.benchmark import BENCHMARKS
from dogerm.benchmarks.data import Settings
from dogerm.benchmarks.report import Measured
from dogerm.charts import best_of_curve
from dogerm.errors import InputError
from dogerm.recipe import Recipe
from dogerm.rows import Row

DATA = os.environ.get("DOGERM_TEST_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="DOGERM_TEST_DATA names no folder")
FOUR = (1, 2, 4)


def problem(correct, answers=None) -> Row:
    data = {"correct": correct} | ({"answers": answers} if answers else {})
    return Row("line 1 of x", data, "p", ("c",) * len(correct), False)


def saved(path: Path, rows, **settings) -> Settings:
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Settings(data=path, **settings)


def accuracies(rows, rewards, settings) -> dict[str, float]:
    found = best_of.metrics(rows, rewards, settings)
    return {name: metric.accuracy for name, metric in found.items()}


def test_picks_passes_and_votes_by_hand():
    rows = [
        problem([False, True, True, False], ["1", "2", "2", "1"]),
        problem([True, False, False, False], ["5", "6", "6", "6"]),
    ]
    rewards = [[0.0, 3.0, 1.0, 3.0], [1.0, 1.0, 0.5, 2.0]]
    settings = Settings(ns=FOUR)
    assert accuracies(rows, rewards, settings) == {
        "best-of-1": 0.5,
        "best-of-2": 1.0,  # the second row ties; the first of equals is right
        "best-of-4": 0.5,
        "pass@1": 0.5,
        "pass@2": 1.0,
        "pass@4": 1.0,
        "majority@1": 0.5,
        "majority@2": 0.5,
        "majority@4": 0.0,  # "1" and "2" tie, and "1" came first
        "majority": 0.0,
        "random": pytest.approx((2 / 4 + 1 / 4) / 2),
        "oracle": 1.0,
    }
    found = best_of.metrics(rows, rewards, settings)
    assert (found["best-of-2"].ties, found["best-of-4"].ties) == (1, 1)
    assert best_of.outcomes(rows, rewards, settings) == [1.0, 0.0]


def test_the_curve_over_n_draws_what_was_measured():
    rows = [problem([False, True]), problem([True, False])]
    settings = Settings(ns=(1, 2))
    base, merged = (
        Measured(Recipe(lam, {"math": 1}), best_of.metrics(rows, rewards, settings))
        for lam, rewards in ((0, [[1, 0], [1, 0]]), (0.5, [[0, 1], [1, 0]]))
    )
    drawn = {trace.name: trace for trace in best_of_curve(base, merged).data}
    assert list(drawn["base RM"].y) == [50, 50]
    assert list(drawn["DogeRM, λ = 0.5"].y) == [50, 100]
    assert list(drawn["oracle: any of N"].y) == [50, 100]
    assert list(drawn["one at random"].y) == [50, 50]
    assert "vote of N" not in drawn  # no answers to count
    low = base.metrics["best-of-2"].low
    assert drawn["base RM"].error_y.arrayminus[1] == pytest.approx(100 * (0.5 - low))


def test_a_skipped_problem_counts_nowhere():
    rows = [problem([True, False]), problem([False, False])]
    found = best_of.metrics(rows, [[1.0, 0.0], None], Settings(ns=(1, 2)))
    assert {metric.n for metric in found.values()} == {1}
    assert best_of.outcomes(rows, [[1.0, 0.0], None], Settings(ns=(2,))) == [1.0, None]


def test_corrected_pass_at_n_is_the_mean_over_all_draws():
    right = [False, True, False, True, False]
    draws = [any(draw) for draw in combinations(right, 2)]
    settings = Settings(preset="corrected", ns=(2, 5))
    found = accuracies([problem(right)], [[0.0] * 5], settings)
    assert found["pass@2"] == pytest.approx(sum(draws) / len(draws))
    assert accuracies([problem(right)], [[0.0] * 5], Settings(ns=(2, 5)))["pass@2"] == 1


def test_the_presets_vote_differently_on_no_answer_and_on_spelling():
    rows = [
        problem([False, False, True, True], [None, None, "18", "18.0"]),
    ]
    rewards = [[0.0] * 4]
    for preset, accuracy in (("paper", 0.0), ("corrected", 1.0)):
        settings = Settings(preset=preset, ns=(4,))
        assert accuracies(rows, rewards, settings)["majority"] == accuracy


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("2 + 3 = 5. The answer is 1,234 eggs, not 7.", "1234"),
        ("The answer is 3. No: The answer is -4.5!", "-4.5"),
        ("The answer is unknown to 12 people", "12"),
        ("The answer is unknown, I counted 9. The answer is nothing.", "9"),
        ("first 8, then .5", ".5"),
        ("no number", None),
        ("", None),
    ],
)
def test_the_answer_of_a_solution(solution, answer):
    assert gsm8k.answer(solution) == answer


def test_both_layouts_of_candidates_say_the_same(tmp_path):
    plain = {"question": "q", "answer": "so\n#### 1,200", "candidates": ["1200", "7"]}
    reference = {"prompt": ["q"] * 2, "answer": ["1200", "7"]}
    reference["ground_truth"] = [1200, 1200]
    read = BENCHMARKS["gsm8k"].read
    for preset in ("paper", "corrected"):
        rest = {"preset": preset, "ns": (1, 2)}
        (one,) = read(saved(tmp_path / "a.jsonl", [plain], **rest)).rows
        (other,) = read(saved(tmp_path / "a.json", {"0": reference}, **rest)).rows
        assert one.data["correct"] == other.data["correct"] == [True, False]
        assert other.responses[0] == gsm8k.PREFIX + "1200"
        assert one.responses[0] == (gsm8k.PREFIX if preset == "paper" else "") + "1200"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (
            {"question": "q", "answer": 1},
            "candidates or samples or outputs or responses is missing",
        ),
        ({"question": "q", "candidates": ["1", "2"]}, "answer is missing"),
        (
            {"question": "q", "answer": "#### x", "candidates": ["1", "2"]},
            "must be a number",
        ),
        (
            {"question": "q", "answer": 1, "candidates": ["1"]},
            "1 candidates, but best-of-2",
        ),
        (
            {"question": "q", "answer": 1, "candidates": ["1", 2]},
            "must be a list of texts",
        ),
        ({"answer": 1, "candidates": ["1", "2"]}, "question or prompt is missing"),
    ],
)
def test_a_bad_problem_is_named_and_skipped_when_asked(tmp_path, bad, says):
    good = {"question": "q", "answer": 1, "candidates": ["1", ""]}
    settings = saved(tmp_path / "c.jsonl", [good, bad], ns=(1, 2))
    with pytest.raises(InputError) as caught:
        BENCHMARKS["gsm8k"].read(settings)
    assert "line 2 of c.jsonl" in str(caught.value) and says in str(caught.value)
    settings = saved(tmp_path / "c.jsonl", [good, bad], ns=(1, 2), bad_rows="skip")
    found = BENCHMARKS["gsm8k"].read(settings)
    assert len(found.rows) == 1 and says in found.left_out["line 2 of c.jsonl"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([1], "should be an object of problems"),
        ({"7": {"prompt": ["q"]}}, "problem 7 of c.json"),
        (
            {"7": {"prompt": ["q"], "answer": ["1", "2"], "ground_truth": [1, 1]}},
            "prompt should repeat",
        ),
        (
            {"7": {"prompt": ["q", "q"], "answer": ["1", "2"], "ground_truth": [1, 2]}},
            "ground_truth should repeat",
        ),
    ],
)
def test_a_bad_file_in_the_references_layout_is_named(tmp_path, data, says):
    with pytest.raises(InputError, match=says):
        BENCHMARKS["gsm8k"].read(saved(tmp_path / "c.json", data, ns=(1, 2)))


def test_an_mbpp_candidate_is_cut_as_the_preset_says():
    def of(text, preset):
        return code.unfenced(text, Settings(preset=preset))

    helper = "Sure:\n```python\ndef f():\n    pass\nif True:\n    f()\n```\nThis\nprint"
    assert of(helper, "paper") == "def f():\n    pass"
    assert of(helper, "corrected") == "def f():\n    pass\nif True:\n    f()"
    for preset in ("paper", "corrected"):
        assert of("def f(): 1\nassert f()", preset) == "def f(): 1"
        assert of("```\nx = 1", preset) == "x = 1"


ADD = {
    "task_id": "a",
    "text": "Add.",
    "test_list": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"],
    "candidates": ["def add(a, b): return a + b", "def add(a, b): return 3"],
}


def test_mbpp_runs_candidates_only_when_allowed(tmp_path):
    read = BENCHMARKS["mbpp"].read
    settings = saved(tmp_path / "c.jsonl", [ADD], ns=(1, 2))
    with pytest.raises(InputError, match="line 1 of c.jsonl.*--allow-code-execution"):
        read(settings)
    given = saved(tmp_path / "c.jsonl", [ADD | {"passed": [False, True]}], ns=(1, 2))
    found = read(given)
    assert found.rows[0].data["correct"] == [False, True]
    assert found.source["labels"] == "given"
    settings = saved(tmp_path / "c.jsonl", [ADD], ns=(1, 2), allow_code_execution=True)
    found = read(settings)
    (row,) = found.rows
    assert row.id == "a" and row.data["correct"] == [True, False]
    assert row.data["verdicts"] == ["passed", "AssertionError"]
    assert row.prompt == '"""\nAdd.\nassert add(1, 2) == 3\n"""'
    assert found.source["labels"] == "executed"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"test_list": []}, "nothing could be wrong"),
        ({"test_list": "assert"}, "must be a list of statements"),
        ({"text": None}, "text must be text"),
        ({"passed": [True]}, "passed has 1 of the 2"),
        ({"passed": ["yes", "no"]}, "must be a list of true and false"),
        ({"entry_point": "f()", "test": "1"}, "entry_point must be a name"),
    ],
)
def test_a_bad_code_problem_is_named(tmp_path, change, says):
    settings = saved(tmp_path / "c.jsonl", [ADD | change], ns=(1, 2))
    with pytest.raises(InputError, match=says):
        BENCHMARKS["mbpp"].read(settings)


@needs_data
def test_extraction_agrees_with_every_given_label_and_best_of_4_with_plain_counting(
    tmp_path,
):
    path = Path(DATA, "gsm8k/example_model_solutions.jsonl")
    given = [json.loads(text) for text in path.read_text().splitlines()]
    models = [key for key, value in given[0].items() if isinstance(value, dict)]
    rows = [
        {
            "question": row["question"],
            "answer": row["ground_truth"].rpartition("A:")[2],
            "candidates": [row[model]["solution"] for model in models],
        }
        for row in given
    ]
    settings = saved(tmp_path / "c.jsonl", rows, ns=FOUR, preset="corrected")
    found = BENCHMARKS["gsm8k"].read(settings).rows
    right = [[row[model]["is_correct"] for model in models] for row in given]
    assert [row.data["correct"] for row in found] == right
    assert len(right) == 1019
    # A stand-in scorer: the shortest solution is best.
    rewards = [[-float(len(text)) for text in row.responses] for row in found]
    measured = best_of.metrics(found, rewards, settings)
    shortest = [min(range(4), key=lambda i: len(r["candidates"][i])) for r in rows]
    wins = sum(labels[pick] for labels, pick in zip(right, shortest))
    assert measured["best-of-4"].accuracy == wins / 1019
    assert measured["oracle"].accuracy == sum(map(any, right)) / 1019
    assert measured["random"].accuracy == pytest.approx(sum(map(sum, right)) / 4 / 1019)


@needs_data
def test_reexecuted_humaneval_samples_have_the_labels_that_were_given(tmp_path):
    folder = Path(DATA, "humaneval")
    given = [json.loads(t) for t in (folder / "best_of_16.jsonl").open()]
    with gzip.open(folder / "HumanEval.jsonl.gz", "rt") as file:
        problems = {row["task_id"]: row for row in map(json.loads, file)}
    # The file's samples and labels follow the ids as text (0, 1, 10, 100, …), the
    # problems beside them as numbers: row 2 asks for truncate_number and its samples
    # make palindromes, which is problem 10. All 1,312 labels agree in the former order.
    rows = [
        problems[name] | {"samples": row["samples"]}
        for name, row in zip(sorted(problems), given)
    ]
    # One problem in four, to keep this short.
    settings = saved(
        tmp_path / "c.jsonl", rows[::4], allow_code_execution=True, seconds=1
    )
    found = BENCHMARKS["humaneval"].read(settings).rows
    assert [r.data["correct"] for r in found] == [r["passed"] for r in given[::4]]
    assert sum(map(len, (r.data["correct"] for r in found))) == 21 * 16
