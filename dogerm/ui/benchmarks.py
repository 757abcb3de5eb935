"""Benchmarks: stored reports as charts and tables, and a run on the live model with progress and Stop."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import gradio as gr

from dogerm import charts
from dogerm.benchmarks.benchmark import BENCHMARKS, headline
from dogerm.benchmarks.data import Settings
from dogerm.benchmarks.report import Measured
from dogerm.benchmarks.results import Results
from dogerm.benchmarks.run import depends_on, run
from dogerm.benchmarks.stored import Best, Stored, read_stored
from dogerm.engine import Engine
from dogerm.errors import InputError
from dogerm.family import ASSETS
from dogerm.nano.corpus import distinct_pairs
from dogerm.nano.pairs import held_out, sample_from, write_lines
from dogerm.nano.seeds import RESULTS, curves_of, read_seeds
from dogerm.recipe import Recipe
from dogerm.rows import tokenise_rows
from dogerm.sweep import SHARED_BATCH
from dogerm.ui.controls import Controls
from dogerm.ui.playground import LONG, QUIET, errors_for_people

LAMS = tuple(step / 10 for step in range(11))
PAIRS, BEST_OF = "pairs", "best-of-16"  # on the embedded family's own rows
SIZES, MOST_IN_PUBLIC = (25, 50, 100, 250), 100  # pairs of each domain, or problems
VALIDATION = 0.3  # of the rows: λ is chosen on these and reported on the others
CANDIDATES, PROBLEMS_AT_ONCE = 16, 4
MIXES_DRAWN = 4  # curves of one report; more are in its own page
FILES = (".jsonl", ".csv", ".parquet")
OF_CANDIDATES = ("gsm8k", "mbpp", "humaneval")  # also in the reference's .json
SECONDS_BETWEEN = 0.2  # two words of progress

SHELL = """
<section id="bench" class="sheets">
  <p class="lead">How often is the better answer rewarded more, at every λ, with the weights and
    the method set above? A run goes through the same code as <code>python -m dogerm bench</code>;
    λ is chosen on 30% of the rows and reported on the others.</p>
  <p id="bench-state" role="status" aria-live="polite"></p>
  <div id="bench-progress" hidden><span></span></div>
  <h3>Reports</h3>
  <div id="bench-shelf"></div>
  <div id="bench-report" aria-live="polite"></div>
</section>"""


@dataclass(frozen=True)
class Job:
    """Something that can be run from the page.

    Args:
        name: as the page sends it.
        label: as the page shows it.
        benchmark: its name in BENCHMARKS.
        data: the server's file; None for rows that are made for the run.
    """

    name: str
    label: str
    benchmark: str
    data: Path | None = None


def build(controls: Controls, public: bool) -> None:
    offered = {job.name: job for job in jobs(public)}
    sizes = [size for size in SIZES if not public or size <= MOST_IN_PUBLIC]
    with gr.Tab("Benchmarks", id="bench") as tab:
        with gr.Row(elem_id="bench-actions"):
            which = gr.Dropdown(
                [(job.label, job.name) for job in offered.values()],
                value=PAIRS,
                label="Benchmark",
                elem_id="bench-which",
            )
            size = gr.Dropdown(
                sizes,
                value=sizes[1],
                label="Pairs of each kind, or problems",
                elem_id="bench-size",
                min_width=110,
            )
            start = gr.Button("Run", variant="primary", elem_id="bench-run")
            stop = gr.Button("Stop", elem_id="bench-stop")
        gr.HTML(SHELL, padding=False)
        shelf = gr.JSON(visible="hidden", elem_id="bench-shelf-frame")
        frame = gr.JSON(visible="hidden", elem_id="bench-frame")
        chosen = gr.JSON(visible="hidden")
        name = gr.Textbox(visible="hidden", elem_id="bench-name")
        opened = gr.Button("Open", visible="hidden", elem_id="bench-open")

    def run_job(job: str, size: int, *values: Any) -> Iterator[dict[str, Any]]:
        with errors_for_people():
            recipe = controls.request(values).recipe
            size = min(int(size), max(sizes))
            keep = None if public else reports_folder()
            engine = controls.studio.engine
            yield from measure(engine, offered[job], size, recipe, keep, public)

    def list_reports() -> dict[str, Any]:
        found, faults = every_report()
        lines = [_line(own) for own in found]
        return {"reports": lines, "faults": [] if public else faults}

    def open_report(wanted: str) -> dict[str, Any]:
        with errors_for_people():
            for own in every_report()[0]:
                if own.name == wanted:
                    return shown(own, public)
            raise InputError(f"there is no stored report {wanted!r} any more.")

    running = start.click(
        run_job, [which, size, *controls.inputs], frame, **QUIET, **LONG
    )
    stop.click(
        None, None, None, cancels=running, js="() => dogerm.bench({stopped: true})"
    )
    tab.select(list_reports, None, shelf, **QUIET)
    running.success(list_reports, None, shelf, **QUIET)
    read = opened.click(open_report, name, chosen, trigger_mode="always_last", **QUIET)
    read.success(None, [chosen], None, js="found => dogerm.bench(found)")
    frame.change(None, [frame], None, js="found => dogerm.bench(found)")
    shelf.change(None, [shelf], None, js="found => dogerm.shelf(found)")


def reports_folder() -> Path:
    """Where reports are kept: DOGERM_REPORTS, else ./reports."""
    return Path(os.environ.get("DOGERM_REPORTS") or "reports")


def every_report() -> tuple[list[Stored], list[str]]:
    """The reports of this installation, the newest-named first, then the shipped ones; and faults."""
    own, faults = read_stored(reports_folder())
    shipped, _ = read_stored(RESULTS)
    seeds = [curve for seed in read_seeds() for curve in curves_of(seed)]
    return [*reversed(own), *shipped, *seeds], faults


def measure(
    engine: Engine,
    job: Job,
    size: int,
    recipe: Recipe,
    keep: Path | None,
    public: bool = False,
) -> Iterator[dict[str, Any]]:
    """Run a job at every λ of LAMS: says how far it is, and at the end its report, `shown`.

    The engine is left to others after every batch. Whoever drops the iterator stops the
    work; then nothing of it is left on disk.

    Args:
        size: how many rows are made, where the job has no file.
        keep: the folder of reports that this one is stored in; None: nowhere.
        public: as in `shown`.
    """
    recipes = [recipe.with_lam(lam) for lam in LAMS]
    with _workplace(keep) as folder:
        settings = Settings(data=job.data, validation=VALIDATION, bad_rows="skip")
        if job.data is None:
            settings = yield from _own_rows(job, size, folder)
        benchmark = BENCHMARKS[job.benchmark]
        dataset = benchmark.read(settings)
        tokens = tokenise_rows(engine, dataset.rows, "skip")
        about = depends_on(benchmark, settings, dataset)
        batch = min(engine.plan.batch_tokens, SHARED_BATCH[engine.plan.kind])
        # Before the models' files are hashed, which takes a while with large ones.
        yield from _Clock("Scoring").said(0, len(recipes) * len(tokens.scored))
        clock = _Clock("Scoring")
        steps = run(engine, tokens, recipes, folder, about, batch_tokens=batch)
        with closing(steps):
            for step in steps:
                yield from clock.said(step.done, step.total)
        results = Results.of(folder)
        if keep:
            results.write(folder)
        name = _name(engine, job)
        frame = shown(Stored(name, results.report, results.choices_json()), public)
        if keep:
            folder.rename(keep / name)
        yield frame | {"fresh": True}


def shown(stored: Stored, public: bool = False) -> dict[str, Any]:
    """A report for the page: what its table and charts need.

    Args:
        public: for strangers, who are not told where this machine has its models.
    """
    report = stored.report
    if public:
        settings = {k: v for k, v in report.settings.items() if k != "models"}
        told = {"name": report.family["name"]}
        report = replace(report, family=told, settings=settings)
    groups = headline(report)
    whole = _best_of(groups)[-1:] or groups  # what does without rewards has no best λ
    best = {group: stored.best(group) for group in whole}
    return _line(stored) | {
        "groups": groups,
        "mixes": [_mix(point.recipe) for point in report.recipes],
        "best": {g: _best(own) for g, own in best.items() if own},
        "figures": list(_figures(stored, groups)),
        "report": report.to_json(),
    }


def _figures(stored: Stored, groups: Sequence[str]) -> Iterator[dict[str, Any]]:
    report = stored.report
    drawn = [own for own in report.mixes if len(own) > 1]
    best_of = _best_of(groups)
    lines = [group for group in groups if group not in best_of[:-1]]
    for own in drawn[:MIXES_DRAWN]:
        title = _mix(own[-1].recipe)
        figure = charts.accuracy_curve(own, lines)
        yield {"title": title, "figure": figure.to_plotly_json()}
    if len(drawn) > 1:
        figure = charts.mix_map(report.recipes, _main_group(stored, groups))
        yield {"title": "λ and mix", "figure": figure.to_plotly_json()}
    for best in map(stored.best, best_of[-1:]):
        if best:
            figure = charts.best_of_curve(*_at(report.recipes, best.recipe))
            yield {"title": "Best of N against N", "figure": figure.to_plotly_json()}


def _best_of(groups: Sequence[str]) -> list[str]:
    return [group for group in groups if group.startswith("best-of-")]


def _at(points: Sequence[Measured], recipe: Recipe) -> tuple[Measured, Measured | None]:
    """The first point, and the recipe's where that is another."""
    found = next((p for p in points[1:] if p.recipe == recipe and recipe.lam), None)
    return points[0], found


def _line(stored: Stored) -> dict[str, Any]:
    """What the list of reports says of one."""
    report = stored.report
    groups = headline(report)
    group = _main_group(stored, groups)
    best = stored.best(group)
    return {
        "name": stored.name,
        "benchmark": report.benchmark,
        "family": str(report.family["name"]),
        "recipes": len(report.recipes),
        "rows": max(metric.n for metric in report.recipes[0].metrics.values()),
        "group": group,
        "top": _best(best) if best else None,
    }


def _main_group(stored: Stored, groups: Sequence[str]) -> str:
    """The group that stands for a report where there is room for one."""
    if "Overall" in groups:
        return "Overall"
    chosen = [choice["group"] for choice in stored.choices]
    return next((g for g in chosen if g in groups), (_best_of(groups) or groups)[-1])


def _best(best: Best) -> dict[str, Any]:
    return {
        "lam": best.recipe.lam,
        "mix": _mix(best.recipe),
        "rule": best.rule,
        "chosen_on": best.chosen_on,
        "accuracy": best.metric.accuracy,
        "low": best.metric.low,
        "high": best.metric.high,
        "n": best.metric.n,
        "against": best.against,
    }


def _mix(recipe: Recipe) -> str:
    return str(recipe.with_lam(1)).replace(" λ=1", "")


def jobs(public: bool) -> Iterator[Job]:
    """The embedded family's own rows; and on one's own machine what DOGERM_DATA has, by benchmark.

    That folder holds, for a benchmark NAME, files NAME.* or NAME/*. No visitor names a path.
    """
    yield Job(PAIRS, "Held-out pairs: chat, safety, code, math", "pairs")
    yield Job(BEST_OF, "Best of 16 on small math problems", "gsm8k")
    folder = os.environ.get("DOGERM_DATA")
    if public or not folder:
        return
    for benchmark in BENCHMARKS:
        files = [*Path(folder).glob(f"{benchmark}.*")]
        files += Path(folder).glob(f"{benchmark}/*")
        kinds = FILES + ((".json",) if benchmark in OF_CANDIDATES else ())
        for file in sorted(files):
            if file.suffix in kinds:
                name = f"{benchmark}: {file.name}"
                yield Job(name, name, benchmark, file)


def _own_rows(job: Job, size: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Write rows of the embedded family's generators, held-out split; the settings to read them by."""
    file = folder / "rows.made.jsonl"
    if job.benchmark == "pairs":
        write_lines(file, held_out(size))
        return Settings(data=file, validation=VALIDATION)
    problems = distinct_pairs("math", Random("problems 0"), "test", size)
    clock, rows = _Clock("Sampling candidates"), []
    for first in range(0, size, PROBLEMS_AT_ONCE):
        yield from clock.said(first, size)
        some = problems[first : first + PROBLEMS_AT_ONCE]
        prompts = [problem.prompt for problem in some]
        answers = sample_from(ASSETS / "nano" / "base", prompts, first, CANDIDATES, 1.0)
        for problem, own in zip(some, answers, strict=True):
            rows.append(
                {"prompt": problem.prompt, "candidates": own, "answer": problem.answer}
            )
    write_lines(file, rows)
    # "corrected": these candidates were made without the paper's prefix.
    return Settings(data=file, validation=VALIDATION, preset="corrected")


class _Clock:
    """Words on how far a long job is, not too many of them."""

    def __init__(self, doing: str):
        self.doing, self.began, self.last = doing, time.monotonic(), 0.0
        self.first: int | None = None  # done when the clock was started

    def said(self, done: int, total: int) -> Iterator[Mapping[str, Any]]:
        now = time.monotonic()
        self.first = done if self.first is None else self.first
        if now - self.last < SECONDS_BETWEEN:
            return
        self.last = now
        made = done - self.first
        left = (now - self.began) * (total - done) / made if made else None
        yield {"doing": self.doing, "done": done, "total": total, "left": left}


class _workplace:
    """A folder for a run; gone when the run has been dropped, and when it was not to be kept."""

    def __init__(self, keep: Path | None):
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=".running-", dir=keep))

    def __enter__(self) -> Path:
        return self.folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _name(engine: Engine, job: Job) -> str:
    """Of a stored report: newer ones sort last."""
    stamp = time.strftime("%Y-%m-%d %H.%M.%S")
    return re.sub(r"[^\w. -]+", "-", f"{stamp} {engine.family.name} {job.name}")
