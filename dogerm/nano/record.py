"""The embedded family's worked examples as recorded curves, which the page shows at first."""

from __future__ import annotations

from pathlib import Path

from dogerm.engine import Engine
from dogerm.errors import FamilyError
from dogerm.family import Family, read_examples
from dogerm.provenance import made_on
from dogerm.recording import Take, to_text
from dogerm.store import replacing
from dogerm.sweep import curve


def record(family: Family) -> Path:
    """Measure every example's curve on the CPU in float32 and write them beside the examples.

    Raises:
        FamilyError: it has no examples.
    """
    if family.recording is None:
        raise FamilyError(f"the family {family.name!r} has no examples to record.")
    engine = Engine.load(family, "cpu", "float32")
    made = made_on(engine, with_models=True)
    takes = []
    for one in read_examples(family):
        found = curve(engine, one.prompt, one.responses, one.shares)
        recipe = family.recipe(one.lam, one.shares)
        takes.append(Take(one.prompt, one.responses, recipe, found, made))
    with replacing(family.recording) as file:
        file.write(to_text(takes))
    return family.recording
