"""Learning rate schedule."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from frcnn import config


class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then ``multistep`` or ``cosine`` decay, as a function of the step.

    The peak is ``learning_rate * batch_size / base_batch_size`` (linear scaling rule, Goyal et al. 2017).
    """

    def __init__(self, options: config.Optimizer, batch_size: int, total_steps: int) -> None:
        self.options = options
        self.peak = options.learning_rate * batch_size / options.base_batch_size
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps(options, total_steps)

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        """Rate, float32 scalar, of the step that is about to be taken, counted from 0."""
        options = self.options
        step = tf.cast(step, tf.float32)
        if options.schedule == "cosine":
            fraction = tf.minimum(step / self.total_steps, 1.0)
            decay = options.final_rate + (1 - options.final_rate) * 0.5 * (1 + tf.cos(math.pi * fraction))
        else:
            passed = [step >= float(round(milestone * self.total_steps)) for milestone in options.milestones]
            decay = options.gamma ** tf.add_n([tf.zeros(()), *(tf.cast(each, tf.float32) for each in passed)])
        progress = tf.minimum(step / self.warmup_steps, 1.0) if self.warmup_steps else 1.0
        warmup = options.warmup_factor + (1 - options.warmup_factor) * progress
        return self.peak * warmup * decay

    def get_config(self) -> dict[str, object]:
        """Keras's serialization hook."""
        return {"options": self.options.model_dump(), "peak": self.peak, "total_steps": self.total_steps}


def warmup_steps(options: config.Optimizer, total_steps: int) -> int:
    """Steps of the warm-up.

    Capped at a third of the run, so that a warm-up sized for COCO still reaches the peak rate on 200 images.
    """
    return min(options.warmup_steps, total_steps // 3)


def shortened_warmup(options: config.Optimizer, total_steps: int) -> list[str]:
    """A message for the log if the warm-up is shorter than ``optimizer.warmup_steps``."""
    if (steps := warmup_steps(options, total_steps)) == options.warmup_steps:
        return []
    return [
        f"optimizer.warmup_steps={options.warmup_steps} is more than a third of the run's {total_steps} steps: using "
        f"{steps} warm-up steps"
    ]
