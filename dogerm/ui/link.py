"""A link that restores the playground: what it holds is the visitor's, and may be anything."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from dogerm.errors import DogermError, InputError
from dogerm.family import Example
from dogerm.merge import check_method
from dogerm.scoring import check_text, letter
from dogerm.ui.limits import Limits
from dogerm.ui.studio import Studio

LONGEST = 200_000  # characters of a link
MAX_PINS = 4


def read_link(text: str, studio: Studio, limits: Limits) -> Example:
    """What a link holds, as an example: base64url of JSON with the keys of `Example`.

    Raises:
        InputError, RecipeError: it is damaged, or asks for what the live family is not.
    """
    data = _decoded(text)
    try:
        return read_setting(data, studio, limits)
    except DogermError as error:
        raise InputError(f"the link cannot be followed: {error}") from None


def read_setting(data: Any, studio: Studio, limits: Limits) -> Example:
    """The same, of the keys themselves: a link's, or those a page kept of what was tried.

    Raises:
        InputError, RecipeError: as `read_link`.
    """
    try:
        setting = _setting(data, studio)
        pins = read_pins(data.get("pins", []), studio)
        prompt, responses = data["prompt"], data["responses"]
        if not isinstance(responses, list):
            raise InputError("its responses are no list.")
        limits.check_texts(prompt, responses)
        check_text(prompt, "the instruction")
        for index, response in enumerate(responses):
            check_text(response, f"response {letter(index)}")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise InputError("a part is missing, or one is not of its kind.") from None
    return Example("", prompt, tuple(responses), **setting, pins=tuple(pins))


def read_pins(data: Any, studio: Studio) -> list[dict[str, Any]]:
    """Settings that a visitor pinned, as `Family.recipe` takes them; at most MAX_PINS.

    Raises:
        InputError, RecipeError: there are more, or one is none of the live family.
    """
    if not isinstance(data, list) or len(data) > MAX_PINS:
        raise InputError(f"the pinned settings are no list of at most {MAX_PINS}.")
    try:
        return [_setting(pin, studio) for pin in data]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise InputError(
            "a pinned setting lacks a part, or one is not of its kind."
        ) from None


def _setting(data: Any, studio: Studio) -> dict[str, Any]:
    """λ, shares, method and options that the live family can be merged with.

    The shares are left as they are, not normalised: the sliders stand where they stood.
    """
    shares = {str(name): float(share) for name, share in data["shares"].items()}
    given = {str(name): float(value) for name, value in data["options"].items()}
    recipe = studio.family.recipe(data["lam"], shares, str(data["method"]), given)
    check_method(recipe, parent=recipe.method in studio.methods())
    return {
        "lam": recipe.lam,
        "shares": shares,
        "method": recipe.method,
        "options": given,
    }


def _decoded(text: str) -> dict[str, Any]:
    if len(text) > LONGEST:
        raise InputError(f"the link has more than {LONGEST:,} characters.")
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        data = json.loads(raw.decode("utf-8"))
    except (binascii.Error, ValueError, RecursionError):
        raise InputError("the link is damaged: it was cut or changed.") from None
    if not isinstance(data, dict):
        raise InputError("the link is damaged: it was cut or changed.")
    return data
