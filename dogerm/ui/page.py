"""The page's widgets and events. Widgets in, a library call, a frame out; no formulas here."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dogerm.engine import Engine
from dogerm.errors import FamilyError
from dogerm.scoring import letter
from dogerm.ui.playground import (
    ENGINE,
    MAX_RESPONSES,
    compare,
    endpoints,
    errors_for_people,
    frames,
)

PAPER = "https://arxiv.org/abs/2407.01470"
SHOW = "frame => dogerm.show(frame)"


@dataclass(frozen=True)
class Example:
    """A worked example: what to look for, an instruction and its responses."""

    title: str
    prompt: str
    responses: tuple[str, ...]
    shares: dict[str, float] | None = None
    lam: float | None = None


def read_examples(engine: Engine) -> list[Example]:
    """The family's examples; a plain one for a family that has none."""
    file = engine.family.examples
    if file is None:
        responses = ("A prime has exactly two divisors.", "A prime is an odd number.")
        return [Example("A first pair", "What is a prime number?", responses)]
    try:
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        return [
            Example(
                row["title"],
                row["prompt"],
                tuple(row["responses"]),
                row.get("shares"),
                row.get("lam"),
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FamilyError(
            f"the examples in {file} cannot be read: {error!r}."
        ) from None


def build(engine: Engine) -> gr.Blocks:
    """The page over a live engine."""
    family = engine.family
    examples = read_examples(engine)
    first = examples[0]

    def recipe(lam: float, *shares: float):
        return family.recipe(lam, dict(zip(family.lms, shares)))

    with gr.Blocks(title="DogeRM Studio", fill_width=True) as page:
        gr.HTML(_header(engine), elem_id="header", padding=False)

        with gr.Row(elem_id="lambda-row"):
            lam = gr.Slider(
                0,
                1,
                first.lam if first.lam is not None else family.lam,
                step=0.01,
                label="λ",
                info="how far the reward model moves towards the domain models",
                elem_id="lam",
            )
            gr.HTML('<p id="formula"></p>', elem_id="formula-block", padding=False)
            reset = gr.Button("Reset", size="sm", elem_id="reset", min_width=60)

        with gr.Row(elem_id="studio"):
            with gr.Column(scale=5, min_width=340, elem_id="inputs"):
                with gr.Row(elem_id="weights"):
                    sliders = [
                        gr.Slider(
                            0,
                            1,
                            round(family.recipe(1).shares.get(name, 0.0), 2),
                            step=0.05,
                            label=name,
                            elem_id=f"share-{name}",
                            elem_classes="share",
                        )
                        for name in family.lms
                    ]
                chips = gr.Radio(
                    [(example.title, i) for i, example in enumerate(examples)],
                    value=0,
                    label="Examples",
                    elem_id="examples",
                )
                instruction = gr.Textbox(
                    first.prompt,
                    label="Instruction",
                    lines=1,
                    max_lines=8,
                    elem_id="instruction",
                )
                boxes = [
                    gr.Textbox(
                        text,
                        label=f"Response {letter(i)}",
                        lines=1,
                        max_lines=6,
                        visible=i < len(first.responses),
                        elem_id=f"response-{letter(i)}",
                        elem_classes="response",
                    )
                    for i, text in enumerate(_filled(first.responses))
                ]
                count = gr.State(len(first.responses))
                with gr.Row(elem_id="actions"):
                    run = gr.Button("Score", variant="primary", elem_id="score")
                    stop = gr.Button("Stop", elem_id="stop")
                    more = gr.Button("+ response", elem_id="more")
                    fewer = gr.Button("− response", elem_id="fewer")
            with gr.Column(scale=7, min_width=340, elem_id="results"):
                gr.HTML(_results(), padding=False)
                gr.Plot(_empty_figure(), show_label=False, elem_id="plot")

        gr.HTML(_footer(engine), elem_id="about", padding=False)
        frame = gr.JSON(visible="hidden", elem_id="frame")

        texts = [instruction, count, *boxes]
        settings = [lam, *sliders]

        def at_lam(lam: float, *rest: Any) -> dict[str, Any]:
            shares, prompt, responses = _request(rest, len(sliders))
            with errors_for_people():
                found = compare(engine, prompt, responses, recipe(lam, *shares))
                return found | {"alone": True}

        def whole(lam: float, *rest: Any) -> Iterator[dict[str, Any]]:
            shares, prompt, responses = _request(rest, len(sliders))
            with errors_for_people():
                yield from frames(engine, prompt, responses, recipe(lam, *shares))

        def example(index: int) -> list[Any]:
            chosen = examples[index]
            shares = family.recipe(1, chosen.shares).shares
            return [
                family.lam if chosen.lam is None else chosen.lam,
                *(round(shares.get(name, 0.0), 2) for name in family.lms),
                chosen.prompt,
                len(chosen.responses),
                *(
                    gr.Textbox(text, visible=i < len(chosen.responses))
                    for i, text in enumerate(_filled(chosen.responses))
                ),
            ]

        def resize(count: int, by: int) -> list[Any]:
            count = min(MAX_RESPONSES, max(2, count + by))
            shown = [gr.Textbox(visible=i < count) for i in range(MAX_RESPONSES)]
            return [count, *shown]

        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        everything = {
            "inputs": [*settings, *texts],
            "outputs": frame,
            **quiet,
            **ENGINE,
        }

        # Dragging is answered in the page (page.js); letting go merges.
        lam.release(at_lam, trigger_mode="always_last", **everything)
        runs = [page.load(whole, **everything), run.click(whole, **everything)]
        for slider in sliders:
            runs.append(slider.release(whole, trigger_mode="always_last", **everything))
        chosen = chips.input(example, chips, [*settings, *texts], **quiet)
        runs.append(chosen.then(whole, **everything))
        returned = reset.click(example, chips, [*settings, *texts], **quiet)
        runs.append(returned.then(whole, **everything))
        frame.change(None, [frame], None, js=SHOW)
        for button, by in ((more, 1), (fewer, -1)):
            button.click(
                lambda count, by=by: resize(count, by), count, [count, *boxes], **quiet
            )
        stop.click(None, None, None, cancels=runs, js="() => dogerm.stop()")
        endpoints(engine)
    return page


def _request(rest: tuple[Any, ...], domains: int) -> tuple[Any, str, list[str]]:
    """(shares, instruction, shown responses) from an event's inputs after λ."""
    shares, (prompt, count, *boxes) = rest[:domains], rest[domains:]
    # A box that was never shown arrives as None.
    return shares, prompt or "", [text or "" for text in boxes[: int(count)]]


def _filled(responses: tuple[str, ...]) -> list[str]:
    return [*responses, *[""] * (MAX_RESPONSES - len(responses))]


def _empty_figure():
    """A first plot: it makes Gradio load plotly.js, which the page then draws with."""
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis={"visible": False},
        yaxis={"visible": False},
        height=296,
    )
    return figure


def _header(engine: Engine) -> str:
    family = html.escape(engine.family.title or engine.family.name)
    size = (
        f"{engine.size / 1e9:.1f}B"
        if engine.size > 1e9
        else f"{engine.size / 1e6:.1f}M"
    )
    status = " · ".join(
        [family, f"{size} parameters", str(engine.device), engine.dtype, "live"]
    )
    return f"""
    <header>
      <h1>DogeRM Studio</h1>
      <p class="what">A reward model learns a domain by merging weights.
        <a href="{PAPER}" target="_blank" rel="noopener">The paper</a></p>
      <p class="status" id="status">{status}</p>
    </header>"""


def _results() -> str:
    return """
    <section id="dogerm-results" data-state="waiting">
      <div role="status" aria-live="polite">
        <p id="verdict">Merging…</p>
        <p class="under"><span id="flips"></span> <span id="stale"></span></p>
      </div>
      <div class="columns" aria-hidden="true">
        <span>response</span><span class="base">base RM</span>
        <span class="merged">DogeRM</span><span>Δ</span>
      </div>
      <div id="cards"></div>
      <fieldset class="view">
        <legend>Reward against λ</legend>
        <label><input type="radio" name="dogerm-view" value="centred" checked> centred</label>
        <label><input type="radio" name="dogerm-view" value="raw"> raw</label>
        <span class="hint">All rewards drift together as λ moves; only their differences
          mean something. Centred: minus the mean of the responses at that λ.</span>
      </fieldset>
    </section>"""


def _footer(engine: Engine) -> str:
    note = html.escape(engine.family.note)
    return f"""
    <footer>
      <p><b>θ = (1−λ)·θ<sub>RM</sub> + λ·Σ sᵢ·θᵢ</b>, the reward model's score head kept.
        Every number comes from a model merged when you let go of a slider.</p>
      <p>{note}</p>
    </footer>"""
