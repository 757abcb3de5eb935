"""The page's panels in a real browser, each against the library."""

import pytest
from browsing import ANSWERS, CLOSE, PROMPT, Slider, whole

from dogerm.recipe import Recipe
from dogerm.scoring import score
from dogerm.tokens import read_tokens


def open_panel(page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def test_tokens_shows_every_token_with_both_models_rewards(visit, engine):
    page = visit()
    open_panel(page, "Tokens")
    page.wait_for_selector(".reading .token")
    found = read_tokens(engine, PROMPT, ANSWERS, Recipe(0.5, {"math": 1, "code": 1}))
    rows = page.locator(".reading").all()
    assert len(rows) == len(ANSWERS)
    for row, reading in zip(rows, found.responses, strict=True):
        pieces = [token.text_content() for token in row.locator(".token").all()]
        assert pieces == list(reading.pieces)
        last = row.locator(".token").last.get_attribute("title")
        assert f"base RM {reading.base[-1]:.4f}" in last
        assert f"DogeRM {reading.merged[-1]:.4f}" in last


def test_open_tokens_follow_the_slider(visit, engine):
    page = visit()
    open_panel(page, "Tokens")
    page.wait_for_selector(".reading .token")
    Slider(page, "#lam").to(1)
    whole(page)
    found = read_tokens(engine, PROMPT, ANSWERS, Recipe(1, {"math": 1, "code": 1}))
    wanted = f"DogeRM {found.responses[0].merged[-1]:.4f}"
    page.wait_for_function(
        "wanted => [...document.querySelectorAll('.reading')][0]"
        ".querySelector('.token:last-child').title.includes(wanted)",
        arg=wanted,
    )


def test_a_visitors_text_stays_text_in_tokens(visit):
    page = visit()
    page.get_by_text("Two", exact=True).click()
    page.wait_for_function("dogerm.view.frame.prompt.startsWith('Say')")
    whole(page)
    open_panel(page, "Tokens")
    page.wait_for_selector(".reading .token")
    assert "<i>No</i>" in page.locator(".reading .text").nth(1).text_content()
    assert page.locator(".reading i").count() == 0


def test_the_map_holds_the_librarys_margins_and_a_click_sets_the_sliders(visit, engine):
    page = visit()
    open_panel(page, "Domain map")
    page.locator("#map-draw").click()
    page.wait_for_function(
        "document.querySelector('#map-plot').data?.length", timeout=60_000
    )
    drawn = page.evaluate(
        "(({x, y, z}) => ({x, y, z}))(document.querySelector('#map-plot').data[0])"
    )
    lam, share = drawn["x"][7], drawn["y"][4]
    mix = {"math": 1 - share, "code": share}
    first, second, _ = score(engine, Recipe(lam, mix), [(PROMPT, ANSWERS)])[0]
    assert drawn["z"][4][7] == pytest.approx(first - second, abs=CLOSE)
    ground = page.locator("#map-plot .nsewdrag").first.bounding_box()
    page.mouse.click(
        ground["x"] + 0.3 * ground["width"], ground["y"] + 0.3 * ground["height"]
    )
    page.wait_for_function("Math.abs(dogerm.view.frame.lam - 0.3) < 0.011")
    whole(page)
    assert page.evaluate("dogerm.view.frame.shares.code") == pytest.approx(0.7, abs=0.1)
