"""Paper: its tables beside what was measured here, what merging gains, and a figure measured on the spot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import gradio as gr

from dogerm import charts
from dogerm.benchmarks import paper
from dogerm.benchmarks.stored import Stored
from dogerm.nano.seeds import COLUMNS, Line, over_seeds, read_seeds
from dogerm.ui import benchmarks
from dogerm.ui.controls import Controls
from dogerm.ui.playground import LONG, QUIET, errors_for_people

LIVE_PAIRS, LIVE_PAIRS_IN_PUBLIC = 50, 25  # of each kind

SHELL = """
<section id="paper" class="sheets">
  <p class="lead">The paper's numbers, accuracy in %, each with its gain over the reward model. In the
    line beneath stands what this installation measured of the same checkpoints (a stored report of
    <code>python -m dogerm bench</code>), with its 95% interval.</p>
  <div id="paper-table"></div>
  <h3>What merging gains, in the paper</h3>
  <div id="paper-gains" translate="no"></div>
  <div id="paper-nano"></div>
  <h3>The figure, measured now</h3>
  <p class="lead">Accuracy against λ on held-out pairs of the embedded family's generators, scored by
    the live model with the weights and the method set above.</p>
</section>"""
LIVE = """
<section id="paper-now">
  <p id="paper-state" role="status" aria-live="polite"></p>
  <div id="paper-progress" hidden><span></span></div>
  <div id="paper-live"></div>
</section>"""


def build(controls: Controls, public: bool) -> None:
    with gr.Tab("Paper", id="paper") as tab:
        gr.HTML(SHELL, padding=False)
        with gr.Row(elem_id="paper-actions"):
            start = gr.Button("Measure it now", variant="primary", elem_id="paper-run")
            stop = gr.Button("Stop", elem_id="paper-stop")
        gr.HTML(LIVE, padding=False)
        tables = gr.JSON(visible="hidden", elem_id="paper-frame")
        live = gr.JSON(visible="hidden", elem_id="paper-live-frame")

    size = LIVE_PAIRS_IN_PUBLIC if public else LIVE_PAIRS
    job = benchmarks.Job(benchmarks.PAIRS, "", "pairs")

    def measure_now(*values: Any) -> Iterator[dict[str, Any]]:
        with errors_for_people():
            recipe = controls.request(values).recipe
            engine = controls.studio.engine
            yield from benchmarks.measure(engine, job, size, recipe, None, public)

    tab.select(tables_beside, None, tables, **QUIET)
    running = start.click(measure_now, controls.inputs, live, **QUIET, **LONG)
    stop.click(
        None, None, None, cancels=running, js="() => dogerm.paperNow({stopped: true})"
    )
    tables.change(None, [tables], None, js="found => dogerm.paper(found)")
    live.change(None, [live], None, js="found => dogerm.paperNow(found)")


def tables_beside() -> dict[str, Any]:
    """The paper's tables and the embedded family's, with what is stored here of the same."""
    stored, _ = benchmarks.every_report()
    return {
        "columns": [asdict(column) for column in paper.COLUMNS],
        "models": [_model(name, stored) for name in paper.models()],
        "gains": charts.gains(_gains(stored), _headings()).to_plotly_json(),
        "nano": _nano(over_seeds(reports)) if (reports := read_seeds()) else None,
    }


def _model(name: str, stored: Sequence[Stored]) -> dict[str, Any]:
    return {
        "name": name,
        "mergeable": name in paper.MADE_OF,
        "published": [paper.published(name, column) for column in paper.COLUMNS],
        "gains": [paper.gain(name, column) for column in paper.COLUMNS],
        "here": [_here(name, column, stored) for column in paper.COLUMNS],
    }


def _here(
    name: str, column: paper.Column, stored: Sequence[Stored]
) -> dict[str, Any] | None:
    found = paper.here(name, column, stored)
    if not found:
        return None
    metric = found.best.metric
    return {
        "accuracy": metric.accuracy,
        "low": metric.low,
        "high": metric.high,
        "n": metric.n,
        "lam": found.best.recipe.lam,
        "rule": found.best.rule,
        "stored": found.stored,
    }


def _headings() -> list[str]:
    return [f"{column.heading}\n{column.table}" for column in paper.COLUMNS]


def _gains(stored: Sequence[Stored]) -> Mapping[str, Mapping[str, tuple[float, float]]]:
    """Points above the reward model, by merged model and column: published, and measured here."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for name in paper.models():
        if name not in paper.MADE_OF:
            continue
        for column, heading in zip(paper.COLUMNS, _headings(), strict=True):
            if (points := paper.gain(name, column)) is not None:
                found.setdefault(name, {})[heading] = (points, 0.0)
            base = paper.here(paper.base_of(name), column, stored)
            own = paper.here(name, column, stored)
            if name != paper.base_of(name) and own and base:
                points = 100 * (own.best.metric.accuracy - base.best.metric.accuracy)
                found.setdefault(f"{name}, here", {})[heading] = (points, 0.0)
    return found


def _nano(lines: Sequence[Line]) -> dict[str, Any]:
    seeds = len(lines[0].recipes)
    gained = {
        line.name: {
            column: (cell.gain, cell.gain_spread or 0.0)
            for column, cell in line.cells.items()
        }
        for line in lines[1:]
        if len(line.recipes) == seeds
    }
    return {
        "seeds": seeds,
        "columns": list(COLUMNS),
        "lines": [
            {
                "name": line.name,
                "trained_on": line.trained_on,
                "lams": [recipe["lam"] for recipe in line.recipes],
                "cells": [asdict(line.cells[column]) for column in COLUMNS],
            }
            for line in lines
        ],
        "gains": charts.gains(gained, list(COLUMNS)).to_plotly_json(),
    }
