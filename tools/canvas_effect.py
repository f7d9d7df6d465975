"""What the padding of our static canvases changes in detections.

    python tools/canvas_effect.py --data ../shared/data/coco128 --pictures 20 --min-size 320

Each picture once on a canvas of its own size rounded up to 32, as torchvision and Detectron2 pad a batch of one, and once on the
static canvas that training and inference put it on. torchvision's v1 network with drawn weights (tools/peers/drawn_weights.py);
needs neither framework.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from peers.differences import compare_detections
from peers.drawn_weights import draw_weights
from peers.ours import OurSide, prepare

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
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument(
        "--min-size", type=int, default=320, help="short side after the resize; the long one is at most 5/3 of it"
    )
    parser.add_argument("--json", type=Path, help="write the numbers into this file too")
    arguments = parser.parse_args()
    rows = measure(arguments.data, arguments.pictures, arguments.min_size)
    padded, others = ([row for row in rows if (row["padding"] > 0) == more] for more in (True, False))
    found, lost, new = (sum(row[what] for row in padded) for what in ("alone", "lost", "new"))
    print(
        f"{len(padded)} of {len(rows)} pictures on a larger canvas; of their {found} detections {lost} have no partner within "
        f"0.5 px and 0.001 there, and {new} new ones are there; on the other pictures {sum(row['lost'] for row in others)} differ"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def measure(data: Path, pictures: int, min_size: int) -> list[dict[str, Any]]:
    """A row a picture: what share of the canvas is padding that its own would not have, and how many detections differ."""
    weights = draw_weights(json.loads(SHAPES.read_text()), SEED, background=0)
    image = {"min_size": (min_size,), "max_size": round(min_size * 1333 / 800)}
    ours = OurSide("torchvision", weights, {"image": image, "backbone": {"freeze": 2}})
    rows = []
    for record in load_index(data / "val2017", data / "annotations" / "instances_val2017.json").images[:pictures]:
        picture = decode_image(record.path)
        own = tuple(prepare(picture, ours.options)[0].shape[1:3])
        static = canvases(ours.options.image)[canvas_number(*picture.shape[:2], ours.options.image)]
        found = compare_detections(ours.detect(picture, own), ours.detect(picture, static))
        row = {"image": record.image_id, "padding": 1 - np.prod(own) / np.prod(static), "alone": found.peer}
        rows.append(row | {"lost": found.unmatched[0], "new": found.unmatched[1]})
        print(
            f"{record.path.name}  own canvas {own[0]}x{own[1]}, static {static[0]}x{static[1]}: {found.unmatched[0]} of {found.peer} "
            f"detections differ, the others by up to {found.side:.2f} px, {found.score:.1e}",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
