"""The Benchmarks and Paper tabs in a real browser, against the library; Stop, and a visitor who leaves."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dogerm.benchmarks import pairs, paper
from dogerm.benchmarks import run as run_module
from dogerm.benchmarks.report import Measured, Metric, Report
from dogerm.nano.pairs import held_out
from dogerm.recipe import Recipe
from dogerm.rows import row_of
from dogerm.scoring import score
from dogerm.ui import benchmarks
from dogerm.ui.benchmarks import Job, measure

MIX = {"math": 1, "code": 1}
JOB = Job("pairs", "", "pairs")


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """The folder of stored reports, for the server that runs in this process."""
    monkeypatch.setenv("DOGERM_REPORTS", str(tmp_path / "reports"))
    return tmp_path / "reports"


@pytest.fixture
def batches(monkeypatch) -> list[int]:
    """Grows by one with every batch that a benchmark's run scores; each takes a while."""
    done, rewards = [], run_module.rewards

    def counted(*own, **more):
        done.append(1)
        time.sleep(0.03)
        return rewards(*own, **more)

    monkeypatch.setattr(run_module, "rewards", counted)
    monkeypatch.setattr(benchmarks, "SHARED_BATCH", {"cpu": 512})
    monkeypatch.setattr(benchmarks, "SECONDS_BETWEEN", 0)
    return done


def open_panel(page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def quiet(batches: list[int]) -> bool:
    """Whether no batch is scored any more."""
    before = len(batches)
    time.sleep(0.4)
    return len(batches) == before


def wanted(engine, lam: float, each: int) -> dict:
    """Accuracy on the embedded family's pairs by scoring them all at once."""
    rows = [row_of(data, "here") for data in held_out(each)]
    recipe = Recipe(lam, MIX)
    found = score(engine, recipe, [(row.prompt, row.responses) for row in rows])
    return pairs.metrics(rows, found)


def test_a_run_may_go_from_thread_to_thread(engine, tmp_path, batches):
    steps = measure(engine, JOB, 20, Recipe(0.5, MIX), tmp_path)
    for _ in range(3):
        with ThreadPoolExecutor(1) as another:
            another.submit(next, steps).result()
    with ThreadPoolExecutor(1) as another:
        another.submit(steps.close).result()
    assert not list(tmp_path.iterdir())


def test_a_measured_report_is_the_librarys_and_a_dropped_one_leaves_nothing(
    engine, tmp_path, batches
):
    recipe = Recipe(0.5, MIX)
    *_, last = measure(engine, JOB, 3, recipe, tmp_path)
    points = {point["lam"]: point["metrics"] for point in last["report"]["recipes"]}
    for lam in (0, 0.7):
        assert points[lam] == {k: vars(m) for k, m in wanted(engine, lam, 3).items()}
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "report.json").read_text()) == last["report"]
    assert (folder / "report.html").exists()
    batches.clear()
    steps = measure(engine, JOB, 20, recipe, tmp_path)
    next(steps), next(steps)
    steps.close()
    assert quiet(batches) and list(tmp_path.iterdir()) == [folder]


def test_real_rows_are_offered_from_the_servers_folder_and_not_to_strangers(
    tmp_path, monkeypatch
):
    (tmp_path / "autoj").mkdir()
    for name in ("autoj/pairs.jsonl", "autoj/groups.json", "gsm8k.json", "other.jsonl"):
        (tmp_path / name).write_text("")
    monkeypatch.setenv("DOGERM_DATA", str(tmp_path))
    own = ["pairs", "best-of-16"]
    found = [job.name for job in benchmarks.jobs(public=False)]
    assert found == [*own, "autoj: pairs.jsonl", "gsm8k: gsm8k.json"]
    assert [job.name for job in benchmarks.jobs(public=True)] == own


def test_strangers_are_not_told_where_models_lie(engine, tmp_path):
    *_, last = measure(engine, JOB, 2, Recipe(0.5, MIX), None, public=True)
    assert engine.family.rm not in json.dumps(last)


def test_a_run_from_the_page_is_the_librarys_and_is_kept(visit, engine, kept):
    page = visit()
    open_panel(page, "Benchmarks")
    page.wait_for_selector("#bench-shelf button")
    page.locator("#bench-size input").click()
    page.get_by_role("option", name="25", exact=True).click()
    page.locator("#bench-run").click()
    page.wait_for_selector("#bench-report .measured")
    points = {point["lam"]: point["metrics"] for point in own_report(kept)["recipes"]}
    assert points[0.4]["math"] == vars(wanted(engine, 0.4, 25)["math"])
    head = page.locator("#bench-report .measured th").all_inner_texts()
    column = [text.split("\n")[0] for text in head].index("Overall")
    rows = page.locator("#bench-report .measured tbody tr").all()
    for row, lam in zip(rows, benchmarks.LAMS, strict=True):
        shown = row.locator("td").nth(column).locator("span").inner_text()
        assert shown == f"{100 * points[lam]['Overall']['accuracy']:.1f}"
    drawn = page.evaluate(
        "[...document.querySelectorAll('#bench-report .chart')].map("
        "c => c.data.find(d => d.name === 'math').y)"
    )
    assert drawn[0] == pytest.approx(
        [100 * points[lam]["math"]["accuracy"] for lam in benchmarks.LAMS]
    )
    name = next(kept.iterdir()).name
    page.locator("#bench-shelf button", has_text=name).wait_for()
    page.locator("#bench-shelf button", has_text="nano seed").first.click()
    page.wait_for_function(
        "document.querySelector('#bench-report h3').textContent.startsWith('nano')"
    )


def own_report(kept: Path) -> dict:
    (folder,) = kept.iterdir()
    return json.loads((folder / "report.json").read_text())


def test_stop_ends_the_work_and_a_visitor_who_leaves_does_too(
    visit, engine, kept, batches
):
    page = visit()
    open_panel(page, "Benchmarks")
    page.locator("#bench-run").click()
    page.wait_for_function(
        "document.getElementById('bench-state').textContent.startsWith('Scoring')"
    )
    page.locator("#bench-stop").click()
    page.wait_for_function(
        "document.getElementById('bench-state').textContent === 'Stopped.'"
    )
    ends(batches, kept)
    page.locator("#bench-run").click()
    page.wait_for_function(
        "document.getElementById('bench-state').textContent.startsWith('Scoring')"
    )
    page.context.close()
    ends(batches, kept)


def ends(batches: list[int], kept: Path) -> None:
    for _ in range(120):
        if quiet(batches):
            break
    assert quiet(batches) and not list(kept.iterdir())


def test_the_papers_numbers_stand_beside_what_was_measured_here(visit, kept):
    family = {
        "name": "llama2-7b",
        "rm": "miulab/llama2-7b-ultrafeedback-rm",
        "lms": {"math": "TIGER-Lab/MAmmoTH-7B"},
    }
    points = [
        Measured(Recipe(lam, {"math": 1}), {"Chat": Metric.of(won, 0, 40)})
        for lam, won in ((0, 31), (0.3, 33))
    ]
    (kept / "mine").mkdir(parents=True)
    text = json.dumps(Report("rewardbench", family, {}, points).to_json())
    (kept / "mine" / "report.json").write_text(text)
    (kept / "bad").mkdir()
    (kept / "bad" / "report.json").write_text("{")
    page = visit()
    open_panel(page, "Paper")
    rows = page.locator("#paper-table tbody tr")
    rows.first.wait_for()
    lines = {
        row.locator("td").first.inner_text(): i for i, row in enumerate(rows.all())
    }
    for model in paper.models():
        cells = rows.nth(lines[model]).locator("td").all_inner_texts()[1:]
        for column, cell in zip(paper.COLUMNS, cells, strict=True):
            number = paper.published(model, column)
            assert cell.split("\n")[0] == ("–" if number is None else f"{number:.1f}")
    here = rows.nth(lines["LLaMA-2 RM + MAmmoTH"] + 1)
    assert here.locator(".here span").first.inner_text() == "82.5"
    assert "not measured here" in rows.nth(lines["Mistral RM"] + 1).inner_text()
    page.locator("#paper-run").click()
    page.wait_for_function("document.querySelector('#paper-live .chart')?.data?.length")
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1280, "height": 800})
    open_panel(page, "Benchmarks")
    page.locator("#bench-shelf .fault", has_text="is no report").wait_for()
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
