"""Recorded curves as the page shows them: an example's own before any is computed, or a file's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dogerm.engine import Engine
from dogerm.errors import RecordingError
from dogerm.family import Example
from dogerm.provenance import models_of
from dogerm.recording import LARGEST, Take, read_text
from dogerm.ui.playground import curve_parts


def shipped(engine: Engine, example: Example) -> Take | None:
    """The example's recorded curve, if there is one of the very weights that are live.

    Reads every file of the models once, to hash it, if the family has a recording at all.
    """
    file = engine.family.recording
    if file is None or not file.is_file():
        return None
    try:
        takes = read_text(file.read_text("utf-8"), file.name)
    except (RecordingError, OSError, UnicodeDecodeError):
        return (
            None  # it is of another version: computing shows the same, a little later
        )
    recipe = engine.family.recipe(example.lam, example.shares)
    wanted = (example.prompt, example.responses, recipe)
    for take in takes:
        if (take.prompt, take.responses, take.recipe) == wanted:
            return take if take.made.models == models_of(engine) else None
    return None


def read_file(path: str | Path) -> list[Take]:
    """The takes of a visitor's file.

    Raises:
        RecordingError: it is no recording, or cannot be shown.
    """
    path = Path(path)
    if path.stat().st_size > 4 * LARGEST:  # bytes of a character
        raise RecordingError(f"{path.name} is too large for a recording.")
    try:
        return read_text(path.read_text("utf-8-sig"), path.name)
    except UnicodeDecodeError:
        raise RecordingError(
            f"{path.name} is no recording: it is not UTF-8 text."
        ) from None


def frame(take: Take) -> dict[str, Any]:
    """A take as what `playground.frames` yields, marked as recorded."""
    recipe, points = take.recipe, take.points
    return {
        "lam": recipe.lam,
        "base": points[0.0],
        "merged": points.get(recipe.lam),
        "formula": recipe.formula,
        "prompt": take.prompt,
        "texts": list(take.responses),
        "shares": dict(recipe.shares),
        "method": recipe.method,
        "options": dict(recipe.options),
        "done": True,
        "points": {"lams": list(points), "rewards": list(points.values())},
        "recorded": True,
        "made": take.made.to_json(),
    } | curve_parts(take.curve, recipe.lam)
