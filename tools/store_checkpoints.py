"""Write tests/weights/golden/{archive,legacy}.pth with PyTorch, for the tests of our reader, which does not use it.

python tools/store_checkpoints.py
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path

import torch

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "weights" / "golden"


def main() -> None:
    counted = torch.arange(24, dtype=torch.float32)
    weights = OrderedDict(
        plain=counted[:6].reshape(2, 3).clone(),
        transposed=counted.reshape(4, 6).t(),  # shares its storage with `part`
        part=counted.reshape(4, 6)[1:3, 2:5],
        scalar=torch.tensor(7),
        half=torch.tensor([0.5, -2.0], dtype=torch.float16),
        brain=torch.tensor([1.5, -3.0], dtype=torch.bfloat16),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(torch.tensor([1.0, 2.0])),
    )
    weights._metadata = {"": {"version": 1}}  # as in state_dict()
    checkpoint = {
        "model": weights,
        "epoch": 12,
        "args": argparse.Namespace(lr=0.02),
        "optimizer": {"state": {0: counted}},
    }
    torch.save(checkpoint, GOLDEN / "archive.pth")
    torch.save(checkpoint, GOLDEN / "legacy.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
