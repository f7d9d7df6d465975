"""Compare one peer with frcnn, inference by image and training by batch; prints and returns the differences."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

from frcnn.config import Config
from frcnn.data.coco import ImageRecord, Index, load_index
from frcnn.data.decode import decode_image
from frcnn.data.transforms import resized_size
from frcnn.weights.checkpoint_file import read_checkpoint
from frcnn.weights.coco_classes import IDS
from frcnn.weights.conversion import Target
from peers.differences import compare_detections, gradient_differences, stage_differences, unmatched_proposals
from peers.double import DoubleSide
from peers.ours import OurSide
from peers.random_weights import random_weights

LOSS, GRADIENT = 1e-4, 1e-3  # allowed relative differences
EXACT = 1e-6  # of gradients where both sides compute in float64


def compare(peer: Any, arguments: argparse.Namespace) -> int:
    """Run the comparisons that the command line asks for; returns 1 if a difference exceeds its limit."""
    weights = (
        read_checkpoint(arguments.weights).tensors
        if arguments.weights
        else random_weights(peer.shapes(), arguments.seed, peer.background)
    )
    peer.set_weights(weights)
    max_size = round(arguments.min_size * 1333 / 800)
    peer.set_sizes(arguments.min_size, max_size)
    image = {"min_size": (arguments.min_size,), "max_size": max_size}
    index = load_index(arguments.data / "val2017", arguments.data / "annotations" / "instances_val2017.json")
    changes = {"image": image, "backbone": peer.backbone_options}
    ours = OurSide(peer.framework, weights, changes)
    double = DoubleSide(peer.framework, weights, changes) if arguments.double else None
    results: dict[str, Any] = {"peer": arguments.peer, "min_size": arguments.min_size, "seed": arguments.seed}
    if arguments.sizes:
        results["sizes"] = compare_sizes(peer, ours.options)
    if arguments.images:
        results["inference"] = compare_inference(peer, ours, list(index.images[arguments.skip :][: arguments.images]))
    results["training"] = [
        compare_training(peer, ours, double, pair) for pair in pairs_of_one_size(index, arguments.training)
    ]
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return verdict(results)


def compare_sizes(peer: Any, options: Config) -> dict[str, int]:
    """Count the image sizes, including those that truncation affects, that are resized differently."""
    image = options.image
    sizes = [(side, other) for side in range(100, 1400) for other in (480, 640, side * 4 // 3)]
    differ = [
        size
        for size in sizes
        if peer.resized_size(*size) != resized_size(*size, image.min_size[-1], image.max_size, image.resize)
    ]
    print(
        f"{len(sizes)} image sizes, {len(differ)} are resized differently"
        f"{': ' if differ else ''}{str(differ[:5])[1:-1]}"
    )
    return {"compared": len(sizes), "differ": len(differ)}


def compare_inference(peer: Any, ours: OurSide, records: list[ImageRecord]) -> dict[str, Any]:
    """Print a line per image and the largest difference of each stage; return them."""
    stages: dict[str, float] = {}
    rows = []
    for record in records:
        image = decode_image(record.path)
        start = time.perf_counter()
        theirs = peer.stages(image)
        seconds = time.perf_counter() - start
        own = ours.stages(image, theirs["proposals"])
        if tuple(own["image_size"]) != tuple(theirs["image_size"]):
            raise SystemExit(
                f"{record.path}: resized to {own['image_size']} by frcnn and to {theirs['image_size']} by the peer"
            )
        for name, value in stage_differences(theirs, own).items():
            stages[name] = max(stages.get(name, 0.0), value)
        proposals = unmatched_proposals(theirs["proposals"], own["proposals"])
        found = compare_detections(theirs, own)
        rows.append(
            {
                "image": record.image_id,
                "proposals": len(theirs["proposals"]),
                "unmatched_proposals": proposals,
                **found._asdict(),
            }
        )
        size = "x".join(map(str, theirs["image_size"]))
        own_seconds = time.perf_counter() - start - seconds
        print(
            f"{record.path.name}  {size}  "
            f"proposals {len(theirs['proposals'])}, without partner {proposals[0]}/{proposals[1]}  "
            f"detections {found.peer}/{found.ours}, without partner {found.unmatched[0]}/{found.unmatched[1]}, "
            f"differ by {found.side:.5f} px, {found.score:.1e}  ({seconds:.1f} s, {own_seconds:.1f} s)",
            flush=True,
        )
    for name, value in stages.items():
        print(f"{name:<13} largest difference {value:.2e} {'px' if name == 'anchors' else 'of the largest value'}")
    return {"stages": stages, "images": rows}


def compare_training(peer: Any, ours: OurSide, double: DoubleSide | None, records: list[ImageRecord]) -> dict[str, Any]:
    """Losses and gradients of two images of one size, on the peer's samples; with ``double`` also in float64."""
    images = [decode_image(record.path) for record in records]
    kept = [~record.crowd for record in records]
    boxes = [record.boxes[mask] for record, mask in zip(records, kept, strict=True)]
    labels = [_labels(record.labels[mask], ours) for record, mask in zip(records, kept, strict=True)]
    theirs = peer.training(images, boxes, labels)
    own = ours.training(images, boxes, labels, theirs)
    their_gradients = converted_gradients(theirs["gradients"], ours.translation.targets)
    gradients = gradient_differences(their_gradients, own["gradients"])
    losses = {name: abs(own["losses"][name] / value - 1) for name, value in theirs["losses"].items()}
    for name, value in theirs["losses"].items():
        print(f"{name:<15} peer {value:.7f}, ours {own['losses'][name]:.7f}, relative difference {losses[name]:.1e}")
    worst = sorted(gradients, key=lambda path: -gradients[path])
    print(
        f"{own['mismatched']} sampled anchors or proposals are matched differently; "
        f"{len(gradients)} gradients, largest differences:"
    )
    for path in worst[:5]:
        print(f"  {gradients[path]:.1e}  {path}")
    found = {"losses": losses, "gradients": gradients, "mismatched": own["mismatched"]}
    if double:
        exact = peer.training(images, boxes, labels, theirs)
        found |= compare_exactly(
            exact, double.replay(labels, exact, own), double.translation.targets, (their_gradients, own["gradients"])
        )
    return found


def compare_exactly(
    exact: dict[str, Any],
    own: dict[str, Any],
    targets: dict[str, Target],
    single: tuple[dict[str, np.ndarray], dict[str, np.ndarray]],
) -> dict[str, Any]:
    """Compare float64 gradients, and each side's float32 gradients (``single``) with its float64 ones."""
    theirs = converted_gradients(exact["gradients"], targets)
    losses = {name: abs(own["losses"][name] / value - 1) for name, value in exact["losses"].items()}
    found = {
        "exact": gradient_differences(theirs, own["gradients"]),
        "peer_rounding": gradient_differences(theirs, single[0]),
        "our_rounding": gradient_differences(own["gradients"], single[1]),
    }
    titles = {
        "exact": "peer's and ours, both in float64",
        "peer_rounding": "peer's in float32 and in float64",
        "our_rounding": "ours in float32 and in float64",
    }
    for name, words in titles.items():
        values = np.array(list(found[name].values()))
        print(f"gradients, {words}: differ by up to {values.max():.1e}, median {np.median(values):.1e}")
    print(f"losses, both in float64: differ by up to {max(losses.values()):.1e}")
    return {**found, "exact_losses": losses}


def converted_gradients(gradients: dict[str, np.ndarray], targets: dict[str, Target]) -> dict[str, np.ndarray]:
    """The peer's gradients by our paths. Conversion only permutes values, so it applies to gradients as to weights."""
    return {targets[name].path: targets[name].layout(values) for name, values in gradients.items()}


def _labels(labels: np.ndarray, ours: OurSide) -> np.ndarray:
    """COCO's 80 labels as the model has them: 90 category ids, or the same 80."""
    return labels if len(ours.translation.class_names) == len(IDS) else np.array(IDS, np.int32)[labels - 1]


def pairs_of_one_size(index: Index, count: int) -> list[list[ImageRecord]]:
    """Pairs of images of the same size, each with boxes."""
    of_size: dict[tuple[int, int], list[ImageRecord]] = {}
    pairs = []
    for record in index.images:
        waiting = of_size.setdefault((record.height, record.width), [])
        if (~record.crowd).any():
            waiting.append(record)
        if len(waiting) == 2:
            pairs.append(waiting[:])
            waiting.clear()
    return pairs[:count]


def verdict(results: dict[str, Any]) -> int:
    """Print the totals; 1 if a difference exceeds its limit."""
    images = results.get("inference", {}).get("images", [])
    lost = [sum(row["unmatched"][side] for row in images) for side in range(2)]
    total = sum(row["peer"] for row in images)
    print(
        f"{len(images)} images, {total} detections of the peer, "
        f"without partner: {lost[0]} of the peer, {lost[1]} of ours"
    )
    losses = max((value for batch in results["training"] for value in batch["losses"].values()), default=0.0)
    gradients = max((value for batch in results["training"] for value in batch["gradients"].values()), default=0.0)
    print(
        f"{len(results['training'])} training batches, largest relative difference of a loss {losses:.1e}, "
        f"of a gradient {gradients:.1e}"
    )
    exceeded = any(lost) or results.get("sizes", {}).get("differ", 0) > 0 or losses > LOSS
    return int(exceeded or not all(map(gradients_agree, results["training"])))


def gradients_agree(batch: dict[str, Any]) -> bool:
    """Within the limit in float32 or, where rounding alone exceeds it, in float64."""
    return max(batch["gradients"].values()) <= GRADIENT or max(batch.get("exact", {"": np.inf}).values()) <= EXACT
