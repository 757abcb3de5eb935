"""The page's widgets and events. Widgets in, a library call, a frame out; no formulas here."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dogerm.engine import Engine
from dogerm.errors import DeviceError, DogermError
from dogerm.quantised import Quantised
from dogerm.scoring import letter
from dogerm.ui import (
    api,
    benchmarks,
    domain_map,
    export,
    layer_scan,
    options,
    pairs,
    paper,
    pins,
    recipe,
    recordings,
    story,
    tokens,
)
from dogerm.ui.controls import Controls
from dogerm.ui.guard import Page
from dogerm.ui.limits import LOCAL, MAX_RESPONSES, PUBLIC
from dogerm.ui.link import read_link, read_setting
from dogerm.ui.playground import (
    ENGINE,
    QUIET,
    capitalised,
    compare,
    errors_for_people,
    frames,
)
from dogerm.ui.studio import MAX_DOMAINS, Example, Studio

PAPER = "https://arxiv.org/abs/2407.01470"
LANGUAGES = {"en": "EN", "zh-Hant": "繁體中文"}
SHOW = "frame => dogerm.show(frame)"
# The tabs below the playground, in their order: each is build(controls, public) in a
# file of its own.
PANELS: tuple[Callable[[Controls, bool], None], ...] = (
    recipe.build,
    pins.build,
    tokens.build,
    domain_map.build,
    layer_scan.build,
    pairs.build,
    benchmarks.build,
    paper.build,
    export.build,
)


def build(studio: Studio, public: bool = False, mcp: bool = False) -> gr.Blocks:
    """The page over a live model.

    Args:
        public: for strangers: within the limits PUBLIC, and no model panel: what one
            applies all would see, so the family is the one the page was started with.
        mcp: the endpoints are tools for agents as well, and the page says so.
    """
    first, limits = studio.examples[0], PUBLIC if public else LOCAL
    kept = limits.kept_seconds
    with Page(
        title="DogeRM Studio",
        fill_width=True,
        delete_cache=(kept, kept) if kept else None,
    ) as page:
        header = gr.HTML(_header(studio), elem_id="header", padding=False)

        with gr.Row(elem_id="lambda-row"):
            lam = gr.Slider(
                0,
                1,
                studio.family.lam if first.lam is None else first.lam,
                step=0.01,
                label="λ",
                info="how far the reward model moves towards the domain models",
                elem_id="lam",
            )
            gr.HTML('<p id="formula"></p>', elem_id="formula-block", padding=False)
            method = gr.Dropdown(
                studio.methods(), label="Method", elem_id="method", min_width=150
            )
            reset = gr.Button("Reset", size="sm", elem_id="reset", min_width=60)

        gr.HTML('<div id="replay" role="status"></div>', padding=False)
        strip = gr.HTML(pins.strip(studio), elem_id="strip-block", padding=False)

        with gr.Row(elem_id="options"):
            settings = options.widgets()

        with gr.Row(elem_id="studio"):
            with gr.Column(scale=5, min_width=340, elem_id="inputs"):
                with gr.Row(elem_id="weights"):
                    sliders = [
                        gr.Slider(
                            0,
                            1,
                            domain["value"],
                            step=0.01,
                            label=domain["label"],
                            visible=domain["visible"],
                            elem_id=f"share-{i}",
                            elem_classes="share",
                        )
                        for i, domain in enumerate(_domains(studio, first))
                    ]
                gr.HTML('<div id="replay-texts"></div>', padding=False)
                chips = gr.Radio(
                    _titles(studio),
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
                results = gr.HTML(_results(studio), padding=False)
                gr.Plot(_empty_figure(), show_label=False, elem_id="plot")

        controls = Controls(
            studio, lam, method, sliders, instruction, count, boxes, settings, limits
        )
        if PANELS:  # Gradio's page fails on a row of no tabs
            with gr.Tabs(elem_id="panels"):
                for panel in PANELS:
                    panel(controls, public)
        if not public:
            model = _model_panel(studio)
        api.build(studio, limits, mcp)
        footer = gr.HTML(_footer(studio.engine), elem_id="about", padding=False)
        frame = gr.JSON(visible="hidden", elem_id="frame")
        wanted = gr.JSON(visible="hidden")  # a setting to go back to
        back = gr.Button("Go back", visible="hidden", elem_id="back")
        pinned = gr.JSON(visible="hidden")  # what a link pins
        pins.scored(controls)

        def at_lam(*values: Any) -> dict[str, Any]:
            with errors_for_people():
                return compare(studio.engine, controls.request(values)) | {
                    "alone": True
                }

        def whole(*values: Any) -> Iterator[dict[str, Any]]:
            with errors_for_people():
                yield from frames(studio.engine, controls.request(values))

        def set_to(chosen: Example) -> list[Any]:
            """The controls, as an example or a link wants them."""
            return [
                studio.family.lam if chosen.lam is None else chosen.lam,
                gr.Dropdown(choices=studio.methods(), value=chosen.method),
                *(gr.Slider(**domain) for domain in _domains(studio, chosen)),
                *options.shown(chosen.method, settings, chosen.options),
                chosen.prompt,
                len(chosen.responses),
                *(
                    gr.Textbox(text, visible=i < len(chosen.responses))
                    for i, text in enumerate(_filled(chosen.responses))
                ),
            ]

        story.build(controls)

        def example(index: int | None) -> list[Any]:
            return set_to(studio.examples[int(index or 0)])

        def go_back(setting: Any) -> list[Any]:
            with errors_for_people():
                return set_to(read_setting(setting, studio, limits))

        def arrive(request: gr.Request) -> list[Any]:
            """The page as the live model has it, which may not be the one it was built with."""
            start, chip = studio.examples[0], 0
            if link := request.query_params.get("s"):
                try:
                    start, chip = read_link(link, studio, limits), None
                except DogermError as error:
                    gr.Warning(html.escape(capitalised(error)))
            return [
                _header(studio),
                _footer(studio.engine),
                pins.strip(studio),
                list(start.pins),
                gr.Radio(choices=_titles(studio), value=chip),
                *set_to(start),
                *([] if public else [studio.source, *_held(studio)]),
            ]

        def resize(count: int, by: int) -> list[Any]:
            count = min(MAX_RESPONSES, max(2, count + by))
            shown = [gr.Textbox(visible=i < count) for i in range(MAX_RESPONSES)]
            return [count, *shown]

        everything = {
            "inputs": controls.inputs,
            "outputs": frame,
            **QUIET,
            **ENGINE,
        }

        # Dragging is answered in the page (page.js); letting go merges.
        lam.release(at_lam, trigger_mode="always_last", **everything)
        shown = [] if public else [model.family, model.in_8bit, model.in_4bit]
        arrived = page.load(
            arrive,
            None,
            [header, footer, strip, pinned, chips, *controls.inputs, *shown],
            **QUIET,
        )
        pinned.change(None, [pinned], None, js="pins => dogerm.takePins(pins)")
        set_up = method.input(
            lambda name: options.shown(name, settings),
            method,
            list(settings.values()),
            **QUIET,
        )
        runs = [
            set_up.then(whole, **everything),
            arrived.then(whole, **everything),
            run.click(whole, **everything),
        ]
        for widget in (*sliders, *settings.values()):
            event = widget.release if isinstance(widget, gr.Slider) else widget.submit
            runs.append(event(whole, trigger_mode="always_last", **everything))
        chosen = chips.input(example, chips, controls.inputs, **QUIET)
        runs.append(chosen.then(whole, **everything))
        returned = reset.click(example, chips, controls.inputs, **QUIET)
        runs.append(returned.then(whole, **everything))
        gone_back = back.click(
            go_back,
            wanted,
            controls.inputs,
            js="() => [dogerm.wanted]",
            trigger_mode="always_last",
            **QUIET,
        )
        runs.append(gone_back.success(whole, **everything))
        frame.change(None, [frame], None, js=SHOW)
        for button, by in ((more, 1), (fewer, -1)):
            button.click(
                lambda count, by=by: resize(count, by), count, [count, *boxes], **QUIET
            )
        stop.click(None, None, None, cancels=runs, js="() => dogerm.stop()")
        if not public:

            def at_first() -> None:
                """What the page is sent with, for the model that is live now."""
                header.value, results.value = _header(studio), _results(studio)
                page.config = page.get_config_file()

            _model_events(studio, model, at_first)
    return page


def _domains(studio: Studio, example: Example) -> list[dict[str, Any]]:
    """Settings of every domain slider; those beyond the family's domains are hidden."""
    shares = example.shares or {}  # the sliders as they stood need not sum to 1
    if not shares or max(shares.values()) > 1:
        shares = studio.family.recipe(1, example.shares).shares
    names = list(studio.family.lms)
    spare = [""] * (MAX_DOMAINS - len(names))
    return [
        {
            "value": round(shares.get(name, 0.0), 2),
            "label": name,
            "visible": bool(name),
        }
        for name in (*names, *spare)
    ]


def _titles(studio: Studio) -> list[tuple[str, int]]:
    return [(example.title, i) for i, example in enumerate(studio.examples)]


@dataclass(frozen=True)
class _Model:
    """The model panel's widgets."""

    family: gr.Dropdown
    dtype: gr.Dropdown
    in_8bit: gr.Checkbox
    in_4bit: gr.Checkbox
    device: gr.Dropdown
    plan: gr.HTML
    apply: gr.Button

    @property
    def choice(self) -> list[gr.components.Component]:
        """What `_chosen` takes."""
        return [self.family, self.dtype, self.in_8bit, self.in_4bit, self.device]


def _model_panel(studio: Studio) -> _Model:
    """Which model is live: a family, its precision and device, with the memory plan before it loads."""
    choices = studio.choices()
    with gr.Accordion("Model", open=False, elem_id="model"):
        with gr.Row():
            family = gr.Dropdown(
                choices["family"],
                value=studio.source,
                label="Family",
                elem_id="model-family",
            )
            dtype = gr.Dropdown(choices["dtype"], label="Precision", min_width=110)
            device = gr.Dropdown(choices["device"], label="Device", min_width=90)
            eight, four = _held(studio)
            with gr.Column(elem_id="quantised", min_width=180):
                in_8bit = gr.Checkbox(
                    eight, label="8-bit, for smaller GPUs", elem_id="in-8bit"
                )
                in_4bit = gr.Checkbox(
                    four, label="4-bit, smaller still", elem_id="in-4bit"
                )
            apply = gr.Button("Apply", elem_id="apply", min_width=90)
        plan = gr.HTML(elem_id="plan", padding=False)
    return _Model(family, dtype, in_8bit, in_4bit, device, plan, apply)


def _held(studio: Studio) -> list[bool]:
    """Whether the live weights are in 8 bits, and whether in 4."""
    return [studio.engine.plan.quantised == held for held in ("int8", "nf4")]


def _chosen(
    family: str, dtype: str, in_8bit: bool, in_4bit: bool, device: str
) -> tuple[str, str, Quantised | None, str]:
    """What the model panel's widgets say, as `Studio.load` takes it."""
    if in_8bit and in_4bit:
        raise DeviceError("choose 8-bit or 4-bit, not both.")
    held = "int8" if in_8bit else "nf4" if in_4bit else None
    return family, dtype, held, device


def _model_events(studio: Studio, model: _Model, on_loaded: Callable[[], None]) -> None:
    def preview(*choice: Any) -> str:
        with errors_for_people():
            return studio.preview(*_chosen(*choice))

    def load(*choice: Any) -> None:
        with errors_for_people():
            studio.load(*_chosen(*choice))
            on_loaded()

    events = [widget.input for widget in (model.family, model.dtype, model.device)]
    eight, four = model.in_8bit, model.in_4bit
    for ticked, other in ((eight, four), (four, eight)):
        # Weights are held in one way: ticking one box clears the other.
        cleared = ticked.input(
            None, [ticked, other], other, js="(on, other) => !on && other", **QUIET
        )
        events.append(cleared.then)
    for event in events:
        event(preview, model.choice, model.plan, **QUIET)
    loaded = model.apply.click(
        load,
        model.choice,
        None,
        show_progress_on=model.plan,
        api_visibility="private",
        **ENGINE,
    )
    # The page is made for the families' own domains and examples: fetch it anew.
    loaded.success(None, None, None, js="() => location.reload()")


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


def _header(studio: Studio) -> str:
    engine = studio.engine
    family = html.escape(engine.family.title or engine.family.name)
    size = (
        f"{engine.size / 1e9:.1f}B"
        if engine.size > 1e9
        else f"{engine.size / 1e6:.1f}M"
    )
    status = " · ".join(
        [family, f"{size} parameters", engine.plan.device, engine.dtype, "live"]
    )
    agrees = f'<p id="agreement">{studio.agreement}.</p>' if studio.agreement else ""
    languages = "".join(
        f'<button lang="{code}" data-language="{code}" aria-pressed="{str(code == "en").lower()}">'
        f"{name}</button>"
        for code, name in LANGUAGES.items()
    )
    return f"""
    <header>
      <a class="skip" href="#panels">Skip to the panels</a>
      <h1>DogeRM Studio</h1>
      <p class="what">A reward model learns a domain by merging weights.
        <a href="{PAPER}" target="_blank" rel="noopener">The paper</a></p>
      <p><button type="button" class="story-open-button">Tell it as a story</button></p>
      <p class="status" id="status">{status}</p>
      <p class="languages" role="group" aria-label="Language" translate="no">{languages}</p>
      <p class="tools">
        <button type="button" id="projector" aria-pressed="false"
          aria-label="Projector size" title="Larger type, for a room (key p)">A+</button>
        <button type="button" id="dark" aria-pressed="false"
          aria-label="Dark" title="Dark or light (key d)"></button>
        <button type="button" id="keys" aria-label="Keys"
          title="What the keys do (key ?)">?</button>
      </p>
      {agrees}
    </header>"""


def _results(studio: Studio) -> str:
    """What the page draws into. It brings the first example's recorded curve, if there is one."""
    take = recordings.shipped(studio.engine, studio.examples[0])
    recorded = html.escape(json.dumps(recordings.frame(take))) if take else ""
    return f"""
    <section id="dogerm-results" data-state="waiting" data-recorded="{recorded}">
      <div id="said" role="status" aria-live="polite">
        <p id="verdict">Merging…</p>
        <p id="recorded"></p>
        <p class="under"><span id="flips"></span> <span id="stale"></span></p>
        <p class="under" id="preference"></p>
        <p id="pin-verdict" hidden></p>
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
        <label><input type="radio" name="dogerm-view" value="margin"> margin</label>
        <span class="hint">All rewards drift together as λ moves; only their differences
          mean something, so centred subtracts their mean.</span>
        <span class="hint" hidden>Above zero the named response leads, below it another does;
          each point bears the marker of the one that leads.</span>
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
