"""What the padding around a picture changes in its detections: our static canvases, and torchvision's batches.

    python tools/canvas_effect.py --data ../shared/data/coco128 --pictures 20 --min-size 320

Ours: each picture once on a canvas of its own size rounded up to 32, as torchvision pads a batch of one, and once on the
static canvas that training and inference put it on. torchvision's: each picture alone, and in a batch with itself turned by
90 degrees, which pads both to a square. Same drawn weights for both (tools/peers/drawn_weights.py). Needs what tools/parity.py
needs for torchvision.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from parity import build_peer

SEED = 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with val2017/ and annotations/instances_val2017.json")
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--min-size", type=int, default=320, help="short side after the resize; the long one is at most 5/3 of it")
    parser.add_argument("--json", type=Path, help="write the numbers into this file too")
    arguments = parser.parse_args()
    rows = measure(build_peer("torchvision"), arguments)
    for side in ("ours", "torchvision"):
        padded = [row[side] for row in rows if row[side]["padding"] > 0]
        found, lost, new = (sum(row[what] for row in padded) for what in ("alone", "lost", "new"))
        print(
            f"{side}: {len(padded)} of {len(rows)} pictures on a larger canvas; of their {found} detections {lost} have no partner "
            f"within 0.5 px and 0.001 there, and {new} new ones are there"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def measure(peer: Any, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a picture: for both sides, what share of the canvas is more padding, and which detections differ."""
    from peers.drawn_weights import draw_weights
    from peers.ours import OurSide, prepare

    from frcnn.data.coco import load_index
    from frcnn.data.decode import decode_image
    from frcnn.data.plan import canvas_number, canvases

    weights = draw_weights(peer.shapes(), SEED, peer.background)
    peer.set_weights(weights)
    max_size = round(arguments.min_size * 1333 / 800)
    peer.set_sizes(arguments.min_size, max_size)
    image = {"min_size": (arguments.min_size,), "max_size": max_size}
    ours = OurSide(peer.framework, weights, {"image": image, "backbone": peer.backbone_options})
    index = load_index(arguments.data / "val2017", arguments.data / "annotations" / "instances_val2017.json")
    rows = []
    for record in index.images[: arguments.pictures]:
        picture = decode_image(record.path)
        own = tuple(prepare(picture, ours.options)[0].shape[1:3])
        static = canvases(ours.options.image)[canvas_number(*picture.shape[:2], ours.options.image)]
        both = peer.detect([picture, np.rot90(picture).copy()])
        row = {
            "image": record.image_id,
            "ours": _difference(ours.detect(picture, own), ours.detect(picture, static), own, static),
            "torchvision": _difference(peer.detect([picture])[0], both[0], own, (max(own), max(own))),
        }
        rows.append(row)
        print(
            f"{record.path.name}  own canvas {own[0]}x{own[1]}  static {static[0]}x{static[1]}  "
            + "  ".join(f"{side}: {row[side]['lost']} of {row[side]['alone']} differ" for side in ("ours", "torchvision")),
            flush=True,
        )
    return rows


def _difference(
    alone: dict[str, np.ndarray], padded: dict[str, np.ndarray], own: tuple[int, ...], canvas: tuple[int, ...]
) -> dict[str, float]:
    from peers.differences import compare_detections

    found = compare_detections(alone, padded)
    return {"alone": found.peer, "lost": found.unmatched[0], "new": found.unmatched[1], "padding": 1 - np.prod(own) / np.prod(canvas)}


if __name__ == "__main__":
    sys.exit(main())
