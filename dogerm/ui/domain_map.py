"""Domain map: who wins at which λ and which mix of domains."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import gradio as gr

from dogerm import charts
from dogerm.errors import InputError
from dogerm.scoring import letter
from dogerm.sweep import map_domains
from dogerm.ui.controls import Controls
from dogerm.ui.playground import LONG, QUIET, errors_for_people

SHELL = """
<section id="map">
  <p class="lead">Which of two responses DogeRM puts first, at every λ and every mix of the
    domains: each in its own colour, stronger where the margin is larger; the line is where
    they tie. Click a point to set the sliders to it.</p>
  <p id="map-state" role="status" aria-live="polite"></p>
  <div id="map-pairs" role="radiogroup" aria-label="Which two responses"></div>
</section>"""


def build(controls: Controls, public: bool) -> None:
    with gr.Tab("Domain map", id="map"):
        gr.HTML(SHELL, padding=False)
        with gr.Row(elem_id="map-actions"):
            draw = gr.Button("Draw the map", elem_id="map-draw", variant="primary")
            stop = gr.Button("Stop", elem_id="map-stop")
        gr.HTML('<div id="map-plot"></div>', padding=False)
        found = gr.JSON(visible="hidden", elem_id="map-frame")

    def run(*values: Any) -> Iterator[dict[str, Any]]:
        with errors_for_people():
            asked = controls.request(values)
            engine = controls.studio.engine
            domains = _mixed(engine.family.lms, asked.recipe.shares)
            for done, total, mapped in map_domains(
                engine, asked.prompt, asked.responses, asked.recipe, domains
            ):
                frame = {"done": done, "total": total}
                if mapped:
                    frame |= mapped.to_json() | {
                        "texts": asked.responses,
                        "prompt": asked.prompt,
                        "figures": _figures(mapped, len(asked.responses)),
                    }
                if mapped or done % 10 == 0:
                    yield frame

    running = draw.click(run, controls.inputs, found, **QUIET, **LONG)
    stop.click(
        None, None, None, cancels=running, js="() => dogerm.map({stopped: true})"
    )
    found.change(None, [found], None, js="found => dogerm.map(found)")


def _mixed(lms: Any, shares: Any) -> list[str]:
    """The two or three domains that a map mixes: all of them, or those with a weight."""
    names = list(lms) if len(lms) <= 3 else [name for name in lms if name in shares]
    if len(names) not in (2, 3):
        raise InputError(
            f"a map mixes two or three domains, and {len(names)} of this family have a "
            "weight above 0. Set the weights of two or three."
        )
    return names


def _figures(mapped: Any, responses: int) -> dict[str, Any]:
    """A figure for every two responses, by their letters."""
    return {
        letter(first) + letter(second): charts.domain_map(
            mapped, first, second
        ).to_plotly_json()
        for first, second in itertools.combinations(range(responses), 2)
    }
