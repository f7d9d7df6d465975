"""The report: its numbers, and its page in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from frcnn.config import Config
from frcnn.data.coco import Index, load_index
from frcnn.evaluation.coco import evaluate_detections
from frcnn.inference import Detections
from frcnn.report.page import ReportInput, write_report
from frcnn.weights.score_thresholds import ScoreThresholds

NAMES = ("cell", 'dust <b> & "fine"')
RECORDS = [
    {"record": "train", "step": 10, "loss": 2.0},
    {"record": "train", "step": 20, "loss": 1.0},
    {"record": "evaluation", "step": 20, "AP": 0.5, "AP50": 0.8, "AP75": None},
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Eight images with two objects each; the last image is not readable."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(7):
        Image.new("RGB", (200, 150), (90, 120, 150)).save(folder / f"{number}.png")
    (folder / "7.png").write_bytes(b"not an image")
    annotations = [
        {"id": 2 * n + k, "image_id": n, "category_id": k + 1, "bbox": [20 + 80 * k, 30, 50, 60], "area": 3000}
        for n in range(8)
        for k in range(2)
    ]
    tree = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 200, "height": 150} for n in range(8)],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)],
        "annotations": annotations,
    }
    (folder / "instances.json").write_text(json.dumps(tree))
    return load_index(folder, folder / "instances.json")


@pytest.fixture(scope="module")
def results(index: Index) -> dict[int, Detections]:
    """Correct, but: the second object of images 0 and 1 has the wrong class, that of image 2 is found twice, and that
    of images 3 and 7 is missed; image 4 has a detection on the background."""
    found = {}
    for record in index.images:
        boxes, labels, scores = record.boxes.copy(), record.labels.copy(), np.array([0.9, 0.8], np.float32)
        if record.image_id in (0, 1):
            labels = np.array([1, 1], np.int32)
        if record.image_id in (3, 7):
            boxes, labels, scores = boxes[:1], labels[:1], scores[:1]
        extra = {2: (boxes[-1:] + 2, 2, 0.7), 4: (np.array([[150, 100, 190, 140]], np.float32), 1, 0.6)}
        if record.image_id in extra:
            box, label, score = extra[record.image_id]
            boxes = np.concatenate([boxes, box])
            labels, scores = np.append(labels, label), np.append(scores, score)
        found[record.image_id] = Detections(boxes, scores.astype(np.float32), labels.astype(np.int32), NAMES)
    return found


@pytest.fixture(scope="module")
def written(index: Index, results: dict[int, Detections], tmp_path_factory: pytest.TempPathFactory) -> Path:
    thresholds = ScoreThresholds(dict.fromkeys(NAMES, 0.5), "maximum F1")
    worse = {
        image_id: Detections(*(column[:1] for column in (one.boxes, one.scores, one.labels)))
        for image_id, one in results.items()
    }
    metrics = {"step": 20, "train_data": "abc", "versions": {"tensorflow": "2"}}
    given = ReportInput(
        "run/<model>", "validation", Config(), index, results, thresholds, metrics, RECORDS, 1, ("run/worse", worse)
    )
    return write_report(tmp_path_factory.mktemp("out") / "report", given)


@pytest.fixture(scope="module")
def numbers(written: Path) -> dict:
    return json.loads((written.parent / "report.json").read_text())


def test_values_are_those_of_the_metric_inside_their_intervals(
    index: Index, results: dict[int, Detections], numbers: dict
) -> None:
    metrics = evaluate_detections(index, results)
    for name in ("AP", "AP50", "AP75", "APm", "AR100"):
        value, low, high = numbers["metrics"][name]
        assert value == pytest.approx(metrics.summary[name], abs=1e-6)
        assert low <= value <= high
        assert low < high
    assert numbers["metrics"]["APs"] == [None, None, None]
    assert {name: values[0] for name, values in numbers["class_AP"].items()} == pytest.approx(
        metrics.class_ap, abs=1e-6
    )


def test_errors_confusion_and_values_at_the_thresholds(numbers: dict) -> None:
    assert numbers["error_counts"] == [2, 0, 0, 1, 1, 2]  # in the order of ERRORS
    assert numbers["confusion"] == [[0, 1, 1], [0, 8, 0], [2, 2, 4]]
    # Cells: 8 of 11 detections are correct and all 8 objects found; dust: 4 of 5, and 4 of 8 objects.
    found = numbers["class_at_threshold"]
    assert (found["cell"]["precision"], found["cell"]["recall"]) == (pytest.approx(8 / 11, abs=1e-6), 1.0)
    assert (found[NAMES[1]]["precision"], found[NAMES[1]]["recall"]) == (pytest.approx(4 / 5), 0.5)
    assert (numbers["at_threshold"]["precision"], numbers["at_threshold"]["recall"]) == (0.75, 0.75)
    for value, low, high in numbers["at_threshold_interval"].values():
        assert 0.4 < low < value == 0.75 < high < 1


def test_every_headline_number_has_its_interval(written: Path, numbers: dict) -> None:
    cards = dict(re.findall(r'<div class="card"><h3>(\w+)</h3>.*?<p class="note">(.*?)</p>', written.read_text()))
    estimates = {**numbers["metrics"], **{name.title(): e for name, e in numbers["at_threshold_interval"].items()}}
    assert set(cards) == {"AP", "AP50", "AP75", "AR100", "Precision", "Recall"}
    assert cards == {name: "95 %: {1:.3f} to {2:.3f}".format(*estimates[name]) for name in cards}


def test_the_comparison_is_paired(numbers: dict) -> None:
    difference, low, high = numbers["against"]["difference"]["AP"]
    assert difference == pytest.approx(numbers["metrics"]["AP"][0] - numbers["against"]["metrics"]["AP"][0], abs=1e-5)
    # The other model lacks every second object, so that it is worse in every resample.
    assert 0 < low <= difference <= high


def test_a_model_does_not_differ_from_itself(index: Index, results: dict[int, Detections], tmp_path: Path) -> None:
    given = ReportInput("a", "test", Config(), index, results, None, against=("b", results))
    page = write_report(tmp_path, given).read_text()
    document = json.loads((tmp_path / "report.json").read_text())
    assert all(value in ([0.0] * 3, [None] * 3) for value in document["against"]["difference"].values())
    assert page.count("no clear difference") == 5


def test_a_split_without_objects_or_detections_has_a_report(index: Index, tmp_path: Path) -> None:
    assert write_report(tmp_path, ReportInput("a", "test", Config(), index, {}, None)).stat().st_size > 10_000
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["metrics"]["AP"][0] == 0.0
    assert document["at_threshold"] is None


def test_the_page_is_one_file_with_everything_described(written: Path) -> None:
    page = written.read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|\#)""", page)
    images = re.findall(r'<img [^>]*alt="([^"]*)"', page)
    assert len(images) == page.count("<img ") == 5  # six errors, of which one is in the unreadable image
    assert all("left annotated, right detected" in alt for alt in images)
    assert "<b>" not in page
    assert NAMES[1] in unescape(page)
    assert "1 images unreadable" in page


@pytest.fixture(scope="module")
def page(written: Path, browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:")) else problems.append(request.url),
    )
    page.goto(written.as_uri())
    yield page
    page.close()
    assert problems == []


def shown(page: Page) -> list[str]:
    return [text.split("\n")[0] for text in page.locator(".example:visible figcaption").all_inner_texts()]


def test_images_are_drawn_and_filters_work(page: Page) -> None:
    sizes = page.locator(".example img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert len(sizes) == 5
    assert all(size > 200 for size in sizes)
    expect(page.locator("#shown")).to_have_text("5 of 5 examples")
    page.get_by_label("Error").select_option("duplicate")
    expect(page.locator("#shown")).to_have_text("1 of 5 examples")
    page.get_by_role("button", name="Show all").click()
    expect(page.locator("#shown")).to_have_text("5 of 5 examples")


def test_the_confusion_matrix_and_the_kinds_of_errors_lead_to_examples(page: Page) -> None:
    """By keyboard: the number is focused, and Enter shows its examples and moves the focus to the filters."""
    page.get_by_role("button", name=re.compile(r"^2 dust .* detected as cell; show examples$")).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#shown")).to_have_text("2 of 5 examples")
    assert all(text.startswith("class cell 0.80 on dust") for text in shown(page))
    assert page.evaluate("document.activeElement.name") == "object"
    page.get_by_role("button", name="missed", exact=True).click()
    expect(page.locator("#shown")).to_have_text("1 of 5 examples")


def test_links_lead_to_sections_that_exist(page: Page) -> None:
    targets = page.locator("nav a").evaluate_all("links => links.map(link => link.hash)")
    assert len(targets) == 10
    for target in targets:
        assert page.locator(target).count() == 1
    page.locator('nav a[href="#classes"]').click()
    page.wait_for_function("Math.abs(document.querySelector('#classes').getBoundingClientRect().top) < innerHeight")
    page.keyboard.press("Home")
    page.evaluate("document.activeElement.blur()")


def test_the_class_table_sorts_and_curves_follow_the_choice(page: Page) -> None:
    first = page.locator("table.sortable tbody tr").first
    heading = page.locator("table.sortable").get_by_role("button", name="recall")
    heading.click()
    expect(first).to_contain_text("cell")
    heading.click()
    expect(first).to_contain_text("dust")
    assert page.locator('th[aria-sort="ascending"]').count() == 1
    assert page.locator(".charts:visible svg").count() == 4  # two of all classes, two of the training
    page.locator("#curve-class").select_option(NAMES[1])
    expect(page.locator(".charts:visible figcaption").first).to_contain_text("dust")


def test_the_page_fits_a_phone_and_a_dark_screen(page: Page) -> None:
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
