"""Print the tables of docs/numerics.md from the JSON files of tools/parity.py; parts of one run are merged.

python tools/parity_table.py s800_*.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

GROUPS = {
    "image on the canvas": ("image",),
    "C2, C3, C4, C5": ("C2", "C3", "C4", "C5"),
    "P2 to P6": ("P2", "P3", "P4", "P5", "P6"),
    "anchors": ("anchors",),
    "RPN logits, deltas": ("logits", "deltas"),
    "RoI features": ("roi_features",),
    "class scores": ("class_scores",),
    "box deltas": ("box_deltas",),
}
TRAINING = {
    "the four losses": "losses",
    "gradients, float32": "gradients",
    "gradients, float64": "exact",
    "the peer's gradients, float32 against float64": "peer_rounding",
    "our gradients, float32 against float64": "our_rounding",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="written by tools/parity.py --json")
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for file in parser.parse_args().files:
        run = json.loads(file.read_text())
        runs.setdefault((run["peer"], run["min_size"]), []).append(run)
    names = [f"{peer}, {size}" for peer, size in runs]
    print("| | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    for title, value in _rows():
        cells = [value(parts) for parts in runs.values()]
        if any(cells):
            print(f"| {title} | " + " | ".join(cells) + " |")
    return 0


def _rows() -> Iterable[tuple[str, Callable[[list[dict[str, Any]]], str]]]:
    """Title of each row, and a function from the parts of a run to the cell, empty if the run lacks the value."""
    yield "images", lambda parts: str(len(_images(parts)) or "")
    yield "detections of the peer", lambda parts: _sum(parts, "peer")
    yield "without partner: theirs, ours", lambda parts: _pair(parts, "unmatched")
    yield "largest difference of a side, px", lambda parts: _largest(row["side"] for row in _images(parts))
    yield "largest difference of a score", lambda parts: _largest(row["score"] for row in _images(parts))
    yield "proposals of the peer", lambda parts: _sum(parts, "proposals")
    yield "without partner of IoU 0.99: theirs, ours", lambda parts: _pair(parts, "unmatched_proposals")
    for title, stages in GROUPS.items():
        yield title, lambda parts, stages=stages: _largest(_stages(parts, stages))
    yield "training batches", lambda parts: str(len(_batches(parts)) or "")
    for title, key in TRAINING.items():
        yield (
            title,
            lambda parts, key=key: _largest(
                value for batch in _batches(parts) for value in batch.get(key, {}).values()
            ),
        )


def _images(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for run in parts for row in run.get("inference", {}).get("images", [])]


def _batches(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [batch for run in parts for batch in run["training"]]


def _stages(parts: list[dict[str, Any]], names: tuple[str, ...]) -> Iterable[float]:
    return (run["inference"]["stages"][name] for run in parts if "inference" in run for name in names)


def _largest(values: Iterable[float]) -> str:
    found = list(values)
    return f"{max(found):.1e}" if found else ""


def _sum(parts: list[dict[str, Any]], key: str) -> str:
    return str(sum(row[key] for row in _images(parts)) or "")


def _pair(parts: list[dict[str, Any]], key: str) -> str:
    rows = _images(parts)
    return ", ".join(str(sum(row[key][side] for row in rows)) for side in range(2)) if rows else ""


if __name__ == "__main__":
    sys.exit(main())
