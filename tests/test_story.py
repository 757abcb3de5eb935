"""The story: six steps, its numbers those of the live page, and the page as before at its end."""

import pytest
from browsing import ANSWERS, PROMPT, Slider, whole

from dogerm.benchmarks import paper
from dogerm.nano.corpus import distinct_pairs
from dogerm.recipe import Recipe
from dogerm.scoring import score
from dogerm.ui.story import planned


def test_the_plan_counts_what_the_engine_gets_right(engine):
    from random import Random

    plan = planned(engine)
    pairs = distinct_pairs("math", Random("story"), "test", plan["counts"]["pairs"])
    for key, lam in (("base", 0), ("merged", plan["lam"])):
        recipe = Recipe(lam, plan["shares"])
        groups = [(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs]
        right = sum(a > b for a, b in score(engine, recipe, groups))
        assert plan["counts"][key] == right
    told = plan["pair"]
    chosen = next(pair.chosen for pair in pairs if pair.prompt == told["prompt"])
    assert told["responses"][told["right"]] == chosen
    assert plan["milliseconds"] > 0


def words(page, step: int) -> str:
    """What a step says, once the page shows what it is about."""
    page.wait_for_function(
        "step => document.querySelector('#story .count')?.textContent === step"
        " && document.querySelector('#story .words').textContent !== 'Merging…'",
        arg=f"{step} / 6",
    )
    whole(page)
    page.wait_for_timeout(120)
    return page.locator("#story .words").inner_text()


def rewards(page, kind: str) -> list[float]:
    cells = page.locator(f"#cards .reward.{kind}").all()
    return [float(cell.get_attribute("data-value")) for cell in cells]


def test_six_steps_are_told_with_the_live_numbers_and_esc_ends_them(visit, engine):
    page = visit()
    page.locator("#instruction textarea").fill("My own text")
    before = page.evaluate("scrollY")
    page.locator(".story-open-button").first.click()
    said = words(page, 1)
    base = rewards(page, "base")
    assert f"{abs(base[0] - base[1]):.2f} points more" in said
    plan = planned(engine)
    page.keyboard.press("PageDown")
    said = words(page, 2)
    base = rewards(page, "base")
    assert f"by {abs(base[0] - base[1]):.2f}" in said
    counts = plan["counts"]
    assert f"Of {counts['pairs']} held-out pairs" in said
    assert f"gets {counts['base']} right" in said
    page.keyboard.press("ArrowRight")
    words(page, 3)
    assert page.evaluate("dogerm.view.frame.lam") == 1
    page.locator("#story-next").click()
    words(page, 4)
    Slider(page, "#lam").to(0.6)
    whole(page)
    lam = page.evaluate("dogerm.view.frame.lam")
    page.wait_for_function(
        "lam => document.querySelector('#story .words').textContent.includes(lam)",
        arg=f"λ = {lam:.2f}: DogeRM prefers",
    )
    page.keyboard.press("PageDown")
    said = words(page, 5)
    for flip in page.evaluate("dogerm.view.curve.flips"):
        assert f"{flip['lam']:.2f}" in said
    page.keyboard.press("PageDown")
    said = words(page, 6)
    assert f"{counts['merged']} are right at λ = {plan['lam']}" in said
    table = page.locator("#story table tr").last.locator("td").all_inner_texts()
    assert table[0] == "LLaMA-2 RM + MAmmoTH"
    columns = [c for c in paper.COLUMNS if c.benchmark == "rewardbench"]
    for cell, column in zip(table[1:], columns, strict=True):
        number = paper.published(table[0], column)
        assert cell.split()[0] == f"{number:.1f}"
    page.keyboard.press("PageDown")  # there is no seventh
    page.keyboard.press("PageUp")
    words(page, 5)
    page.keyboard.press("Escape")
    page.wait_for_function("dogerm.view.frame.prompt === 'My own text'")
    whole(page)
    assert page.evaluate("dogerm.view.frame.texts") == ANSWERS
    assert page.evaluate("dogerm.view.frame.lam") == pytest.approx(0.5)
    assert page.locator("#story, #story-light").count() == 0
    assert page.evaluate("scrollY") == before
    page.keyboard.press("PageDown")
    assert page.locator("#story").count() == 0


def test_a_phone_shows_the_story_without_scrolling_sideways(visit):
    page = visit(width=390, height=800)
    page.locator(".story-open-button").first.click()
    words(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#story-end").click()
    page.wait_for_function("prompt => dogerm.view.frame.prompt === prompt", arg=PROMPT)
