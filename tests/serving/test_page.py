"""The page in a real browser: images by file dialog and by drag and drop."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect
from serving_client import Endpoint, encode, make_image

from frcnn.drawing import class_color
from frcnn.inference import Detector
from frcnn.serving.page_settings import page_settings

IMAGE = make_image(300, 200)
WAIT = 60_000  # milliseconds at most

# The events of a file dropped on the page.
DROP = """([base64, name]) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], name, { type: "image/png" }));
  const target = document.getElementById("drop");
  for (const kind of ["dragover", "drop"]) {
    target.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: files }));
  }
}"""
COUNT_BRIGHT_PIXELS = """() => {
  const canvas = document.getElementById("image");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let bright = 0;
  for (let i = 0; i < data.length; i += 4) bright += data[i] + data[i + 1] + data[i + 2] > 60;
  return bright;
}"""


COUNT_PIXELS = """([red, green, blue]) => {
  const canvas = document.getElementById("image");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let found = 0;
  for (let i = 0; i < data.length; i += 4) found += data[i] === red && data[i + 1] === green && data[i + 2] === blue;
  return found;
}"""


@pytest.fixture(scope="module")
def page(endpoint: Endpoint, browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(endpoint.url)
    yield page
    page.close()
    # Only the 400 that one test provokes: the page loads nothing from other hosts.
    assert [error for error in errors if "400" not in error] == []


def test_choose_an_image(page: Page, detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "smooth.png").write_bytes(encode(IMAGE))
    expected = detector.detect([IMAGE])[0]
    page.locator("#threshold").fill("0")
    page.locator("#file").set_input_files(tmp_path / "smooth.png")
    rows = page.locator("#detections tbody tr")
    expect(rows).to_have_count(len(expected.scores), timeout=WAIT)
    first = rows.first.locator("td").all_inner_texts()
    assert float(first[1]) == pytest.approx(float(expected.scores[0]), abs=1e-3)
    assert [float(text) for text in first[2:]] == pytest.approx(expected.boxes[0].tolist(), abs=0.06)
    expect(page.locator("#status")).to_contain_text(f"{len(expected.scores)} detections with a score of at least 0.00")


def test_the_minimum_score_filters_without_another_request(
    page: Page, endpoint: Endpoint, detector: Detector, tmp_path: Path
) -> None:
    (tmp_path / "smooth.png").write_bytes(encode(IMAGE))
    page.locator("#file").set_input_files(tmp_path / "smooth.png")
    expect(page.locator("#status")).to_contain_text("detections", timeout=WAIT)
    requests = len(endpoint.log())
    scores = np.array(detector.detect([IMAGE])[0].scores, np.float64)
    for minimum in (0.0, 0.3, 1.0):
        page.locator("#threshold").fill(str(minimum))
        expect(page.locator("#detections tbody tr")).to_have_count(int((scores >= minimum).sum()))
    assert len(endpoint.log()) == requests


def test_drop_an_image_and_see_boxes(page: Page, detector: Detector) -> None:
    black = np.zeros((200, 300, 3), np.uint8)
    page.locator("#threshold").fill("1")
    page.evaluate(DROP, [base64.b64encode(encode(black)).decode(), "black.png"])
    expect(page.locator("#status")).to_contain_text("0 detections", timeout=WAIT)
    assert page.evaluate(COUNT_BRIGHT_PIXELS) == 0
    page.locator("#threshold").fill("0")
    assert page.evaluate(COUNT_BRIGHT_PIXELS) > 100
    # The caption of the best detection, which is drawn last, has the color that its class has everywhere.
    assert page.evaluate(COUNT_PIXELS, class_color(int(detector.detect([black])[0].labels[0]))) > 100
    assert page.locator("#image").evaluate("canvas => [canvas.width, canvas.height]") == [300, 200]


def test_a_file_that_is_not_an_image_shows_the_error(page: Page) -> None:
    page.evaluate(DROP, [base64.b64encode(b"not an image").decode(), "notes.png"])
    status = page.locator("#status")
    expect(status).to_have_text(
        "the image is not an image of a known format; expected JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF", timeout=WAIT
    )
    expect(status).to_have_class("error")
    expect(page.locator("#stage")).to_be_hidden()


def test_the_stored_minimum_scores_of_the_classes_apply_until_another_one_is_chosen(
    browser: Browser, endpoint: Endpoint, detector: Detector, tmp_path: Path
) -> None:
    (tmp_path / "smooth.png").write_bytes(encode(IMAGE))
    found = detector.detect([IMAGE])[0]
    settings = page_settings(detector)
    minimum = [round(float(np.median(found.scores)) + 0.001 * (label - 2), 4) for label in (1, 2, 3)]
    for entry, score in zip(settings["classes"], minimum, strict=True):
        entry["score_threshold"] = score
    page = browser.new_page()
    page.route("**/page/settings.json", lambda route: route.fulfill(json={**settings, "goal": "maximum F1"}))
    page.goto(endpoint.url)
    expect(page.locator("#per-class-values")).to_contain_text(f"cell {minimum[0]}, ")
    expect(page.locator("#per-class-values")).to_contain_text("(maximum F1)")
    page.locator("#file").set_input_files(tmp_path / "smooth.png")
    kept = int((found.scores >= np.array([0.0, *minimum])[found.labels]).sum())
    assert 0 < kept < len(found.scores)
    rows = page.locator("#detections tbody tr")
    expect(rows).to_have_count(kept, timeout=WAIT)
    expect(page.locator("#status")).to_contain_text(f"{kept} detections with at least the minimum score of their class")
    page.locator("#threshold").fill("0")
    expect(rows).to_have_count(len(found.scores))
    expect(page.get_by_label("The model's minimum score of each class")).not_to_be_checked()
    page.get_by_label("The model's minimum score of each class").check()
    expect(rows).to_have_count(kept)
    page.close()


def test_a_model_without_stored_scores_starts_at_one_half(browser: Browser, endpoint: Endpoint) -> None:
    page = browser.new_page()
    with page.expect_response("**/page/settings.json"):
        page.goto(endpoint.url)
    expect(page.locator("#threshold-value")).to_have_text("0.50")
    expect(page.locator("#own-scores")).to_be_hidden()
    page.close()
