"""Keys, projector size and touch, in a real browser."""

import pytest
from browsing import ANSWERS, CLOSE, PROMPT, shown, state, whole

from dogerm.recipe import Recipe
from dogerm.scoring import score


def test_keys_act_only_while_nobody_types(visit, engine):
    page = visit(1920, 1080)
    root = "document.documentElement.classList.contains('projector')"
    dark = "document.body.classList.contains('dark')"
    size = "document.querySelector('#plot .js-plotly-plot').layout.font.size"
    page.wait_for_function(
        "document.querySelector('#plot .js-plotly-plot')?.layout?.font"
    )  # drawn, not only laid out
    was, font = page.evaluate(dark), page.evaluate(size)

    page.fill("#instruction textarea", "")
    page.locator("#instruction textarea").press_sequentially("p2d?")
    page.locator("#instruction textarea").press("ArrowLeft")
    page.locator("#lam input[type=number]").press("ArrowUp")
    assert page.locator("#instruction textarea").input_value() == "p2d?"
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Control+ArrowRight")
    page.keyboard.press("Alt+p")
    assert not page.evaluate(root) and page.evaluate(dark) == was
    assert page.evaluate("dogerm.view.frame.texts.length") == 3
    assert page.locator("dialog[open]").count() == 0

    page.keyboard.press("2")
    page.wait_for_function("dogerm.view.frame.texts.length === 2")
    whole(page)
    page.keyboard.press("1")
    page.wait_for_function("dogerm.view.frame.texts.length === 3")
    whole(page)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.down("ArrowRight")
    page.keyboard.down("ArrowRight")  # held: it repeats
    assert state(page) == "near"
    page.keyboard.up("ArrowRight")
    page.wait_for_function("dogerm.view.frame.lam === 0.52")
    whole(page)
    recipe = Recipe(0.52, {"math": 1, "code": 1})
    wanted = score(engine, recipe, [(PROMPT, ANSWERS)])[0]
    assert shown(page, "merged") == pytest.approx(wanted, abs=CLOSE)

    page.keyboard.press("?")
    assert "Projector size" in page.inner_text("dialog[open]")
    page.keyboard.press("p")  # not while the help is open
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0 and not page.evaluate(root)

    page.keyboard.press("d")
    assert page.evaluate(dark) != was
    page.keyboard.press("p")
    page.wait_for_function(f"{size} > {1.2 * font}")
    for part in ("#lam", "#verdict", "#cards", "#plot .js-plotly-plot"):
        box = page.locator(part).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 1080, part
    assert page.evaluate("document.documentElement.scrollWidth") <= 1920
    page.reload()
    whole(page)
    assert page.evaluate(root) and page.evaluate(dark) != was  # remembered
    page.click("#projector")
    assert not page.evaluate(root)
    assert page.get_attribute("#projector", "aria-pressed") == "false"


def test_a_finger_drags_lambda_and_letting_go_merges(visit, engine):
    page = visit(390, 844, has_touch=True, is_mobile=True)
    finger = page.context.new_cdp_session(page)

    def touch(kind, x=None, y=None):
        points = [] if x is None else [{"x": x, "y": y}]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    page.evaluate("window.scrollTo(0, 400)")
    page.wait_for_function("window.scrollY > 300")
    box = page.locator("#lam input[type=range]").bounding_box()
    assert box["height"] >= 44
    assert 0 <= box["y"] < 200  # still in sight
    y = box["y"] + box["height"] / 2
    touch("touchStart", box["x"] + box["width"] / 2, y)
    for step in range(1, 9):
        touch("touchMove", box["x"] + box["width"] * (0.5 + 0.04 * step), y)
    page.wait_for_function("dogerm.view.lam > 0.7")
    assert state(page) == "near"
    touch("touchEnd")
    page.wait_for_function("dogerm.view.frame.lam > 0.7")
    whole(page)
    lam = page.evaluate("dogerm.view.frame.lam")
    wanted = score(engine, Recipe(lam, {"math": 1, "code": 1}), [(PROMPT, ANSWERS)])[0]
    assert shown(page, "merged") == pytest.approx(wanted, abs=CLOSE)
