"""The page in a real browser: what its tests look at, and a hand that moves sliders."""

import shutil

PROMPT = "Which of these is a prime?"
ANSWERS = ["Seven is.", "Nine, as it is odd.", "None of them, I think."]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
LEFT = "signal is aborted"  # a page that reloads closes its own stream
BROKEN = "Connection errored out"  # the same, unless no reload follows
CLOSE = 1e-5  # a float32 reward in another batch


def whole(page) -> None:
    """Waits until the cards are exact and the curve is whole."""
    page.wait_for_function(
        "window.dogerm && dogerm.view.frame && dogerm.view.frame.done"
        " && document.getElementById('dogerm-results').dataset.state === 'exact'"
    )


def shown(page, kind: str) -> list[float]:
    cells = page.locator(f"#cards .reward.{kind}")
    return [float(cell.get_attribute("data-value")) for cell in cells.all()]


def state(page) -> str:
    return page.get_attribute("#dogerm-results", "data-state")


class Slider:
    """Moves a slider with the mouse, in steps, like a hand."""

    def __init__(self, page, block: str):
        self.page, self.range = page, page.locator(f"{block} input[type=range]")

    def grab(self) -> None:
        self._move(float(self.range.input_value()))
        self.page.mouse.down()

    def drag(self, value: float) -> None:
        self._move(value)

    def drop(self) -> None:
        self.page.mouse.up()

    def to(self, value: float) -> None:
        self.grab()
        self.drag(value)
        self.drop()

    def _move(self, value: float) -> None:
        box = self.range.bounding_box()
        thumb = 16  # the thumb's middle stays half its width from either end
        x = box["x"] + thumb / 2 + (box["width"] - thumb) * value
        self.page.mouse.move(x, box["y"] + box["height"] / 2, steps=4)
