"""The choice of a recipe: from a dataset's statistics, the speed of the device and the time to the options of a run.

Pure functions. The rules are those that made ``configs/bccd_r18_fpn.yaml``, in terms of what they depend on; each
choice carries its reason. docs/tuning.md lists them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from frcnn.config import Config, option_names
from frcnn.data.statistics import RARE_SHARE, Statistics
from frcnn.training.time_budget import (
    EVALUATED_EPOCHS,
    Device,
    Speed,
    Weights,
    choose_epochs,
    choose_size,
    count_evaluations,
    validation_share,
)

GIB_PER_MEGAPIXEL = {"resnet18": 1.5, "resnet34": 2.0, "resnet50": 4.5, "resnet101": 6.5, "resnet152": 9.0}
LARGEST_BATCH = {"cpu": 4, "gpu": 16}
MANY_EPOCHS = 40  # from here on an image is seen so often that it should look different
CASCADE = (0.5, 0.6, 0.7)  # of Cai & Vasconcelos 2018
CASCADE_STEPS = 300  # below that the later stages see too few boxes of their IoU
# Options that a network's weights determine.
OF_THE_WEIGHTS = (
    "conventions", "image.channel_order", "image.mean", "image.std", "image.resize", "backbone.", "fpn.", "rpn.convs",
    "roi_head.convs", "roi_head.norm", "roi_head.cascade", "roi_head.fc_layers", "roi_head.fc_channels",
    "roi_head.pooled_size",
)  # fmt: skip
OF_A_DETECTOR = (
    "anchors.", "roi_head.sampling_ratio", "roi_head.aligned", "roi_head.level_rule", "roi_head.box_weights",
)  # fmt: skip


class Choice(NamedTuple):
    """An option of the recipe: dotted name, value, and the reason."""

    option: str
    value: Any
    reason: str


def first_guess(data: Statistics, device: Device, weights: Weights | None) -> tuple[int, str]:
    """Image size and backbone whose speed is measured; :func:`choose_recipe` derives the others from it."""
    backbone = weights.config.backbone.name if weights else "resnet18"
    return min(data.min_size, 384) if device.kind == "cpu" else data.min_size, backbone


def choose_recipe(
    data: Statistics, device: Device, speed: Speed, minutes: float | None, weights: Weights | None = None
) -> list[Choice]:
    """The options of a run, in the order of the schema's sections.

    Args:
        minutes: of wall-clock time for the whole run; None: as long as the data are worth.
    """
    start = "random" if weights is None else "detector" if weights.detector else "backbone"
    min_size, backbone, why_size = choose_size(data, device, speed, minutes, weights, start)
    rate = speed.at(min_size, backbone)
    epochs, why_epochs = choose_epochs(data, rate, minutes, start)
    batch, why_batch = _choose_batch(data, device, min_size, backbone)
    steps = max(round(epochs * data.images * data.repeats / batch), 1)
    return [
        *_weights_and_data(data, weights),
        *_validation(data, validation_share(data, rate, minutes)),
        Choice("image.min_size", [min_size], why_size),
        *_image(data, min_size),
        *_augmentation(data, epochs),
        *_network(device, backbone, weights),
        *_anchors(data, min_size, weights),
        *_proposals(data, device),
        *_cascade(steps, start),
        *_optimizer(steps, start),
        Choice("training.epochs", epochs, why_epochs),
        *_limit(minutes),
        Choice("training.batch_size", batch, why_batch),
        *_precision(device),
        *_evaluation(data, epochs, count_evaluations(data, rate, minutes)),
    ]


def _limit(minutes: float | None) -> Iterator[Choice]:
    if minutes is not None:
        yield Choice("training.max_minutes", minutes, "ends in time even if the device is slower than measured")


def _choose_batch(data: Statistics, device: Device, min_size: int, backbone: str) -> tuple[int, str]:
    largest = LARGEST_BATCH[device.kind]
    reason = "a CPU is busy with a few images" if device.kind == "cpu" else "keeps a GPU busy"
    if device.memory_gib is not None:
        per_image = GIB_PER_MEGAPIXEL[backbone] * min_size * min_size * data.aspects[1] / 1e6
        fits = max(int(0.7 * device.memory_gib / per_image), 1)
        if fits < largest:
            largest, reason = fits, f"fits into {device.memory_gib:.0f} GiB"
    if data.images < largest:
        largest, reason = data.images, "there are no more images"
    return 1 << (largest.bit_length() - 1), reason


def _weights_and_data(data: Statistics, weights: Weights | None) -> Iterator[Choice]:
    if weights:
        yield Choice("weights", weights.name, "initial weights; predictors of other classes start at random")
        if weights.config.conventions != "torchvision":
            yield Choice("conventions", weights.config.conventions, "of the weights")
    if data.repeats > 1:
        yield Choice(
            "data.repeat_threshold",
            RARE_SHARE,
            f"the rarest class is in {data.rarest:.2%} of the images; an epoch is {data.repeats:.2f} times as long",
        )


def _validation(data: Statistics, share: float) -> Iterator[Choice]:
    if share < 1:
        images = round(share * data.validation_images)
        reason = f"evaluating all {data.validation_images} would take too long; {images} are enough to choose by"
        yield Choice("data.validation_fraction", share, reason)


def _image(data: Statistics, min_size: int) -> Iterator[Choice]:
    median, wide = data.aspects
    longest = round(min_size * max(wide, 5 / 3))
    yield Choice("image.max_size", longest, f"99% of the images have an aspect ratio of at most {wide:g}")
    aspects = sorted({1.0, median} if median > 1.1 and wide - median > 0.05 else {median})
    yield Choice("image.canvas_aspects", aspects, "of most images; fewer canvases waste less padding and tracing")


def _augmentation(data: Statistics, epochs: float) -> Iterator[Choice]:
    yield Choice("augment.horizontal_flip", 0.5, "set it to 0 if left and right differ in meaning, as in text")
    if data.has_no_up:
        reason = "boxes lie as often high as low, as in images without an up direction; else set it to 0"
        yield Choice("augment.vertical_flip", 0.5, reason)
    if epochs >= MANY_EPOCHS:
        reason = f"every image is seen {epochs:.0f} times and should look different"
        yield Choice("augment.scale_range", [0.7, 1.3], reason)
        yield Choice("augment.color_jitter", 0.1, reason)


def _network(device: Device, backbone: str, weights: Weights | None) -> Iterator[Choice]:
    if weights is None:
        cheap = backbone == "resnet18"
        yield Choice(
            "backbone.name", backbone, "the most that the time allows" if device.kind == "gpu" else "for a CPU"
        )
        yield Choice("backbone.norm", "gn", "trains from random weights, at any batch size")
        if cheap:
            yield Choice("fpn.channels", 128, "half the usual width, for a small backbone")
        return
    yield from _options_of(weights.config, OF_THE_WEIGHTS, exclude=("conventions", "backbone.norm", "backbone.freeze"))
    norm = weights.config.backbone.norm
    kept = "gn" if norm == "gn" else "frozen_bn"
    reason = "as in the weights" if kept == norm else "the weights' statistics are better than those of small batches"
    yield Choice("backbone.norm", kept, reason)
    yield Choice("backbone.freeze", 2, "the first layers are the same for all images")


def _anchors(data: Statistics, min_size: int, weights: Weights | None) -> Iterator[Choice]:
    if weights and weights.detector:
        yield from _options_of(weights.config, OF_A_DETECTOR)
        return
    sizes = [float(round(size * min_size / data.min_size)) for size in data.anchor_sizes]
    yield Choice("anchors.sizes", sizes, f"some anchor matches {data.coverage:.0%} of a class's boxes")


def _proposals(data: Statistics, device: Device) -> Iterator[Choice]:
    base = 500 if device.kind == "cpu" else 1000
    proposals = min(max(base, 100 * math.ceil(data.boxes_per_image / 20)), 2000)
    reason = f"most images have at most {data.boxes_per_image} objects"
    yield Choice("rpn.pre_nms_train", 2 * proposals, reason)
    yield Choice("rpn.post_nms_train", proposals, reason)
    yield Choice("rpn.pre_nms_test", proposals, reason)
    yield Choice("rpn.post_nms_test", max(300, round(0.6 * proposals)), reason)
    samples = next((number for number in (128, 256) if data.boxes_per_image <= number // 4), 512)
    yield Choice("roi_head.samples", samples, f"a quarter of them are for objects; {reason}")
    if data.most_boxes > 80:
        limit = 100 * math.ceil(1.25 * data.most_boxes / 100)
        yield Choice("roi_head.max_detections", limit, f"an image has {data.most_boxes} objects")


def _cascade(steps: int, start: str) -> Iterator[Choice]:
    if start != "detector" and steps >= CASCADE_STEPS:
        yield Choice("roi_head.cascade", list(CASCADE), "three heads that each refine the boxes; more accurate boxes")


def _optimizer(steps: int, start: str) -> Iterator[Choice]:
    rate, reason = {
        "random": (0.0005, "from random weights"),
        "backbone": (0.005, "the backbone is trained already"),
        "detector": (0.002, "fine-tuning: the weights should change little"),
    }[start]
    if start == "random":
        yield Choice("optimizer.name", "adamw", "learns more from few epochs than SGD")
        yield Choice("optimizer.weight_decay", 0.05, "usual with AdamW")
    yield Choice("optimizer.learning_rate", rate, reason)
    yield Choice("optimizer.base_batch_size", 4, "batch that the rate refers to")
    yield Choice("optimizer.schedule", "cosine", "needs no milestones")
    yield Choice("optimizer.warmup_steps", min(100, max(steps // 10, 1)), f"of {steps} steps")
    yield Choice("optimizer.clip_norm", 10.0, "a bad batch cannot spoil the run")
    if steps >= 100:
        decay = min(1 - 7 / steps, 0.9998)
        yield Choice("optimizer.ema", round(decay, 4), "averages about the last seventh of the run")


def _precision(device: Device) -> Iterator[Choice]:
    if device.bfloat16:
        yield Choice("training.precision", "mixed_bfloat16", "this device computes faster in bfloat16")


def _evaluation(data: Statistics, epochs: float, evaluations: int) -> Iterator[Choice]:
    only_last = data.validation_images == 0 or epochs < EVALUATED_EPOCHS or evaluations == 1
    every = None if only_last else math.ceil(epochs / evaluations)
    reason = "only at the end" if every is None else f"at most {evaluations} evaluations; the best model is kept"
    yield Choice("training.evaluate_every", every, reason)


def _options_of(config: Config, prefixes: tuple[str, ...], exclude: tuple[str, ...] = ()) -> Iterator[Choice]:
    """The options with these prefixes that differ from the defaults of the weights' conventions."""
    values = config.model_dump(mode="json")
    defaults = Config.from_tree({"conventions": config.conventions}, "defaults").model_dump(mode="json")
    for name in option_names(Config):
        if not name.startswith(prefixes) or name in exclude or "." not in name:
            continue
        section, option = name.split(".")
        if values[section][option] != defaults[section][option]:
            yield Choice(name, values[section][option], "of the weights")
