"""Check of a dataset before training: its contents, what is wrong with it, and suggested options."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from frcnn import config
from frcnn.data.coco import ImageRecord, Index, Problem, load_index
from frcnn.data.contact_sheet import draw_contact_sheet
from frcnn.data.decode import UnreadableImage, decode_image
from frcnn.data.suggestions import GOOD_IOU, SMALL_SIDE, Suggestions, box_sides, class_counts, suggest
from frcnn.data.threads import thread_pool

SIZE_EDGES = (8, 16, 32, 64, 128, 256, 512)  # pixels, square root of the box area
ASPECT_EDGES = (0.25, 0.5, 0.8, 1.25, 2.0, 4.0)  # height / width
BAR_WIDTH = 40  # characters
DECODING_THREADS = 8


@dataclass(frozen=True)
class Histogram:
    """Counts by named bin."""

    title: str
    names: tuple[str, ...]
    counts: tuple[int, ...]

    def to_text(self) -> str:
        name_width = max(map(len, self.names), default=0)
        most, total = max(self.counts, default=0), sum(self.counts)
        lines = [self.title]
        for name, count in zip(self.names, self.counts, strict=True):
            bar = "#" * round(BAR_WIDTH * count / most) if most else ""
            lines.append(f"  {name:<{name_width}} {count:>8} {count / total if total else 0:>6.1%} {bar}".rstrip())
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """What :func:`check_dataset` found in one split.

    Attributes:
        annotation_problems: annotations that training would skip.
        image_problems: kinds ``missing``, ``unreadable`` and ``size_differs``; training would see a blank image.
        contact_sheet: the image of examples, if one was drawn.
    """

    index: Index
    classes: Histogram
    sizes: Histogram
    aspects: Histogram
    suggestions: Suggestions
    annotation_problems: tuple[Problem, ...]
    image_problems: tuple[Problem, ...]
    contact_sheet: Path | None

    @property
    def clean(self) -> bool:
        """Whether all annotations and images can be used."""
        return not self.annotation_problems and not self.image_problems

    def to_text(self) -> str:
        parts = [
            self._counts(),
            self.classes.to_text(),
            self.sizes.to_text(),
            self.aspects.to_text(),
            self._suggestions(),
        ]
        parts += [_problem_list("Bad annotations (skipped in training)", self.annotation_problems)]
        parts += [_problem_list("Bad images (blank in training)", self.image_problems)]
        if self.contact_sheet:
            parts.append(f"Examples with boxes: {self.contact_sheet}")
        return "\n\n".join(parts)

    def _counts(self) -> str:
        records = self.index.images
        sizes = Counter((record.width, record.height) for record in records)
        (width, height), count = sizes.most_common(1)[0]
        most = max(len(record.labels) for record in records)
        lines = [
            *self.index.summary.lines(),
            f"  classes: {len(self.index.class_names)}; boxes in an image: at most {most}",
            f"  image sizes: {len(sizes)}, most often {width} x {height} ({count})",
            f"  fingerprint: {self.index.fingerprint}",
        ]
        return "\n".join(lines)

    def _suggestions(self) -> str:
        found = self.suggestions
        lines = ["Suggestions"]
        if found.min_size is not None:
            sizes = ",".join(f"{size:g}" for size in found.anchor_sizes)
            before, after = found.coverage
            compared = f"instead of {before:.0%} with the configured sizes" if after > before else "as configured"
            lines += [
                f"  image.min_size=[{found.min_size}]: 90% of the boxes of every class reach {SMALL_SIDE:g} pixels "
                "unless the files are too small",
                f"  anchors.sizes=[{sizes}]: some anchor matches {after:.0%} of a class's boxes with an IoU "
                f"of {GOOD_IOU:g}, {compared}",
            ]
        lines += [f"  classes: {line}" for line in found.watch]
        return "\n".join(lines)


def check_dataset(
    images: Path, annotations: Path, options: config.Config | None = None, *, contact_sheet: Path | None = None
) -> Report:
    """Check a split: its annotation file and every image, each decoded in full.

    Args:
        images: folder of the images.
        annotations: COCO instances file.
        options: sizes and anchors that suggestions are compared with, and the format of boxes; the defaults if None.
        contact_sheet: PNG to draw.

    Raises:
        UserError: the annotation file cannot be used, see :func:`frcnn.data.coco.load_index`.
    """
    options = options or config.Config()
    index = load_index(images, annotations, box_format=options.data.box_format, require_images=False)
    with thread_pool(DECODING_THREADS) as threads:
        found = threads.map(lambda record: _image_problem(record, options.data.max_pixels), index.images)
        shown = tqdm(found, total=len(index.images), desc="checking images", unit="image", disable=None, leave=False)
        image_problems = tuple(problem for problem in shown if problem is not None)
    if contact_sheet is not None:
        bad_ids = {problem.image_id for problem in image_problems}
        bad = {record.path for record in index.images if record.image_id in bad_ids}
        draw_contact_sheet(index, contact_sheet, skip=bad, max_pixels=options.data.max_pixels)
    suggestions = suggest(index, options)
    size = suggestions.min_size or options.image.min_size[-1]
    sides = box_sides(index, options.image, size)
    return Report(
        index=index,
        classes=Histogram("Boxes by class", index.class_names, tuple(class_counts(index).tolist())),
        sizes=_histogram(
            f"Box sizes at image.min_size=[{size}] (root of the area, pixels)", np.sqrt(sides.prod(axis=1)), SIZE_EDGES
        ),
        aspects=_histogram("Box aspects (height / width)", sides[:, 1] / sides[:, 0], ASPECT_EDGES),
        suggestions=suggestions,
        annotation_problems=index.problems,
        image_problems=image_problems,
        contact_sheet=contact_sheet,
    )


def _image_problem(record: ImageRecord, max_pixels: int) -> Problem | None:
    if not record.path.is_file():
        return Problem("missing", None, record.image_id, f"image {record.image_id}: {record.path} does not exist")
    try:
        height, width = decode_image(record.path, max_pixels).shape[:2]
    except UnreadableImage as error:
        return Problem("unreadable", None, record.image_id, f"image {record.image_id}: {error}")
    if (height, width) != (record.height, record.width):
        return Problem(
            "size_differs",
            None,
            record.image_id,
            f"image {record.image_id}: {record.path} is {width} x {height} pixels (upright), "
            f"the annotation file says {record.width} x {record.height}",
        )
    return None


def _histogram(title: str, values: np.ndarray, edges: Sequence[float]) -> Histogram:
    names = [f"below {edges[0]:g}"]
    names += [f"{low:g} to {high:g}" for low, high in itertools.pairwise(edges)]
    names += [f"{edges[-1]:g} and more"]
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(names))
    return Histogram(title, tuple(names), tuple(counts.tolist()))


def _problem_list(title: str, problems: Iterable[Problem]) -> str:
    lines = [f"  {problem.kind}: {problem.reason}" for problem in problems]
    return "\n".join([f"{title}: {len(lines) or 'none'}", *lines])
