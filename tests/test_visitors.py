"""Many visitors at once, and those who leave."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from browsing import ANSWERS, CLOSE, PROMPT
from calling import endpoint, heard, leave_after, press

from dogerm.engine import Engine
from dogerm.recipe import Recipe
from dogerm.scoring import score

MIX = {"math": 1, "code": 1}


def test_ten_visitors_at_once_each_get_their_own_numbers(url, engine):
    lams = [round(0.05 + place / 11, 2) for place in range(10)]

    def let_go(lam: float) -> dict:
        return press(url, "lam", {"lam": lam}, "release")

    with ThreadPoolExecutor(10) as visitors:
        answers = list(visitors.map(let_go, lams))
    for lam, answer in zip(lams, answers, strict=True):
        (frame,) = answer["output"]["data"]
        wanted = score(engine, Recipe(lam, MIX), [(PROMPT, ANSWERS)])[0]
        assert frame["lam"] == lam
        assert frame["merged"] == pytest.approx(wanted, abs=CLOSE)


@pytest.fixture
def passes(monkeypatch) -> list[float]:
    """When the engine was run, each time made to last a tenth of a second."""
    forward, calls = Engine.forward, []

    def slow(engine, batch):
        calls.append(time.monotonic())
        time.sleep(0.1)
        return forward(engine, batch)

    monkeypatch.setattr(Engine, "forward", slow)
    return calls


def settled(calls: list[float]) -> int:
    """How many there were when none had come for two seconds."""
    while time.monotonic() - calls[-1] < 2:
        time.sleep(0.2)
    return len(calls)


def test_the_work_of_a_visitor_who_is_gone_is_dropped(url, passes):
    rows = [{"prompt": PROMPT, "chosen": "a", "rejected": "b"}]
    lams = [step / 200 for step in range(201)]
    values = [rows, MIX, lams, "linear", None]
    leave_after(url, endpoint(url, "pairs"), values, "process_generating")
    assert settled(passes) < 201


def test_a_curve_of_a_visitor_who_is_gone_is_dropped(visit, passes):
    page = visit()
    passes.clear()
    page.fill("#response-A textarea", "Another answer")
    page.click("#score")
    page.wait_for_function("dogerm.view.frame.texts[0] === 'Another answer'")
    page.close()
    assert settled(passes) < 21


def test_two_who_apply_at_once_leave_one_model_live_and_right(url, engine):
    choices = [{"in-8bit": True}, {"in-8bit": False}]
    with ThreadPoolExecutor(2) as visitors:
        answers = list(
            visitors.map(lambda choice: press(url, "apply", choice), choices)
        )
    assert all(answer["success"] for answer in answers)
    values = [PROMPT, ANSWERS, 0.5, MIX, "linear", None]
    *_, answer = heard(url, endpoint(url, "score"), values)
    wanted = score(engine, Recipe(0.5, MIX), [(PROMPT, ANSWERS)])[0]
    near = 0.02  # as one of the two holds int8
    assert answer["output"]["data"][0]["merged"] == pytest.approx(wanted, abs=near)
    assert press(url, "apply", {"in-8bit": False})["success"]


def test_a_file_of_200_mb_is_refused_with_a_sentence(visit, tmp_path):
    file = tmp_path / "large.jsonl"
    with file.open("wb") as opened:
        opened.truncate(200 << 20)
    page = visit()
    page.get_by_role("tab", name="Pairs").click()
    page.locator("#pairs-file input[type=file]").set_input_files(file)
    page.get_by_text("maximum allowed size of 64.0 MB").first.wait_for()
    page.click("#score")
    page.wait_for_function("dogerm.view.frame.done")
