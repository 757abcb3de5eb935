"""Recipes are values."""

import json
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


def test_a_number_too_large_for_any_is_one_sentence():
    for lam, shares in ((10**400, {"math": 1}), (0.5, {"math": 10**400})):
        with pytest.raises(RecipeError, match="must be a number"):
            Recipe(lam, shares)


def test_json_round_trip():
    recipe = Recipe(0.35, {"math": 5, "code": 2}, "ties", {"density": 0.5})
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe(0.1, {"a": 1}).to_json() == {
        "lam": 0.1,
        "shares": {"a": 1},
        "method": "linear",
    }


def test_layers_and_parts_belong_to_the_recipe():
    plain = Recipe(0.4, {"math": 1})
    same = Recipe(0.4, {"math": 1}, layers="constant", parts={"mlp": 1, "norms": 1.0})
    assert same == plain and hash(same) == hash(plain)
    assert str(same) == str(plain) and same.to_json() == plain.to_json()
    recipe = Recipe(0.4, {"math": 1}, layers=[0, 0.5], parts={"mlp": 0.5, "norms": 1})
    assert recipe == Recipe(0.4, {"math": 1}, layers="0, 0.5", parts={"mlp": "0.5"})
    assert hash(recipe) == hash(
        Recipe(0.4, {"math": 1}, layers=(0, 0.5), parts={"mlp": 0.5})
    )
    assert recipe != plain and recipe.with_lam(0.3).with_lam(0.4) == recipe
    assert recipe.to_json()["layers"] == [0, 0.5]
    assert recipe.to_json()["parts"] == {"mlp": 0.5}
    for one in (recipe, Recipe(0.4, {"math": 1}, layers="ramp-down")):
        assert Recipe.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert (
        str(recipe) == "linear λ=0.4 math=1, λ times 0,0.5 over the layers, 0.5 in mlp"
    )
    assert recipe.formula == (
        "0.60·RM + 0.40·math, λ times 0,0.5 over the layers, 0.5 in mlp"
    )


@pytest.mark.parametrize(
    ("layers", "count", "factors"),
    [
        ("constant", 3, [1, 1, 1]),
        ("ramp", 5, [0, 0.25, 0.5, 0.75, 1]),
        ("ramp-down", 3, [1, 0.5, 0]),
        ("middle", 5, [0, 0.5, 1, 0.5, 0]),
        ("0.25,1", 2, [0.25, 1]),
    ],
)
def test_shapes_over_depth(layers, count, factors):
    assert list(Recipe(0.5, {"math": 1}, layers=layers).depth(count)) == factors


@pytest.mark.parametrize(
    ("reach", "words"),
    [
        (
            {"layers": "slope"},
            "constant, ramp, ramp-down, middle, or a number from 0 to 1",
        ),
        ({"layers": [0, 1.2]}, "from 0 to 1 for each layer, got 1.2 for layer 1"),
        ({"layers": "0.5,-1"}, "got -1 for layer 1"),
        ({"layers": [math.nan]}, "got nan for layer 0"),
        ({"layers": []}, "got none"),
        (
            {"parts": {"brain": 1}},
            "no part 'brain'.* attention, mlp, norms, embeddings",
        ),
        ({"parts": {"mlp": 2}}, "the part mlp takes a number from 0 to 1, got 2"),
        ({"parts": {"mlp": "much"}}, "from 0 to 1, got 'much'"),
    ],
)
def test_layers_and_parts_that_cannot_be_meant_are_refused(reach, words):
    with pytest.raises(RecipeError, match=words):
        Recipe(0.5, {"math": 1}, **reach)


def test_a_list_for_another_number_of_layers_is_refused():
    with pytest.raises(RecipeError, match="lists 3 numbers; this model has 2"):
        Recipe(0.5, {"math": 1}, layers="1,1,1").depth(2)
    with pytest.raises(RecipeError, match="2 layers has no middle"):
        Recipe(0.5, {"math": 1}, layers="middle").depth(2)


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
