"""Stored reports: found, read back, matched with the paper's models; and the table over seeds."""

import json
from statistics import mean, stdev

import pytest

from dogerm.benchmarks import paper
from dogerm.benchmarks.report import Measured, Metric, Report
from dogerm.benchmarks.stored import Stored, read_stored
from dogerm.charts import gains
from dogerm.nano.seeds import COLUMNS, curves_of, over_seeds, read_seeds
from dogerm.recipe import Recipe

LLAMA = {
    "name": "llama2-7b",
    "rm": "miulab/llama2-7b-ultrafeedback-rm@8c7b558",
    "lms": {"meta": "meta-math/MetaMath-7B-V1.0", "mammoth": "/models/MAmmoTH-7B/"},
}


def report(family=LLAMA, group="Reasoning/Math", benchmark="rewardbench") -> Report:
    wins = [(0, "meta", 60), (0.2, "meta", 70), (0.4, "meta", 68), (0.3, "mammoth", 80)]
    points = [
        Measured(Recipe(lam, {lm: 1}), {group: Metric.of(won, 0, 100)})
        for lam, lm, won in wins
    ]
    return Report(benchmark, family, {}, points)


def choice(group: str, lam: float, won: int) -> dict:
    metric = vars(Metric.of(won, 0, 70))
    recipe = Recipe(lam, {"meta": 1}).to_json()
    return {"rule": "validation", "group": group, "recipe": recipe} | {
        "chosen_on": 30,
        "metrics": {group: metric},
    }


def test_reports_are_found_by_folder_and_what_is_none_is_named(tmp_path):
    for folder in ("b/own", "a", ".running-1"):
        (tmp_path / folder).mkdir(parents=True)
        text = json.dumps(report().to_json())
        (tmp_path / folder / "report.json").write_text(text)
    chosen = [choice("Reasoning/Math", 0.4, 50)]
    (tmp_path / "a" / "choices.json").write_text(json.dumps(chosen))
    for name, text in (("c", '{"rows": []}'), ("d", "{"), ("e", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(text)
    found, faults = read_stored(tmp_path)
    assert [own.name for own in found] == ["a", "b/own"]
    assert found[1].report.to_json() == report().to_json()
    assert found[0].best("Reasoning/Math").recipe.lam == 0.4
    assert found[0].best("Reasoning/Math").rule == "validation"
    assert found[1].best("Reasoning/Math").recipe.lam == 0.3
    assert found[1].best("Reasoning/Math").rule == "oracle"
    assert [str(tmp_path / name) in fault for name, fault in zip("cde", faults)] == [
        True
    ] * 3


def test_nothing_is_found_where_there_is_no_folder(tmp_path):
    assert read_stored(tmp_path / "none") == ([], [])


def test_a_model_of_the_paper_is_known_by_its_checkpoints_names():
    math = next(c for c in paper.COLUMNS if c.group == "Reasoning/Math")
    stored = [Stored("one", report())]

    def accuracy(model: str, own=stored, column=math) -> float | None:
        found = paper.here(model, column, own)
        return found and found.best.metric.accuracy

    assert accuracy("LLaMA-2 RM") == 0.6
    assert accuracy("LLaMA-2 RM + MetaMath") == 0.7
    assert accuracy("LLaMA-2 RM + MAmmoTH") == 0.8
    assert accuracy("LLaMA-2 RM + Math & Code") is None
    assert accuracy("LLaMA-2 RM, fine-tuned on Auto-J Math") is None
    assert accuracy("Mistral RM") is None
    chosen = [Stored("two", report(), [choice("Reasoning/Math", 0.4, 35)])]
    assert accuracy("LLaMA-2 RM + MetaMath", chosen) == 0.5
    assert accuracy("LLaMA-2 RM", chosen) == 0.6
    other = [Stored("three", report(LLAMA | {"rm": "somebody/else"}))]
    assert accuracy("LLaMA-2 RM", other) is None
    autoj = next(c for c in paper.COLUMNS if c.benchmark == "autoj")
    assert accuracy("LLaMA-2 RM", column=autoj) is None


def test_gains_are_published_numbers_minus_their_reward_models():
    for model in paper.models():
        for column in paper.COLUMNS:
            own = paper.published(model, column)
            base = paper.published(paper.base_of(model), column)
            if model != paper.base_of(model) and None not in (own, base):
                assert paper.gain(model, column) == pytest.approx(own - base)
    assert set(paper.MADE_OF) <= set(paper.models())


def test_the_table_over_seeds_is_the_mean_of_the_stored_reports():
    reports = read_seeds()
    for line in over_seeds(reports):
        rows = [[r for r in own["rows"] if r["name"] == line.name] for own in reports]
        for column in COLUMNS:
            values = [
                100 * row[0]["metrics"][column]["accuracy"] for row in rows if row
            ]
            cell = line.cells[column]
            assert cell.mean == pytest.approx(mean(values))
            if len(values) > 1:
                assert cell.spread == pytest.approx(stdev(values))
            bases = [
                100 * own["rows"][0]["metrics"][column]["accuracy"]
                for own, row in zip(reports, rows)
                if row
            ]
            wanted = mean(v - b for v, b in zip(values, bases))
            assert (cell.gain or 0) == pytest.approx(wanted)


def test_a_seeds_curve_reports_its_choice_on_test_pairs():
    seed = read_seeds()[0]
    for curve in curves_of(seed):
        assert len(curve.report.recipes) == len(
            seed["curves"][curve.name.split(", ")[1]]
        )
        best = curve.best(curve.choices[0]["group"])
        assert best.rule == "validation"
        assert best.metric.n == seed["settings"]["pairs"]


def test_every_gain_has_a_mark_where_its_column_stands():
    found = gains(
        {"one": {"a": (2.0, 0.5), "c": (-1.0, 0)}, "two": {"b": (3, 0)}}, "abc"
    )
    drawn = {trace.name: trace for trace in found.data}
    assert [round(x) for x in drawn["one"].x] == [0, 2]
    assert list(drawn["one"].y) == [2.0, -1.0]
    assert [round(x) for x in drawn["two"].x] == [1]
