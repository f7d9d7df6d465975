from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
from click.testing import CliRunner
from PIL import Image

from frcnn.cli import main
from frcnn.cli.console import BOX_FORMATS
from frcnn.config import Data, load_config
from frcnn.data.box_format import BoxFormat
from frcnn.data.check import check_dataset
from frcnn.data.coco import find_split, load_index
from frcnn.data.shapes import make_shapes
from frcnn.data.suggestions import box_sides, suggest


def test_report_on_bccd_names_the_broken_box(real_data: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    report = check_dataset(*find_split(Data(root=real_data / "bccd"), "train"), contact_sheet=sheet)
    text = report.to_text()
    assert not report.clean
    assert report.classes.names == ("RBC", "WBC", "Platelets")
    # Counted with grep in the annotation file; one RBC is the broken box.
    raw = json.loads(report.index.source.read_text())
    counts = [sum(entry["category_id"] == k for entry in raw["annotations"]) for k in (1, 2, 3)]
    assert sum(counts) - sum(report.classes.counts) == 1
    assert sum(report.sizes.counts) == sum(report.aspects.counts) == sum(report.classes.counts) == 2804
    assert "no_area: annotation 2288 (image 171, BloodImage_00343.jpg): bbox [181, 329, 0, 0] has no area" in text
    assert "Bad images (blank in training): none" in text
    with Image.open(sheet) as image:
        assert image.size == (4 * 320, 4 * 240)


def test_bad_images_are_named_by_kind(tmp_path: Path) -> None:
    root = make_shapes(tmp_path / "shapes", 10, seed=0)
    images, file = find_split(Data(root=root), "train")
    first, second, third = sorted(images.iterdir())[:3]
    first.unlink()
    second.write_bytes(second.read_bytes()[:700])
    with Image.open(third) as image:
        half = image.resize((image.width // 2, image.height // 2))
    half.save(third)
    report = check_dataset(images, file, contact_sheet=tmp_path / "sheet.png")
    assert [(problem.kind, problem.image_id) for problem in report.image_problems] == [
        ("missing", 0),
        ("unreadable", 1),
        ("size_differs", 2),
    ]
    assert f"is {half.width} x {half.height} pixels (upright), the annotation file says" in report.to_text()


def test_valid_dataset_is_clean_and_one_without_boxes_is_reported(tmp_path: Path) -> None:
    root = make_shapes(tmp_path / "shapes", 5, seed=0)
    images, file = find_split(Data(root=root), "val")
    assert check_dataset(images, file).clean
    tables = json.loads(file.read_text())
    empty = shutil.copy(file, tmp_path / "empty.json")
    Path(empty).write_text(json.dumps({**tables, "annotations": []}))
    report = check_dataset(images, Path(empty), contact_sheet=tmp_path / "sheet.png")
    assert report.suggestions.min_size is None
    assert "5 without any box" in report.to_text()


def write_boxes(
    folder: Path, boxes: list[tuple[float, float, float, float]], width: int = 1000, height: int = 500
) -> Path:
    file = folder / "boxes.json"
    annotations = [{"id": k, "image_id": 1, "category_id": 1, "bbox": box} for k, box in enumerate(boxes)]
    images = [{"id": 1, "file_name": "a.jpg", "width": width, "height": height}]
    file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]})
    )
    return file


def test_histograms_count_by_hand(tmp_path: Path) -> None:
    # Sides at min_size 1000 are doubled: roots of areas 4, 20, 64 (the edge belongs above), 400.
    options = load_config(overrides=["image.min_size=[1000]", "image.max_size=2000"])
    file = write_boxes(tmp_path, [(0, 0, 2, 2), (0, 0, 5, 20), (0, 0, 32, 32), (0, 0, 400, 100)])
    index = load_index(tmp_path, file, require_images=False)
    np.testing.assert_allclose(box_sides(index, options.image, 1000), [(4, 4), (10, 40), (64, 64), (800, 200)])
    report = check_dataset(tmp_path, file, options)
    assert report.aspects.names[0] == "below 0.25"
    assert report.aspects.counts == (0, 1, 0, 2, 0, 0, 1)


def test_suggested_size_enlarges_small_objects(tmp_path: Path) -> None:
    options = load_config()
    boxes = [(0.0, 0.0, 30.0, 30.0)] * 60  # 24 pixels at a short side of 400: rounded up to 416
    assert suggest(load_index(tmp_path, write_boxes(tmp_path, boxes), require_images=False), options).min_size == 416
    boxes = [(0.0, 0.0, 300.0, 300.0)] * 60
    assert suggest(load_index(tmp_path, write_boxes(tmp_path, boxes), require_images=False), options).min_size == 224
    boxes = [(0.0, 0.0, 2.0, 2.0)] * 60  # never more than twice the file's own resolution
    assert (
        suggest(load_index(tmp_path, write_boxes(tmp_path, boxes, 900, 400), require_images=False), options).min_size
        == 800
    )


def test_suggested_anchors_match_better_or_stay(tmp_path: Path) -> None:
    options = load_config()
    small = [(10.0 * k, 10.0, 30.0 + k % 7, 34.0 + k % 5) for k in range(60)]
    found = suggest(load_index(tmp_path, write_boxes(tmp_path, small), require_images=False), options)
    assert found.coverage[1] > found.coverage[0] + 0.05
    assert list(found.anchor_sizes) == sorted(found.anchor_sizes)
    fitting = [(0.0, 0.0, float(side), float(side)) for side in (32, 64, 128, 256) for _ in range(20)]
    at_own_size = load_config(overrides=["image.max_size=1333"])
    found = suggest(load_index(tmp_path, write_boxes(tmp_path, fitting, 374, 374), require_images=False), at_own_size)
    assert found.min_size == 288  # 24 / 32 of 374, rounded up


def test_box_format_and_shared_files_on_the_command_line(tmp_path: Path) -> None:
    root = make_shapes(tmp_path / "shapes", 10, seed=0)
    shutil.copyfile(root / "train" / "000000.jpg", root / "val" / "000008.jpg")
    plain = {split: load_index(*find_split(Data(root=root), split)) for split in ("train", "validation")}
    for name in ("train", "val"):
        file = root / "annotations" / f"instances_{name}.json"
        tables = json.loads(file.read_text())
        for entry in tables["annotations"]:
            x, y, width, height = entry["bbox"]
            entry["bbox"] = [x, y, x + width, y + height]
        file.write_text(json.dumps(tables))
    arguments = ["check-dataset", str(root), "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 2
    assert "--box-format xyxy" in refused.stderr
    result = CliRunner().invoke(main, [*arguments, "--box-format", "xyxy"])
    for index in plain.values():
        assert f"{index.summary.objects} of {index.summary.annotations} annotations used as objects" in result.stdout
        assert index.fingerprint in result.stdout
    assert "1 images of" in result.stdout
    assert "byte for byte" in result.stdout
    assert get_args(BoxFormat) == BOX_FORMATS
