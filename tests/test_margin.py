"""The margin against λ, and the preference that a margin stands for."""

import math

import pytest

from dogerm.charts import margin_curve
from dogerm.curves import Curve, preference
from dogerm.recipe import Recipe

MIX = {"math": 1, "code": 1}


def test_the_margin_is_the_favourites_over_its_best_rival():
    rewards = ((1.0, 3.0, 2.0), (1.0, 2.0, 2.5), (4.0, 1.0, 2.0))
    found = Curve((0.0, 0.5, 1.0), rewards, (), Recipe(0, MIX))
    figure = margin_curve(found, 0.25)
    line = figure.data[0]
    assert list(line.y) == [1.0, -0.5, -3.0]  # B leads, then C, then A
    assert list(line.marker.symbol) == ["square", "diamond", "circle"]
    assert "B − C" in line.customdata[0] and "B − A" in line.customdata[2]
    assert f"{preference(1.0):.1%}" in line.customdata[0]
    assert figure.layout.shapes[0].x0 == 0.25
    pair = Curve((0.0, 1.0), ((1.0, 3.0), (2.0, 1.5)), (), Recipe(0, MIX))
    assert list(margin_curve(pair).data[0].y) == [-2.0, 0.5]  # chosen − rejected


def test_preference_is_the_logistic_of_the_margin_at_any_size():
    assert preference(0) == 0.5
    assert preference(math.log(3)) == pytest.approx(0.75)
    assert preference(-math.log(3)) == pytest.approx(0.25)
    assert preference(1e6) == 1 and preference(-1e6) == 0
