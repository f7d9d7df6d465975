"""The page in a real browser: a picture goes in by the file dialogue and by drag and drop, boxes come out."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect, sync_playwright
from serving_client import Endpoint, encode, picture

from frcnn.inference import Detector

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SMOOTH = picture(300, 200)
WAIT = 60_000  # milliseconds at most

# What a file manager does when a picture is dropped on the page.
DROP = """([base64, name]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], name, { type: "image/png" }));
  const target = document.getElementById("drop");
  for (const kind of ["dragover", "drop"]) {
    target.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: files }));
  }
}"""
INKED = """() => {
  const canvas = document.getElementById("picture");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let coloured = 0;
  for (let i = 0; i < data.length; i += 4) coloured += data[i] + data[i + 1] + data[i + 2] > 60;
  return coloured;
}"""


@pytest.fixture(scope="module")
def page(endpoint: Endpoint) -> Iterator[Page]:
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        program = next(filter(None, map(shutil.which, BROWSERS)), own if os.path.exists(own) else None)
        if program is None:
            pytest.skip("no browser: install the system package chromium, or run `playwright install chromium`")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(endpoint.url)
        yield page
        browser.close()
        # The refusal that one test provokes is the only complaint, of a page that loads nothing from elsewhere.
        assert [complaint for complaint in complaints if "400" not in complaint] == []


def test_choose_a_picture(page: Page, detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "smooth.png").write_bytes(encode(SMOOTH))
    expected = detector.detect([SMOOTH])[0]
    page.locator("#threshold").fill("0")
    page.locator("#file").set_input_files(tmp_path / "smooth.png")
    rows = page.locator("#found tbody tr")
    expect(rows).to_have_count(len(expected.scores), timeout=WAIT)
    first = rows.first.locator("td").all_inner_texts()
    assert float(first[1]) == pytest.approx(float(expected.scores[0]), abs=1e-3)
    assert [float(text) for text in first[2:]] == pytest.approx(expected.boxes[0].tolist(), abs=0.06)
    expect(page.locator("#status")).to_contain_text(f"{len(expected.scores)} found with a score of 0.00 or more")


def test_the_least_score_hides_rows_without_another_request(
    page: Page, endpoint: Endpoint, detector: Detector, tmp_path: Path
) -> None:
    (tmp_path / "smooth.png").write_bytes(encode(SMOOTH))
    page.locator("#file").set_input_files(tmp_path / "smooth.png")
    expect(page.locator("#status")).to_contain_text("found", timeout=WAIT)
    asked = len(endpoint.log())
    scores = np.array(detector.detect([SMOOTH])[0].scores, np.float64)
    for least in (0.0, 0.3, 1.0):
        page.locator("#threshold").fill(str(least))
        expect(page.locator("#found tbody tr")).to_have_count(int((scores >= least).sum()))
    assert len(endpoint.log()) == asked


def test_drop_a_picture_and_see_boxes(page: Page) -> None:
    black = np.zeros((200, 300, 3), np.uint8)
    page.locator("#threshold").fill("1")
    page.evaluate(DROP, [base64.b64encode(encode(black)).decode(), "black.png"])
    expect(page.locator("#status")).to_contain_text("0 found", timeout=WAIT)
    assert page.evaluate(INKED) == 0
    page.locator("#threshold").fill("0")
    assert page.evaluate(INKED) > 100
    assert page.locator("#picture").evaluate("canvas => [canvas.width, canvas.height]") == [300, 200]


def test_what_is_no_picture_is_refused_in_words(page: Page) -> None:
    page.evaluate(DROP, [base64.b64encode(b"not a picture").decode(), "notes.png"])
    status = page.locator("#status")
    expect(status).to_have_text(
        "the image is not a whole picture of a known format; expected JPEG, PNG, WEBP, GIF, BMP, TIFF", timeout=WAIT
    )
    expect(status).to_have_class("error")
    expect(page.locator("#stage")).to_be_hidden()
