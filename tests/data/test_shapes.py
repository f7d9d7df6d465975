from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frcnn.config import Data
from frcnn.data import shapes
from frcnn.data.coco import find_split, load_index
from frcnn.errors import UserError


def contents(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_folder_is_a_coco_dataset_with_valid_annotations(tmp_path: Path) -> None:
    root = shapes.make_shapes(tmp_path / "shapes", images=15, seed=3)
    train = load_index(*find_split(Data(root=root), "train"), on_bad_annotation="error")
    validation = load_index(*find_split(Data(root=root), "validation"), on_bad_annotation="error")
    assert (len(train.images), len(validation.images)) == (12, 3)
    assert train.class_names == ("circle", "square", "triangle", "star", "cross")
    assert train.summary.notes == {}
    for record in train.images:
        assert len(record.labels) >= 1
        with Image.open(record.path) as image:
            assert image.size == (record.width, record.height)
    assert not {record.image_id for record in train.images} & {record.image_id for record in validation.images}


def test_same_seed_same_bytes_and_other_seed_other_images(tmp_path: Path) -> None:
    first, again, other = (
        shapes.make_shapes(tmp_path / name, 5, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert contents(first) == contents(again)
    assert contents(first)["train/000000.jpg"] != contents(other)["train/000000.jpg"]


def test_the_first_images_do_not_depend_on_how_many_follow() -> None:
    image, boxes, labels = shapes.draw_image(5, 7)
    again = shapes.draw_image(5, 7)
    assert image.tobytes() == again[0].tobytes()
    np.testing.assert_array_equal(boxes, again[1])
    np.testing.assert_array_equal(labels, again[2])


@pytest.mark.parametrize(
    ("name", "width", "height"), [("circle", 2.0, 2.0), ("square", 2**0.5, 2**0.5), ("triangle", 3**0.5, 1.5)]
)
def test_outlines_have_the_proportions_of_their_shape(name: str, width: float, height: float) -> None:
    points = shapes.CLASSES[name](0.0)
    np.testing.assert_allclose(points.max(axis=0) - points.min(axis=0), (width, height), rtol=2e-3)


def test_boxes_enclose_exactly_what_is_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a black ground without light, grain and shadow, the pixels themselves show where the shapes are.
    monkeypatch.setattr(shapes, "_background", lambda rng, width, height: Image.new("RGB", (width, height)))
    colors = iter(range(1, 200))

    def paint(rng: np.random.Generator, image: Image.Image, mask: np.ndarray, label: int) -> None:
        small = mask.reshape(mask.shape[0] // 4, 4, mask.shape[1] // 4, 4).mean(axis=(1, 3)) >= 0.5
        image.paste((next(colors), 0, 0), mask=Image.fromarray(small))

    monkeypatch.setattr(shapes, "_paint", paint)
    checked = 0
    for number in range(12):
        colors = iter(range(1, 200))
        image, boxes, _ = shapes.draw_image(0, number)
        painted = np.asarray(image)[..., 0]
        for color, box in enumerate(boxes, start=1):
            rows, columns = np.nonzero(painted == color)
            found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            # A tip narrower than half a pixel is in the box and not in the painted pixels: at most 3 of them.
            assert (np.abs(box - found) <= 3).all()
            assert box[0] <= found[0] + 1
            checked += np.abs(box - found).max() <= 1
    assert checked > 20


def test_every_shape_can_be_seen(tmp_path: Path) -> None:
    for number in range(20):
        image, boxes, labels = shapes.draw_image(1, number)
        assert len(boxes) == len(labels) > 0
        sides = boxes[:, 2:] - boxes[:, :2]
        assert (sides.min(axis=1) >= 10).all()
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= image.width).all()
        assert (boxes[:, 3] <= image.height).all()


def test_own_folder_is_kept_or_replaced_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    folder = shapes.make_shapes(tmp_path / "shapes", 5, seed=0)
    stamp = (folder / "train" / "000000.jpg").stat().st_mtime_ns
    shapes.make_shapes(folder, 5, seed=0)
    assert (folder / "train" / "000000.jpg").stat().st_mtime_ns == stamp
    shapes.make_shapes(folder, 6, seed=0)
    assert json.loads((folder / "shapes.json").read_text())["images"] == 6
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]  # no temporary folder is left
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "mine.jpg").touch()
    with pytest.raises(UserError, match="photos exists and was not written by make-shapes"):
        shapes.make_shapes(foreign, 5)
    assert (foreign / "mine.jpg").exists()
    with pytest.raises(UserError, match="expected at least 5 images"):
        shapes.make_shapes(tmp_path / "few", 2)
