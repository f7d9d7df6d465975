"""What a run reads, and which part of it a process.

Usually every host has all of it, and each step's batch is dealt over all ranks. With ``data.sharded`` a host has images that no
other has: its processes deal batches of these among themselves, and the longest host says how many steps an epoch has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from frcnn.config import Config
from frcnn.data.batch import Batch
from frcnn.data.coco import Index, check_same_classes, find_split, load_index
from frcnn.data.pipeline import steps_per_epoch, training_batches
from frcnn.data.unreadable_images import UnreadableImages
from frcnn.distributed import World
from frcnn.errors import UserError


@dataclass(frozen=True)
class Shard:
    """A process's part.

    Attributes:
        rank: of the process, among the ``size`` that deal their host's or all images.
        batch_size: images that these take together in a step.
        epoch_steps: steps of an epoch, the same on all ranks.
        images: how many training images there are on all hosts.
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
        """The part of this process; all ranks ask at once."""
        sharded = config.data.sharded
        batch_size = config.training.batch_size // world.size * (world.local_size if sharded else world.size)
        with world.raise_together():
            steps = steps_per_epoch(index, _with_batch_size(config, batch_size))
        if not sharded:
            return cls(world.rank, world.size, batch_size, steps, len(index.images), index.fingerprint)
        own = np.array([len(index.images) if world.local_rank == 0 else 0])
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
        """This process's batches, see :func:`frcnn.data.pipeline.training_batches`."""
        return training_batches(
            index,
            _with_batch_size(config, self.batch_size),
            rank=self.rank,
            size=self.size,
            start_step=start_step,
            unreadable_images=unreadable_images,
            epoch_steps=self.epoch_steps,
        )


def present_images(index: Index) -> Index:
    """The index without the images that are not in its folder.

    Raises:
        UserError: none is.
    """
    present = tuple(record for record in index.images if record.path.exists())
    if not present:
        raise UserError(
            f"this host has none of the {len(index.images)} images that {index.source} names, and needs a part of them"
        )
    return replace(index, images=present)


def _with_batch_size(config: Config, batch_size: int) -> Config:
    return config.model_copy(update={"training": config.training.model_copy(update={"batch_size": batch_size})})


def load_splits(config: Config, notes: list[str]) -> tuple[Index, Index | None]:
    """Training and validation index; the latter is None where neither the config nor the folder has one, and ``notes`` gets why."""
    train_index = load_index(
        *find_split(config.data, "train"), config.data.on_bad_annotation, require_images=not config.data.sharded
    )
    if config.data.sharded:
        train_index = present_images(train_index)
    try:
        channel = find_split(config.data, "validation")
    except UserError as error:
        if config.data.validation.annotations or config.data.validation.images:
            raise
        notes.append(f"no validation split, so nothing is measured and the last model is kept, not the best: {error}")
        return train_index, None
    return train_index, check_same_classes(train_index, load_index(*channel, config.data.on_bad_annotation))


def evenly_shared(config: Config, processes: int, notes: list[str]) -> Config:
    """The options with a batch that the processes can share evenly, the next smaller one, and one image each at least; ``notes`` gets
    what changed."""
    wanted = config.training.batch_size
    shared = max(wanted // processes, 1) * processes
    if shared == wanted:
        return config
    notes.append(
        f"training.batch_size={wanted} cannot be shared evenly by {processes} processes: a step takes {shared} images"
    )
    return _with_batch_size(config, shared)
