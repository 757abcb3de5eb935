"""Draws the README's chart of assets/results/speed-cpu.json: python tests/draw_speed.py [FILE.json [FILE.png]]"""

import json
import sys
import tempfile
from pathlib import Path

from browsing import CHROMIUM, FLAGS
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dogerm.charts import speed_bars

SIZE = {"width": 1200, "height": 330}
PAPER = "#fbfaf7"  # readable in a dark page too


def main(results: Path, image: Path) -> None:
    figure = speed_bars(json.loads(results.read_text(encoding="utf-8")))
    figure.update_layout(paper_bgcolor=PAPER, **SIZE)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder) / "chart.html"
        figure.write_html(page_file, config={"displayModeBar": False})
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport=SIZE, device_scale_factor=1.5)
        page.goto(page_file.as_uri())
        page.locator(".plot-container").screenshot(path=image)
        browser.close()


if __name__ == "__main__":
    given = [Path(name) for name in sys.argv[1:]]
    assets = ROOT / "assets"
    main(
        *(
            given
            + [assets / "results" / "speed-cpu.json", assets / "speed.png"][
                len(given) :
            ]
        )
    )
