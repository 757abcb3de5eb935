"""What the page's events compute: one frame per answer, and the typed endpoints.

Everything comes from the request: widgets in, one JSON-ready frame out. Nothing of a
visitor is kept on the server.
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr

from dogerm import charts
from dogerm.engine import Engine
from dogerm.errors import DogermError, InputError
from dogerm.merge import options_of
from dogerm.scoring import rewards, tokenise
from dogerm.sweep import Curve, curve, grow
from dogerm.ui.controls import Request
from dogerm.ui.studio import Studio

MAX_RESPONSES = 8
MAX_CHARACTERS = 200_000  # of one visitor's text; the model's own limit is far below
SECONDS_BETWEEN_FRAMES = 0.25  # a growing curve is drawn no faster than this
# Every event that reaches the engine waits in one line.
ENGINE: Mapping[str, Any] = {"concurrency_id": "engine", "concurrency_limit": 1}
# Long ones have a line of their own, and leave the engine to others between two recipes.
LONG: Mapping[str, Any] = {"concurrency_id": "long", "concurrency_limit": 1}
# Events that are the page's own business.
QUIET: Mapping[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


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


def compare(engine: Engine, asked: Request) -> dict[str, Any]:
    """Rewards of the plain reward model and of the recipe, exact, with what names them."""
    check_responses(asked.responses)
    recipe = asked.recipe
    tokens = tokenise(engine, asked.prompt, asked.responses)
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
        "done": False,
    }


def curve_parts(found: Curve, lam: float) -> dict[str, Any]:
    """A curve's numbers, for the page to interpolate, and its figures, for it to draw."""
    return {
        "curve": found.to_json(),
        "figures": {
            "raw": charts.reward_curve(found, lam).to_plotly_json(),
            "centred": charts.reward_curve(found, lam, centred=True).to_plotly_json(),
        },
    }


def check_responses(responses: Sequence[str]) -> None:
    if not 2 <= len(responses) <= MAX_RESPONSES:
        raise InputError(
            f"a comparison takes 2 to {MAX_RESPONSES} responses, got {len(responses)}."
        )
    if sum(len(text) for text in responses if isinstance(text, str)) > MAX_CHARACTERS:
        raise InputError(
            f"the responses have more than {MAX_CHARACTERS:,} characters together. "
            "Shorten them."
        )


def endpoints(studio: Studio) -> None:
    """The page's typed API, for gradio_client: /score and /curve."""

    def score(
        instruction: str,
        responses: list[str],
        lam: float,
        shares: dict[str, float],
        method: str = "linear",
        options: dict[str, float] | None = None,
    ) -> dict[str, Any]:
        """Rewards of each response from the plain reward model and from DogeRM at λ."""
        with errors_for_people():
            recipe = studio.family.recipe(
                lam, _shares(shares), method, _options(options)
            )
            frame = compare(studio.engine, Request(recipe, instruction, responses))
            return {
                "base": frame["base"],
                "merged": frame["merged"],
                "recipe": recipe.to_json(),
                "formula": recipe.formula,
            }

    def curve_(
        instruction: str,
        responses: list[str],
        shares: dict[str, float],
        lams: list[float] | None = None,
        method: str = "linear",
        options: dict[str, float] | None = None,
    ) -> dict[str, Any]:
        """Rewards of each response at every λ, and where the top response changes."""
        with errors_for_people():
            check_responses(responses)
            found = curve(
                studio.engine,
                instruction,
                responses,
                _shares(shares),
                lams,
                method,
                _options(options),
            )
            return found.to_json()

    gr.api(score, api_name="score", **ENGINE)
    gr.api(curve_, api_name="curve", **ENGINE)


def _shares(shares: Mapping[str, float] | None) -> Mapping[str, float] | None:
    """The family's default when none are given; {} and None both mean none."""
    if shares is not None and not isinstance(shares, Mapping):
        raise InputError("shares must be a mapping like {'math': 1, 'code': 0.5}.")
    return shares or None


def _options(options: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The method's defaults when none are given."""
    if options is not None and not isinstance(options, Mapping):
        raise InputError("options must be a mapping like {'density': 0.5}.")
    return options or {}
