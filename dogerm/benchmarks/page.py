"""Results as one HTML file: charts and tables that open anywhere, without a network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from dogerm.charts import accuracy_curve, best_of_curve, mix_map
from dogerm.standalone import document, figure_html, table

if TYPE_CHECKING:
    from dogerm.benchmarks.results import Results


def page(results: Results) -> str:
    """The whole file. Text that came with rows or models is escaped; the same results, the same file."""
    report = results.report
    title = f"{report.benchmark}: {report.family['name']}"
    about = {"family": report.family, "settings": report.settings}
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(results.benchmark.summary)} {_counts(results)}</p>",
        *_charts(results),
        "<h2>Accuracy, %, with 95% intervals</h2>",
        _measured(results),
        *_chosen(results),
        *_published(results),
        "<h2>What the numbers depend on</h2>",
        f"<pre>{escape(json.dumps(about, ensure_ascii=False, indent=1))}</pre>",
    ]
    return document(title, parts)


def _counts(results: Results) -> str:
    rows, skipped = len(results.job.rows), len(results.job.skipped)
    text = f"{rows} rows, {len(results.rewards)} recipes."
    if skipped:
        text += f" {skipped} rows were too long and are left out."
    if results.unfinished:
        text += f" {len(results.unfinished)} recipes are not finished and not shown."
    return text


def _charts(results: Results) -> Iterable[str]:
    groups, mixes = results.headline, results.report.mixes
    figures = [
        (_mix(own), accuracy_curve(own, groups)) for own in mixes if len(own) > 1
    ]
    figures += _over_n(results)
    if len(mixes) > 1:
        name = "Overall" if "Overall" in groups else groups[0]
        figures.insert(0, ("λ and mix", mix_map(results.report.recipes, name)))
    for number, (name, figure) in enumerate(figures):
        yield f"<h2>{escape(name)}</h2>"
        yield figure_html(figure, number)


def _over_n(results: Results) -> list[tuple[str, go.Figure]]:
    """Best-of-N against N under the first recipe and under the one chosen for the whole N."""
    points = results.report.recipes
    for choice in results.choices:
        if choice.group.startswith("best-of-"):
            rule = "oracle" if choice.rule == "oracle" else "chosen on validation rows"
            merged = points[choice.recipe] if choice.recipe else None
            name = f"Best of N against N; λ: {rule}"
            return [(name, best_of_curve(points[0], merged))]
    return []


def _mix(points: Sequence) -> str:
    return str(points[-1].recipe.with_lam(1)).replace(" λ=1", "")


def _measured(results: Results) -> str:
    """A line per recipe; every group, those with no number in the paper too."""
    points = results.report.recipes
    groups = list(points[0].metrics)
    head = ["λ", "mix", *(f"{g}\nn = {points[0].metrics[g].n}" for g in groups)]
    lines = []
    for point in points:
        cells = [f"{point.recipe.lam:g}", escape(_mix([point]))]
        for metric in (point.metrics[group] for group in groups):
            if metric.accuracy is None:
                cells.append("–")
                continue
            ties = f", {metric.ties} tied" if metric.ties else ""
            low, high = 100 * metric.low, 100 * metric.high
            cells.append(
                f"{100 * metric.accuracy:.1f} <small>{low:.1f}–{high:.1f}{ties}</small>"
            )
        lines.append(cells)
    return table(head, lines)


def _chosen(results: Results) -> Iterable[str]:
    if not results.choices:
        return
    rules = {choice.rule for choice in results.choices}
    how = (
        "chosen on validation rows, reported on the others"
        if rules == {"validation"}
        else "oracle: chosen on the very rows it is reported on, which flatters it"
    )
    yield f"<h2>Best recipe by group ({how})</h2>"
    lines = [
        [
            escape(choice.group),
            escape(str(results.report.recipes[choice.recipe].recipe)),
            escape(str(choice.metrics[choice.group])),
            escape(str(choice.against)),
        ]
        for choice in results.choices
    ]
    first = results.report.recipes[0].recipe
    yield table(["group", "recipe", "accuracy", f"against {first}"], lines)


def _published(results: Results) -> Iterable[str]:
    published = results.benchmark.published
    groups = list(dict.fromkeys(name for row in published.values() for name in row))
    if groups:
        yield "<h2>Published (arXiv:2407.01470), %</h2>"
        lines = [
            [escape(model), *(f"{row[g]:.1f}" if g in row else "–" for g in groups)]
            for model, row in published.items()
        ]
        yield table(["model", *groups], lines)
