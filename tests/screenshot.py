"""Takes the README's screenshot from the running program: python tests/screenshot.py"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dogerm.ui import serve

PORT = 7877
READY = "window.dogerm && dogerm.view.frame?.done && !dogerm.view.frame.recorded && dogerm.view.plotted"


def main() -> None:
    app = serve("nano", port=PORT, block=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(
            viewport={"width": 1280, "height": 800}, device_scale_factor=1.5
        )
        page.goto(f"http://127.0.0.1:{PORT}/?__theme=light")
        page.wait_for_function(READY)
        page.wait_for_timeout(800)  # bars and lines have settled
        page.screenshot(path=ROOT / "assets" / "screenshot.png")
        browser.close()
    app.close()


if __name__ == "__main__":
    main()
