"""The page's panels in a real browser, each against the library."""

import pytest
from browsing import ANSWERS, CLOSE, PROMPT, Slider, whole

from dogerm.recipe import Recipe
from dogerm.scan import scan
from dogerm.scoring import score, tokenise
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
    page.locator("#map-plot").scroll_into_view_if_needed()
    ground = page.locator("#map-plot .nsewdrag").first.bounding_box()
    page.mouse.click(
        ground["x"] + 0.3 * ground["width"], ground["y"] + 0.3 * ground["height"]
    )
    page.wait_for_function("Math.abs(dogerm.view.frame.lam - 0.3) < 0.011")
    whole(page)
    assert page.evaluate("dogerm.view.frame.shares.code") == pytest.approx(0.7, abs=0.1)


def test_the_recipe_panel_writes_what_is_set(visit):
    page = visit()
    page.wait_for_selector("#recipe-forms pre")  # open from the start
    text = page.locator("#recipe-forms").inner_text()
    assert "--lam 0.5" in text and "--share code=0.5 --share math=0.5" in text
    assert "Recipe(0.5, {'code': 0.5, 'math': 0.5})" in text
    assert "merge_method: linear" in text


def test_a_link_restores_everything_any_script_included(visit, url):
    page = visit()
    page.locator("#instruction textarea").fill("質數是哪一個? 🙂 <b>")
    page.locator("#response-A textarea").fill("七 \u202eabc")
    Slider(page, "#share-1").to(0)
    Slider(page, "#lam").to(0.7)
    page.locator("#score").click()
    page.wait_for_function("dogerm.view.frame.prompt.startsWith('質')")
    whole(page)
    before = page.evaluate("dogerm.view.frame")
    page.wait_for_function(
        "document.querySelector('#recipe-forms .link pre')?.textContent.includes('s=')"
    )
    page.wait_for_timeout(500)
    link = page.locator("#recipe-forms .link pre").text_content()
    again = visit(path=link.removeprefix(url))
    after = again.evaluate("dogerm.view.frame")
    same = ("prompt", "texts", "shares", "method", "lam")
    assert {key: after[key] for key in same} == {key: before[key] for key in same}
    assert after["merged"] == pytest.approx(before["merged"], abs=CLOSE)


@pytest.mark.parametrize("payload", ["%%%", "e30", "bnVsbA", "A" * 400, "W10"])
def test_a_broken_link_is_said_and_the_page_opens_all_the_same(visit, payload):
    page = visit(path=f"?s={payload}")
    page.get_by_text("link").first.wait_for()
    assert page.evaluate("dogerm.view.frame.prompt") == PROMPT


def test_pairs_of_a_file_are_the_librarys_margins_and_one_opens_above(
    visit, engine, tmp_path
):
    file = tmp_path / "own.csv"
    file.write_text(
        "prompt,chosen,rejected,domain\nName a prime.,Seven,Nine,math\n"
        'Say <b>hi</b>,Hi!,"<script>alert(1)</script>",chat\n',
        "utf-8",
    )
    page = visit()
    open_panel(page, "Pairs")
    page.locator("#pairs-file input[type=file]").set_input_files(file)
    page.get_by_text("own.csv").first.wait_for()
    page.locator("#pairs-run").click()
    page.wait_for_selector("#pairs-table tbody tr")
    recipe = Recipe(0.5, {"math": 1, "code": 1})
    chosen, rejected = score(engine, recipe, [("Name a prime.", ["Seven", "Nine"])])[0]
    row = page.locator("#pairs-table tbody tr", has_text="Name a prime")
    shown = row.locator(".margin").nth(1).inner_text().split()[-1].replace("−", "-")
    assert float(shown) == pytest.approx(chosen - rejected, abs=6e-4)
    assert page.locator("#pairs-table .prompt b").count() == 0
    page.locator("#pairs-table tbody tr", has_text="hi").locator(".open").click()
    page.wait_for_function("dogerm.view.frame.prompt.startsWith('Say <b>')")
    whole(page)
    assert page.evaluate("dogerm.view.frame.texts[1]").startswith("<script>")


def test_a_file_with_other_columns_is_named_with_what_it_lacks(visit, tmp_path):
    file = tmp_path / "wrong.csv"
    file.write_text("question,good\nWhat?,This\n", "utf-8")
    page = visit()
    open_panel(page, "Pairs")
    page.locator("#pairs-file input[type=file]").set_input_files(file)
    page.get_by_text("wrong.csv").first.wait_for()
    page.locator("#pairs-run").click()
    page.get_by_text(
        "prompt is missing; the keys are question, good. "
        "A row needs prompt with chosen and rejected"
    ).first.wait_for()


def test_the_layer_scan_holds_the_librarys_margins_and_says_which_layer_moves_most(
    visit, engine
):
    page = visit()
    open_panel(page, "Layers")
    page.locator("#layers-draw").click()
    page.wait_for_function(
        "document.querySelector('#layers-plot').data?.length", timeout=60_000
    )
    recipe = Recipe(0.5, {"math": 1, "code": 1})
    (found,) = scan(engine, recipe, [tokenise(engine, PROMPT, ANSWERS)])
    pairs = page.locator("#layers-pairs input")
    assert pairs.count() == 3
    over, under = ("ABC".index(x) for x in pairs.first.get_attribute("value"))
    assert {over, under} == set(found.contest)
    profile = found.profile(over, under)
    shown = page.evaluate(
        "document.querySelector('#layers-plot').data[0].customdata.map(c => [c[0], c[1]])"
    )
    assert [name for name, _ in shown] == list(profile.names)
    assert [margin for _, margin in shown] == pytest.approx(profile.margins, abs=CLOSE)
    said = page.locator("#layers-state").inner_text()
    assert profile.names[profile.widest] in said
    assert ("which flips it" in said) == bool(profile.flips[profile.widest])
    pairs.nth(1).check()
    over, under = ("ABC".index(x) for x in pairs.nth(1).get_attribute("value"))
    margins = found.profile(over, under).margins
    page.wait_for_function(
        "wanted => Math.abs(document.querySelector('#layers-plot').data[0].customdata[0][1] - wanted) < 1e-5",
        arg=margins[0],
    )
    page.locator("#lam").scroll_into_view_if_needed()
    Slider(page, "#lam").to(0)
    page.get_by_text("This scan is of other texts or another merge").wait_for()
    page.locator("#layers-draw").click()
    page.get_by_text("no layer is merged").first.wait_for()


def test_a_window_wider_than_the_model_is_refused_with_the_range(visit):
    page = visit()
    open_panel(page, "Layers")
    page.locator("#layers-window input").fill("9")
    page.locator("#layers-draw").click()
    page.get_by_text("whole number of layers from 1 to").first.wait_for()
