"""Draw the figure of docs/reading_the_numbers.md: a screenshot of a report.

python tools/report_figure.py report/index.html docs/images/report.png
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

SIZE = {"width": 1180, "height": 1000}
SECTIONS = ("numbers", "errors", "examples")
HIDE_REST = """(shown) => {
  for (const section of document.querySelectorAll("section")) section.hidden = !shown.includes(section.id);
  for (const example of [...document.querySelectorAll(".example")].slice(8)) example.hidden = true;
}"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="page that frcnn report wrote")
    parser.add_argument("image", type=Path, help="PNG file to write")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        program = next(filter(None, map(shutil.which, BROWSERS)), None)
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport=SIZE)
        tab.goto(arguments.page.absolute().as_uri())
        # Without sections in between, and with the first rows of examples only.
        tab.evaluate(HIDE_REST, list(SECTIONS))
        tab.screenshot(path=arguments.image, full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
