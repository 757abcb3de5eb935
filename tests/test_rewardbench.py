"""RewardBench: sections against hand computation, bad rows named, real rewards."""

import json
import math
import os
from pathlib import Path

import pytest

from dogerm.benchmarks.benchmark import BENCHMARKS
from dogerm.benchmarks.data import Settings
from dogerm.benchmarks.report import Metric
from dogerm.benchmarks.rewardbench import SECTIONS, SUBSETS, sections
from dogerm.errors import InputError

DATA = os.environ.get("DOGERM_TEST_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="DOGERM_TEST_DATA names no folder")
BENCH = BENCHMARKS["rewardbench"]


def saved(tmp_path: Path, *rows: dict) -> Settings:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Settings(data=path)


def line(subset="hep-go", **other) -> dict:
    return {"prompt": "p", "chosen": "c", "rejected": "r", "subset": subset} | other


def metric(accuracy: float, n: int = 100) -> Metric:
    return Metric.of(accuracy * n, 0, n)


def test_all_23_subsets_are_there_once():
    assert len(SUBSETS) == len(set(SUBSETS)) == 23


def test_math_prm_weighs_as_much_as_the_six_code_subsets():
    measured = {name: metric(0.5) for name in SUBSETS} | {"math-prm": metric(1.0, 447)}
    found = sections(measured, Settings())
    assert found["Reasoning"].accuracy == pytest.approx(0.75)
    assert found["Reasoning/Code"].accuracy == pytest.approx(0.5)
    assert found["Reasoning/Math"].accuracy == 1.0
    assert found["Overall"].accuracy == pytest.approx((0.5 * 3 + 0.75) / 4)


def test_swapped_xstest_weights_are_a_named_option():
    measured = {name: metric(0.0) for name in SUBSETS}
    measured["xstest-should-refuse"] = metric(1.0)

    def safety(**options) -> float:
        return sections(measured, Settings(**options))["Safety"].accuracy

    assert safety(preset="corrected") == pytest.approx(154 / 740)
    assert safety(preset="paper", xstest="upstream") == pytest.approx(154 / 740)
    assert safety(preset="paper") == pytest.approx(250 / 740)
    assert safety(preset="corrected", xstest="dogerm") == pytest.approx(250 / 740)
    assert Settings(preset="paper").to_json()["xstest"] == "dogerm"


def test_a_section_of_one_subset_has_its_interval_and_none_is_not_measured():
    measured = {name: Metric.of(0, 0, 0) for name in SUBSETS}
    measured["math-prm"] = metric(0.7, 447)
    found = sections(measured, Settings())
    for name in ("low", "high", "accuracy"):
        assert getattr(found["Reasoning/Math"], name) == pytest.approx(
            getattr(measured["math-prm"], name)
        )
    assert found["Chat"].accuracy is None and found["Reasoning/Code"].accuracy is None
    assert found["Overall"].accuracy is None


def test_the_combined_interval_covers_the_truth_as_often_as_it_says():
    import numpy

    random = numpy.random.default_rng(0)
    strata = [(3.0, 40, 0.9), (1.0, 60, 0.4)]
    truth = sum(w * p for w, _, p in strata) / 4
    hits = 0
    for _ in range(2000):
        parts = [(w, Metric.of(int(random.binomial(n, p)), 0, n)) for w, n, p in strata]
        found = Metric.combined(parts)
        hits += found.low <= truth <= found.high
    # 95% of 2000 with a standard error of 0.5 points; the method is approximate.
    assert 0.93 <= hits / 2000 <= 0.975


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (line("hep-cobol"), "'hep-cobol' is none of RewardBench's"),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "subset is missing"),
        ({"prompt": "p", "chosen": "c", "subset": "hep-go"}, "rejected is missing"),
        (line(chosen=3), "chosen must be text"),
        (line(id=1), "the id 'hep-go/1' was already used at line 1"),
    ],
)
def test_a_bad_row_is_named(tmp_path, bad, says):
    settings = saved(tmp_path, line(id=1), line("hep-js", id=1), bad)
    with pytest.raises(InputError) as caught:
        BENCH.read(settings)
    assert "line 3 of rows.jsonl" in str(caught.value) and says in str(caught.value)
    found = BENCH.read(Settings(data=settings.data, bad_rows="skip"))
    assert [row.id for row in found.rows] == ["hep-go/1", "hep-js/1"]


def test_without_network_the_hub_set_is_refused_with_a_way_out():
    with pytest.raises(InputError, match="allenai/reward-bench.*--data FILE"):
        BENCH.read(Settings())


@needs_data
@pytest.mark.parametrize("model", ["Better-PairRM", "GPM-Gemma-2-2B"])
def test_sections_of_published_subset_accuracies_agree_with_a_plain_computation(model):
    folder = Path(DATA, "rewardbench")
    published = json.loads((folder / f"{model}.json").read_text())
    counts = json.loads((folder / "example_counts.json").read_text())
    mapping = json.loads((folder / "subset_mapping.json").read_text())
    assert {name: set(own) for name, own in SECTIONS.items()} == {
        name: set(own) for name, own in mapping.items()
    }
    real = counts | {"math-prm": 447}
    measured = {name: metric(published[name], real[name]) for name in SUBSETS}
    found = sections(measured, Settings(xstest="upstream"))
    for name, own in mapping.items():
        total = sum(counts[subset] for subset in own)
        by_hand = sum(published[subset] * counts[subset] for subset in own) / total
        assert found[name].accuracy == pytest.approx(by_hand, abs=1e-12)
    by_hand = math.fsum(found[name].accuracy for name in mapping) / 4
    assert found["Overall"].accuracy == pytest.approx(by_hand, abs=1e-12)


@needs_data
def test_math_prm_from_the_real_rewards_of_three_models():
    settings = Settings(data=Path(DATA, "rewardbench/rewardbench_866.jsonl"))
    rows = BENCH.read(settings).rows
    assert len(rows) == 866
    raw = [json.loads(text) for text in settings.data.read_text().splitlines()]
    for model, wins in (("Eurus-RM", 272), ("internlm2", 415), ("oasst-rm", 270)):
        rewards = [row.data.get("rm_scores", {}).get(model) for row in rows]
        found = BENCH.metrics(rows, rewards, settings)
        pairs = [row["rm_scores"][model] for row in raw if row["subset"] == "math-prm"]
        assert found["math-prm"].n == len(pairs) == 447
        assert sum(a > b for a, b in pairs) == wins
        assert found["Reasoning/Math"].accuracy == pytest.approx(wins / 447)
        assert found["math-prm"].ties == sum(a == b for a, b in pairs)
        assert found["Chat Hard"].accuracy is None  # no rewards given there
