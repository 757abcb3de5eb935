"""Recipe: the merge that is set, to copy: a link, the command, Python, mergekit's YAML."""

from __future__ import annotations

import os
from typing import Any

import gradio as gr

from dogerm.errors import DogermError
from dogerm.mergekit import to_yaml
from dogerm.ui.controls import Controls
from dogerm.ui.playground import QUIET, errors_for_people
from dogerm.written import as_command, as_python, is_shipped

# A Space's page lies in a frame; a link to it is to the page around.
SPACE = os.environ.get("SPACE_ID", "")
SHELL = f"""
<section id="recipe" data-space="{SPACE}">
  <p class="lead">The merge that is set above, to take away. The link restores it together
    with the instruction and the responses; all of that is in the link itself.</p>
  <div id="recipe-forms"></div>
</section>"""


def build(controls: Controls, public: bool) -> None:
    with gr.Tab("Recipe", id="recipe") as tab:
        gr.HTML(SHELL, padding=False)
        forms = gr.JSON(visible="hidden", elem_id="recipe-frame")
        again = gr.Button("Write again", visible="hidden", elem_id="recipe-again")

    def write(*values: Any) -> dict[str, str]:
        with errors_for_people():
            recipe = controls.request(values).recipe
            family = controls.studio.family
            if not is_shipped(family):  # one that is goes by its name
                family = controls.limits.told(family)
            forms = {
                "Command": as_command(family, recipe),
                "Python": as_python(family, recipe),
            }
            if public:  # mergekit's form names the folders of this machine
                return forms
            try:
                return forms | {"mergekit": to_yaml(family, recipe)}
            except DogermError as error:
                return forms | {"mergekit": f"# {error}"}

    for event in (tab.select, again.click):
        event(write, controls.inputs, forms, trigger_mode="always_last", **QUIET)
    forms.change(None, [forms], None, js="forms => dogerm.recipe(forms)")
