"""Tokens: the reward after every token of each response, base RM against DogeRM."""

from __future__ import annotations

from typing import Any

import gradio as gr

from dogerm.tokens import read_tokens
from dogerm.ui.controls import Controls
from dogerm.ui.playground import ENGINE, QUIET, errors_for_people

SHELL = """
<section id="tokens">
  <p class="lead">The reward as it would be if the answer stopped after each token.
    <span class="more">DogeRM gives this token more</span> than the base RM does, or
    <span class="less">less</span>. Lines: <b class="base">base RM</b> and
    <b class="merged">DogeRM</b>, each from its own start. A reward model is trained to be
    read at the end only; before it, this is a look inside.</p>
  <p id="parting" role="status" aria-live="polite"></p>
  <div id="readings"></div>
</section>"""


def build(controls: Controls, public: bool) -> None:
    with gr.Tab("Tokens", id="tokens") as tab:
        gr.HTML(SHELL, padding=False)
        readings = gr.JSON(visible="hidden", elem_id="tokens-frame")
        again = gr.Button("Read again", visible="hidden", elem_id="tokens-again")

    def read(*values: Any) -> dict[str, Any]:
        with errors_for_people():
            asked = controls.request(values)
            engine = controls.studio.engine
            found = read_tokens(engine, asked.prompt, asked.responses, asked.recipe)
            return found.to_json()

    # Opening the tab reads; so does a new frame while it is open (tokens.js).
    for event in (tab.select, again.click):
        event(
            read,
            controls.inputs,
            readings,
            trigger_mode="always_last",
            **QUIET,
            **ENGINE,
        )
    readings.change(None, [readings], None, js="found => dogerm.tokens(found)")
