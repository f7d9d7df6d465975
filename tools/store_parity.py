"""Runs a peer on drawn weights and pictures and stores what tests/modeling/test_parity.py and tests/weights check against.

    python tools/store_parity.py --peer torchvision --peer torchvision_v2 --peer detectron2 --peer detectron2_r101

Writes the names and shapes of the peer's tensors to tests/weights/golden/PEER.json and its outputs, reduced, to
tests/modeling/golden/PEER.npz (not of detectron2_r101, whose code path is detectron2's). Needs what tools/parity.py needs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from parity import PEERS, build_peer

TESTS = Path(__file__).resolve().parent.parent / "tests"
OUTPUTS_OF = PEERS[:3]


def store(peer: Any, name: str) -> None:
    """Both files of one peer."""
    from peers.comparison import converted_gradients
    from peers.drawn_weights import draw_weights
    from peers.golden import MAX_SIZE, MIN_SIZE, SEED, drawn_picture, drawn_truth, reduce_inference, reduce_training
    from peers.ours import TRANSLATE

    from frcnn.weights.conversion import Target

    shapes = peer.shapes()
    lines = [f" {json.dumps(tensor)}: {json.dumps(shape)}" for tensor, shape in shapes.items()]
    _write(TESTS / "weights" / "golden" / f"{name}.json", ("{\n" + ",\n".join(lines) + "\n}\n").encode())
    if name not in OUTPUTS_OF:
        return
    weights = draw_weights(shapes, SEED, peer.background)
    peer.set_weights(weights)
    peer.set_sizes(MIN_SIZE, MAX_SIZE)
    outputs = reduce_inference(peer.stages(drawn_picture(0)))
    truth = [drawn_truth(number) for number in range(2)]
    batch = (
        [drawn_picture(number) for number in range(2)],
        [boxes for boxes, _ in truth],
        [labels for _, labels in truth],
    )
    found = peer.training(*batch)
    exact = peer.training(*batch, replay=found)
    targets: dict[str, Target] = TRANSLATE[peer.framework](weights).targets
    outputs |= reduce_training(found, *(converted_gradients(run["gradients"], targets) for run in (found, exact)))
    file = TESTS / "modeling" / "golden" / f"{name}.npz"
    file.parent.mkdir(exist_ok=True)
    np.savez_compressed(file, **outputs)
    print(f"{file.relative_to(TESTS.parent)}: {file.stat().st_size} bytes")


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    print(f"{file.relative_to(TESTS.parent)}: {len(content)} bytes")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=PEERS, action="append", required=True)
    arguments = parser.parse_args()
    peers = {name: build_peer(name) for name in arguments.peer}  # before TensorFlow, see tools/parity.py
    for name, peer in peers.items():
        store(peer, name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
