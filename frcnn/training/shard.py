"""The dataset of a run, and the part of it that a process reads.

Usually every host has the whole dataset, and each step's batch is split over all ranks. With ``data.sharded`` each host
has different images: its processes split batches of these among themselves, and the host with the most images decides
how many steps an epoch has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from frcnn import ops
from frcnn.config import Config
from frcnn.data.batch import Batch
from frcnn.data.coco import Index, check_same_classes, find_split, load_index
from frcnn.data.copy_ahead import copy_ahead
from frcnn.data.pipeline import steps_per_epoch, training_batches
from frcnn.data.sampling import take_fraction, take_validation_fraction
from frcnn.data.shared_files import describe_shared_files
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.distributed import World
from frcnn.errors import UserError

MAX_COMPARED_FILES = 20_000  # of both splits; check-dataset compares larger datasets


@dataclass(frozen=True)
class Shard:
    """A process's part of the training data.

    Attributes:
        rank: of the process, among the ``size`` processes that split the images of their host or of all hosts.
        batch_size: images per step of these ``size`` processes together.
        epoch_steps: steps of an epoch, the same on all ranks.
        images: number of training images on all hosts.
        fingerprint: of all hosts' training data.
    """

    rank: int
    size: int
    batch_size: int
    epoch_steps: int
    images: int
    fingerprint: str

    @classmethod
    def of(cls, world: World, index: Index, config: Config) -> Shard:
        """The part of this process. Collective: all ranks call it at the same point."""
        sharded = config.data.sharded
        batch_size = config.training.batch_size // world.size * (world.local_size if sharded else world.size)
        with world.raise_together():
            steps = steps_per_epoch(index, _with_batch_size(config, batch_size))
        if not sharded:
            return cls(world.rank, world.size, batch_size, steps, len(index.images), index.fingerprint)
        own = np.array([len(index.images) if world.local_rank == 0 else 0])
        # The annotation file may be the same on all hosts; the file names tell their images apart.
        paths = "".join(f"{record.path.name}\n" for record in index.images)
        prints = sorted(set(world.allgather_strings(index.fingerprint + hashlib.sha256(paths.encode()).hexdigest())))
        return cls(
            rank=world.local_rank,
            size=world.local_size,
            batch_size=batch_size,
            epoch_steps=world.allreduce_max(steps),
            images=sum(int(counts[0]) for (counts,) in world.allgather([own])),
            fingerprint=hashlib.sha256("".join(prints).encode()).hexdigest(),
        )

    def batches(
        self, index: Index, config: Config, start_step: int, unreadable_images: UnreadableImages
    ) -> Iterator[Batch]:
        """This process's batches, see :func:`frcnn.data.pipeline.training_batches`; the images on its GPU, if any."""
        batches = training_batches(
            index,
            _with_batch_size(config, self.batch_size),
            rank=self.rank,
            size=self.size,
            start_step=start_step,
            unreadable_images=unreadable_images,
            epoch_steps=self.epoch_steps,
        )
        return copy_ahead(batches, "GPU:0") if ops.uses_gpu() else batches


def present_images(index: Index) -> Index:
    """The index reduced to the images that exist on this host.

    Raises:
        UserError: none exists.
    """
    present = tuple(record for record in index.images if record.path.exists())
    if not present:
        raise UserError(
            f"none of the {len(index.images)} images of {index.source} exists on this host; with data.sharded=true "
            "every host needs a part of them"
        )
    return replace(index, images=present)


def load_splits(config: Config, messages: list[str], *, compare_files: bool = False) -> tuple[Index, Index | None]:
    """Training and validation index.

    The latter is None if neither the configuration nor the folder has one.

    Args:
        messages: gets the summary of each annotation file, and the reason for a missing validation split.
        compare_files: warn about images that are in both splits, which reads a part of some files; skipped for more
            than ``MAX_COMPARED_FILES`` images.
    """
    data = config.data
    train_index = load_index(
        *find_split(data, "train"),
        data.on_bad_annotation,
        box_format=data.box_format,
        require_images=not data.sharded,
    )
    if data.sharded:
        train_index = present_images(train_index)
    messages += train_index.summary.lines()
    if data.fraction < 1:
        found, train_index = len(train_index.images), take_fraction(train_index, data.fraction, config.seed)
        messages.append(f"training on {len(train_index.images)} of {found} images (data.fraction={data.fraction:g})")
    try:
        split = find_split(data, "validation")
    except UserError as error:
        if data.validation.annotations or data.validation.images:
            raise
        messages.append(
            f"no validation split: nothing is evaluated, and the last model is saved, not the best ({error})"
        )
        messages.append(f"divide the training data with: frcnn split {train_index.source} --val 0.2 --stratify")
        return train_index, None
    validation_index = load_index(*split, data.on_bad_annotation, box_format=data.box_format)
    messages += validation_index.summary.lines()
    few = len(train_index.images) + len(validation_index.images) <= MAX_COMPARED_FILES
    if compare_files and few and (warning := describe_shared_files(train_index, validation_index)):
        messages.append(f"warning: {warning}")
    if data.validation_fraction < 1:
        found = len(validation_index.images)
        validation_index = take_validation_fraction(validation_index, data.validation_fraction)
        messages.append(
            f"evaluating on {len(validation_index.images)} of {found} validation images "
            f"(data.validation_fraction={data.validation_fraction:g})"
        )
    return train_index, check_same_classes(train_index, validation_index)


def round_batch_size(config: Config, processes: int, messages: list[str]) -> Config:
    """The configuration with a batch size that is a multiple of the number of processes.

    It is rounded down, but to one image per process at least; ``messages`` gets what changed.
    """
    wanted = config.training.batch_size
    rounded = max(wanted // processes, 1) * processes
    if rounded == wanted:
        return config
    messages.append(
        f"training.batch_size={wanted} cannot be split evenly over {processes} processes; "
        f"using {rounded} images per step"
    )
    return _with_batch_size(config, rounded)


def _with_batch_size(config: Config, batch_size: int) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update={"batch_size": batch_size})})
