"""SGD with PyTorch's definition of momentum and weight decay, built from Keras parts."""

from __future__ import annotations

from types import TracebackType

import keras
import tensorflow as tf

from frcnn import config
from frcnn.config import Config
from frcnn.training.schedule import WarmupSchedule


def build_optimizer(options: Config, total_steps: int, variables: list[keras.Variable]) -> keras.optimizers.Optimizer:
    """Momentum SGD with schedule, clipping, EMA, accumulation and, for float16, loss scaling; variables are created.

    Keras's own ``weight_decay`` shrinks weights outside of the momentum; PyTorch's goes through it. :func:`l2_penalty`
    implements the latter, so Keras's stays off.
    """
    settings = options.optimizer
    optimizer: keras.optimizers.Optimizer = keras.optimizers.SGD(
        # Keras's iteration counter counts batches, not updates, so the schedule's length is in batches too.
        learning_rate=WarmupSchedule(settings, options.training.batch_size * settings.accumulation, total_steps),
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        global_clipnorm=settings.clip_norm,
        use_ema=settings.ema is not None,
        ema_momentum=settings.ema or 0.0,
        gradient_accumulation_steps=settings.accumulation if settings.accumulation > 1 else None,
    )
    if scales_loss(options):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(variables)
    return optimizer


def scales_loss(options: Config) -> bool:
    """Whether the optimizer scales the loss, which float16's small range needs."""
    return options.training.precision == "mixed_float16"


def l2_penalty(variables: list[keras.Variable], options: config.Optimizer) -> tf.Tensor:
    """``weight_decay / 2 * sum of squares``, scalar: its gradient is PyTorch's ``weight_decay``."""
    if not options.weight_decay:
        return tf.zeros(())
    decayed = [v for v in variables if options.decay_norm_and_bias or v.path.endswith("/kernel")]
    return options.weight_decay * tf.add_n([tf.nn.l2_loss(tf.convert_to_tensor(v)) for v in decayed])


class AveragedWeights:
    """Context manager in which the model has the optimizer's moving average of its weights, if it keeps one."""

    def __init__(self, optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]) -> None:
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        self.averages = inner._model_variables_moving_average if inner.use_ema else []
        self.variables = variables if self.averages else []
        self._raw: list[tf.Tensor] = []

    def __enter__(self) -> None:
        self._raw = [tf.identity(variable.value) for variable in self.variables]
        for variable, average in zip(self.variables, self.averages, strict=True):
            variable.assign(average)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for variable, raw in zip(self.variables, self._raw, strict=True):
            variable.assign(raw)
