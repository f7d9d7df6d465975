"""What fits into the time of a run: image size, backbone, epochs and evaluations, from the measured speed."""

from __future__ import annotations

import math
from typing import NamedTuple

from frcnn.config import Config
from frcnn.data.statistics import Statistics

# Passes over the images: enough, at most, and the images that a small dataset is worth in any case.
EPOCHS = {"random": (24, 100, 6000), "backbone": (12, 60, 4000), "detector": (8, 40, 3000)}
# Of the time limit; the rest is for saving. On a device that is slower than measured, the limit ends the run: it misses
# the end of the schedule, where the rate is close to 0, which costs less than time that is not used.
TRAINING_SHARE = 0.92
STARTUP_SECONDS = 30.0  # reading data, building and tracing the model
EVALUATIONS = 4  # at most; the last one is of the averaged and of the raw weights
EVALUATION_COST = 0.5  # of an image of the validation split, in images of training
EVALUATION_SHARE = 0.15  # of the time: what the last one may take, and all that are before it
EVALUATED_EPOCHS = 2  # in a run of fewer epochs there are no evaluations before the last one
FEWEST_VALIDATION_IMAGES = 100  # fewer hardly tell one model from another
SMALLEST_SIZE = 224  # short side, pixels
SMALLEST_SIDE = 12.0  # pixels, three cells of P2; smaller objects are hardly found
MIN_SIZE_SHARE = 0.5  # of the wanted short side, below which images do not shrink to save time
COST = {"resnet18": 1.0, "resnet34": 1.5, "resnet50": 4.0, "resnet101": 6.0, "resnet152": 8.0}  # with their FPN


class Device(NamedTuple):
    """What training runs on.

    Attributes:
        kind: ``"cpu"`` or ``"gpu"``.
        bfloat16: computes faster in bfloat16.
        memory_gib: of a GPU; None: unknown.
    """

    kind: str
    bfloat16: bool
    memory_gib: float | None = None


class Weights(NamedTuple):
    """Weights to start from: their path or name, the options they were made with, and whether they are a detector."""

    name: str
    config: Config
    detector: bool


class Speed(NamedTuple):
    """A measured training speed, and the image size and backbone it was measured with."""

    images_per_second: float
    min_size: int
    backbone: str

    def at(self, min_size: int, backbone: str) -> float:
        """Images per second at another size: the work is proportional to the pixels and to the backbone's cost."""
        work = (min_size / self.min_size) ** 2 * COST[backbone] / COST[self.backbone]
        return self.images_per_second / work


def choose_size(
    data: Statistics, device: Device, speed: Speed, minutes: float | None, weights: Weights | None, start: str
) -> tuple[int, str, str]:
    """Short side, backbone and reason: the largest that leaves time for enough epochs."""
    wanted = "the smallest objects of every class are large enough"
    smallest = min(max(32 * math.ceil(MIN_SIZE_SHARE * data.min_size / 32), SMALLEST_SIZE), data.min_size)
    if weights:
        backbones = [weights.config.backbone.name]
    else:
        backbones = ["resnet50", "resnet18"] if device.kind == "gpu" else ["resnet18"]
    if minutes is None:
        return data.min_size, backbones[0], wanted
    enough, _, worth = EPOCHS[start]
    for backbone in backbones:
        last = smallest if backbone == backbones[-1] else data.min_size
        for size in range(data.min_size, last - 1, -32):
            affordable = _affordable_epochs(data, speed.at(size, backbone), minutes)
            if affordable >= enough or affordable * data.images >= 4 * worth:
                reason = wanted if size == data.min_size else f"{data.min_size} would leave time for too few epochs"
                return size, backbone, reason
    return smallest, backbones[-1], f"{data.min_size} would suit the objects, but there is little time"


def count_evaluations(data: Statistics, rate: float, minutes: float | None) -> int:
    """Evaluations of a run: one at the end, and others as far as they are cheap."""
    if minutes is None:
        return EVALUATIONS
    cost = EVALUATION_COST * max(_validation_images(data, rate, minutes), 1)
    return 1 + min(EVALUATIONS - 1, int(EVALUATION_SHARE * _images_in(rate, minutes) / cost))


def validation_share(data: Statistics, rate: float, minutes: float | None) -> float:
    """The share of the validation images that there is time to evaluate at the end, with two significant digits."""
    if minutes is None or data.validation_images <= FEWEST_VALIDATION_IMAGES:
        return 1.0
    affordable = EVALUATION_SHARE * _images_in(rate, minutes) / (2 * EVALUATION_COST)
    share = max(affordable, FEWEST_VALIDATION_IMAGES) / data.validation_images
    return float(f"{share:.2g}") if share < 1 else 1.0


def _validation_images(data: Statistics, rate: float, minutes: float | None) -> int:
    return math.ceil(validation_share(data, rate, minutes) * data.validation_images)


def _images_in(rate: float, minutes: float) -> float:
    """Training images that there is time for after starting up, without evaluations."""
    return max(TRAINING_SHARE * 60 * minutes - STARTUP_SECONDS, 0) * rate


def _affordable_epochs(data: Statistics, rate: float, minutes: float) -> float:
    """Epochs that fit into the time, after starting up and beside the evaluations."""
    images, evaluated = _images_in(rate, minutes), EVALUATION_COST * _validation_images(data, rate, minutes)
    with_all, with_last = (
        max(images - (1 + number) * evaluated, 0) / (data.images * data.repeats)
        for number in (count_evaluations(data, rate, minutes), 1)
    )
    return with_all if with_all >= EVALUATED_EPOCHS else min(with_last, EVALUATED_EPOCHS - 0.01)


def choose_epochs(data: Statistics, rate: float, minutes: float | None, start: str) -> tuple[float, str]:
    """Passes over the training images, and the reason."""
    enough, most, worth = EPOCHS[start]
    most_epochs = max(most, math.ceil(worth / data.images))
    if minutes is None:
        wanted = min(max(math.ceil(worth / data.images), enough), most_epochs)
        return wanted, f"{wanted * data.images:,} images from {start} weights; about {rate:.3g} images/s here"
    epochs = _affordable_epochs(data, rate, minutes)
    if epochs >= most_epochs:
        return most_epochs, f"there is time for {epochs:.0f}, but more than {most_epochs} would overfit"
    if epochs >= EVALUATED_EPOCHS:
        rounded = float(math.floor(epochs))
    else:  # never 0: one step is better than none, and the time limit holds in any case
        epochs = max(epochs, 1 / data.images)
        digits = max(2, 1 - math.floor(math.log10(epochs)))
        rounded = math.floor(epochs * 10**digits) / 10**digits
    return rounded, f"what {rate:.3g} images/s do in {TRAINING_SHARE:.0%} of {minutes:g} minutes beside the evaluations"


def foreseeable_problems(data: Statistics, rate: float, minutes: float | None, min_size: int) -> list[str]:
    """Sentences for the user on what no choice of options can mend.

    Args:
        rate: images per second in training.
        min_size: the chosen short side.
    """
    problems = []
    side = data.small_side * min_size / data.min_size
    if side < SMALLEST_SIDE:
        remedy = "cut the images into tiles (frcnn tile)"
        if min_size < data.min_size:
            remedy += ", or give the run more minutes"
        problems.append(
            f"at {min_size} pixels, one box in ten of some class is smaller than {side:.1f} pixels and will hardly be "
            f"found: {remedy}"
        )
    if minutes is not None:
        images = _validation_images(data, rate, minutes)
        evaluation = 2 * EVALUATION_COST * images / rate / 60
        if evaluation > minutes / 3:
            problems.append(
                f"evaluating {images} validation images at the end takes about {evaluation:.1f} of the {minutes:g} "
                "minutes; give the run more minutes"
            )
    return problems
