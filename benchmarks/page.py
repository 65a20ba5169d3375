"""Weight and times of a run's page in headless Chromium: load, choose, list all, resize.

    python -m benchmarks.page --trials 200 1000 10000

The runs are made up (``tests/report/synthetic.py``): a model of 12 blocks, recipes near a front. Screenshots go to
``--screenshots``, on a desk and a phone, light and dark.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from autoq.report import render_page
from tests.report.synthetic import make_summary, with_improved, with_published

DESK: dict[str, Any] = {"viewport": {"width": 1400, "height": 900}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
_NEXT_FRAME = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"


def main() -> None:
    """Print a line for each number of trials."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[300, 10_000])
    parser.add_argument("--screenshots", type=Path)
    arguments = parser.parse_args()
    path = shutil.which("chromium") or shutil.which("google-chrome")
    print("trials  page (MB)  written (s)  first paint (s)  loaded (s)  choose (s)  list all (s)  resize (s)  elements")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for trials in arguments.trials:
            run = with_published(with_improved(make_summary(trials=trials, blocks=12)))
            started = time.perf_counter()
            text = render_page(run)
            written = time.perf_counter() - started
            file = Path(folder) / f"{trials}.html"
            file.write_text(text, encoding="utf-8")
            row = " ".join(f"{value:>12.2f}" for value in measured(browser, file))
            print(f"{trials:>6} {len(text.encode()) / 1e6:>10.2f} {written:>12.2f} {row}")
            if arguments.screenshots is not None:
                take_screenshots(browser, file, arguments.screenshots / str(trials))
        browser.close()


def measured(browser: Browser, file: Path) -> list[float]:
    """Return seconds to the first paint and to the end of loading, of three actions, and the number of elements."""
    page = browser.new_context(**DESK).new_page()
    page.goto(file.as_uri())
    paint, loaded = page.evaluate(
        "['paint', 'navigation'].map((kind) => performance.getEntriesByType(kind)[0])"
        ".map((entry) => entry.loadEventEnd ?? entry.startTime)"
    )
    times = [
        until_drawn(page, "document.querySelector('#points tbody tr:nth-child(2) button').click()"),
        until_drawn(page, "document.querySelector('#all-trials').click()"),
        until_drawn(page, "document.body.style.width = '900px'"),
    ]
    elements = page.locator("*").count()
    page.context.close()
    return [paint / 1000, loaded / 1000, *times, elements]


def until_drawn(page: Page, action: str) -> float:
    """Return the seconds from an action to the frame after the next, which shows what it did."""
    milliseconds: float = page.evaluate(
        f"async () => {{ const start = performance.now(); {action}; await {_NEXT_FRAME}; await {_NEXT_FRAME};"
        " return performance.now() - start; }"
    )
    return milliseconds / 1000


def take_screenshots(browser: Browser, file: Path, folder: Path) -> None:
    """Write pictures of the whole page."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, options in (("desk", DESK), ("phone", PHONE)):
        for scheme in ("light", "dark"):
            page = browser.new_context(color_scheme=scheme, **options).new_page()
            page.goto(file.as_uri())
            page.screenshot(path=folder / f"{name}-{scheme}.png", full_page=True)
            page.context.close()


if __name__ == "__main__":
    main()
