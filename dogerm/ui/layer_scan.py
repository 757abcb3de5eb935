"""Layer scan: where in the model does the knowledge sit that moves a margin?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import gradio as gr

from dogerm import charts
from dogerm.merge import options_of
from dogerm.scan import Scan, walk
from dogerm.scoring import letter
from dogerm.ui.controls import Controls
from dogerm.ui.playground import LONG, QUIET, errors_for_people

SHELL = """
<section id="layers">
  <p class="lead">The margin of one response over another when only some neighbouring layers
    are merged, window by window from the embeddings to the last layer: where does what
    moves it sit? Bars stand on the base RM's margin; a solid one flips the order.</p>
  <p id="layers-state" role="status" aria-live="polite"></p>
  <div id="layers-pairs" role="radiogroup" aria-label="Which two responses"></div>
</section>"""


def build(controls: Controls, public: bool) -> None:
    with gr.Tab("Layers", id="layers"):
        gr.HTML(SHELL, padding=False)
        with gr.Row(elem_id="layers-actions"):
            window = gr.Number(
                1,
                label="Layers at a time",
                minimum=1,
                precision=0,
                elem_id="layers-window",
                min_width=130,
            )
            draw = gr.Button(
                "Scan the layers", elem_id="layers-draw", variant="primary"
            )
            stop = gr.Button("Stop", elem_id="layers-stop")
        gr.HTML('<div id="layers-plot"></div>', padding=False)
        found = gr.JSON(visible="hidden", elem_id="layers-frame")

    def scan_layers(window: int | None, *values: Any) -> Iterator[dict[str, Any]]:
        with errors_for_people():
            asked = controls.request(values)
            engine = controls.studio.engine
            for done, total, scan in walk(
                engine, asked.prompt, asked.responses, asked.recipe, window or 1
            ):
                frame = {"done": done, "total": total}
                if scan:
                    frame |= {
                        "texts": asked.responses,
                        "prompt": asked.prompt,
                        "recipe": asked.recipe.to_json()
                        | {"options": options_of(asked.recipe)},
                    } | _profiles(scan)
                yield frame

    running = draw.click(
        scan_layers, [window, *controls.inputs], found, **QUIET, **LONG
    )
    stop.click(
        None, None, None, cancels=running, js="() => dogerm.layers({stopped: true})"
    )
    found.change(None, [found], None, js="found => dogerm.layers(found)")


def _profiles(scan: Scan) -> dict[str, Any]:
    """For every two responses, the one the whole merge rewards more first: figure and the widest spot.

    The first pair is what the merge is about: its favourite and that one's rival.
    """
    contest = scan.contest
    pairs = [
        (a, b) if scan.merged[a] >= scan.merged[b] else (b, a)
        for a, b in itertools.combinations(range(len(scan.base)), 2)
    ]
    pairs.sort(key=lambda pair: set(pair) != set(contest))
    found = {}
    for over, under in pairs:
        names = letter(over), letter(under)
        profile = scan.profile(over, under)
        widest = profile.widest
        found["".join(names)] = {
            "figure": charts.layer_profile(profile, *names).to_plotly_json(),
            "spot": profile.names[widest],
            "base": profile.base,
            "margin": profile.margins[widest],
            "flips": bool(profile.flips[widest]),
        }
    return {"profiles": found}
