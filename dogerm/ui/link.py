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


def read_link(text: str, studio: Studio, limits: Limits) -> Example:
    """What a link holds, as an example: base64url of JSON with the keys of `Example`.

    Raises:
        InputError, RecipeError: it is damaged, or asks for what the live family is not.
    """
    data = _decoded(text)
    try:
        family = studio.family
        shares = {str(name): float(share) for name, share in data["shares"].items()}
        given = {str(name): float(value) for name, value in data["options"].items()}
        recipe = family.recipe(data["lam"], shares, str(data["method"]), given)
        check_method(recipe, parent=recipe.method in studio.methods())
        prompt, responses = data["prompt"], data["responses"]
        if not isinstance(responses, list):
            raise InputError("its responses are no list.")
        limits.check_texts(prompt, responses)
        check_text(prompt, "the instruction")
        for index, response in enumerate(responses):
            check_text(response, f"response {letter(index)}")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise InputError("the link lacks a part, or one is not of its kind.") from None
    except DogermError as error:
        raise InputError(f"the link cannot be followed: {error}") from None
    return Example(
        "", prompt, tuple(responses), shares, recipe.lam, recipe.method, given
    )


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
