"""Checks on 1, 2 and 3 ranks: ``rank_checks.py RECIPE OUTPUT CHECK...``; rank 0 writes ``OUTPUT/CHECK.npz``."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from frcnn.config import Config, load_config
from frcnn.distributed import AgreedError, World, connect, mpi, watchdog
from frcnn.startup import import_tensorflow

Arrays = dict[str, np.ndarray]


def train(world: World, recipe: Path, output: Path, *overrides: str) -> Arrays:
    """Weights before and after 20 steps, and how many different states the ranks hold."""
    mpi.BUCKET_BYTES = 4 << 20  # as many buckets as a ResNet-50's
    trainer = _trainer(world, load_config(recipe, [f"output={output / f'run{world.size}'}", *overrides]))
    before = _flat(trainer.model.variables)
    trainer.run()
    after = _flat(trainer.model.variables)
    digest = hashlib.sha256(after.tobytes() + _flat(trainer.optimizer.variables).tobytes()).hexdigest()
    return {
        "before": before,
        "after": after,
        "digests": np.array(len(set(world.allgather_strings(digest)))),
        "steps": np.array(trainer.step),
    }


def train_frozen_bn(world: World, recipe: Path, output: Path) -> Arrays:
    """The same with frozen batch norm."""
    return train(world, recipe, output / "frozen_bn", "backbone.norm=frozen_bn")


def train_fp16(world: World, recipe: Path, output: Path) -> Arrays:
    """The same with gradients compressed to float16."""
    return train(world, recipe, output / "fp16", "distributed.compression=fp16")


def sync_bn(world: World, recipe: Path, output: Path) -> Arrays:
    """Outputs, gradients and statistics of batch norm whose batch of 6 is split over the ranks; all rows, gathered."""
    import tensorflow as tf

    from frcnn.modeling.norms import BatchNorm

    rng = np.random.default_rng(0)
    rows, weights = rng.normal(3, 2, (6, 4, 5, 8)).astype(np.float32), rng.normal(size=(6, 4, 5, 8)).astype(np.float32)
    share = slice(world.rank * 6 // world.size, (world.rank + 1) * 6 // world.size)
    layer = BatchNorm(1e-5, name="norm")
    layer.build((None, 4, 5, 8))
    if world.size > 1:
        layer.allreduce_sum = world.allreduce_sum

    @tf.function
    def run(inputs: tf.Tensor, of_outputs: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=True)
            loss = tf.reduce_sum(outputs * of_outputs)
        return outputs, *tape.gradient(loss, [inputs, layer.gamma.value, layer.beta.value])

    outputs, of_inputs, of_gamma, of_beta = (
        tensor.numpy() for tensor in run(tf.constant(rows[share]), tf.constant(weights[share]))
    )
    everyones = world.allgather([outputs, of_inputs, of_gamma[None], of_beta[None]])
    names = ("outputs", "of_inputs", "of_gamma", "of_beta")
    joined = {name: np.concatenate([arrays[i] for arrays in everyones]) for i, name in enumerate(names)}
    return joined | {"mean": layer.moving_mean.numpy(), "variance": layer.moving_variance.numpy()}


def adamw_steps(world: World, recipe: Path, output: Path) -> Arrays:
    """Ten training steps of a linear model on 6 rows, with AdamW, clipping, moving averages and accumulation.

    Weights and the optimizer's variables before and after, and how many different states the ranks hold.
    """
    import keras
    import tensorflow as tf

    from frcnn.data.batch import Batch
    from frcnn.training.optimizer import build_optimizer
    from frcnn.training.step import LOSSES, build_train_step

    rng = np.random.default_rng(0)
    rows, wanted = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    weights = keras.Variable(rng.normal(size=4).astype(np.float32), name="kernel")

    class Linear:
        trainable_variables = (weights,)

        def compute_losses(self, batch: Batch, seed: tf.Tensor, first_image: int) -> dict[str, tf.Tensor]:
            own = slice(first_image, first_image + batch.images.shape[0])
            error = tf.linalg.matvec(rows[own], weights.value) - wanted[own]
            return dict.fromkeys(LOSSES, tf.reduce_mean(error**2))

    options = """
        optimizer.name=adamw optimizer.learning_rate=0.05 optimizer.base_batch_size=12 training.batch_size=6
        optimizer.accumulation=2 optimizer.ema=0.9 optimizer.clip_norm=1 optimizer.warmup_steps=0
    """
    config = load_config(overrides=options.split())
    optimizer = build_optimizer(config, 10, [weights])
    step = build_train_step(Linear(), optimizer, config, world)  # type: ignore[arg-type]
    share = 6 // world.size
    nothing = tf.zeros([share, 1, 1, 3])
    batch = Batch(nothing, nothing, nothing, nothing, nothing, nothing, nothing)
    state = [weights, *optimizer.variables]
    before = _flat(state)
    for number in range(10):
        step(batch, tf.constant(number), tf.zeros([1]))
    after = _flat(state)
    digest = hashlib.sha256(after.tobytes()).hexdigest()
    return {"before": before, "after": after, "digests": np.array(len(set(world.allgather_strings(digest))))}


def evaluate(world: World, recipe: Path, output: Path) -> Arrays:
    """All numbers of an evaluation of the model in ``OUTPUT/model``, and every detection."""
    from frcnn.data.coco import find_split, load_index
    from frcnn.evaluation.coco import evaluate_detections, gather_detections
    from frcnn.inference import Detector

    index = load_index(*find_split(load_config(recipe).data, "train"))
    detector = Detector.load(output / "model")
    own = detector.detect_index(index, 1, None, world.rank, world.size)
    counts = [int(count[0]) for (count,) in world.allgather([np.array([len(own)])])]
    results = gather_detections(index, own, world)
    metrics = evaluate_detections(index, results)
    return {
        "counts": np.array(counts),
        "summary": np.array(list(metrics.summary.values())),
        "classes": np.array(list(metrics.class_ap.values())),
        **{
            f"{name}{image}": getattr(found, name)
            for image, found in results.items()
            for name in ("boxes", "scores", "labels")
        },
    }


def exchange(world: World, recipe: Path, output: Path) -> Arrays:
    """Operations between steps, and the messages of inconsistent and failing ranks."""
    import tensorflow as tf

    variables = [
        tf.Variable(np.full((2, 3), world.rank + 1.5, np.float32)),
        tf.Variable(tf.cast(world.rank, tf.bfloat16)),
    ]
    world.broadcast(variables)
    gathered = world.allgather([np.full((world.rank, 2), world.rank, np.int32)])
    messages = []
    signature = {"frcnn": "1.0", "option seed": str(world.rank)} | (
        {"training data": "shapes"} if world.is_main else {"option new": "1"}
    )
    for attempt in (lambda: world.check_consistent(signature), lambda: _fails_on_last(world)):
        try:
            attempt()
        except AgreedError as error:
            messages.append(str(error))
    return {
        "broadcast": np.concatenate([variables[0].numpy().ravel(), [float(variables[1])]]),
        "lengths": np.array([len(array) for (array,) in gathered]),
        "messages": np.array(messages),
        "shared": np.array(world.broadcast_object({"rank": world.rank})["rank"]),
        "largest": np.array(world.allreduce_max(world.rank)),
    }


def sharded(world: World, recipe: Path, output: Path) -> Arrays:
    """An epoch in which each rank acts as a host with its own images: images seen and steps taken."""
    config = load_config(
        recipe, ["data.sharded=true", f"data.root={output / f'shard{world.rank}'}", f"output={output / 'sharded'}"]
    )
    trainer = _trainer(replace(world, local_rank=0, local_size=1), config)
    seen: list[int] = []
    step = trainer._start_step

    def watched(batch, progress):  # type: ignore[no-untyped-def]
        seen.extend(batch.image_ids.numpy().tolist())
        return step(batch, progress)

    trainer._start_step = watched  # type: ignore[method-assign]
    trainer.total_steps = trainer.steps_per_epoch
    trainer.run()
    everyones = world.allgather([np.array(seen), np.array([trainer.step])])
    return {"steps": np.array([int(steps[0]) for _, steps in everyones])} | {
        f"seen{i}": ids for i, (ids, _) in enumerate(everyones)
    }


def fails(world: World, recipe: Path, output: Path) -> Arrays:
    """A run in which rank 1 raises in its third step, while rank 0 waits for its gradients."""
    trainer = _trainer(world, load_config(recipe, [f"output={output / 'fails'}"]))
    step = trainer._start_step

    def failing(batch, progress):  # type: ignore[no-untyped-def]
        if world.rank == 1 and trainer.step == 2:
            raise ZeroDivisionError("float division by zero")
        return step(batch, progress)

    trainer._start_step = failing  # type: ignore[method-assign]
    trainer.run()
    return {}


def rank_0_works_alone(world: World, recipe: Path, output: Path) -> Arrays:
    """Rank 0 reports progress now and then for three times the watchdog's limit, while the others wait."""
    watchdog.GRACE_SECONDS = 2.0
    watching = watchdog.Watchdog(world, limit=4.0)
    for step in range(3):
        watching.tick(step)
    if world.is_main:
        for _ in range(14):
            time.sleep(1)
            watching.tick()
    world.barrier()
    watching.end()
    return {"ended": np.array(True)}


def loses_others(world: World, recipe: Path, output: Path) -> Arrays:
    """Rank 1's communicator is invalid, as after the exit of its peers: a heartbeat is ignored, a collective fails."""
    if world.rank == 1:
        world = replace(world, communicator=world.communicator.Split(1))
        world.communicator.Free()
        world.send_heartbeat(0, 0)
    else:
        world.communicator.Split(0)
    world.barrier()
    world.barrier()
    return {}


def _flat(variables: list[Any]) -> np.ndarray:
    return np.concatenate([np.ravel(variable.numpy()).astype(np.float64) for variable in variables])


def _fails_on_last(world: World) -> None:
    from frcnn.errors import UserError

    with world.raise_together():
        if world.rank == world.size - 1:
            raise UserError("no such folder")


def _trainer(world: World, config: Config):  # type: ignore[no-untyped-def]
    """A trainer whose backbone has one block a stage: the ranks do not depend on it, and its step is traced sooner."""
    from frcnn.modeling.resnet import DEPTHS
    from frcnn.training.trainer import Trainer

    with patch.dict(DEPTHS, resnet18=((1, 1, 1, 1), False)):
        return Trainer(config, world=world)


def main(recipe: Path, output: Path, *checks: str) -> None:
    world = connect()
    with world.abort_together():
        import_tensorflow()
        world.init()
        for name in checks:
            check: Callable[[World, Path, Path], Arrays] = globals()[name]
            found = check(world, recipe, output)
            if world.is_main:
                np.savez(output / f"{name}{world.size}.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
