"""The page in 繁體中文 and back: every string, figure and error; the dictionary itself."""

import json
import re
from pathlib import Path

import pytest
from browsing import PROMPT, whole

import dogerm
from dogerm.errors import DogermError
from dogerm.family import Family, names, read_examples
from dogerm.merge import METHODS, check_method
from dogerm.recipe import Recipe
from dogerm.rows import read_rows
from dogerm.scoring import tokenise
from dogerm.ui.limits import LOCAL
from dogerm.ui.playground import capitalised

UI = Path(dogerm.__file__).parent / "ui"
WORDS = json.loads((UI / "zh-Hant.json").read_text("utf-8"))
VALUE = re.compile(r"\{\d+\}")
# Names, which no language changes; the last line is the family that the test opens.
NAMES = re.findall(
    r"\w+",
    """DogeRM RM LM Studio Bradley Terry JSON JSONL Lines CSV PNG HTML YAML TOML UTF GB MB
    GPU CPU CUDA API MCP Python Gradio Plotly mergekit Space EN Llama nano Hugging Face
    arXiv int8 nf4 float16 bfloat16 float32 auto cpu cuda jsonl csv json parquet txt chosen
    rejected prompt domain responses pad eos id LlamaForSequenceClassification
    LlamaForCausalLM score weight lm Primes Two Tiny family tiny toml math code own Unicode
    gradio_client curve pairs merge_report SHA SVG transformers parent Parquet dtype
    dogerm RewardBench EMNLP Esc Mistral Qwen3 GSM8K MBPP HumanEval""",
)
# What is left of the visible words, labels and hints once names, files and what is no
# language's are taken away; `where` says what to look in.
LEFT = """([where, names]) => {
  const closed = 'script, style, textarea, code, pre, [translate="no"], .notranslate';
  const seen = (e) => e.checkVisibility({ visibilityProperty: true }) && !e.closest(closed);
  const left = (text) => (text.replace(/\\S*[\\/.]\\S+/g, '').match(/[A-Za-z][A-Za-z0-9_]+/g) ?? []).filter((word) => !names.includes(word));
  const found = [];
  for (const root of document.querySelectorAll(where)) for (const e of [root, ...root.querySelectorAll('*')]) {
    if (!seen(e)) continue;
    const texts = [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data);
    for (const name of ['aria-label', 'title', 'placeholder', 'alt', 'data-title']) texts.push(e.getAttribute(name) ?? '');
    found.push(...texts.filter((text) => left(text).length));
  }
  return [...new Set(found)];
}"""
# All words of the page, in their order.
SAID = """() => {
  const found = [], walk = document.createTreeWalker(document.querySelector('.gradio-container'), 5);
  while (walk.nextNode()) {
    const node = walk.currentNode;
    if (node.nodeType === 1) for (const name of ['aria-label', 'title', 'placeholder']) found.push(node.getAttribute(name));
    else if (!node.parentElement.closest('script, style, [data-testid=status-tracker]')) found.push(node.data);
  }
  return found.filter((text) => text && text.trim());
}"""


def left(page, where: str = "body") -> list[str]:
    known = {name for method in METHODS.values() for name in method.options}
    names = [*NAMES, *re.findall(r"\w+", " ".join([*METHODS, *known]))]
    return page.evaluate(LEFT, [where, names])


def choose(page, language: str) -> None:
    page.click(f'[data-language="{language}"]')
    page.wait_for_function(f"document.documentElement.lang === '{language}'")


def said(page) -> list[str]:
    return page.evaluate(SAID)


def open_all(page, tmp_path) -> None:
    """Opens every panel and fold, and has it show what it can."""
    file = tmp_path / "own.csv"
    file.write_text("prompt,chosen,rejected\nName a prime.,Seven,Nine\n", "utf-8")
    for fold in page.locator("button.label-wrap").all():
        fold.click()
    for tab in page.locator('#panels [role="tab"]').all():
        tab.click()
    page.locator('#panels [role="tab"]', has_text="Tokens").click()
    page.wait_for_selector(".reading .token")
    page.locator('#panels [role="tab"]', has_text="Pairs").click()
    page.locator("#pairs-file input[type=file]").set_input_files(file)
    page.get_by_text("own.csv").first.wait_for()
    page.click("#pairs-run")
    page.wait_for_selector("#pairs-table tbody tr")
    page.click("#in-8bit input")
    page.wait_for_selector("#model .plan table")


def through_the_tabs(page, look) -> list[list[str]]:
    """What `look` finds with each tab open, once what the tab asks for has come."""
    found = []
    for tab in page.locator('#panels [role="tab"]').all():
        tab.click()
        page.wait_for_timeout(300)
        found.append(look(page))
    return found


def test_every_panel_speaks_the_other_language_and_english_again(visit, tmp_path):
    page = visit()
    open_all(page, tmp_path)
    english = through_the_tabs(page, said)[-1]
    choose(page, "zh-Hant")
    assert not any(through_the_tabs(page, left))
    assert left(page) == [] and "偏好" in page.inner_text("#verdict")
    choose(page, "en")
    assert through_the_tabs(page, said)[-1] == english


def test_each_step_of_the_story_speaks_it_too(visit):
    page = visit(path="?lang=zh-Hant")
    page.locator(".story-open-button").first.click()
    for step in range(6):
        if step:
            page.click("#story-next")
        page.wait_for_timeout(300)
        assert left(page, "#story") == []
    page.click("#story-end")


def test_the_browsers_language_and_the_errors_in_it_until_another_is_chosen(visit):
    page = visit(locale="zh-TW")
    assert page.get_attribute("html", "lang") == "zh-Hant"
    assert left(page) == []
    page.fill("#instruction textarea", "")
    page.click("#score")
    page.get_by_text("指令是空的，請寫些內容。").wait_for()
    page.fill("#instruction textarea", PROMPT)
    page.click("#score")
    page.wait_for_function("dogerm.view.frame.prompt !== ''")
    whole(page)
    assert left(page) == []
    page.locator('#panels [role="tab"]').last.click()
    choose(page, "en")
    chinese = [text for text in said(page) if re.search(r"[\u4e00-\u9fff]", text)]
    assert chinese == [page.inner_text("[data-language=zh-Hant]")]
    page.reload()  # the choice is remembered
    whole(page)
    assert page.get_attribute("html", "lang") == "en"


@pytest.fixture
def errors(engine, family, tmp_path) -> list[str]:
    """What the library says of a visitor's mistakes, as the page begins a sentence."""
    file = tmp_path / "x.jsonl"

    def rows(text: str):
        file.write_text(text, "utf-8")
        return read_rows(file)

    mistakes = [
        lambda: tokenise(engine, "", ["a", "b"]),
        lambda: tokenise(engine, PROMPT, ["a", " "]),
        lambda: tokenise(engine, PROMPT, ["a", "b" * 900]),
        lambda: tokenise(engine, PROMPT, ["a", "\ud800"]),
        lambda: LOCAL.check_texts(PROMPT, ["a"]),
        lambda: LOCAL.check_texts(PROMPT, ["a" * 150_000, "b" * 150_000]),
        lambda: Recipe(2, {"math": 1}),
        lambda: Recipe("x", {"math": 1}),
        lambda: family.recipe(0.5, {"math": 0}),
        lambda: family.recipe(0.5, {"math": -1}),
        lambda: family.recipe(0.5, {"law": 1}),
        lambda: check_method(Recipe(0.5, {"math": 1}, "magic"), parent=True),
        lambda: check_method(Recipe(0.5, {"math": 1}, "ties", {"x": 1}), parent=True),
        lambda: check_method(
            Recipe(0.5, {"math": 1}, "ties", {"density": 7}), parent=True
        ),
        lambda: check_method(Recipe(0.5, {"math": 1}, "ties"), parent=False),
        lambda: rows(""),
        lambda: rows("[1]\n"),
        lambda: rows("{\n"),
        lambda: rows('{"prompt": "a", "chosen": "b"}\n'),
        lambda: rows('{"prompt": "a", "chosen": "b", "rejected": ""}\n'),
        lambda: rows('{"chosen": "b"}\n'),
        lambda: rows('{"prompt": "a", "responses": ["b"]}\n'),
        lambda: Family.load("nowhere"),
    ]
    said = []
    for mistake in mistakes:
        with pytest.raises(DogermError) as caught:
            mistake()
        said.append(capitalised(caught.value))
    return said


@pytest.fixture
def spoken(browser):
    """Words in the other language, as the page's own script gives them: text -> text."""
    page = browser.new_page()
    words = (UI / "zh-Hant.json").read_text("utf-8").replace("<", "\\u003c")
    page.set_content(
        f'<script type="application/json" id="dogerm-words">{words}</script>'
        '<button data-language="zh-Hant"></button><p id="said"></p>'
    )
    page.add_script_tag(path=UI / "words.js")
    page.click("button")

    def say(text: str) -> str:
        page.evaluate("text => { said.textContent = text; }", text)
        return page.inner_text("#said")

    yield say
    page.close()


def test_what_the_library_says_of_a_mistake_is_translated(spoken, errors):
    names_ = [*NAMES, *METHODS, *METHODS["ties"].options]
    families = "|".join(map(re.escape, names()))
    for error in errors:
        said = re.sub(
            families + r"|" + r"'[^']*'|\"[^\"]*\"|`[^`]*`|--\S+|x\.jsonl",
            "",
            spoken(error),
        )
        foreign = set(re.findall(r"[A-Za-z][\w-]+", said)) - set(names_)
        assert not foreign, (error, said)
    assert spoken("λ must be between 0 and 1, got 2.") in map(spoken, errors)


def test_visitors_text_keeps_its_language(spoken, visit):
    assert spoken("Stop") == WORDS["Stop"]
    page = visit(path="?lang=zh-Hant")
    page.fill("#response-A textarea", "Stop")
    page.click("#score")
    page.wait_for_function("dogerm.view.frame.texts[0] === 'Stop'")
    assert page.locator("#cards .snippet").first.inner_text() == "Stop"


def test_the_dictionary_has_every_string_that_is_not_in_a_page_of_the_tests():
    wanted = set()
    for script in UI.glob("*.js"):
        for call in re.findall(r'\bt\("((?:[^"\\]|\\.)*)"', script.read_text("utf-8")):
            wanted.add(json.loads(f'"{call}"').strip())
    for method in METHODS.values():
        for option in method.options.values():
            wanted.add(option.meaning)
    for name in names():
        family = Family.load(name)
        wanted |= {family.title, family.note}
    wanted |= {example.title for example in read_examples(Family.load("nano"))}
    assert not {text for text in wanted if re.search("[A-Za-z]{2}", text)} - set(WORDS)
    for english, other in WORDS.items():
        assert set(VALUE.findall(english)) == set(VALUE.findall(other)), english
