"""Recordings and what else a visitor takes away: number for number, and nothing else read back."""

import json
import subprocess
import sys

import pytest

from dogerm.curves import Curve, Flip
from dogerm.engine import Engine
from dogerm.errors import RecordingError
from dogerm.family import Family, read_examples
from dogerm.provenance import models_of
from dogerm.recipe import Recipe
from dogerm.recording import Made, Take, read_text, to_text
from dogerm.sweep import curve

RECIPE = Recipe(0.53, {"math": 0.7, "code": 0.3}, "dare_ties", {"density": 0.2})
MADE = Made(
    "Tiny 🙂", 12, "cpu", "float32", "2026-11-21T12:00:00+00:00", {"torch": "2"}
)
TAKE = Take(
    "質數?",
    ("七 <b>", "Nine"),
    RECIPE,
    Curve((0.0, 0.5, 1.0), ((1, 2), (0.1, 0.2), (3, 2)), (Flip(0.6, 1, 0),), RECIPE),
    MADE,
    {0.53: (0.123456789012345, 0.2)},
)


def data(**changes) -> dict:
    whole = json.loads(to_text([TAKE]))
    whole["takes"][0] |= changes
    return whole


def test_a_take_is_read_as_it_was_written():
    assert read_text(to_text([TAKE, TAKE]), "x.json") == [TAKE, TAKE]
    assert list(TAKE.points) == [0, 0.5, 0.53, 1]


def test_reading_needs_no_torch():
    code = "import dogerm.recording, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (to_text([TAKE])[:-40], "was cut"),
        ("[1, 2]", "no recording of this page"),
        ('{"benchmark": "pairs"}', "no recording of this page"),
        (json.dumps(data() | {"format": 2}), "another version of dogerm .*is 2, this"),
        (json.dumps(data() | {"format": {"a": 1}}), "another version"),
        (json.dumps(data() | {"takes": []}), "1 to 200 curves"),
        (json.dumps(data() | {"takes": {"a": 1}}), "1 to 200 curves"),
        (json.dumps(data() | {"takes": [None]}), "curve 1 is damaged"),
        (" " * 8_000_001, "8,000,000 characters"),
    ],
)
def test_what_is_no_recording_is_one_sentence(text, words):
    with pytest.raises(RecordingError, match=words) as caught:
        read_text(text, "mine.json")
    assert str(caught.value).startswith("mine.json") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": ["a"]},
        {"prompt": "\ud800"},
        {"responses": ["one"]},
        {"responses": ["a"] * 9},
        {"responses": ["a", "x" * 200_001]},
        {"recipe": None},
        {"recipe": {"lam": 2, "shares": {"math": 1}, "method": "linear"}},
        {"recipe": {"lam": 0.5, "shares": [], "method": "linear"}},
        {"recipe": {"lam": 0.5, "shares": {"math": 1}, "method": ["x"]}},
        {"curve": {"lams": [0, 1], "rewards": [[1, 2]], "flips": []}},
        {
            "curve": {
                "lams": [0, 1],
                "rewards": [[1, 2], [1, float("nan")]],
                "flips": [],
            }
        },
        {"curve": {"lams": [0, 1], "rewards": [[1, 2], [1, 10**400]], "flips": []}},
        {"curve": {"lams": [0, 0.5], "rewards": [[1, 2], [1, 2]], "flips": []}},
        {"curve": {"lams": [1, 0], "rewards": [[1, 2], [1, 2]], "flips": []}},
        {"curve": {"lams": [0, 1], "rewards": [[1, 2], [1, True]], "flips": []}},
        {
            "curve": {
                "lams": [0, 1],
                "rewards": [[1, 2], [1, 2]],
                "flips": [{"lam": 0.5, "before": 0, "after": 7}],
            }
        },
        {"measured": [{"lam": "0.5", "rewards": [1, 2]}]},
        {"measured": {"lam": 1}},
        {"made": {}},
        {"made": MADE.to_json() | {"date": "yesterday"}},
        {"made": MADE.to_json() | {"device": "x" * 201}},
        {"made": MADE.to_json() | {"models": {"rm": {"source": "x", "files": [1]}}}},
    ],
    ids=lambda changes: json.dumps(changes)[:60],
)
def test_a_damaged_take_is_named(changes):
    with pytest.raises(
        RecordingError, match="mine.json, curve 1 is damaged: "
    ) as caught:
        read_text(json.dumps(data(**changes)), "mine.json")
    assert len(str(caught.value)) < 400


@pytest.fixture(scope="module")
def nano() -> Engine:
    return Engine.load(Family.load("nano"), "cpu", "float32")


def test_the_shipped_recording_is_of_the_shipped_weights_and_examples(nano):
    """If this fails, run `python -m dogerm nano record`."""
    file = nano.family.recording
    assert file.stat().st_size < 200_000
    takes = read_text(file.read_text("utf-8"), file.name)
    examples = read_examples(nano.family)
    assert len(takes) == len(examples)
    for take, example in zip(takes, examples):
        assert (take.prompt, take.responses) == (example.prompt, example.responses)
        assert take.recipe == nano.family.recipe(example.lam, example.shares)
        assert take.made.models == models_of(nano)
    for take in (takes[0], takes[-1]):
        found = curve(nano, take.prompt, take.responses, take.recipe.shares)
        assert take.curve.flips == found.flips and take.curve.lams == found.lams
        for row, wanted in zip(take.curve.rewards, found.rewards):
            assert row == pytest.approx(wanted, abs=1e-5)
