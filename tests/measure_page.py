"""How fast the page answers, in a real browser: python tests/measure_page.py

Prints medians for the embedded family and four responses: from letting go of λ to exact
numbers, from Score to a whole fresh curve, from navigation to the first verdict that is
painted, and from starting app.py to an answer; and how many frames a second a drag of λ
runs at.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PORT = 7878
URL = f"http://127.0.0.1:{PORT}/"
# The cards are drawn once a frame: right after a move they are still those of the λ before.
EXACT = """document.getElementById('dogerm-results').dataset.state === 'exact'
  && dogerm.view.frame.lam === Number(document.querySelector('#lam input[type=range]').value)"""
LIVE = "window.dogerm && dogerm.view.frame?.done && !dogerm.view.frame.recorded"
RUNS = 30
# Notes when the verdict was first on the screen: two frames after it was in the page.
FIRST = """
new MutationObserver((_, watching) => {
  const results = document.getElementById("dogerm-results");
  if (!results || results.dataset.state === "waiting") return;
  watching.disconnect();
  const note = () => { window.painted = [performance.now(), results.dataset.state]; };
  requestAnimationFrame(() => requestAnimationFrame(note));
}).observe(document, { subtree: true, childList: true, attributes: true });
"""
# λ to and fro for as many animation frames, one input event in each: what a hand sends at
# most. Gives the milliseconds between frames, and those spent in the page's answer.
DRAG = """frames => new Promise(done => {
  const range = document.querySelector('#lam input[type=range]');
  const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set;
  const between = [], spent = [];
  let last = null, count = 0;
  const step = (now) => {
    if (last !== null) between.push(now - last);
    last = now;
    const started = performance.now();
    set.call(range, (0.5 - 0.45 * Math.cos(count / 20)).toFixed(2));
    range.dispatchEvent(new Event('input', { bubbles: true }));
    spent.push(performance.now() - started);
    if (++count < frames) requestAnimationFrame(step);
    else done([between, spent]);
  };
  requestAnimationFrame(step);
})"""
FRAMES = 240


def start() -> tuple[subprocess.Popen, float]:
    """The program and the seconds until its page answers."""
    started = time.perf_counter()
    environment = os.environ | {"GRADIO_SERVER_PORT": str(PORT)}
    program = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment)
    while True:
        try:
            urllib.request.urlopen(URL).read()
            return program, time.perf_counter() - started
        except urllib.error.URLError:
            if program.poll() is not None:
                sys.exit("app.py ended before its page answered.")
            time.sleep(0.05)


def four_responses(page) -> None:
    for _ in range(page.locator(".response textarea:visible").count(), 4):
        page.click("#more")
        page.wait_for_timeout(300)
    for index, letter in enumerate("ABCD"):
        page.fill(f"#response-{letter} textarea", f"Step 1: 11-3=8\nAnswer: {index}")


def release_times(page) -> list[float]:
    """Milliseconds from letting go of λ to exact numbers."""
    slider = page.locator("#lam input[type=range]")
    slider.scroll_into_view_if_needed()  # the mouse only reaches what is in view
    box = slider.bounding_box()
    y = box["y"] + box["height"] / 2
    times = []
    for run in range(RUNS):
        old, new = (
            box["x"] + 8 + (box["width"] - 16) * lam
            for lam in (float(slider.input_value()), 0.1 + 0.8 * (run * 0.381 % 1))
        )
        page.mouse.move(old, y)
        page.mouse.down()
        page.mouse.move(new, y, steps=3)
        started = time.perf_counter()
        page.mouse.up()
        page.wait_for_function(EXACT)
        times.append(1e3 * (time.perf_counter() - started))
        wanted = 0.1 + 0.8 * (run * 0.381 % 1)
        assert abs(float(slider.input_value()) - wanted) < 0.02, "λ was not moved"
    return times


def curve_times(page) -> list[float]:
    """Milliseconds from Score, with a new text, to a whole curve with its flips."""
    times = []
    for run in range(RUNS // 3):
        text = f"Step 1: 11-3=8\nStep 2: 8/2=4\nAnswer: {run}"
        page.fill("#response-A textarea", text)
        started = time.perf_counter()
        page.click("#score")
        page.wait_for_function(
            f"dogerm.view.frame.done && dogerm.view.frame.texts[0] === {text!r}"
        )
        times.append(1e3 * (time.perf_counter() - started))
    return times


def first_paints(browser) -> tuple[list[float], list[float]]:
    """Milliseconds from navigation to a painted verdict, and to the browser's own first paint.

    Of visitors who come for the first time: nothing is in their cache.
    """
    verdicts, paints = [], []
    for _ in range(RUNS // 3):
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.add_init_script(FIRST)
        page.goto(URL)
        page.wait_for_function("window.painted")
        milliseconds, state = page.evaluate("window.painted")
        if state != "recorded":
            sys.exit("the page shows no recording: run python -m dogerm nano record")
        verdicts.append(milliseconds)
        paints.append(
            page.evaluate("performance.getEntriesByType('paint')[0].startTime")
        )
        page.context.close()
    return verdicts, paints


def drag_times(page) -> tuple[list[float], list[float]]:
    """Milliseconds between the frames of a drag, and in the page's answer to each event."""
    between, spent = page.evaluate(DRAG, FRAMES)
    page.evaluate("dogerm.move(dogerm.view.lam)")  # let go
    page.wait_for_function(EXACT)
    return between, spent


def main() -> None:
    program, seconds = start()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(URL)
            page.wait_for_function(LIVE)
            four_responses(page)
            page.click("#score")
            page.wait_for_timeout(2000)
            curves, releases = curve_times(page), release_times(page)
            between, spent = drag_times(page)
            page.close()
            verdicts, paints = first_paints(browser)
            browser.close()
    finally:
        program.terminate()
    print(f"app.py to a page that answers: {seconds:.1f} s")
    print(
        f"navigation to the first verdict: median {statistics.median(verdicts):.0f} ms, "
        f"slowest {max(verdicts):.0f} ms (the browser's first paint: "
        f"{statistics.median(paints):.0f} ms)"
    )
    print(f"let go of λ to exact numbers: median {statistics.median(releases):.0f} ms")
    print(f"Score to a fresh 21-point curve: median {statistics.median(curves):.0f} ms")
    print(
        f"drag of λ: {1e3 / statistics.median(between):.0f} frames a second at the "
        f"median, {1e3 / _late(between):.0f} at the slowest twentieth; in the page's "
        f"answer median {statistics.median(spent):.1f} ms, {_late(spent):.1f} ms at the "
        "slowest twentieth"
    )


def _late(times: list[float]) -> float:
    return statistics.quantiles(times, n=20)[-1]


if __name__ == "__main__":
    main()
