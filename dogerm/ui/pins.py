"""Compare: settings that a visitor pinned, beside the present one, and what was tried before.

Pins and history live in the browser alone (pins.js); the server only scores a pin on the
texts that are sent along with it.
"""

from __future__ import annotations

import html
import json
from typing import Any

import gradio as gr

from dogerm.scoring import rewards, tokenise
from dogerm.ui.controls import Controls
from dogerm.ui.link import MAX_PINS, read_pins
from dogerm.ui.playground import (
    ENGINE,
    QUIET,
    errors_for_people,
)
from dogerm.ui.studio import Studio

SHELL = """
<section id="compare">
  <p class="lead">Pin a setting above and move on: the cards and the chart then show it beside
    the present one. Pins follow the text; they and the history stay in this browser tab.</p>
  <div id="compare-table" class="scroll" tabindex="0" role="region" aria-label="Settings compared"></div>
  <h3>Tried so far</h3>
  <p class="lead">The last settings that were merged, the newest first, each with the text it
    was tried on. Return brings both back.</p>
  <div id="history" class="scroll" tabindex="0" role="region" aria-label="Settings tried so far"></div>
</section>"""


def strip(studio: Studio) -> str:
    """The family's presets and the visitor's pins, a line under λ."""
    presets = [
        {
            "name": setting.name,
            "lam": setting.recipe.lam,
            "shares": dict(setting.recipe.shares),
        }
        for setting in studio.family.settings()
    ]
    engine = studio.engine
    # What the browser keeps is of one model; another begins anew.
    model = [engine.family.name, engine.dtype]
    return f"""
    <div id="strip" data-presets="{html.escape(json.dumps(presets))}"
      data-model="{html.escape(json.dumps(model))}" data-most="{MAX_PINS}">
      <div id="presets" role="group" aria-label="Presets"></div>
      <div id="pins" role="group" aria-label="Pinned settings"></div>
    </div>"""


def build(controls: Controls, public: bool) -> None:
    with gr.Tab("Compare", id="compare"):
        gr.HTML(SHELL, padding=False)


def scored(controls: Controls) -> None:
    """Scores pins on the texts of the moment. Not in the tab: Gradio makes a tab's inside late."""
    settings = gr.JSON(visible="hidden")
    judged = gr.JSON(visible="hidden")
    again = gr.Button("Score the pins", visible="hidden", elem_id="pins-score")

    def judge_pins(wanted: Any, *values: Any) -> dict[str, Any]:
        with errors_for_people():
            asked = controls.request(values)
            engine = controls.studio.engine
            pins = [
                engine.family.recipe(**pin)
                for pin in read_pins(wanted, controls.studio)
            ]
            tokens = tokenise(engine, asked.prompt, asked.responses)
            return {
                "prompt": asked.prompt,
                "texts": asked.responses,
                "pins": wanted,
                "rewards": [rewards(engine, pin, [tokens])[0] for pin in pins],
            }

    again.click(
        judge_pins,
        [settings, *controls.inputs],
        judged,
        js="(_, ...rest) => [dogerm.pinsToScore(), ...rest]",
        trigger_mode="always_last",
        **QUIET,
        **ENGINE,
    )
    judged.change(None, [judged], None, js="found => dogerm.pinsScored(found)")
