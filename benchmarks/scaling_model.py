"""A simple model of the time of a training step on 1 to 512 GPUs.

    python benchmarks/scaling_model.py [--json FILE]

    step = computation of the slowest rank + the part of the all-reduce that does not overlap with the backward pass

docs/scaling.md gives the source of each number and compares the result with published figures. Nothing was measured on
GPUs.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

GRADIENT_BYTES = 41.5e6 * 4  # R50-FPN with 80 classes, float32
LAST_BUCKET = 32 << 20  # frcnn.distributed.mpi.BUCKET_BYTES: its all-reduce begins when the backward pass ends
BACKWARD = 2 / 3  # of the computation: two of the three products of a trained convolution
NODE = 8  # GPUs
STEPS = 500
GPUS = (1, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Machine:
    """A cluster of nodes with 8 GPUs.

    Attributes:
        images: per GPU and step.
        image_seconds: computation of an image of average size.
        inside: bytes/s of a ring inside a node, per GPU and direction; the data sheet's peak, of which ``REACHED`` is
            reached.
        network: bits/s between nodes, per node.
    """

    name: str
    images: int
    image_seconds: float
    inside: float
    network: float


REACHED = 0.7  # fraction of a link's peak in large all-reduces; assumed
HOP_SECONDS = 20e-6  # latency of one step of a ring through the network; assumed
MACHINES = (
    Machine("V100, NVLink, 25 Gb/s", 2, 0.105, 150e9, 25e9),
    Machine("V100, NVLink, 100 Gb/s", 2, 0.105, 150e9, 100e9),
    Machine("A100, NVLink, 100 Gb/s", 2, 0.052, 300e9, 100e9),
    Machine("A100, NVLink, 400 Gb/s", 2, 0.052, 300e9, 400e9),
)


def all_reduce_seconds(gpus: int, size: float, machine: Machine) -> float:
    """A ring within and one between nodes: 2 (n - 1) / n of the bytes pass each link (Patarasuk & Yuan 2009)."""
    local, nodes = min(gpus, NODE), -(-gpus // NODE)
    inside = 2 * (local - 1) / local * size / (machine.inside * REACHED)
    between = 2 * (nodes - 1) / nodes * size * 8 / (machine.network * REACHED) + 2 * (nodes - 1) * HOP_SECONDS
    return inside + between


def computation(gpus: int, machine: Machine, one_canvas: bool, rng: np.random.Generator) -> np.ndarray:
    """Seconds ``[STEPS]`` of the slowest rank; images take COCO's canvases at 800 pixels in assumed shares, mostly 4:3.

    Args:
        one_canvas: all images of a step have the same canvas, as in frcnn; otherwise each rank has its own, the largest
            of its images.
    """
    areas, shares = np.array([800, 1088, 1216, 1344]) * 800.0, np.array([0.05, 0.6, 0.3, 0.05])
    areas /= areas @ shares
    draws = rng.choice(areas, p=shares, size=(STEPS, 1 if one_canvas else gpus, machine.images)).max(axis=-1)
    # Proposals, decoding, the system: log-normal noise of 5 % per rank and step; assumed.
    noise = rng.lognormal(0.0, 0.05, size=(STEPS, gpus))
    return (draws * noise).max(axis=1) * machine.images * machine.image_seconds


def step_seconds(
    gpus: int, machine: Machine, compression: float = 1.0, overlap: bool = True, one_canvas: bool = True
) -> float:
    """Mean step; ``compression`` 0.5 is fp16."""
    compute = computation(gpus, machine, one_canvas, np.random.default_rng(0))
    size = GRADIENT_BYTES * compression
    travel = all_reduce_seconds(gpus, size, machine)
    last = travel * min(LAST_BUCKET * compression / size, 1.0)
    # All buckets but the last can overlap with the backward pass; the rest adds to the step.
    waited = np.maximum(travel - last - BACKWARD * compute, 0.0) + last if overlap else travel
    return float(np.mean(compute + waited))


def table(machine: Machine) -> list[dict[str, float]]:
    """A row per number of GPUs: images/s per GPU, and efficiency against one GPU, for four ways to do it."""
    ways = {
        "ours": {},
        "fp16": {"compression": 0.5},
        "no overlap": {"overlap": False},
        "any canvas": {"one_canvas": False},
        "neither": {"overlap": False, "one_canvas": False},
    }
    return [
        {"gpus": gpus}
        | {name: machine.images / step_seconds(gpus, machine, **options) for name, options in ways.items()}  # type: ignore[arg-type]
        for gpus in GPUS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = [{**asdict(machine), "rows": table(machine)} for machine in MACHINES]
    for result in results:
        first, *_ = rows = result["rows"]
        names = [name for name in first if name != "gpus"]
        print(f"\n{result['name']}: images/s per GPU (share of one GPU's)")
        print(f"{'GPUs':>6}" + "".join(f"{name:>16}" for name in names))
        for row in rows:
            print(f"{row['gpus']:>6}" + "".join(f"{row[name]:>9.2f} ({row[name] / first[name]:.2f})" for name in names))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
