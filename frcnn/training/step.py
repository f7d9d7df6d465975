"""One optimizer step as a graph: losses, gradients, their average over the ranks, the update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from frcnn import ops
from frcnn.config import Config
from frcnn.data.batch import Batch
from frcnn.distributed import World
from frcnn.per_shape import PerShape
from frcnn.training.optimizer import scales_loss

LOSSES = ("rpn_objectness", "rpn_box", "roi_class", "roi_box")


def build_train_step(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, config: Config, world: World
) -> PerShape:
    """A graph function of a rank's batch, the step (int32 scalar) and ``flags`` (float32 vector).

    It returns one float32 vector, so that a step needs a single transfer to the host: the losses in the order of
    ``LOSSES``, their sum and the gradient norm, averaged over the ranks; then ``flags``, summed over the ranks. The
    flags travel in the same all-reduce as the losses: what a rank wants the others to know (a signal, unreadable
    images, a checkpoint) costs no collective operation of its own.

    Where the loss or the gradient is not finite, no weight changes.
    """

    # Traced without autograph, whose conversion takes seconds: conditions on tensors are written as tf.cond.
    def train_step(batch: Batch, step: tf.Tensor, flags: tf.Tensor) -> tf.Tensor:
        variables = model.trainable_variables
        # Stateless seed: sampling depends on (seed, step) alone, so that a resumed run draws the same samples.
        seed = tf.stack([config.seed, step])
        with tf.GradientTape() as tape:
            losses = model.compute_losses(batch, seed, first_image=world.rank * batch.images.shape[0])
            total = tf.add_n([losses[name] for name in LOSSES])
            scaled = optimizer.scale_loss(total)
        gradients = world.average_gradients(tape.gradient(scaled, variables), config.distributed.compression)
        reported = tf.stack([*(losses[name] for name in LOSSES), total]) / world.size
        summed = world.allreduce_sum(tf.concat([reported, flags], axis=0), "report")
        total = summed[len(LOSSES)]
        norm = ops.global_norm(gradients, config.ops.kernel) / optimizer.scale_loss(1.0)
        # With loss scaling, gradient overflow is expected: the optimizer skips such a step and lowers the scale.
        finite = tf.math.is_finite(total)
        if not scales_loss(config):
            finite &= tf.math.is_finite(norm)
        # Only reduced values decide, so that all ranks take the same branch.
        tf.cond(finite, lambda: apply(gradients), lambda: None)
        means, summed_flags = tf.split(summed, [len(LOSSES) + 1, -1])
        return tf.concat([means, norm[None], summed_flags], axis=0)

    def apply(gradients: list[tf.Tensor]) -> None:
        optimizer.apply(gradients, model.trainable_variables)

    return PerShape(train_step)


def non_finite_message(step: int, losses: Mapping[str, float], images: Sequence[int]) -> str:
    """What the user can do about a loss or gradient that is not finite."""
    shown = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
    return (
        f"loss or gradient not finite at step {step} ({shown}), images {list(images)}; nothing was overwritten. Lower "
        "optimizer.learning_rate, raise optimizer.warmup_steps or set optimizer.clip_norm, and rerun the same command"
    )


def out_of_memory_message(error: tf.errors.ResourceExhaustedError, step: int, shape: tf.TensorShape) -> str:
    """What the user can do about a step on a batch of images of ``shape`` that did not fit into memory."""
    images, height, width, _ = shape
    return (
        f"out of memory at step {step} with {images} images of {height} x {width} pixels in this process "
        f"({str(error).splitlines()[0]}); lower training.batch_size (raise optimizer.accumulation to keep the "
        "effective batch) or image.max_size, set training.recompute=true, or, on a GPU, "
        "training.precision=mixed_float16"
    )
