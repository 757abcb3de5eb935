"""Curves, flips and ties."""

import pytest

from dogerm import sweep as module
from dogerm.charts import domain_map
from dogerm.engine import Engine
from dogerm.errors import InputError, RecipeError
from dogerm.family import Family
from dogerm.recipe import Recipe
from dogerm.scoring import score
from dogerm.sweep import GRID, DomainMap, Flip, _flips, curve, map_domains, top

PROMPT, ANSWERS = "Name a prime.", ["7", "Nine is one", "eleven!", "I will not"]


def test_a_curve_is_the_scores_at_each_lambda(engine):
    found = curve(engine, PROMPT, ANSWERS, {"math": 1}, [0, 0.3, 1])
    for lam, row in zip(found.lams, found.rewards):
        wanted = score(engine, Recipe(lam, {"math": 1}), [(PROMPT, ANSWERS)])[0]
        assert list(row) == pytest.approx(wanted, abs=1e-5)
    assert (
        curve(engine, PROMPT, ANSWERS).lams
        == GRID
        == tuple(round(0.05 * i, 2) for i in range(21))
    )


def test_the_default_shares_are_the_familys(engine):
    assert dict(curve(engine, PROMPT, ANSWERS).recipe.shares) == {
        "math": 0.5,
        "code": 0.5,
    }


@pytest.mark.parametrize("crossings", [[0.4237], [0.11, 0.12], [0.03, 0.5, 0.961]])
def test_flips_are_found_where_the_lines_cross(crossings):
    """Two lines whose order changes at known places, between grid points or not."""

    def at(lam):
        sign = 1.0
        for crossing in crossings:
            sign *= crossing - lam
        return (sign, 0.0)

    flips = _flips(GRID, [at(lam) for lam in GRID], at)
    if crossings == [0.11, 0.12]:  # both between two grid points: neither end sees them
        assert flips == []
        return
    assert [flip.lam for flip in flips] == pytest.approx(crossings, abs=0.005)
    order = [0, 1] * 2
    assert [(f.before, f.after) for f in flips] == [
        (order[i], order[i + 1]) for i in range(len(crossings))
    ]


def test_a_third_response_between_two_grid_points_is_not_lost():
    def at(lam):
        return (0.44 - lam, lam - 0.46, 0.01 - abs(lam - 0.45) / 2)

    flips = _flips([0.0, 0.4, 0.5, 1.0], [at(x) for x in (0.0, 0.4, 0.5, 1.0)], at)
    assert [(f.before, f.after) for f in flips] == [(0, 2), (2, 1)]


def test_an_exact_tie_is_named_and_is_no_flip(engine):
    found = curve(engine, PROMPT, ["7", "7", "Nine is one"], {"math": 1}, [0, 0.5, 1])
    data = found.to_json()
    assert all({f["before"], f["after"]} != {0, 1} for f in data["flips"])
    best = [top(row) for row in found.rewards]
    assert all(tied in ([0, 1], [2]) for tied in best)
    assert [tie["lam"] for tie in data["ties"]] == [
        lam for lam, tied in zip(found.lams, best) if len(tied) > 1
    ]


def test_a_tie_at_a_grid_point_gives_one_flip_not_two():
    rows = [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    flips = _flips([0, 0.5, 1], rows, lambda lam: (1 - lam, lam))
    assert flips == [Flip(pytest.approx(0.5, abs=0.005), 0, 1)]


def test_the_number_of_extra_merges_is_bounded():
    calls = []

    def at(lam):
        calls.append(lam)
        return (len(calls) % 2, 0.5)

    module._flips(GRID, [(i % 2, 0.5) for i in range(21)], at)
    assert len(calls) <= module.MAX_FLIP_MERGES


def test_what_cannot_be_compared_is_refused(engine):
    with pytest.raises(InputError, match="two responses, got 1"):
        curve(engine, PROMPT, ["7"])
    with pytest.raises(RecipeError, match="at least two points"):
        curve(engine, PROMPT, ANSWERS, lams=[0.5, 0.5])
    with pytest.raises(RecipeError, match=r"between 0 and 1, got 1\.5"):
        curve(engine, PROMPT, ANSWERS, lams=[0, 1.5])


def test_a_map_of_two_domains_is_the_scores_at_each_lambda_and_mix(engine):
    recipe = Recipe(0.5, {"math": 1})
    *_, (done, total, found) = map_domains(
        engine, PROMPT, ANSWERS, recipe, ["math", "code"], steps=2
    )
    assert done == total == len(found.points) == 9
    for (lam, (math, code)), row in zip(found.points, found.rewards, strict=True):
        mix = {"math": math, "code": code}
        wanted = score(engine, Recipe(lam, mix), [(PROMPT, ANSWERS)])[0]
        assert list(row) == pytest.approx(wanted, abs=1e-5)
    assert {lam for lam, _ in found.points} == {0, 0.5, 1}


def test_three_domains_are_mapped_at_one_lambda(folders):
    lms = {name: folders[name] for name in ("plain", "padded", "moved")}
    engine = Engine.load(Family.of(folders["rm"], lms), "cpu", "float32")
    recipe = Recipe(0.4, {"plain": 1})
    *_, (_, _, found) = map_domains(engine, PROMPT, ANSWERS, recipe, list(lms), steps=2)
    assert {lam for lam, _ in found.points} == {0.4}
    assert all(sum(shares) == pytest.approx(1) for _, shares in found.points)
    assert len(found.points) == 6
    lam, shares = found.points[1]
    wanted = score(engine, Recipe(lam, dict(zip(lms, shares))), [(PROMPT, ANSWERS)])[0]
    assert list(found.rewards[1]) == pytest.approx(wanted, abs=1e-5)


def test_a_map_needs_two_or_three_domains_and_a_comparison(engine):
    recipe = Recipe(0.5, {"math": 1})
    with pytest.raises(InputError, match="two or three domains, got 1"):
        list(map_domains(engine, PROMPT, ANSWERS, recipe, ["math"]))
    with pytest.raises(InputError, match="two responses"):
        list(map_domains(engine, PROMPT, ANSWERS[:1], recipe, ["math", "code"]))


def test_a_map_of_three_domains_names_the_better_response_and_escapes_the_domains():
    corners = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    rewards = ((2.0, 1.0), (0.0, 1.0), (1.0, 1.0))
    points = tuple((0.5, shares) for shares in corners)
    figure = domain_map(DomainMap(("a<b>", "b", "c"), points, rewards), 0, 1)
    (drawn,) = figure.data
    assert list(drawn.text) == ["A", "B", "="]
    assert list(drawn.customdata) == [1.0, -1.0, 0.0]
    assert (drawn.a[0], drawn.b[1], drawn.c[2]) == (1.0, 1.0, 1.0)
    assert figure.layout.ternary.aaxis.title.text == "a&lt;b&gt;"
