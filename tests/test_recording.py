"""Recordings and what else a visitor takes away: number for number, and nothing else read back."""

import csv
import hashlib
import io
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from browsing import ANSWERS, CLOSE, PROMPT, Slider, shown, state, whole

from dogerm.curves import Curve, Flip
from dogerm.engine import Engine
from dogerm.errors import RecordingError
from dogerm.export import export
from dogerm.family import Family, read_examples
from dogerm.nano.record import record
from dogerm.provenance import models_of
from dogerm.recipe import Recipe
from dogerm.recording import Made, Take, read_text, to_text
from dogerm.scoring import score
from dogerm.sweep import curve
from dogerm.ui import recordings, serve
from dogerm.ui.export import _steps
from dogerm.ui.page import build
from dogerm.ui.studio import Studio

RECIPE = Recipe(0.53, {"math": 0.7, "code": 0.3}, "dare_ties", {"density": 0.2})
MADE = Made(
    "Tiny 🙂", 12, "cpu", "float32", "2026-11-21T12:00:00+00:00", {"torch": "2"}
)
TAKE = Take(
    "質數?",
    ("七 <b>", "Nine"),
    RECIPE,
    Curve((0.0, 0.5, 1.0), ((1, 2), (0.1, 0.2), (3, 2)), (Flip(0.6, 1, 0),), RECIPE),
    MADE,
    {0.53: (0.123456789012345, 0.2)},
)


def data(**changes) -> dict:
    whole = json.loads(to_text([TAKE]))
    whole["takes"][0] |= changes
    return whole


def test_a_take_is_read_as_it_was_written():
    assert read_text(to_text([TAKE, TAKE]), "x.json") == [TAKE, TAKE]
    assert list(TAKE.points) == [0, 0.5, 0.53, 1]


def test_reading_needs_no_torch():
    code = "import dogerm.recording, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        (to_text([TAKE])[:-40], "was cut"),
        ("[1, 2]", "no recording of this page"),
        ('{"benchmark": "pairs"}', "no recording of this page"),
        (json.dumps(data() | {"format": 2}), "another version of dogerm .*is 2, this"),
        (json.dumps(data() | {"format": {"a": 1}}), "another version"),
        (json.dumps(data() | {"takes": []}), "1 to 200 curves"),
        (json.dumps(data() | {"takes": {"a": 1}}), "1 to 200 curves"),
        (json.dumps(data() | {"takes": [None]}), "curve 1 is damaged"),
        (" " * 8_000_001, "8,000,000 characters"),
    ],
)
def test_what_is_no_recording_is_one_sentence(text, words):
    with pytest.raises(RecordingError, match=words) as caught:
        read_text(text, "mine.json")
    assert str(caught.value).startswith("mine.json") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": ["a"]},
        {"prompt": "\ud800"},
        {"responses": ["one"]},
        {"responses": ["a"] * 9},
        {"responses": ["a", "x" * 200_001]},
        {"recipe": None},
        {"recipe": {"lam": 2, "shares": {"math": 1}, "method": "linear"}},
        {"recipe": {"lam": 0.5, "shares": [], "method": "linear"}},
        {"recipe": {"lam": 0.5, "shares": {"math": 1}, "method": ["x"]}},
        {"curve": {"lams": [0, 1], "rewards": [[1, 2]], "flips": []}},
        {
            "curve": {
                "lams": [0, 1],
                "rewards": [[1, 2], [1, float("nan")]],
                "flips": [],
            }
        },
        {"curve": {"lams": [0, 1], "rewards": [[1, 2], [1, 10**400]], "flips": []}},
        {"curve": {"lams": [0, 0.5], "rewards": [[1, 2], [1, 2]], "flips": []}},
        {"curve": {"lams": [1, 0], "rewards": [[1, 2], [1, 2]], "flips": []}},
        {"curve": {"lams": [0, 1], "rewards": [[1, 2], [1, True]], "flips": []}},
        {
            "curve": {
                "lams": [0, 1],
                "rewards": [[1, 2], [1, 2]],
                "flips": [{"lam": 0.5, "before": 0, "after": 7}],
            }
        },
        {"measured": [{"lam": "0.5", "rewards": [1, 2]}]},
        {"measured": {"lam": 1}},
        {"made": {}},
        {"made": MADE.to_json() | {"date": "yesterday"}},
        {"made": MADE.to_json() | {"device": "x" * 201}},
        {"made": MADE.to_json() | {"models": {"rm": {"source": "x", "files": [1]}}}},
    ],
    ids=lambda changes: json.dumps(changes)[:60],
)
def test_a_damaged_take_is_named(changes):
    with pytest.raises(
        RecordingError, match="mine.json, curve 1 is damaged: "
    ) as caught:
        read_text(json.dumps(data(**changes)), "mine.json")
    assert len(str(caught.value)) < 400


@pytest.fixture(scope="module")
def nano() -> Engine:
    return Engine.load(Family.load("nano"), "cpu", "float32")


def test_the_shipped_recording_is_of_the_shipped_weights_and_examples(nano):
    """If this fails, run `python -m dogerm nano record`."""
    file = nano.family.recording
    assert file.stat().st_size < 200_000
    takes = read_text(file.read_text("utf-8"), file.name)
    examples = read_examples(nano.family)
    assert len(takes) == len(examples)
    for take, example in zip(takes, examples):
        assert (take.prompt, take.responses) == (example.prompt, example.responses)
        assert take.recipe == nano.family.recipe(example.lam, example.shares)
        assert take.made.models == models_of(nano)
    for take in (takes[0], takes[-1]):
        found = curve(nano, take.prompt, take.responses, take.recipe.shares)
        assert take.curve.flips == found.flips and take.curve.lams == found.lams
        for row, wanted in zip(take.curve.rewards, found.rewards):
            assert row == pytest.approx(wanted, abs=1e-5)


# The page.

EXAMPLES = [
    {"title": "Primes", "prompt": PROMPT, "responses": ANSWERS},
    {
        "title": "Hostile",
        "prompt": "=1+1 </script><script>window.owned = 1</script> 質數?",
        "responses": ["<img src=x onerror='window.owned = 1'>", '-"二", 🙂\nnext'],
        "shares": {"math": 1},
    },
]


@pytest.fixture(scope="module")
def tiny(folders, tmp_path_factory) -> Family:
    """A family whose examples are recorded."""
    root = tmp_path_factory.mktemp("family")
    (root / "examples.jsonl").write_text("\n".join(map(json.dumps, EXAMPLES)))
    (root / "tiny.toml").write_text(
        f'title = "Tiny <i>family</i>"\nrm = "{folders["rm"]}"\n'
        f'examples = "examples.jsonl"\n[lms]\nmath = "{folders["plain"]}"\n'
        f'code = "{folders["padded"]}"\n[default]\nlam = 0.5\n'
    )
    family = Family.load(root / "tiny.toml")
    record(family)
    return family


@pytest.fixture(scope="module")
def url(tiny):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = serve(tiny, port=port, device="cpu", block=False)
    yield f"http://127.0.0.1:{port}/"
    app.close()


def saved(page, button: str) -> bytes:
    """What a button downloads."""
    with page.expect_download() as found:
        page.click(button)
    return Path(found.value.path()).read_bytes()


def drawn(page, place: str) -> list[list[float]]:
    """The heights of a chart's lines."""
    return page.evaluate(
        "place => document.querySelector(place)._fullData.map(line => [...line.y])",
        place,
    )


def test_the_first_paint_is_the_recorded_example_while_the_model_is_busy(
    browser, url, engine, monkeypatch
):
    wanted = curve(engine, PROMPT, ANSWERS, {"math": 1, "code": 1})
    free, forward = threading.Event(), Engine.forward

    def waiting(engine, batch):
        free.wait(60)
        return forward(engine, batch)

    monkeypatch.setattr(Engine, "forward", waiting)
    page = browser.new_page()
    page.set_default_timeout(60_000)
    try:
        page.goto(url)
        page.wait_for_selector("#cards .card")
        assert state(page) == "recorded"
        assert shown(page, "base") == pytest.approx(list(wanted.rewards[0]), abs=CLOSE)
        assert shown(page, "merged") == pytest.approx(
            list(wanted.rewards[10]), abs=CLOSE
        )
        said = page.inner_text("#recorded")
        assert re.fullmatch(
            r"Recorded with Tiny <i>family</i> on cpu, float32, 20\d\d-\d\d-\d\d; "
            "live numbers follow.",
            said,
        )
        free.set()
        whole(page)
        assert page.inner_text("#recorded") == ""
        assert shown(page, "base") == pytest.approx(list(wanted.rewards[0]), abs=CLOSE)
    finally:
        free.set()
        page.close()


def test_a_recording_of_other_weights_or_examples_is_not_shown(tiny):
    example = read_examples(tiny)[0]
    own = Engine.load(tiny, "cpu", "float32")
    assert recordings.shipped(own, example).prompt == PROMPT
    assert recordings.shipped(own, replace(example, prompt="Another?")) is None
    assert recordings.shipped(own, replace(example, shares={"code": 1})) is None
    swapped = {"math": tiny.lms["code"], "code": tiny.lms["math"]}
    others = Engine.load(replace(tiny, lms=swapped), "cpu")
    assert recordings.shipped(others, example) is None


def test_what_is_exported_is_what_the_library_measures(
    visit, browser, engine, tmp_path
):
    page = visit()
    page.get_by_text("Hostile", exact=True).click()
    page.wait_for_function("dogerm.view.frame.texts.length === 2")
    whole(page)
    Slider(page, "#lam").to(0.53)
    page.wait_for_function("Math.abs(dogerm.view.frame.lam - 0.5) > 0.005")
    whole(page)
    lam = page.evaluate("dogerm.view.frame.lam")
    page.get_by_role("tab", name="Export").click()
    prompt, texts = EXAMPLES[1]["prompt"], EXAMPLES[1]["responses"]
    wanted = curve(engine, prompt, texts, {"math": 1})

    (take,) = read_text(saved(page, "#export-json").decode("utf-8"), "curve")
    assert (take.prompt, list(take.responses)) == (prompt, texts)
    assert take.recipe == Recipe(lam, {"math": 1})
    assert take.curve.lams == wanted.lams
    for row, own in zip(take.curve.rewards, wanted.rewards, strict=True):
        assert row == pytest.approx(own, abs=CLOSE)
    assert [(f.before, f.after) for f in take.curve.flips] == [
        (f.before, f.after) for f in wanted.flips
    ]
    (at,) = take.measured
    exact = score(engine, Recipe(at, {"math": 1}), [(prompt, texts)])[0]
    assert at == lam and take.measured[at] == pytest.approx(exact, abs=CLOSE)
    made = take.made
    assert (made.family, made.device, made.dtype) == (
        "Tiny <i>family</i>",
        "cpu",
        "float32",
    )
    digest = hashlib.sha256(Path(engine.family.rm, "model.safetensors").read_bytes())
    assert made.models["rm"]["files"]["model.safetensors"] == digest.hexdigest()

    sheet = saved(page, "#export-csv").decode("utf-8")
    rows = list(csv.DictReader(io.StringIO(sheet, newline="")))
    assert [(float(r["lam"]), float(r["reward"])) for r in rows] == [
        (at, reward) for at, row in take.points.items() for reward in row
    ]
    assert {r["response"] for r in rows} == {"A", "B"}
    assert rows[0]["text"] == texts[0] and rows[1]["text"] == "'" + texts[1]
    assert rows[0]["prompt"] == "'" + prompt and rows[0]["date"] == made.date
    assert digest.hexdigest() in rows[0]["models"]

    png = saved(page, "#export-png")
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and png[12:16] == b"IHDR"
    width, height = struct.unpack(">II", png[16:24])
    assert width == 2000 and height > 1000 and len(png) > 20_000
    svg = ElementTree.fromstring(saved(page, "#export-svg"))
    said = " ".join(svg.itertext())
    assert "=1+1 </script><script>window.owned" in said and "math" in said
    assert not [e for e in svg.iter() if e.tag.endswith(("script", "image"))]

    file = tmp_path / "curve.html"
    file.write_bytes(saved(page, "#export-html"))
    context = browser.new_context(offline=True)
    asked, faults, alone = [], [], context.new_page()
    alone.on("request", lambda request: asked.append(request.url))
    alone.on("pageerror", lambda error: faults.append(str(error)))
    alone.goto(file.as_uri())
    alone.wait_for_selector("#figure-1 .main-svg")
    for line, column in zip(drawn(alone, "#figure-1"), zip(*take.curve.rewards)):
        assert line == pytest.approx(list(column))
    assert prompt in alone.inner_text("h1") and texts[0] in alone.inner_text("table")
    assert (
        alone.evaluate("window.owned") is None and page.evaluate("window.owned") is None
    )
    assert [
        address
        for address in asked
        if not address.startswith(("file:", "data:", "blob:"))
    ] == []
    assert not faults
    context.close()


def test_a_recording_is_saved_and_replayed_with_the_engine_blocked(
    visit, engine, monkeypatch, tmp_path
):
    page = visit()
    page.get_by_text("Hostile", exact=True).click()
    page.wait_for_function("dogerm.view.frame.texts.length === 2")
    whole(page)
    page.get_by_role("tab", name="Export").click()
    text = saved(page, "#export-save").decode("utf-8")
    takes = read_text(text, "session")
    assert [take.prompt for take in takes] == [one["prompt"] for one in EXAMPLES]
    before = page.evaluate("dogerm.view.frame")

    def blocked(engine, batch):
        raise AssertionError("the engine was asked")

    broken = tmp_path / "broken.json"
    broken.write_text(text[:-90], "utf-8")
    later = tmp_path / "later.json"
    later.write_text(text.replace('"format": 1', '"format": 7'), "utf-8")
    upload = page.get_by_test_id("Open a recording-upload-button")
    for file, words in ((broken, "was cut"), (later, "another version of dogerm")):
        upload.set_input_files(file)
        page.locator(".toast-body", has_text=words).first.wait_for()
        page.locator(".toast-close").first.click()
    assert page.evaluate("dogerm.view.replay") is None

    monkeypatch.setattr(Engine, "forward", blocked)
    file = tmp_path / "session.json"
    file.write_text(text, "utf-8")
    upload.set_input_files(file)
    page.wait_for_function("dogerm.view.replay")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    assert state(page) == "recorded"
    assert f"Recorded with {takes[0].made.where}." in page.inner_text("#replay")
    assert page.locator("#panels").is_visible() is False
    for lam in (0.25, 1):
        Slider(page, "#lam").to(lam)
        lam = page.evaluate("dogerm.view.lam")
        near = min(takes[0].points, key=lambda at: abs(at - lam))
        assert shown(page, "merged") == pytest.approx(takes[0].points[near], abs=0.02)
    page.locator("#lam input[type=range]").focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    page.locator("#replay select").select_option("1")
    assert takes[1].responses[0] in page.inner_text("#replay-texts")
    assert page.evaluate("window.owned") is None
    page.keyboard.press("Home")
    assert shown(page, "base") == pytest.approx(takes[1].points[0], abs=1e-12)
    page.wait_for_timeout(300)
    assert [address for address in asked if "/queue/" in address] == []

    monkeypatch.undo()
    page.click("#score")
    whole(page)
    after = page.evaluate("dogerm.view.frame")
    assert page.evaluate("dogerm.view.replay") is None
    assert page.inner_text("#replay") == "" and page.locator("#panels").is_visible()
    assert (after["prompt"], after["texts"]) == (before["prompt"], before["texts"])
    assert after["base"] == pytest.approx(before["base"], abs=CLOSE)


def test_a_link_is_not_kept_waiting_by_the_recorded_example(visit, url):
    page = visit()
    Slider(page, "#lam").to(0.2)
    whole(page)
    page.get_by_role("tab", name="Recipe").click()
    page.wait_for_function(
        "document.querySelector('#recipe-forms .link pre')?.textContent.includes('s=')"
    )
    link = page.locator("#recipe-forms .link pre").text_content()
    again = visit(path=link.removeprefix(url))
    assert again.evaluate("dogerm.view.frame.lam") == page.evaluate("dogerm.view.lam")


def test_a_checkpoint_is_written_where_it_is_wanted_and_packed(visit, tiny, tmp_path):
    page = visit()
    page.get_by_role("tab", name="Export").click()
    out = tmp_path / "merged"
    page.fill("#export-folder textarea, #export-folder input", str(out))
    page.click("#export-write")
    page.wait_for_function(
        "document.getElementById('export-state').textContent.startsWith('Wrote')"
    )
    said = page.inner_text("#export-state")
    assert str(out) in said and "kept from the reward model: score.weight" in said
    recipe = Recipe(0.5, {"math": 1, "code": 1})
    export(tiny, recipe, tmp_path / "plain")
    wanted = (tmp_path / "plain" / "model.safetensors").read_bytes()
    assert (out / "model.safetensors").read_bytes() == wanted
    page.click("#export-write")
    page.locator(".toast-body", has_text="is there already").first.wait_for()
    packed = zipfile.ZipFile(io.BytesIO(saved(page, "#export-zip")))
    assert packed.read("merged/model.safetensors") == wanted


def test_strangers_neither_write_nor_take_weights(engine):
    page = build(Studio(engine, "tiny"), public=True)
    ids = [one["props"].get("elem_id") for one in page.config["components"]]
    assert "export-json" in ids
    assert not {"export-folder", "export-write", "export-zip"} & set(ids)


def test_an_export_that_nobody_waits_for_ends():
    steps, ended = [], threading.Event()

    def work(advance):
        try:
            for _ in range(10_000):
                steps.append(1)
                advance(1, 10_000)
                time.sleep(0.001)
        finally:
            ended.set()

    running = _steps(work)
    next(running)
    running.close()
    assert ended.wait(10) and len(steps) < 10_000
