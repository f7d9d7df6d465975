"""The built-in synthetic dataset: shapes with exact boxes, in COCO's layout.

Every image is a function of (seed, image number) alone. Shapes are drawn at four times the size and reduced, so that
their edges are smooth and their boxes exact to a quarter of a pixel; a box encloses the visible part of its shape.
"""

from __future__ import annotations

import colorsys
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from frcnn.atomic import atomic_folder
from frcnn.data.threads import thread_pool
from frcnn.errors import UserError

SIZES = ((256, 256), (320, 240), (240, 320), (304, 240), (240, 304))  # width, height
SIDES = (28.0, 110.0)  # pixels, range of a shape's diameter
SUPERSAMPLING = 4
MIN_VISIBLE = 0.75  # share of every shape that later shapes leave uncovered
VALIDATION_SHARE = 5  # one image in five is held out
FORMAT_VERSION = 1  # incremented whenever the same seed would give other images
MARKER = "shapes.json"


def make_shapes(folder: Path, images: int = 800, seed: int = 0) -> Path:
    """Draw a dataset of five classes into ``train/``, ``val/`` and ``annotations/instances_{train,val}.json``.

    The folder is written atomically. A folder that already holds the same images is kept; a folder that an earlier call
    wrote with other arguments is replaced.

    Args:
        folder: output.
        images: total number, one in five for validation; at least 5.
        seed: of all random numbers.

    Raises:
        UserError: too few images, or the folder holds other files.
    """
    if images < VALIDATION_SHARE or seed < 0:
        raise UserError(
            f"shapes: {images} images with seed {seed}; expected at least {VALIDATION_SHARE} images and a seed of 0 "
            "or more"
        )
    recipe = {"made_by": "frcnn make-shapes", "format": FORMAT_VERSION, "images": images, "seed": seed}
    if _holds(folder, recipe):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    held_out = images // VALIDATION_SHARE
    with atomic_folder(folder) as temporary:
        _write_split(temporary, "train", range(images - held_out), seed)
        _write_split(temporary, "val", range(images - held_out, images), seed)
        (temporary / MARKER).write_text(json.dumps(recipe))
    return folder


def draw_image(seed: int, number: int) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """An image with its boxes ``[N, 4]`` float32 xyxy, pixels, and labels ``[N]`` int32 in 1..K; N is 1 to 6."""
    rng = np.random.default_rng([seed, number])
    width, height = SIZES[rng.integers(len(SIZES))]
    image = _background(rng, width, height)
    visible: list[np.ndarray] = []  # the uncovered part of each shape
    areas: list[int] = []  # of the whole shapes
    labels: list[int] = []
    for _ in range(rng.integers(1, 7)):
        label = int(rng.integers(len(CLASSES)))
        mask = _place(rng, label, visible, areas, width, height)
        if mask is not None:
            visible = [rest & ~mask for rest in visible] + [mask]
            areas.append(int(np.count_nonzero(mask)))
            labels.append(label + 1)
            _paint(rng, image, mask, label)
    return image, np.array([_bounds(rest) for rest in visible], np.float32), np.array(labels, np.int32)


def _holds(folder: Path, recipe: dict[str, object]) -> bool:
    """Whether the folder holds what the recipe makes. Raises UserError where make-shapes did not write it."""
    if not folder.exists():
        return False
    try:
        found = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        found = None
    if isinstance(found, dict) and found.get("made_by") == recipe["made_by"]:
        return found == recipe
    if not folder.is_dir() or any(folder.iterdir()):
        raise UserError(f"{folder} exists and was not written by make-shapes; give another folder, or remove it first")
    return False


def _write_split(root: Path, split: str, numbers: range, seed: int) -> None:
    (root / split).mkdir()
    (root / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []

    def write_image(number: int) -> tuple[int, int, np.ndarray, np.ndarray]:
        image, boxes, labels = draw_image(seed, number)
        image.save(root / split / _file_name(number), quality=92)
        return image.width, image.height, boxes, labels

    with thread_pool() as threads:  # NumPy and Pillow release the GIL
        written = list(threads.map(write_image, numbers))
    for number, (width, height, boxes, labels) in zip(numbers, written, strict=True):
        images.append({"id": number, "file_name": _file_name(number), "width": width, "height": height})
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": label, "name": name} for label, name in enumerate(CLASSES, start=1)]
    tables = {
        "info": {"description": f"frcnn shapes, seed {seed}"},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(tables))


def _file_name(number: int) -> str:
    return f"{number:06d}.jpg"


def _place(
    rng: np.random.Generator, label: int, visible: list[np.ndarray], areas: list[int], width: int, height: int
) -> np.ndarray | None:
    """Supersampled bool mask of a new shape that leaves enough of the others uncovered; None if no place is found."""
    for _ in range(12):
        diameter = math.exp(rng.uniform(math.log(SIDES[0]), math.log(SIDES[1])))
        x, y = (rng.uniform(0.5 * diameter + 1, side - 0.5 * diameter - 1) for side in (width, height))
        points = CLASSES[_NAMES[label]](rng.uniform(-0.35, 0.35)) * (0.5 * diameter) + (x, y)
        canvas = Image.new("1", (width * SUPERSAMPLING, height * SUPERSAMPLING))
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in (points * SUPERSAMPLING).tolist()], fill=1)
        mask = np.asarray(canvas)
        if all(np.count_nonzero(rest & ~mask) >= MIN_VISIBLE * area for rest, area in zip(visible, areas, strict=True)):
            return mask
    return None


def _bounds(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        columns[0] / SUPERSAMPLING,
        rows[0] / SUPERSAMPLING,
        (columns[-1] + 1) / SUPERSAMPLING,
        (rows[-1] + 1) / SUPERSAMPLING,
    )


def _paint(rng: np.random.Generator, image: Image.Image, mask: np.ndarray, label: int) -> None:
    """Fill the mask with a shaded, slightly noisy color near the class's hue, above a soft shadow."""
    height, width = mask.shape[0] // SUPERSAMPLING, mask.shape[1] // SUPERSAMPLING
    alpha = Image.fromarray(mask).convert("L").reduce(SUPERSAMPLING)
    shadow = Image.new("L", (width, height))
    shadow.paste(alpha.filter(ImageFilter.GaussianBlur(3)).point(lambda value: value * 2 // 5), (2, 3))
    image.paste((20, 20, 35), mask=shadow)
    hue = (label / len(CLASSES) + rng.uniform(-0.06, 0.06)) % 1.0
    color = np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.6, 0.95), rng.uniform(0.65, 0.95)))
    light = 1.0 + 0.18 * _ramp(rng, width, height) + rng.normal(0.0, 0.02, (height, width))
    fill = np.clip(255 * color * light[..., None], 0, 255).astype(np.uint8)
    image.paste(Image.fromarray(fill), mask=alpha)


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A pale gradient under one of three textures: clouds, stripes or dots."""
    ends = [
        np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.05, 0.3), rng.uniform(0.6, 0.98))) for _ in range(2)
    ]
    mix = 0.5 + 0.5 * _ramp(rng, width, height)[..., None]
    texture = (_clouds, _stripes, _dots)[rng.integers(3)](rng, width, height)
    values = ends[0] * mix + ends[1] * (1 - mix) + rng.uniform(0.03, 0.1) * texture[..., None]
    values += rng.normal(0.0, rng.uniform(0.005, 0.025), (height, width, 1))
    return Image.fromarray(np.clip(255 * values, 0, 255).astype(np.uint8))


def _ramp(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Linear gradient through the center, between -1 and 1, in a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return (x * math.cos(angle) + y * math.sin(angle)) / math.sqrt(2)


def _clouds(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    cells = rng.integers(0, 256, (rng.integers(3, 9), rng.integers(3, 9)), dtype=np.uint8)
    return np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC), np.float64) / 127.5 - 1


def _stripes(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    return np.asarray(np.sin(_ramp(rng, width, height) * rng.uniform(10, 40)))


def _dots(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    period = rng.uniform(12, 30)
    y, x = np.mgrid[:height, :width] * (2 * math.pi / period)
    return np.asarray(np.sin(x) * np.sin(y))


def _circle(turn: float) -> np.ndarray:
    return _regular(72, turn)


def _square(turn: float) -> np.ndarray:
    return _regular(4, turn + math.pi / 4)


def _triangle(turn: float) -> np.ndarray:
    return _regular(3, turn - math.pi / 2)


def _star(turn: float) -> np.ndarray:
    points = _regular(10, turn - math.pi / 2)
    points[1::2] *= 0.45
    return points


def _cross(turn: float) -> np.ndarray:
    arm, half = 0.94, 0.33  # the outer corners are on the unit circle
    quarter = np.array([(half, -arm), (half, -half), (arm, -half)])
    turns = [turn + quarter_turn * math.pi / 2 for quarter_turn in range(4)]
    return np.concatenate(
        [quarter @ np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]]) for a in turns]
    )


def _regular(corners: int, turn: float) -> np.ndarray:
    """Corners ``[corners, 2]`` (x, y) on the unit circle."""
    angles = turn + np.arange(corners) * (2 * math.pi / corners)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


# Class name -> corners [C, 2] within the unit circle, turned by an angle in radians. Label k is the k-th name.
CLASSES: dict[str, Callable[[float], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
}
_NAMES = tuple(CLASSES)
