"""Presets, pins and history in a real browser, against the library; links with pins; the margin."""

import base64
import json
import math

import pytest
from browsing import ANSWERS, CLOSE, PROMPT, Slider, shown, whole

from dogerm.errors import InputError
from dogerm.recipe import Recipe
from dogerm.scoring import score
from dogerm.sweep import curve
from dogerm.ui.limits import LOCAL
from dogerm.ui.link import MAX_PINS, read_link
from dogerm.ui.studio import Studio

MIX = {"math": 1, "code": 1}
PLOT = "document.querySelector('#plot .js-plotly-plot')"
PIN = {"lam": 0.3, "shares": {"math": 1, "code": 0.5}, "method": "linear"} | {
    "options": {}
}


def rewards(engine, lam: float, answers=ANSWERS, shares=MIX) -> list[float]:
    return score(engine, Recipe(lam, shares), [(PROMPT, answers)])[0]


def lead(row: list[float]) -> float:
    first, second = sorted(row, reverse=True)[:2]
    return first - second


def encoded(pins) -> str:
    state = PIN | {"prompt": PROMPT, "responses": ANSWERS, "pins": pins}
    return base64.urlsafe_b64encode(json.dumps(state).encode()).decode().rstrip("=")


def lam_of(page) -> float:
    return float(page.locator("#lam input[type=range]").input_value())


def test_a_pin_is_compared_follows_the_text_travels_in_a_link_and_history_returns(
    visit, url, engine
):
    page = visit()
    page.click("#pin")
    Slider(page, "#lam").to(0.9)
    whole(page)
    pinned, now = rewards(engine, 0.5), rewards(engine, lam_of(page))
    assert shown(page, "pinned") == pytest.approx(pinned, abs=CLOSE)
    assert shown(page, "merged") == pytest.approx(now, abs=CLOSE)
    said = page.inner_text("#pin-verdict")
    first, second = ("ABC"[row.index(max(row))] for row in (pinned, now))
    assert f"prefers {first} by {lead(pinned):.3f}" in said
    assert f"here DogeRM prefers {second} by {lead(now):.3f}" in said
    marks = page.evaluate(
        f"{PLOT}._fullData.filter(d => d.name.startsWith('pin')).map(d => [d.x[0], d.y[0]])"
    )
    mean = sum(pinned) / 3
    for (x, y), reward in zip(marks, pinned, strict=True):
        assert (x, y) == (0.5, pytest.approx(reward - mean, abs=CLOSE))
    cursors = page.evaluate(
        f"{PLOT}.layout.shapes.filter(s => s.line.dash === 'dash').map(s => s.x0)"
    )
    assert cursors == [0.5]

    page.fill("#response-A textarea", "Eleven.")
    page.click("#score")
    page.wait_for_function("dogerm.view.frame.texts[0] === 'Eleven.'")
    whole(page)
    page.wait_for_selector("#cards .reward.pinned:not(.awaited)")
    followed = rewards(engine, 0.5, ["Eleven.", *ANSWERS[1:]])
    assert shown(page, "pinned") == pytest.approx(followed, abs=CLOSE)

    link = page.locator("#recipe-forms .link pre").text_content()
    again = visit(path=link.removeprefix(url))
    again.wait_for_selector("#cards .reward.pinned:not(.awaited)")
    assert again.evaluate("dogerm.pins()") == page.evaluate("dogerm.pins()")
    assert shown(again, "pinned") == pytest.approx(followed, abs=CLOSE)
    assert shown(again, "merged") == pytest.approx(shown(page, "merged"), abs=CLOSE)
    assert visit().evaluate("dogerm.pins()") == []  # another visitor's page has none

    page.get_by_role("tab", name="Compare").click()
    page.wait_for_selector("#history tbody tr")
    rows = page.locator("#history tbody tr")
    assert rows.count() == 3  # λ 0.5, λ 0.9, and the new text
    assert rows.last.locator("td").nth(2).inner_text() == first
    assert rows.last.locator("td").nth(3).inner_text() == f"{lead(pinned):.3f}"
    rows.last.get_by_role("button", name="Return").click()
    page.wait_for_function("dogerm.view.frame.texts[0] !== 'Eleven.'")
    whole(page)
    assert page.evaluate("dogerm.view.frame.texts") == ANSWERS
    assert shown(page, "merged") == pytest.approx(pinned, abs=CLOSE)
    assert page.locator("#response-A textarea").input_value() == ANSWERS[0]
    page.click("#pins .drop")
    assert page.locator("#cards .pinned").count() == 0


def test_presets_margin_preference_hover_and_a_zoom_that_lasts(visit, engine):
    page = visit()
    page.get_by_role("button", name="code alone").click()
    page.wait_for_function("dogerm.view.frame.shares.math === undefined")
    whole(page)
    code = {"code": 1}
    row, base = rewards(engine, 0.5, shares=code), rewards(engine, 0)
    assert shown(page, "merged") == pytest.approx(row, abs=CLOSE)
    chip = page.get_by_role("button", name="code alone")
    assert chip.get_attribute("aria-pressed") == "true"
    line = page.locator("#preference")
    over, under = (
        "ABC".index(line.get_attribute(f"data-{k}")) for k in ("over", "under")
    )
    assert over == row.index(max(row))
    for kind, found in (("merged", row), ("base", base)):
        wanted = 1 / (1 + math.exp(found[under] - found[over]))
        assert float(line.get_attribute(f"data-{kind}")) == pytest.approx(wanted)
        assert f"{100 * wanted:.1f}%" in line.inner_text()

    page.get_by_text("margin", exact=True).first.click()
    page.wait_for_function(f"{PLOT}._fullData[0].name === 'margin'")
    found = curve(engine, PROMPT, ANSWERS, code)
    ours = found.rewards[0].index(max(found.rewards[0]))
    wanted = [
        row[ours] - max(r for i, r in enumerate(row) if i != ours)
        for row in found.rewards
    ]
    drawn = page.evaluate(f"[...{PLOT}._fullData[0].y]")
    assert drawn == pytest.approx(wanted, abs=2 * CLOSE)

    ground = page.locator("#plot .nsewdrag").first.bounding_box()
    across = ground["y"] + ground["height"] / 2
    for x, press in ((0.2, page.mouse.down), (0.7, page.mouse.up)):
        page.mouse.move(ground["x"] + x * ground["width"], across, steps=6)
        press()
    zoomed = f"{PLOT}.layout.xaxis.range"
    page.wait_for_function(f"{zoomed}[1] - {zoomed}[0] < 0.6")
    kept = page.evaluate(zoomed)
    Slider(page, "#lam").to(0.4)
    whole(page)
    page.fill("#response-A textarea", "Eleven.")
    page.click("#score")
    page.wait_for_function("dogerm.view.frame.texts[0] === 'Eleven.'")
    whole(page)
    assert page.evaluate(zoomed) == pytest.approx(kept)
    assert page.evaluate("dogerm.view.kind") == "margin"

    page.get_by_text("raw", exact=True).click()
    page.mouse.move(ground["x"] + ground["width"] / 2, across, steps=4)
    page.wait_for_selector(
        "#plot .hoverlayer .legendtext, #plot .hoverlayer .hovertext"
    )
    said = page.locator("#plot .hoverlayer").text_content()
    number = page.evaluate(f"{PLOT}._hoverdata[0].customdata")
    assert f"{number:.4f}".replace("-", "−") in said.replace("-", "−")
    styles = page.evaluate(
        f"{PLOT}._fullData.map(d => d.line.dash + ' ' + d.marker.symbol)"
    )
    assert len(set(styles)) == 3  # told apart without colour

    page.get_by_role("button", name="base RM").click()
    page.wait_for_function("dogerm.view.frame.lam === 0")
    whole(page)
    assert shown(page, "merged") == shown(page, "base")


def test_a_link_with_pins_is_read_and_the_sliders_stay_where_they_stood(engine):
    found = read_link(encoded([PIN] * MAX_PINS), Studio(engine, "tiny"), LOCAL)
    assert found.pins == (PIN,) * MAX_PINS
    assert found.shares == PIN["shares"]  # not normalised: 1 and 0.5 on the sliders


@pytest.mark.parametrize(
    ("pins", "words"),
    [
        ("<script>", "no list of at most"),
        ({"0": PIN}, "no list of at most"),
        ([PIN] * (MAX_PINS + 1), "no list of at most"),
        (["<script>"], "lacks a part"),
        ([None], "lacks a part"),
        ([{"lam": 0.1}], "lacks a part"),
        ([PIN | {"shares": [1, 2]}], "lacks a part"),
        ([PIN | {"shares": {"math": "<b>"}}], "lacks a part"),
        ([PIN | {"shares": {"math": 10**400}}], "lacks a part"),
        ([PIN | {"shares": {"../etc/passwd": 1}}], "no domain LM"),
        ([PIN | {"shares": {"math": -1}}], "math"),
        ([PIN | {"lam": 2}], "between 0 and 1"),
        ([PIN | {"lam": float("nan")}], "between 0 and 1"),
        ([PIN | {"lam": [0.5]}], "λ|lacks a part"),
        ([PIN | {"method": "__import__"}], "__import__"),
        ([PIN | {"options": {"__proto__": 1}}], "__proto__"),
    ],
)
def test_a_hostile_pin_is_one_sentence(engine, pins, words):
    with pytest.raises(InputError, match=words):
        read_link(encoded(pins), Studio(engine, "tiny"), LOCAL)
