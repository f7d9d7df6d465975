"""Examples of errors: the worst of each kind, annotated objects beside detections, as images inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from PIL import Image

from frcnn.data.coco import ImageRecord, Index
from frcnn.data.decode import UnreadableImage, decode_image
from frcnn.drawing import class_color, draw_boxes
from frcnn.evaluation.errors import ERRORS, MISSED, Errors
from frcnn.evaluation.matching import SIZES, Matches
from frcnn.inference import Detections

EXAMPLES = 18  # of each kind of error
SIDE = 230  # pixels of the longer side of one half of an example
CONTEXT = 0.6  # of the box's longer side that is shown around it
SMALLEST_CROP = 64  # pixels
GAP = 4  # pixels between the halves
QUALITY = 80


class Example(NamedTuple):
    """An error that is shown.

    Attributes:
        kind: position in ``ERRORS``.
        image: position in the index.
        box: ``[4]`` the detection, or the missed object.
        target: ``[4]`` the object that the error is about, if there is one.
        object_class: class of the object, or "background".
        detected_class: class of the detection, or "background" for a missed object.
        size: name of the size.
        score: of the detection; NaN for a missed object.
        iou: of the detection with the object.
    """

    kind: int
    image: int
    box: np.ndarray
    target: np.ndarray | None
    object_class: str
    detected_class: str
    size: str
    score: float
    iou: float


def choose_examples(matches: Matches, errors: Errors) -> list[Example]:
    """The worst errors of each kind: detections with the highest scores, and the largest missed objects.

    The classes take turns, so that a frequent one does not fill the gallery.
    """
    names = ("background", *matches.class_names)
    found, objects = matches.found, matches.objects
    chosen = []
    for kind in range(len(ERRORS)):
        missed = kind == MISSED
        rows = np.flatnonzero(errors.missed if missed else errors.kind == kind)
        label = (objects if missed else found).label[rows]
        for row in rows[_take_turns(label, (objects.area if missed else found.score)[rows])]:
            if missed:
                name = names[objects.label[row]]
                size = SIZES[errors.object_size[row]]
                example = Example(kind, objects.image[row], objects.box[row], None, name, "background", size, np.nan, 0)
            else:
                target = errors.target[row]
                has_target = target >= 0 and kind != list(ERRORS).index("background")
                example = Example(
                    kind,
                    found.image[row],
                    found.box[row],
                    objects.box[target] if has_target else None,
                    names[objects.label[target]] if has_target else "background",
                    names[found.label[row]],
                    SIZES[errors.size[row]],
                    float(found.score[row]),
                    float(errors.iou[row]),
                )
            chosen.append(example)
    return chosen


def render_gallery(
    examples: Sequence[Example],
    index: Index,
    results: Mapping[int, Detections],
    minimum: np.ndarray,
    max_pixels: int,
    progress: Callable[[], None] = lambda: None,
) -> str:
    """The examples as HTML figures; images that cannot be read are left out.

    Args:
        minimum: ``[K]`` minimum score of the detections that are drawn beside that of the error.
    """
    kinds = list(ERRORS)
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))
    figures = {}
    decoded: tuple[int, np.ndarray] | None = None
    for number in sorted(range(len(examples)), key=lambda number: examples[number].image):  # decode each image once
        example = examples[number]
        record = index.images[example.image]
        try:
            if decoded is None or decoded[0] != example.image:
                decoded = example.image, decode_image(record.path, max_pixels)
        except UnreadableImage:
            continue
        progress()
        drawn = _draw(example, decoded[1], record, results.get(record.image_id, nothing), minimum, index.class_names)
        score = "" if np.isnan(example.score) else f" {example.score:.2f}"
        words = (
            f"{example.object_class} not found"
            if example.kind == MISSED
            else f"{example.detected_class}{score}"
            + (f" on {example.object_class}, IoU {example.iou:.2f}" if example.target is not None else "")
        )
        alt = f"{kinds[example.kind]} error in {record.path.name}: {words}; left annotated, right detected"
        encoded = base64.b64encode(drawn).decode()
        figures[number] = (
            f'<figure class="example" tabindex="0" data-kind="{kinds[example.kind]}" data-size="{example.size}" '
            f'data-object="{escape(example.object_class)}" data-detected="{escape(example.detected_class)}">'
            f'<img decoding="async" alt="{escape(alt)}" src="data:image/jpeg;base64,{encoded}">'
            f'<figcaption><span class="badge k{example.kind}">{kinds[example.kind]}</span> {escape(words)}'
            f'<span class="file">{escape(record.path.name)}</span></figcaption></figure>'
        )
    return "".join(figures[number] for number in sorted(figures))


def _take_turns(label: np.ndarray, badness: np.ndarray) -> np.ndarray:
    """Rows of up to ``EXAMPLES`` errors: the worst of each class, then the second of each …; worst first."""
    order = np.lexsort((-badness, label))
    starts = np.searchsorted(label[order], label[order])
    turn = np.arange(len(order)) - starts
    picked = order[np.lexsort((-badness[order], turn))][:EXAMPLES]
    return picked[np.argsort(-badness[picked], kind="stable")]


def _draw(
    example: Example,
    image: np.ndarray,
    record: ImageRecord,
    detections: Detections,
    minimum: np.ndarray,
    class_names: Sequence[str],
) -> bytes:
    """JPEG of the part of the image around an error, twice: with the objects, and with the detections."""
    left, top, right, bottom = _crop(example, image)
    crop = Image.fromarray(image[top:bottom, left:right])
    scale = SIDE / max(crop.size)
    small = crop.resize(
        (max(round(crop.width * scale), 1), max(round(crop.height * scale), 1)), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(small)

    def half(boxes: np.ndarray, labels: np.ndarray, captions: list[str]) -> Image.Image:
        corners = (boxes.reshape(-1, 4) - [left, top, left, top]) * scale
        inside = (corners[:, 2:] > 0).all(axis=1) & (corners[:, 0] < small.width) & (corners[:, 1] < small.height)
        rows = np.flatnonzero(inside)
        colors = [class_color(int(label)) for label in labels[rows]]
        return draw_boxes(pixels, corners[rows], [captions[row] for row in rows], colors, min_side=1)

    names = [class_names[label - 1] for label in record.labels]
    shown = detections.scores >= minimum.astype(np.float32)[detections.labels - 1]
    shown |= (np.abs(detections.boxes - example.box).max(axis=1, initial=0) < 1e-3) & (example.kind != MISSED)
    rows = np.flatnonzero(shown)[::-1]
    captions = [f"{class_names[detections.labels[row] - 1]} {detections.scores[row]:.2f}" for row in rows]
    sheet = Image.new("RGB", (2 * small.width + GAP, small.height), "white")
    sheet.paste(half(record.boxes, record.labels, names), (0, 0))
    sheet.paste(half(detections.boxes[rows], detections.labels[rows], captions), (small.width + GAP, 0))
    encoded = io.BytesIO()
    sheet.save(encoded, "JPEG", quality=QUALITY)
    return encoded.getvalue()


def _crop(example: Example, image: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of the image to show, in pixels."""
    boxes = np.stack([example.box, example.box if example.target is None else example.target])
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    half = max(float((high - low).max()) * (0.5 + CONTEXT), SMALLEST_CROP / 2)
    height, width = image.shape[:2]
    limits = np.array([width, height])
    middle = (low + high) / 2
    first = np.clip(np.floor(middle - half), 0, limits - 1).astype(int)
    last = np.clip(np.ceil(middle + half), first + 1, limits).astype(int)
    return int(first[0]), int(first[1]), int(last[0]), int(last[1])
