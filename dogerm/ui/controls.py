"""What a visitor has set: the widgets that every event sends along, and the request they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from dogerm.recipe import Recipe
from dogerm.ui import options
from dogerm.ui.limits import Limits
from dogerm.ui.studio import Studio


@dataclass(frozen=True)
class Request:
    """What is asked of the engine, whole: no visitor's state is kept on the server."""

    recipe: Recipe
    prompt: str
    responses: list[str]


@dataclass(frozen=True)
class Controls:
    """The widgets of the playground. A panel reads them, and may set them.

    Args:
        count: how many of the response boxes are shown.
        shares: a slider per domain; those beyond the family's domains are hidden.
        options: a widget per name of a method's option; only the chosen method's are shown.
        limits: what one visitor may ask for.
    """

    studio: Studio
    lam: gr.Slider
    method: gr.Dropdown
    shares: Sequence[gr.Slider]
    instruction: gr.Textbox
    count: gr.State
    boxes: Sequence[gr.Textbox]
    options: options.Widgets
    limits: Limits

    @property
    def inputs(self) -> list[gr.components.Component]:
        """What an event takes as inputs, for `request` to read."""
        settings = [self.lam, self.method, *self.shares]
        texts = [self.instruction, self.count, *self.boxes]
        return [*settings, *self.options.values(), *texts]

    def request(self, values: Sequence[Any]) -> Request:
        """The request that the values of `inputs` stand for.

        Raises:
            RecipeError: they name no recipe of the live family.
            InputError: there is more text than the page takes.
        """
        lam, method, *rest = values
        shares, rest = rest[: len(self.shares)], rest[len(self.shares) :]
        set_to, rest = rest[: len(self.options)], rest[len(self.options) :]
        prompt, count, *texts = rest
        family = self.studio.family
        recipe = family.recipe(
            lam,
            dict(zip(family.lms, shares)),
            method,
            options.given(method, list(self.options), set_to),
        )
        # A box that was never shown arrives as None.
        prompt, responses = prompt or "", [text or "" for text in texts[: int(count)]]
        self.limits.check_texts(prompt, responses)
        return Request(recipe, prompt, responses)
