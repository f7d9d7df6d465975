"""Measure how the padding to static canvases changes detections.

    python tools/canvas_effect.py --data ../shared/data/coco128 --images 20 --min-size 320

Each image is processed on a canvas of its own size rounded up to 32, as torchvision and Detectron2 pad a batch of one,
and on the static canvas of training and inference. The network is torchvision's v1 with random weights
(tools/peers/random_weights.py); neither framework is needed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from peers.differences import compare_detections
from peers.ours import OurSide, prepare
from peers.random_weights import random_weights

from frcnn.data.coco import load_index
from frcnn.data.decode import decode_image
from frcnn.data.plan import canvas_number, canvases

SEED = 1
SHAPES = Path(__file__).resolve().parent.parent / "tests" / "weights" / "golden" / "torchvision.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with val2017/ and annotations/instances_val2017.json"
    )
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument(
        "--min-size", type=int, default=320, help="short side after the resize; the long side is at most 5/3 of it"
    )
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    rows = measure(arguments.data, arguments.images, arguments.min_size)
    padded, others = ([row for row in rows if (row["padding"] > 0) == more] for more in (True, False))
    found, lost, new = (sum(row[what] for row in padded) for what in ("alone", "lost", "new"))
    print(
        f"{len(padded)} of {len(rows)} images have a larger static canvas; of their {found} detections {lost} have no "
        f"partner within 0.5 px and 0.001 on it, and {new} are new; on the other images "
        f"{sum(row['lost'] for row in others)} differ"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def measure(data: Path, images: int, min_size: int) -> list[dict[str, Any]]:
    """One row per image: the share of the static canvas that is additional padding, and how many detections differ."""
    weights = random_weights(json.loads(SHAPES.read_text()), SEED, background=0)
    sizes = {"min_size": (min_size,), "max_size": round(min_size * 1333 / 800)}
    ours = OurSide("torchvision", weights, {"image": sizes, "backbone": {"freeze": 2}})
    rows = []
    for record in load_index(data / "val2017", data / "annotations" / "instances_val2017.json").images[:images]:
        image = decode_image(record.path)
        own = tuple(prepare(image, ours.options)[0].shape[1:3])
        static = canvases(ours.options.image)[canvas_number(*image.shape[:2], ours.options.image)]
        found = compare_detections(ours.detect(image, own), ours.detect(image, static))
        row = {"image": record.image_id, "padding": 1 - np.prod(own) / np.prod(static), "alone": found.peer}
        rows.append(row | {"lost": found.unmatched[0], "new": found.unmatched[1]})
        print(
            f"{record.path.name}  own canvas {own[0]}x{own[1]}, static {static[0]}x{static[1]}: "
            f"{found.unmatched[0]} of {found.peer} detections differ, the others by up to {found.side:.2f} px, "
            f"{found.score:.1e}",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
