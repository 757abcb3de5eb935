"""What the page's events compute: one frame per answer.

Everything comes from the request: widgets in, one JSON-ready frame out. Nothing of a
visitor is kept on the server.
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import gradio as gr

from dogerm import charts
from dogerm.curves import Curve
from dogerm.engine import Engine
from dogerm.errors import DogermError
from dogerm.merge import options_of
from dogerm.provenance import made_on
from dogerm.scoring import rewards, tokenise
from dogerm.sweep import grow
from dogerm.ui.controls import Request

SECONDS_BETWEEN_FRAMES = 0.25  # a growing curve is drawn no faster than this
# Every event that reaches the engine waits in one line.
ENGINE: Mapping[str, Any] = {"concurrency_id": "engine", "concurrency_limit": 1}
# Long ones have a line of their own, and leave the engine to others between two recipes.
LONG: Mapping[str, Any] = {"concurrency_id": "long", "concurrency_limit": 1}
# Events that are the page's own business.
QUIET: Mapping[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

Step = TypeVar("Step")


@contextmanager
def errors_for_people() -> Iterator[None]:
    """A DogermError becomes the page's message, escaped: Gradio shows it as HTML."""
    try:
        yield
    except DogermError as error:
        sentence = html.escape(capitalised(error))
        raise gr.Error(sentence, print_exception=False) from None


def capitalised(error: DogermError) -> str:
    """The error's sentence, as it begins on a page. λ is a symbol and stays small."""
    text = str(error)
    return text if text.startswith("λ") else text[:1].upper() + text[1:]


def frames(engine: Engine, asked: Request) -> Iterator[dict[str, Any]]:
    """What the page shows: first the exact rewards at the recipe, then a growing curve."""
    frame = compare(engine, asked)
    yield frame
    recipe = asked.recipe
    drawn = time.monotonic()
    for found in grow(engine, asked.prompt, asked.responses, recipe):
        done = found.lams[-1] == 1
        if done or time.monotonic() - drawn > SECONDS_BETWEEN_FRAMES:
            drawn = time.monotonic()
            yield frame | {"done": done} | curve_parts(found, recipe.lam)


def paced(steps: Iterable[Step]) -> Iterator[Step]:
    """The steps of long work, without those that come sooner after another than is drawn.

    The last is always among them.
    """
    drawn, held = time.monotonic(), []
    for step in steps:
        held = [step]
        if time.monotonic() - drawn > SECONDS_BETWEEN_FRAMES:
            yield from held
            drawn, held = time.monotonic(), []
    yield from held


def compare(engine: Engine, asked: Request) -> dict[str, Any]:
    """Rewards of the plain reward model and of the recipe, exact, with what names them."""
    recipe = asked.recipe
    tokens = tokenise(engine, asked.prompt, asked.responses)
    with engine.using(recipe.with_lam(0)):  # both in one turn, with one wait for it
        base = rewards(engine, recipe.with_lam(0), [tokens])[0]
        merged = rewards(engine, recipe, [tokens])[0] if recipe.lam else base
    return {
        "lam": recipe.lam,
        "base": base,
        "merged": merged,
        "coefficients": recipe.coefficients,
        "formula": recipe.formula,
        "prompt": asked.prompt,
        "shares": dict(recipe.shares),
        "method": recipe.method,
        "options": options_of(recipe),
        "texts": asked.responses,
        "made": made_on(engine).to_json(),
        "done": False,
    }


def curve_parts(found: Curve, lam: float) -> dict[str, Any]:
    """A curve's numbers, for the page to interpolate, and its figures, for it to draw."""
    return {
        "curve": found.to_json(),
        "figures": {
            "raw": charts.reward_curve(found, lam).to_plotly_json(),
            "centred": charts.reward_curve(found, lam, centred=True).to_plotly_json(),
            "margin": charts.margin_curve(found, lam).to_plotly_json(),
        },
    }
