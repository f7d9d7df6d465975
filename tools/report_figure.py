"""Draw the figure of docs/reading_the_numbers.md: a screenshot of a report.

    python tools/report_figure.py --data bccd --out docs/images/report.png
    python tools/report_figure.py --page report/index.html --out docs/images/report.png

With --data, the report is on detections that are made from the ground truth of the test split by noise: boxes moved,
doubled, of wrong classes, missed, and on the background. With --page it is one that ``frcnn report`` wrote.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from frcnn.config import Config, Data
from frcnn.data.coco import Index, find_split, load_index
from frcnn.inference import Detections
from frcnn.report.page import ReportInput, write_report

SIZE = {"width": 1180, "height": 1000}
SECTIONS = ("numbers", "errors", "examples")
HIDE_REST = """(shown) => {
  for (const section of document.querySelectorAll("section")) section.hidden = !shown.includes(section.id);
  for (const example of [...document.querySelectorAll(".example")].slice(8)) example.hidden = true;
}"""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def make_detections(index: Index) -> dict[int, Detections]:
    """Objects with noise, and one or two detections per image on the background."""
    rng = np.random.default_rng(0)
    classes = len(index.class_names)
    results = {}
    for record in index.images:
        rows = np.repeat(np.arange(len(record.boxes)), rng.choice(3, len(record.boxes), p=[0.08, 0.84, 0.08]))
        sides = np.tile(record.boxes[rows, 2:] - record.boxes[rows, :2], 2)
        boxes = record.boxes[rows] + rng.normal(0, 0.06, (len(rows), 4)) * sides
        labels = np.where(rng.random(len(rows)) < 0.06, rng.integers(1, classes + 1, len(rows)), record.labels[rows])
        others = int(rng.poisson(2))
        corners = rng.random((others, 2)) * [max(record.width - 80, 1), max(record.height - 80, 1)]
        boxes = np.concatenate([boxes, np.concatenate([corners, corners + 80], axis=1)])
        labels = np.concatenate([labels, rng.integers(1, classes + 1, others)])
        scores = np.concatenate([rng.beta(6, 1.5, len(rows)), rng.beta(1.5, 4, others)])
        order = np.argsort(-scores)
        columns = boxes[order].astype(np.float32), scores[order].astype(np.float32), labels[order].astype(np.int32)
        results[record.image_id] = Detections(*columns, index.class_names)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="COCO folder with a test split")
    source.add_argument("--page", type=Path, help="page of a report")
    parser.add_argument("--out", type=Path, required=True, help="PNG file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = arguments.page
        if page is None:
            index = load_index(*find_split(Data(root=arguments.data), "test"))
            given = ReportInput("synthetic detections", "test", Config(), index, make_detections(index), None)
            page = write_report(Path(folder), given)
        program = next(filter(None, map(shutil.which, BROWSERS)), None)
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport=SIZE)
        tab.goto(page.absolute().as_uri())
        # Without sections in between, and with the first rows of examples only.
        tab.evaluate(HIDE_REST, list(SECTIONS))
        tab.screenshot(path=arguments.out, full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
