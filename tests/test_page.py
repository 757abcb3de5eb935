"""The page in a real browser, against the library; its endpoints; its bad input."""

import re
import time

import pytest
from browsing import ANSWERS, CLOSE, PROMPT, Slider, shown, state, whole
from gradio_client import Client
from gradio_client.exceptions import AppError

from dogerm.charts import reward_curve
from dogerm.engine import Engine
from dogerm.family import Family
from dogerm.merge import METHODS
from dogerm.recipe import Recipe
from dogerm.scoring import score
from dogerm.sweep import Curve, Flip, curve
from dogerm.ui.studio import Studio


def lam_of(page) -> float:
    return float(page.locator("#lam input[type=range]").input_value())


def test_dragging_is_answered_at_once_and_letting_go_merges(visit, engine):
    page = visit()
    before = shown(page, "merged")
    slider = Slider(page, "#lam")
    slider.grab()
    slider.drag(0.82)
    assert state(page) == "near"
    assert page.locator("#cards .merged .number").first.inner_text().startswith("≈")
    near = shown(page, "merged")
    slider.drop()
    whole(page)
    lam = lam_of(page)
    assert lam == pytest.approx(0.82, abs=0.03)
    groups = [(PROMPT, ANSWERS)]
    wanted = score(engine, Recipe(lam, {"math": 1, "code": 1}), groups)[0]
    assert shown(page, "merged") == pytest.approx(wanted, abs=CLOSE)
    assert near == pytest.approx(wanted, abs=1e-3) and near != before
    base = score(engine, Recipe(0, {"math": 1}), groups)[0]
    assert shown(page, "base") == pytest.approx(base, abs=CLOSE)


def test_arrow_keys_merge_too(visit, engine):
    page = visit()
    page.locator("#lam input[type=range]").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("dogerm.view.frame.lam === 0.53")
    whole(page)
    wanted = score(engine, Recipe(0.53, {"math": 1, "code": 1}), [(PROMPT, ANSWERS)])
    assert shown(page, "merged") == pytest.approx(wanted[0], abs=CLOSE)


@pytest.mark.parametrize(
    ("typed", "meant"), [("0.3", 0.3), ("7", 1.0), ("-3", 0.0), ("", None)]
)
def test_a_typed_lambda_is_brought_into_its_range_before_it_is_sent(
    visit, engine, typed, meant
):
    page = visit()
    before = page.evaluate("dogerm.view.frame.lam")
    box = page.locator('#lam input[type="number"]')
    box.fill(typed)
    box.blur()
    meant = before if meant is None else meant
    page.wait_for_function(
        "lam => dogerm.view.frame.lam === lam && !dogerm.view.frame.recorded", arg=meant
    )
    assert float(box.input_value()) == meant
    assert page.locator(".toast-wrap .error").count() == 0


def test_a_domain_weight_remixes_and_the_formula_says_how(visit, engine):
    page = visit()
    Slider(page, "#share-1").to(0)
    page.wait_for_function("dogerm.view.frame.shares.code === undefined")
    whole(page)
    found = curve(engine, PROMPT, ANSWERS, {"math": 1})
    drawn = page.evaluate("dogerm.view.curve.rewards")
    for row, wanted in zip(drawn, found.rewards):
        assert row == pytest.approx(list(wanted), abs=CLOSE)
    formula = page.inner_text("#formula")
    assert formula == "DogeRM = 0.50 RM + 0.50 math + 0.00 code"


def test_another_method_merges_anew_and_the_formula_says_so(visit, folders):
    page = visit()
    page.click("#method input")
    page.get_by_role("option", name="ties", exact=True).click()
    page.wait_for_function("dogerm.view.frame.method === 'ties'")
    whole(page)
    lms = {"math": folders["plain"], "code": folders["padded"]}
    family = Family.of(folders["rm"], lms, parent=str(folders["moved"]))
    engine = Engine.load(family, device="cpu", dtype="float32")
    recipe = Recipe(0.5, {"math": 1, "code": 1}, "ties")
    wanted = score(engine, recipe, [(PROMPT, ANSWERS)])[0]
    assert shown(page, "merged") == pytest.approx(wanted, abs=CLOSE)
    formula = page.inner_text("#formula")
    assert formula == "DogeRM = ties(0.50 RM + 0.25 math + 0.25 code)"


@pytest.fixture
def with_parent(folders) -> Engine:
    lms = {"math": folders["plain"], "code": folders["padded"]}
    family = Family.of(folders["rm"], lms, parent=str(folders["moved"]))
    return Engine.load(family, device="cpu", dtype="float32")


def choose_method(page, name: str) -> None:
    page.click("#method input")
    page.get_by_role("option", name=name, exact=True).click()
    page.wait_for_function(f"dogerm.view.frame.method === '{name}'")
    whole(page)


def test_only_the_chosen_methods_options_are_shown_with_range_and_meaning(visit):
    page = visit()
    assert page.locator(".option:visible").count() == 0
    for method in ("della", "nuslerp", "nearswap", "breadcrumbs", "sce"):
        choose_method(page, method)
        options = METHODS[method].options
        ids = [block.get_attribute("id") for block in page.locator(".option").all()]
        assert sorted(ids) == sorted(f"option-{name}" for name in options)
        for name, option in options.items():
            block = page.locator(f"#option-{name}")
            box = block.locator("input[type=number]")
            assert float(box.input_value()) == option.default
            wanted = f"{option.meaning}; {option.range}, default {option.default:g}"
            assert block.locator(".info-text").inner_text() == wanted
    choose_method(page, "linear")
    assert page.locator(".option:visible").count() == 0


def test_an_option_is_part_of_the_request_and_merges_anew(visit, with_parent):
    page = visit()
    choose_method(page, "dare_linear")
    Slider(page, "#option-density").to(0.2)
    page.wait_for_function("dogerm.view.frame.options.density < 0.4")
    whole(page)
    density = page.evaluate("dogerm.view.frame.options.density")
    page.fill("#option-seed input", "7")
    page.wait_for_function(
        "document.getElementById('dogerm-results').dataset.state === 'stale'"
    )
    assert page.inner_text("#stale") == "The options have changed. Press Score."
    page.press("#option-seed input", "Enter")
    page.wait_for_function("dogerm.view.frame.options.seed === 7")
    whole(page)
    shares, options = {"math": 1, "code": 1}, {"density": density, "seed": 7}
    recipe = Recipe(0.5, shares, "dare_linear", options)
    wanted = score(with_parent, recipe, [(PROMPT, ANSWERS)])[0]
    assert shown(page, "merged") == pytest.approx(wanted, abs=CLOSE)
    lams = [0, 0.05, 1]
    wanted = curve(
        with_parent, PROMPT, ANSWERS, shares, lams, "dare_linear", options
    ).rewards
    drawn = page.evaluate("dogerm.view.curve.rewards")
    for row, at in zip((drawn[0], drawn[1], drawn[20]), wanted):
        assert row == pytest.approx(list(at), abs=CLOSE)
    page.click("#reset")
    page.wait_for_function("dogerm.view.frame.method === 'linear'")
    whole(page)
    choose_method(page, "dare_linear")
    assert page.evaluate("dogerm.view.frame.options") == {"density": 0.5, "seed": 0}


def test_a_wrong_option_is_the_librarys_sentence_and_the_last_answer_stays(visit):
    page = visit()
    choose_method(page, "nearswap")
    before = shown(page, "merged")
    page.fill("#option-t input", "-1")
    page.press("#option-t input", "Enter")
    toast = page.locator(".toast-body").first
    toast.wait_for()
    wanted = "The option t (differences up to this are followed whole) must be a number from 0 to"
    assert wanted in toast.inner_text() and "got -1" in toast.inner_text()
    assert shown(page, "merged") == before and state(page) == "stale"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_the_first_view_holds_options_too(visit, width, height, theme):
    page = visit(width, height, f"?__theme={theme}")
    choose_method(page, "della")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    parts = ("#option-density", "#option-epsilon", "#option-seed", "#verdict")
    for part in (*parts, *(["#plot .js-plotly-plot"] if width > 1000 else [])):
        box = page.locator(part).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= height, part


def test_without_a_parent_only_methods_that_need_none_are_offered(engine, with_parent):
    offered = Studio(engine, "tiny").methods()
    assert offered == [name for name, m in METHODS.items() if not m.needs_parent]
    assert Studio(with_parent, "tiny").methods() == list(METHODS)


def test_the_chart_shows_the_curve_with_a_cursor_that_follows(visit):
    page = visit()
    page.click("text=raw")
    page.wait_for_function(
        "document.querySelector('#plot .js-plotly-plot').data?.length === 3"
    )
    lines = page.evaluate(
        "document.querySelector('#plot .js-plotly-plot')._fullData.map(d => [...d.y])"
    )
    columns = page.evaluate(
        "dogerm.view.curve.rewards[0].map((_, i) => dogerm.view.curve.rewards.map(r => r[i]))"
    )
    for line, column in zip(lines, columns):
        assert line == pytest.approx(column)
    Slider(page, "#lam").to(0.2)
    whole(page)
    cursor = page.evaluate(
        "document.querySelector('#plot .js-plotly-plot').layout.shapes[0].x0"
    )
    assert cursor == lam_of(page)


def test_the_verdict_names_the_favourites_in_words(visit):
    page = visit()
    base, merged = shown(page, "base"), shown(page, "merged")
    ours, theirs = ("ABC"[row.index(max(row))] for row in (base, merged))
    wanted = (
        f"Both prefer {ours}."
        if ours == theirs
        else f"Base RM prefers {ours}, DogeRM prefers {theirs}."
    )
    assert page.inner_text("#verdict") == wanted
    star = page.locator("#cards .card", has_text="★").all()
    assert star and all(
        card.get_attribute("data-response") in {ours, theirs} for card in star
    )


def test_an_example_fills_the_boxes_and_scores(visit, engine):
    page = visit()
    page.locator("#examples label", has_text="Two").click()
    page.wait_for_function("dogerm.view.frame.texts.length === 2")
    whole(page)
    assert page.locator("#response-A textarea").input_value() == "Hi!"
    assert not page.locator("#response-C").is_visible()
    wanted = score(
        engine, Recipe(0, {"math": 1}), [("Say <b>hi</b>.", ["Hi!", "<i>No</i>"])]
    )
    assert shown(page, "base") == pytest.approx(wanted[0], abs=CLOSE)
    assert "<i>No</i>" in page.inner_text("#cards")  # as text, not as italics
    assert page.locator("#cards i").count() == 0
    assert "Tiny <family>" in page.inner_text("#status")


def test_changed_text_is_visibly_stale_until_it_is_scored(visit, engine):
    page = visit()
    page.fill("#response-A textarea", "<script>document.title='owned'</script>")
    page.wait_for_function(
        "document.getElementById('dogerm-results').dataset.state === 'stale'"
    )
    assert page.inner_text("#stale") == "The text has changed. Press Score."
    page.click("#score")
    whole(page)
    texts = ["<script>document.title='owned'</script>", *ANSWERS[1:]]
    wanted = score(engine, Recipe(0, {"math": 1}), [(PROMPT, texts)])[0]
    assert shown(page, "base") == pytest.approx(wanted, abs=CLOSE)
    assert page.title() == "DogeRM Studio"


def test_letting_go_of_lambda_after_a_change_of_text_scores_all_anew(visit):
    page = visit()
    page.fill("#response-A textarea", "Another answer")
    Slider(page, "#lam").to(0.3)
    page.wait_for_function("dogerm.view.frame.texts[0] === 'Another answer'")
    whole(page)
    assert page.evaluate("dogerm.view.curve.lams.length") == 21


def test_stop_ends_the_work_and_says_what_is_missing(visit, monkeypatch):
    page = visit()
    forward, calls = Engine.forward, []

    def slow(engine, batch):
        calls.append(time.monotonic())
        time.sleep(0.15)
        return forward(engine, batch)

    monkeypatch.setattr(Engine, "forward", slow)
    page.fill("#response-A textarea", "A slow answer")
    page.click("#score")
    page.wait_for_function("dogerm.view.frame.texts[0] === 'A slow answer'")
    page.wait_for_function("dogerm.view.curve !== null")
    page.click("#stop")
    page.wait_for_function("document.getElementById('stale').textContent.length > 0")
    assert page.inner_text("#stale").startswith("Stopped before the curve was whole")
    time.sleep(0.8)  # what was under way when Stop was pressed ends
    stopped = len(calls)
    time.sleep(0.8)
    assert len(calls) == stopped < 20
    monkeypatch.undo()
    page.click("#score")
    whole(page)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("   ", "Response A is empty."),
        ("", "Response A is empty."),
        ("x" * 100_000, r"Response A has 100\d\d\d tokens .* reads at most 256"),
    ],
)
def test_bad_text_is_one_sentence_and_stays_in_its_box(visit, text, words):
    page = visit()
    page.fill("#response-A textarea", text)
    page.click("#score")
    toast = page.locator(".toast-body").first
    toast.wait_for()
    assert re.search(words, toast.inner_text())
    assert page.locator("#response-A textarea").input_value() == text
    assert len(shown(page, "base")) == 3  # the last answer is still there, marked stale
    assert state(page) == "stale"


def test_all_weights_zero_is_said(visit):
    page = visit()
    for domain in (0, 1):
        page.locator(f"#share-{domain} input[type=range]").focus()
        page.keyboard.press("Home")
    toast = page.locator(".toast-body", has_text="weights are zero").first
    toast.wait_for()
    assert "all domain weights are zero".lower() in toast.inner_text().lower()


def test_responses_are_added_and_taken_away_between_two_and_eight(visit):
    page = visit()
    for _ in range(8):
        page.click("#more")
        time.sleep(0.15)
    page.wait_for_selector("#response-H textarea", state="visible")
    for letter in "DEFGH":
        page.fill(f"#response-{letter} textarea", f"Answer {letter} 🙂 مرحبا")
    page.click("#score")
    page.wait_for_function("dogerm.view.frame.texts.length === 8")
    whole(page)
    assert page.locator("#cards .card").count() == 8
    for _ in range(8):
        page.click("#fewer")
        time.sleep(0.15)
    page.wait_for_selector("#response-C textarea", state="hidden")
    assert page.locator("#response-B textarea").is_visible()


def test_two_browsers_never_see_each_others_numbers(visit, engine):
    pages = [visit(), visit()]
    lams = [0.1, 0.9]
    for _ in range(3):
        for page, lam in zip(pages, lams):
            Slider(page, "#lam").to(lam)
        for page in pages:
            whole(page)
            recipe = Recipe(lam_of(page), {"math": 1, "code": 1})
            wanted = score(engine, recipe, [(PROMPT, ANSWERS)])[0]
            assert shown(page, "merged") == pytest.approx(wanted, abs=CLOSE)
        assert shown(pages[0], "merged") != shown(pages[1], "merged")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800), (1920, 1080)])
def test_no_sideways_scroll_and_the_first_view_holds_what_matters(
    visit, width, height, theme
):
    page = visit(width, height, f"?__theme={theme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    whole(page)
    if width < 1000:
        page.mouse.wheel(0, 500)
        page.wait_for_function("window.scrollY > 300")
        box = page.locator("#lam").bounding_box()
        assert 0 <= box["y"] < 200  # λ stays in sight
        return
    for part in ("#lam", "#verdict", "#cards", "#plot .js-plotly-plot", "#response-C"):
        box = page.locator(part).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= height, part


def test_typed_endpoints_score_and_curve(url, engine):
    client = Client(url, verbose=False)
    api = client.view_api(return_format="dict")["named_endpoints"]
    assert set(api) == {"/score", "/curve", "/pairs", "/merge_report"}
    found = client.predict(
        PROMPT, ANSWERS, 0.4, {"math": 3, "code": 1}, api_name="/score"
    )
    recipe = Recipe(0.4, {"math": 0.75, "code": 0.25})
    wanted = score(engine, recipe, [(PROMPT, ANSWERS)])[0]
    assert found["merged"] == pytest.approx(wanted, abs=CLOSE)
    assert found["recipe"] == recipe.to_json() and found["formula"] == recipe.formula
    base = score(engine, recipe.with_lam(0), [(PROMPT, ANSWERS)])[0]
    assert found["base"] == pytest.approx(base, abs=CLOSE)
    found = client.predict(PROMPT, ANSWERS, {"math": 1}, [0, 0.5, 1], api_name="/curve")
    wanted = curve(engine, PROMPT, ANSWERS, {"math": 1}, [0, 0.5, 1]).to_json()
    assert found["lams"] == [0, 0.5, 1]
    for row, expected in zip(found["rewards"], wanted["rewards"]):
        assert row == pytest.approx(expected, abs=CLOSE)
    assert [f["before"] for f in found["flips"]] == [
        f["before"] for f in wanted["flips"]
    ]
    reach = {"layers": "ramp", "parts": {"mlp": 0.5}}
    found = client.predict(
        PROMPT, ANSWERS, {"math": 1}, [0, 1], api_name="/curve", **reach
    )
    recipe = Recipe(1, {"math": 1}, **reach)
    wanted = score(engine, recipe, [(PROMPT, ANSWERS)])[0]
    assert found["rewards"][1] == pytest.approx(wanted, abs=CLOSE)
    found = client.predict(PROMPT, ANSWERS, 1, {"math": 1}, api_name="/score", **reach)
    assert found["merged"] == pytest.approx(wanted, abs=CLOSE)
    assert found["recipe"] == recipe.to_json()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((PROMPT, ANSWERS, 1.5, {"math": 1}), "between 0 and 1, got 1.5"),
        ((PROMPT, ANSWERS, "much", {"math": 1}), "must be a number"),
        ((PROMPT, ANSWERS, 0.5, {"math": 0}), "weights are zero"),
        ((PROMPT, ANSWERS, 0.5, {"law": 1}), "no domain LM"),
        ((PROMPT, ANSWERS[:1], 0.5, {"math": 1}), "2 to 8 responses, got 1"),
        ((PROMPT, ANSWERS * 4, 0.5, {"math": 1}), "2 to 8 responses, got 12"),
        (("", ANSWERS, 0.5, {"math": 1}), "instruction is empty"),
        ((PROMPT, ["a", "<img src=x> \n "], 0.5, {"<b>": 1}), "&lt;b&gt;"),
        ((PROMPT, ANSWERS, 0.5, {"math": 1}, "stir"), "no merge method"),
        ((PROMPT, ANSWERS, 0.5, {"math": 1}, "ties", {"x": 1}), "has no option"),
        ((PROMPT, ANSWERS, 0.5, {"math": 1}, "ties", {"density": 2}), "above 0 to 1"),
        (
            (PROMPT, ANSWERS, 0.5, {"math": 1}, "ties", [0.5]),
            "must be a mapping",
        ),
    ],
)
def test_an_endpoint_answers_bad_input_with_the_librarys_sentence(
    url, arguments, words
):
    client = Client(url, verbose=False)
    with pytest.raises(AppError, match=re.escape(words)):
        client.predict(*arguments, api_name="/score")


def test_endpoints_take_a_methods_options_last(url, with_parent):
    client = Client(url, verbose=False)
    shares, options = {"math": 1}, {"density": 0.3}
    found = client.predict(
        PROMPT, ANSWERS, 0.4, shares, "ties", options, api_name="/score"
    )
    recipe = Recipe(0.4, shares, "ties", options)
    wanted = score(with_parent, recipe, [(PROMPT, ANSWERS)])[0]
    assert found["merged"] == pytest.approx(wanted, abs=CLOSE)
    assert found["recipe"] == recipe.to_json()
    found = client.predict(
        PROMPT, ANSWERS, shares, [0.4, 1], "ties", options, api_name="/curve"
    )
    assert found["rewards"][0] == pytest.approx(wanted, abs=CLOSE)
    with pytest.raises(
        AppError, match="option density .* must be a number above 0 to 1, got"
    ):
        client.predict(
            PROMPT, ANSWERS, shares, None, "ties", {"density": 0}, api_name="/curve"
        )


def test_a_curve_of_one_point_is_refused(url):
    client = Client(url, verbose=False)
    with pytest.raises(AppError, match="at least two points"):
        client.predict(PROMPT, ANSWERS, {"math": 1}, [0.5], api_name="/curve")


def test_every_plotted_colour_is_one_the_pages_plotly_knows():
    found = Curve(
        (0.0, 0.5, 1.0),
        tuple(tuple(i * lam for i in range(8)) for lam in (1, 2, 3)),
        (Flip(0.3, 0, 1),),
        Recipe(0, {"math": 1}),
    )
    for centred in (False, True):
        text = reward_curve(found, 0.4, centred).to_json()
        colours = re.findall(r'"(?:\w*color)":\s*"([^"]+)"', text)
        assert len(colours) > 16
        assert all(re.fullmatch(r"#[0-9a-f]{6}|rgba\([\d., ]+\)", c) for c in colours)


def test_a_centred_curve_has_mean_zero_and_keeps_the_differences():
    rewards = ((1.0, 3.0), (5.0, 4.0))
    found = Curve((0.0, 1.0), rewards, (), Recipe(0, {"math": 1}))
    raw, centred = (reward_curve(found, centred=flag).data for flag in (False, True))
    for i in (0, 1):
        assert centred[0].y[i] + centred[1].y[i] == pytest.approx(0)
        assert centred[0].y[i] - centred[1].y[i] == pytest.approx(
            raw[0].y[i] - raw[1].y[i]
        )


@pytest.mark.parametrize("bits, held, other", [(8, "int8", 4), (4, "nf4", 8)])
def test_the_model_panel_plans_then_loads_in_few_bits_and_the_page_follows(
    visit, engine, bits, held, other
):
    page = visit()
    page.click("#model button")
    page.check(f"#in-{other}bit input")
    page.check(f"#in-{bits}bit input")
    page.wait_for_function(
        f"document.getElementById('plan').innerText.includes('{held} beside float32')"
    )
    assert not page.locator(f"#in-{other}bit input").is_checked()
    assert "Kept: score.weight." in page.inner_text("#plan")
    assert "tokens only the RM has" in page.inner_text("#plan table")
    page.click("#apply")
    page.wait_for_function(
        f"document.getElementById('status')?.innerText.includes('{held}')"
    )
    whole(page)
    exact = score(engine, Recipe(0, {"math": 1}), [(PROMPT, ANSWERS)])[0]
    assert shown(page, "base") == pytest.approx(exact, abs=0.02)
    assert shown(page, "base") != pytest.approx(exact, abs=1e-7)
    # Three responses and two: four orders, at λ = 0 and at the default.
    assert re.search(rf"{held} ranks [678] of 8 pairs", page.inner_text("#agreement"))
    page.click("#model button")
    assert page.locator(f"#in-{bits}bit input").is_checked()
    assert not page.locator(f"#in-{other}bit input").is_checked()
    page.uncheck(f"#in-{bits}bit input")
    page.click("#apply")
    page.wait_for_function(
        "document.getElementById('status')?.innerText.includes('float32')"
    )
    whole(page)
    assert shown(page, "base") == pytest.approx(exact, abs=CLOSE)


def test_a_model_that_cannot_be_loaded_leaves_the_old_one_live(visit, engine):
    page = visit()
    page.click("#model button")
    page.click("#model-family input")
    page.get_by_role("option", name="llama2-7b").click()
    toast = page.locator(".toast-body").first
    toast.wait_for()
    assert "miulab/llama2-7b-ultrafeedback-rm" in toast.inner_text()
    page.locator(".toast-close").first.click()
    page.click("#apply")
    toast.wait_for()
    assert "float32 · live" in page.inner_text("#status")
    page.fill("#instruction textarea", PROMPT + " ")
    page.fill("#instruction textarea", PROMPT)
    page.click("#score")
    whole(page)
    exact = score(engine, Recipe(0, {"math": 1}), [(PROMPT, ANSWERS)])[0]
    assert shown(page, "base") == pytest.approx(exact, abs=CLOSE)
