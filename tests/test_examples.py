"""The embedded family's worked examples: what they are there to show, they show."""

import json
import math

import pytest

from dogerm.engine import Engine
from dogerm.family import Family
from dogerm.scoring import score
from dogerm.sweep import curve, top


@pytest.fixture(scope="module")
def nano():
    return Engine.load(Family.load("nano"), device="cpu")


def rows():
    file = Family.load("nano").examples
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["title"])
def test_an_example_prefers_what_it_says(nano, row):
    recipe = nano.family.recipe(row.get("lam"), row.get("shares"))
    group = [(row["prompt"], row["responses"])]
    for model, at in (("base", recipe.with_lam(0)), ("merged", recipe)):
        assert top(score(nano, at, group)[0]) == [row["prefers"][model]], model


def test_most_examples_flip_and_one_shows_where_merging_fails(nano):
    examples = rows()
    flipped = [r for r in examples if r["prefers"]["base"] != r["prefers"]["merged"]]
    assert len(examples) >= 8 and len(flipped) >= 6
    failing = next(row for row in examples if row["title"] == "Where it fails")
    answers = [int(text.split("Answer: ")[1]) for text in failing["responses"]]
    assert failing["prompt"].startswith("34 people ride in vans of 5 seats.")
    assert answers == [math.ceil(34 / 5), math.ceil(39 / 5)]
    (flip,) = curve(
        nano, failing["prompt"], failing["responses"], failing["shares"]
    ).flips
    assert (flip.before, flip.after) == (0, 1)  # from the right answer to a wrong one
