"""Run a peer on random weights and images, and store the expected values of tests/modeling and tests/weights.

    python tools/store_parity.py --peer torchvision --peer torchvision_v2 --peer detectron2 --peer detectron2_r101 \
        --peer detectron2_cascade

Writes the names and shapes of the peer's tensors to tests/weights/golden/PEER.json and its reduced outputs to
tests/modeling/golden/PEER.npz (not for detectron2_r101, which runs the code of detectron2). Requirements are those of
tools/parity.py.
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
PEERS_WITH_OUTPUTS = ("torchvision", "torchvision_v2", "detectron2", "detectron2_cascade")


def store(peer: Any, name: str) -> None:
    """Write both files of one peer."""
    from peers.comparison import converted_gradients
    from peers.golden import MAX_SIZE, MIN_SIZE, SEED, random_image, random_truth, reduce_inference, reduce_training
    from peers.ours import TRANSLATE
    from peers.random_weights import random_weights

    from frcnn.weights.conversion import Target

    shapes = peer.shapes()
    lines = [f" {json.dumps(tensor)}: {json.dumps(shape)}" for tensor, shape in shapes.items()]
    _write(TESTS / "weights" / "golden" / f"{name}.json", ("{\n" + ",\n".join(lines) + "\n}\n").encode())
    if name not in PEERS_WITH_OUTPUTS:
        return
    weights = random_weights(shapes, SEED, peer.background)
    peer.set_weights(weights)
    peer.set_sizes(MIN_SIZE, MAX_SIZE)
    outputs = reduce_inference(peer.stages(random_image(0)))
    truth = [random_truth(number) for number in range(2)]
    batch = (
        [random_image(number) for number in range(2)],
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
