"""Run a peer and frcnn on the same weights and images, and print the differences of every stage.

    python tools/parity.py --peer torchvision --data ../shared/data/coco128 --images 20
    python tools/parity.py --peer detectron2 --data ../shared/data/coco128 --images 20 --training 2 --json parity.json

The peers are torchvision, torchvision_v2 (both: pip install -e '.[bench]'), detectron2, detectron2_r101 and
detectron2_cascade (built from its source, see docs/numerics.md). Weights are random by tensor name
(tools/peers/random_weights.py), so that no pretrained file is needed; --weights takes one. The exit code is 1 if a
detection has no partner within 0.5 pixels and 0.001 in score, a loss differs by more than 1e-4 or a gradient by more
than 1e-3, relative (with --double: unless it agrees to 1e-6 in float64).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

PEERS = ("torchvision", "torchvision_v2", "detectron2", "detectron2_r101", "detectron2_cascade")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=PEERS, required=True)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with val2017/ and annotations/instances_val2017.json"
    )
    parser.add_argument("--images", type=int, default=20, help="number of images for inference; 0 skips it")
    parser.add_argument("--skip", type=int, default=0, help="skip this many images first, to split a long run")
    parser.add_argument("--sizes", action="store_true", help="compare the resized sizes of 3900 image sizes")
    parser.add_argument("--training", type=int, default=0, help="batches of two images for losses and gradients")
    parser.add_argument("--double", action="store_true", help="also compute the gradients of both sides in float64")
    parser.add_argument(
        "--min-size", type=int, default=800, help="short side after the resize; the long side is at most 5/3 of it"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the random weights")
    parser.add_argument("--weights", type=Path, help="weights file of the peer instead of random weights")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()

    # Import the peer first: PyTorch 2.14 crashes if TensorFlow 2.21 was loaded before it.
    peer = build_peer(arguments.peer)
    from peers.comparison import compare

    return compare(peer, arguments)


def build_peer(name: str) -> Any:
    """The detector of a peer; imports its framework."""
    if name.startswith("torchvision"):
        from peers.torchvision_peer import TorchvisionPeer

        return TorchvisionPeer(name)
    from peers.detectron2_peer import Detectron2Peer

    return Detectron2Peer(name)


if __name__ == "__main__":
    sys.exit(main())
