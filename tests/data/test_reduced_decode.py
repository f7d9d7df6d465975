"""JPEGs that are decoded at a fraction of their size, and what the antialiased resize makes of them."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from frcnn import ops
from frcnn.config import Config, load_config
from frcnn.data.coco import find_split, load_index
from frcnn.data.decode import UnreadableImage, decode_without_copy
from frcnn.data.pipeline import training_batches
from frcnn.data.transforms import Augmentation, Geometry, decode_reduction
from frcnn.data.warp import Warp
from frcnn.errors import UserError

MAX_PIXELS = 10**6


def waves(height: int, width: int, length: float = 40.0) -> np.ndarray:
    """Waves of ``length`` pixels; a hundredth of it as a displacement changes the pixels by up to 6 levels."""
    y, x = np.mgrid[:height, :width] * (2 * np.pi / length)
    channels = [128 + 60 * np.sin(x) + 40 * np.cos(y), 128 + 90 * np.cos(x + y), 128 + 100 * np.sin(y)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def encode(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}], ids=str)
@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_reduced_pixels_are_those_of_pillows_draft(reduction: int, options: dict[str, object]) -> None:
    encoded = encode(waves(165, 203), **options)
    decoded = decode_without_copy(encoded, MAX_PIXELS, reduction=reduction)
    assert decoded.size == (165, 203)
    draft = Image.open(io.BytesIO(encoded))
    if reduction > 1:
        draft.draft("RGB", (203 // reduction, 165 // reduction))
    assert decoded.pixels.shape == (-(-165 // reduction), -(-203 // reduction), 3)
    np.testing.assert_allclose(decoded.pixels.astype(int), np.asarray(draft).astype(int), atol=1)


def test_only_plain_jpegs_are_reduced_and_no_truncated_one_passes() -> None:
    image = Image.fromarray(waves(64, 48))
    exif = Image.Exif()
    for orientation, size in [(1, (32, 24)), (6, (48, 64))]:  # a turned image is decoded as a whole
        exif[0x0112] = orientation
        assert decode_without_copy(encode(waves(64, 48), exif=exif), MAX_PIXELS, reduction=2).pixels.shape[:2] == size
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert decode_without_copy(buffer.getvalue(), MAX_PIXELS, reduction=8).pixels.shape == (64, 48, 3)
    encoded = encode(waves(165, 203))
    with pytest.raises(UnreadableImage, match="truncated"):
        decode_without_copy(encoded[: len(encoded) // 2] + b"\xff\xd9", MAX_PIXELS, reduction=2)


@pytest.mark.parametrize("flips", [(False, False), (True, True)])
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_the_resized_image_is_that_of_the_whole_decode(reduction: int, flips: tuple[bool, bool]) -> None:
    """Also where the reduced image ends within a pixel: 203 / 2 is 101.5."""
    encoded = encode(waves(165, 203, length=20 * reduction), subsampling=0)
    resized = (165 // reduction - 3, 203 // reduction - 2)

    def resize(factor: int) -> np.ndarray:
        return ops.resize_to_canvas(
            decode_without_copy(encoded, MAX_PIXELS, reduction=factor).pixels,
            ops.Placement(*map(tf.constant, (resized, (0, 0), resized))),
            method="pillow",
            flips=tf.constant(flips),
            extent=tf.constant([165.0, 203.0]) / factor,
        ).numpy()

    difference = np.abs(resize(1).astype(int) - resize(reduction))
    assert difference.mean() < 2.5
    assert difference.max() < 12


def test_reduction_is_at_most_that_of_the_resize() -> None:
    allowed = Augmentation(100, reduced_decode=True)

    def reduction(size: tuple[int, int], resized: tuple[int, int], augmentation: Augmentation = allowed) -> int:
        return decode_reduction(size, Geometry(resized, (0, 0), resized), augmentation)

    assert [reduction((800, 1000), (400, side)) for side in (500, 501)] == [2, 1]
    assert [reduction((side, side), (100, 100)) for side in (99, 199, 200, 399, 400, 799, 800, 9000)] == [
        *(1, 1, 2, 2, 4, 4, 8, 8)
    ]
    assert reduction((800, 800), (100, 100), Augmentation(100)) == 1
    assert reduction((800, 800), (100, 100), allowed._replace(warp=Warp(blur=1.0))) == 1


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    images, boxes = [], []
    for number, (height, width) in enumerate([(165, 203), (170, 210)]):
        (folder / f"{number}.jpg").write_bytes(encode(waves(height, width)))
        images.append({"id": number, "file_name": f"{number}.jpg", "width": width, "height": height})
        boxes.append({"id": number, "image_id": number, "category_id": 1, "bbox": [20, 30, 101, 77]})
    tables = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "wave"}]}
    (folder / "annotations.json").write_text(json.dumps(tables))
    return folder


def batches(root: Path, *overrides: str) -> list[dict[str, np.ndarray]]:
    options: Config = load_config(
        overrides=[
            f"data.root={root}",
            "image.resize=pillow",
            "image.min_size=[64]",
            "image.max_size=96",
            "training.batch_size=2",
            *overrides,
        ]
    )
    index = load_index(*find_split(options.data, "train"))
    taken = itertools.islice(training_batches(index, options), 3)
    return [{name: tensor.numpy() for name, tensor in batch._asdict().items()} for batch in taken]


def test_batches_differ_in_their_pixels_alone_and_only_where_nothing_is_warped(root: Path) -> None:
    whole, reduced = batches(root), batches(root, "data.reduced_decode=true")
    for one, other in zip(whole, reduced, strict=True):
        for name in one.keys() - {"images"}:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
        difference = np.abs(one["images"].astype(int) - other["images"])
        assert 0 < difference.mean() < 2
    warped = [batches(root, "augment.blur=1", f"data.reduced_decode={value}") for value in ("false", "true")]
    for one, other in zip(*warped, strict=True):
        np.testing.assert_array_equal(one["images"], other["images"])


def test_the_bilinear_resize_refuses_it() -> None:
    with pytest.raises(UserError, match=r"data\.reduced_decode averages pixels.*image\.resize=pillow"):
        load_config(overrides=["data.reduced_decode=true"])
    assert load_config(overrides=["data.reduced_decode=true", "conventions=detectron2"]).data.reduced_decode
