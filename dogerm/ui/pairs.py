"""Pairs: a visitor's file of preference pairs; accuracy against λ, and the pairs that turn."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr

from dogerm import charts
from dogerm.benchmarks import pairs
from dogerm.errors import InputError
from dogerm.provenance import described
from dogerm.rows import Row, Tokenised, check_pairs, read_rows, tokenise_rows
from dogerm.sweep import sweep_in_batches
from dogerm.ui.controls import Controls
from dogerm.ui.limits import MAX_RESPONSES, Limits
from dogerm.ui.playground import LONG, QUIET, errors_for_people, paced

LAMS = tuple(step / 10 for step in range(11))
SHOWN = 160  # characters of a prompt in the table

SHELL = """
<section id="pairs">
  <p class="lead">A file of preference pairs: JSON Lines or CSV with <code>prompt</code>,
    <code>chosen</code>, <code>rejected</code>, and <code>domain</code> if you like. How often
    is the chosen one rewarded more, at every λ, with the weights and the method set above?</p>
  <p id="pairs-state" role="status" aria-live="polite"></p>
  <div id="pairs-plot"></div>
  <div id="pairs-table"></div>
</section>"""


def build(controls: Controls, public: bool) -> None:
    with gr.Tab("Pairs", id="pairs"):
        with gr.Row(elem_id="pairs-actions"):
            file = gr.File(
                label="Pairs (.jsonl, .csv)",
                file_types=[".jsonl", ".json", ".csv", ".parquet", ".txt"],
                height=96,
                elem_id="pairs-file",
            )
            with gr.Column(elem_id="pairs-buttons"):
                run = gr.Button(
                    "Score the pairs", variant="primary", elem_id="pairs-run"
                )
                stop = gr.Button("Stop", elem_id="pairs-stop")
                sample = gr.Button("Try 200 held-out pairs", elem_id="pairs-sample")
        gr.HTML(SHELL, padding=False)
        frame = gr.JSON(visible="hidden", elem_id="pairs-frame")
        chosen = gr.Number(visible="hidden", elem_id="pairs-chosen", precision=0)
        opened = gr.Button("Open", visible="hidden", elem_id="pairs-open")

    def judge(path: str | None, *values: Any) -> Iterator[dict[str, Any]]:
        with errors_for_people():
            asked = controls.request(values)
            rows = _read(path, controls.limits)
            engine = controls.studio.engine
            tokens = tokenise_rows(engine, rows, "skip")
            recipes = [asked.recipe.with_lam(lam) for lam in LAMS]
            total = len(recipes) * tokens.responses
            steps = sweep_in_batches(engine, recipes, tokens.scored)
            for done, found in paced(steps):
                if found is None:
                    yield {"done": done, "total": total}
                else:
                    rewards = [tokens.spread(own) for own in found]
                    report = pairs.report(engine, tokens, recipes, rewards)
                    told = described(controls.limits.told(engine.family))
                    yield _frame(tokens, replace(report, family=told), rewards)

    def open_pair(path: str | None, place: int) -> list[Any]:
        with errors_for_people():
            row = _read(path, controls.limits)[int(place)]
            if not isinstance(row.prompt, str):
                raise InputError(
                    f"{row.where}: its prompt is a conversation, and the playground "
                    "takes one instruction."
                )
            texts = [*row.responses, *[""] * (MAX_RESPONSES - 2)]
            boxes = [gr.Textbox(text, visible=i < 2) for i, text in enumerate(texts)]
            return [row.prompt, 2, *boxes]

    running = run.click(judge, [file, *controls.inputs], frame, **QUIET, **LONG)
    sampled = sample.click(_sample, None, file, **QUIET)
    tried = sampled.then(judge, [file, *controls.inputs], frame, **QUIET, **LONG)
    stop.click(
        None,
        None,
        None,
        cancels=[running, tried],
        js="() => dogerm.pairs({stopped: true})",
    )
    frame.change(None, [frame], None, js="frame => dogerm.pairs(frame)")
    texts = [controls.instruction, controls.count, *controls.boxes]
    shown = opened.click(open_pair, [file, chosen], texts, **QUIET)
    shown.success(None, None, None, js="() => dogerm.score()")


def _read(path: str | None, limits: Limits) -> list[Row]:
    if not path:
        raise InputError("there is no file yet. Drop one, or try the held-out pairs.")
    rows = read_rows(path)
    limits.check_pairs(len(rows))
    check_pairs(rows)
    return rows


@cache
def _sample() -> str:
    """A file of held-out pairs of the embedded family, fifty of each kind."""
    from dogerm.nano.pairs import held_out, write_lines

    path = Path(tempfile.mkdtemp(prefix="dogerm-")) / "held-out-pairs.jsonl"
    write_lines(path, held_out(50))
    return str(path)


def _frame(
    tokens: Tokenised,
    report: pairs.Report,
    rewards: Sequence[Sequence[Sequence[float] | None]],
) -> dict[str, Any]:
    groups = list(report.recipes[0].metrics)
    shown = ["Overall", *groups[:-1]] if len(groups) > 2 else ["Overall"]
    return {
        "lams": list(LAMS),
        "figure": charts.accuracy_curve(report.recipes, shown).to_plotly_json(),
        "report": report.to_json(),
        "rows": [
            {
                "place": place,
                "where": row.where,
                "domain": str(row.data.get("domain", "")),
                "prompt": _snippet(row),
                "margins": [own[place][0] - own[place][1] for own in rewards],
            }
            for place, row in enumerate(tokens.rows)
            if place not in tokens.skipped
        ],
        "skipped": list(tokens.skipped.values()),
    }


def _snippet(row: Row) -> str:
    prompt = row.prompt if isinstance(row.prompt, str) else row.prompt[-1]["content"]
    return prompt if len(prompt) <= SHOWN else prompt[: SHOWN - 1] + "…"
