"""Runs a peer and frcnn on the same weights and pictures and prints how far they are apart, stage by stage.

    python tools/parity.py --peer torchvision --data ../shared/data/coco128 --pictures 20
    python tools/parity.py --peer detectron2 --data ../shared/data/coco128 --pictures 20 --training 2 --json parity.json

The peers are torchvision, torchvision_v2 (both: pip install -e '.[bench]'), detectron2 and detectron2_r101 (built from its
source, see docs/numerics.md). Weights are drawn by tensor name (tools/peers/drawn_weights.py), so that no pretrained file is
needed; --weights takes one. The exit code is 1 where a detection has no partner within 0.5 pixels and 0.001 in score, a loss
differs by more than 1e-4 or a gradient by more than 1e-3, relative (with --double: unless it agrees to 1e-6 in float64).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

PEERS = ("torchvision", "torchvision_v2", "detectron2", "detectron2_r101")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=PEERS, required=True)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with val2017/ and annotations/instances_val2017.json"
    )
    parser.add_argument("--pictures", type=int, default=20, help="of inference; 0: none")
    parser.add_argument(
        "--skip", type=int, default=0, help="pictures to leave out first, so that a long run can be done in pieces"
    )
    parser.add_argument(
        "--sizes", action="store_true", help="compare the sizes that 3900 shapes of pictures are resized to"
    )
    parser.add_argument("--training", type=int, default=0, help="batches of two pictures for losses and gradients")
    parser.add_argument("--double", action="store_true", help="compute both sides' gradients in float64 as well")
    parser.add_argument(
        "--min-size", type=int, default=800, help="short side after the resize; the long one is at most 5/3 of it"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the drawn weights")
    parser.add_argument("--weights", type=Path, help="the peer's own file instead of drawn weights")
    parser.add_argument("--json", type=Path, help="write the numbers into this file too")
    arguments = parser.parse_args()

    # The peer first: PyTorch crashes where TensorFlow was loaded before it (2.14 and 2.21).
    peer = build_peer(arguments.peer)
    from peers.comparison import compare

    return compare(peer, arguments)


def build_peer(name: str) -> Any:
    """The peer's detector; its framework is imported only here."""
    if name.startswith("torchvision"):
        from peers.torchvision_peer import TorchvisionPeer

        return TorchvisionPeer(name)
    from peers.detectron2_peer import Detectron2Peer

    return Detectron2Peer(name)


if __name__ == "__main__":
    sys.exit(main())
