"""Mosaics and pasted objects, to measure whether they pay before they become an augmentation.

    python benchmarks/mixed_images.py bccd mixed/mosaic --method mosaic
    python benchmarks/mixed_images.py bccd mixed/pasted --method paste

and then `benchmarks/ablation.py` with this variant, and the same of ``pasted``:

    mosaics: [data.train.images=mixed/mosaic/images, data.train.annotations=mixed/mosaic/instances.json]

Writes a training split that holds each image of a dataset's ``--copies`` times, a share of them mixed: one epoch of it
is as many epochs of the dataset with a new mixture each time. Crowd regions are left out.

* ``mosaic`` (Bochkovskiy et al. 2020): the image is divided into four at a random point, and each part is a random
  piece of an image of the dataset at 0.75 to 1.25 times its size.
* ``paste`` (Dwibedi et al. 2017, Ghiasi et al. 2021): up to eight objects of other images are pasted with their box and
  a soft edge, each where it covers at most 30% of every object.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from frcnn.config import load_config
from frcnn.data.coco import ImageRecord, Index, find_split, load_index
from frcnn.data.decode import UnreadableImage, decode_image
from frcnn.errors import UserError

CENTER = (0.3, 0.7)  # where a mosaic is divided, of its sides
SCALE = (0.75, 1.25)  # of the images in a mosaic
MIN_VISIBLE = 0.4  # share of an object that a piece must show for the object to be one of the mosaic's
MOST_PASTED, MOST_COVERED, TRIES = 8, 0.3, 10
EDGE = 2  # pixels, radius of the blur of a pasted object's edge


class Sample(NamedTuple):
    """An image ``[H, W, 3]`` uint8 with its boxes ``[N, 4]`` (x1, y1, x2, y2) and labels ``[N]`` in 1..K."""

    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", choices=["mosaic", "paste"], required=True)
    parser.add_argument("--copies", type=int, default=4, help="of each image")
    parser.add_argument("--share", type=float, default=0.5, help="of the copies that is mixed")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.out.exists():
        raise UserError(f"{arguments.out} exists; delete it or give a new folder")
    data = load_config(None, [f"data.root={arguments.dataset}"]).data
    index = load_index(*find_split(data, "train"), box_format=data.box_format)
    images = arguments.out / "images"
    images.mkdir(parents=True)
    tables = write_mixed(index, images, arguments.method, arguments.copies, arguments.share, arguments.seed)
    (arguments.out / "instances.json").write_text(json.dumps(tables))
    print(f"{arguments.out}: {len(tables['images'])} images, {len(tables['annotations'])} boxes")


def write_mixed(index: Index, folder: Path, method: str, copies: int, share: float, seed: int) -> dict[str, Any]:
    """Write the images, and return the tables of their COCO file."""
    names = zip(index.category_ids, index.class_names, strict=True)
    tables: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in names],
    }
    mix = mosaic if method == "mosaic" else pasted
    rng = np.random.default_rng(seed)
    for record in index.images * copies:
        number = len(tables["images"]) + 1
        sample = mix(index, record, rng) if rng.random() < share else read(record)
        name = f"{number}.png"  # mixed and other images alike without a second compression
        Image.fromarray(sample.pixels).save(folder / name, compress_level=1)
        height, width = sample.pixels.shape[:2]
        tables["images"].append({"id": number, "file_name": name, "width": width, "height": height})
        for box, label in zip(sample.boxes, sample.labels, strict=True):
            left, top, right, bottom = (round(float(value), 2) for value in box)
            tables["annotations"].append(
                {
                    "id": len(tables["annotations"]) + 1,
                    "image_id": number,
                    "category_id": index.category_ids[label - 1],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "iscrowd": 0,
                }
            )
    return tables


def read(record: ImageRecord) -> Sample:
    """An image and its objects.

    Raises:
        UserError: the image cannot be read.
    """
    try:
        pixels = decode_image(record.path)
    except (UnreadableImage, OSError) as error:
        raise UserError(
            f"image {record.path} cannot be read ({error}); repair it or remove it from the dataset"
        ) from None
    objects = ~record.crowd
    return Sample(pixels, record.boxes[objects], record.labels[objects])


def mosaic(index: Index, record: ImageRecord, rng: np.random.Generator) -> Sample:
    """The image's size, divided into a random piece of the image itself and of three others."""
    width, height = record.width, record.height
    pixels = np.zeros((height, width, 3), np.uint8)
    x, y = (round(side * rng.uniform(*CENTER)) for side in (width, height))
    records = [record, *(index.images[position] for position in rng.integers(len(index.images), size=3))]
    corners = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    boxes, labels = [], []
    for part, corner in zip(records, rng.permutation(corners), strict=True):
        left, top, right, bottom = (int(value) for value in corner)
        piece = _random_piece(read(part), right - left, bottom - top, rng)
        pixels[top:bottom, left:right] = piece.pixels
        boxes.append(piece.boxes + np.array([left, top, left, top], np.float32))
        labels.append(piece.labels)
    return Sample(pixels, np.concatenate(boxes), np.concatenate(labels))


def _random_piece(sample: Sample, width: int, height: int, rng: np.random.Generator) -> Sample:
    """A piece of an image at a random scale, with the objects of which enough is visible."""
    image = Image.fromarray(sample.pixels)
    scale = max(rng.uniform(*SCALE), width / image.width, height / image.height)
    scaled = image.resize((max(round(image.width * scale), width), max(round(image.height * scale), height)))
    left, top = int(rng.integers(scaled.width - width + 1)), int(rng.integers(scaled.height - height + 1))
    whole = sample.boxes * np.float32(scale) - np.array([left, top, left, top], np.float32)
    visible = np.clip(whole, 0, np.array([width, height, width, height], np.float32))
    kept = _areas(visible) > MIN_VISIBLE * _areas(whole)
    pixels = np.asarray(scaled.crop((left, top, left + width, top + height)))
    return Sample(pixels, visible[kept], sample.labels[kept])


def pasted(index: Index, record: ImageRecord, rng: np.random.Generator) -> Sample:
    """The image with objects of others, each at a random place that leaves the objects visible."""
    sample = read(record)
    image, boxes, labels = Image.fromarray(sample.pixels), list(sample.boxes), list(sample.labels)
    for _ in range(int(rng.integers(1, MOST_PASTED + 1))):
        other = read(index.images[int(rng.integers(len(index.images)))])
        if not len(other.boxes):
            continue
        chosen = int(rng.integers(len(other.boxes)))
        left, top, right, bottom = (round(float(value)) for value in other.boxes[chosen])
        width, height = right - left, bottom - top
        if min(width, height) < 1 or width > image.width or height > image.height:
            continue
        place = _free_place(boxes, image.size, (width, height), rng)
        if place is None:
            continue
        piece = Image.fromarray(other.pixels[top:bottom, left:right])
        if rng.random() < 0.5:
            piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mask = Image.new("L", (width, height))
        inner = (EDGE, EDGE, width - EDGE, height - EDGE)
        if inner[2] > inner[0] and inner[3] > inner[1]:
            mask.paste(255, inner)
        image.paste(piece, place, mask.filter(ImageFilter.GaussianBlur(EDGE)))
        boxes.append(np.array([*place, place[0] + width, place[1] + height], np.float32))
        labels.append(other.labels[chosen])
    return Sample(np.asarray(image), np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int32))


def _free_place(
    boxes: list[np.ndarray], size: tuple[int, int], wanted: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int] | None:
    """A corner at which a box of a size covers little of each other box, and these little of it; None: not found."""
    others = np.array(boxes, np.float32).reshape(-1, 4)
    for _ in range(TRIES):
        x, y = (int(rng.integers(side - length + 1)) for side, length in zip(size, wanted, strict=True))
        box = np.array([x, y, x + wanted[0], y + wanted[1]], np.float32)
        common = np.clip(np.minimum(others[:, 2:], box[2:]) - np.maximum(others[:, :2], box[:2]), 0, None).prod(axis=1)
        smaller = np.minimum(_areas(others), wanted[0] * wanted[1])
        if (common <= MOST_COVERED * smaller).all():
            return x, y
    return None


def _areas(boxes: np.ndarray) -> np.ndarray:
    """``[N, 4]`` -> ``[N]``."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
