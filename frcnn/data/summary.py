"""What was read from an annotation file: the one summary that every command prints and ``metrics.json`` stores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from frcnn.data.problems import Notes, Problem

EXAMPLES = 3  # skipped annotations of each kind that are named
WHY_CROWDS = (
    "CVAT exports every mask with iscrowd=1: if these are single objects, convert them to polygons before the export "
    "or set iscrowd to 0"
)


class Skipped(NamedTuple):
    """Annotations that are not used for one reason.

    Attributes:
        number: how many.
        examples: sentences about the first ones, with their ids.
    """

    number: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class DatasetSummary:
    """Counts of one annotation file.

    Attributes:
        source: the file.
        images: images in the index.
        without_objects: those among them that no object is annotated in.
        annotations: entries of the file.
        objects: annotations that are trained on and evaluated.
        crowds: annotations that mark crowd regions.
        skipped: annotations that are not used, by the kinds of :class:`frcnn.data.problems.Problem`.
        notes: corrections by a short name: how many, and a description.
    """

    source: Path
    images: int
    without_objects: int
    annotations: int
    objects: int
    crowds: int
    skipped: dict[str, Skipped]
    notes: Notes

    def lines(self) -> list[str]:
        """The summary for people: one line of counts, and one line for each thing that was skipped or corrected."""
        lines = [
            f"{self.source}: {self.images} images ({self.without_objects} without objects), "
            f"{self.objects} of {self.annotations} annotations used as objects"
        ]
        for kind, (number, examples) in self.skipped.items():
            more = "; …" if number > len(examples) else ""
            noun = "annotation" if number == 1 else "annotations"
            lines.append(f"  {number} {noun} skipped ({kind}): {'; '.join(examples)}{more}")
        if self.crowds:
            noun = "crowd region" if self.crowds == 1 else "crowd regions"
            lines.append(f"  {self.crowds} {noun} (iscrowd=1), not trained on and ignored in evaluation; {WHY_CROWDS}")
        lines += [f"  {count} {sentence}" for count, sentence in self.notes.values()]
        return lines

    def to_json(self) -> dict[str, Any]:
        """The summary for programs."""
        return {
            "file": str(self.source),
            "images": self.images,
            "images_without_objects": self.without_objects,
            "annotations": self.annotations,
            "objects": self.objects,
            "crowd_regions": self.crowds,
            "skipped": {
                kind: {"count": skipped.number, "examples": list(skipped.examples)}
                for kind, skipped in self.skipped.items()
            },
            "corrections": {name: count for name, (count, _) in self.notes.items()},
        }


def group_problems(problems: Iterable[Problem]) -> dict[str, Skipped]:
    """Problems by kind, with the first sentences of each."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        reasons[problem.kind].append(problem.reason)
    return {kind: Skipped(len(found), tuple(found[:EXAMPLES])) for kind, found in reasons.items()}
