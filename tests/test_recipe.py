"""Recipes are values."""

import math

import pytest

from dogerm.errors import RecipeError
from dogerm.recipe import Recipe, lam_grid


def test_recipes_with_the_same_content_are_equal():
    a = Recipe(0.5, {"math": 2, "code": 2, "law": 0})
    b = Recipe(0.5, {"code": 0.5, "math": 0.5})
    assert a == b and hash(a) == hash(b)
    assert a != b.with_lam(0.6)
    assert Recipe(0.5, {"a": 0.3}) == Recipe(0.5, {"a": 0.3 / 0.7})


def test_coefficients_sum_to_one_and_read_like_the_formula():
    recipe = Recipe(0.35, {"math": 5, "code": 2})
    assert recipe.coefficients == pytest.approx({"rm": 0.65, "math": 0.25, "code": 0.1})
    assert recipe.formula == "0.65·RM + 0.10·code + 0.25·math"


def test_json_round_trip():
    recipe = Recipe(0.35, {"math": 5, "code": 2}, "ties", {"density": 0.5})
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe(0.1, {"a": 1}).to_json() == {
        "lam": 0.1,
        "shares": {"a": 1},
        "method": "linear",
    }


@pytest.mark.parametrize("lam", [-0.1, 1.01, math.nan, math.inf, "x", None])
def test_lambda_outside_zero_to_one_is_refused(lam):
    with pytest.raises(RecipeError, match="λ must be"):
        Recipe(lam, {"math": 1})


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ({"math": 0, "code": 0}, "all domain weights are zero"),
        ({}, "none named"),
        ({"math": -1}, "'math' must be a number"),
        ({"math": math.nan}, "'math' must be a number"),
        ({"math": "much"}, "'math' must be a number"),
    ],
)
def test_shares_that_cannot_be_meant_are_refused(shares, words):
    with pytest.raises(RecipeError, match=words):
        Recipe(0.5, shares)


def test_grids():
    assert lam_grid("0:1:0.05") == [round(0.05 * i, 2) for i in range(21)]
    assert lam_grid("0.2, 0.1,0.1") == [0.1, 0.2]
    assert lam_grid("0:1:0.3") == [0.0, 0.3, 0.6, 0.9]
    for text in ("0:1", "0:1:0", "0:1:-1", "a", "", "0:inf:1", "nan,1"):
        with pytest.raises(RecipeError):
            lam_grid(text)
    for text in ("0.5", "0.5:0.5:0.1", "1:0:0.1"):
        with pytest.raises(RecipeError, match="at least two points"):
            lam_grid(text)
    with pytest.raises(RecipeError, match="too fine"):
        lam_grid("0:1:0.00001")
