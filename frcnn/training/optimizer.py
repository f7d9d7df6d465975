"""The optimizer of a run, and the moving average of its weights."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import keras
import tensorflow as tf

from frcnn import config
from frcnn.config import Config
from frcnn.training.schedule import WarmupSchedule, shortened_warmup
from frcnn.training.update_rules import SGD, AdamW, ema_decay


def build_optimizer(options: Config, total_steps: int, variables: list[keras.Variable]) -> keras.optimizers.Optimizer:
    """SGD or AdamW with schedule, clipping, EMA, accumulation and, for float16, loss scaling; variables are created.

    Weight decay belongs to the update, as in PyTorch: it is neither in the loss nor in the norm that is clipped.
    """
    settings = options.optimizer
    shared = {
        # Keras's iteration counter counts batches, not updates, so the schedule's length is in batches too.
        "learning_rate": WarmupSchedule(settings, options.training.batch_size * settings.accumulation, total_steps),
        "use_ema": settings.ema is not None,
        "ema_momentum": settings.ema or 0.0,
        "gradient_accumulation_steps": settings.accumulation if settings.accumulation > 1 else None,
    }
    optimizer: Any
    if settings.name == "adamw":
        beta_1, beta_2 = settings.betas
        optimizer = AdamW(beta_1=beta_1, beta_2=beta_2, **shared)
    else:
        optimizer = SGD(momentum=settings.momentum, nesterov=settings.nesterov, **shared)
    optimizer.configure(settings, options.ops.kernel)
    if scales_loss(options):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(variables)
    return optimizer


def scales_loss(options: Config) -> bool:
    """Whether the optimizer scales the loss, which float16's small range needs."""
    return options.training.precision == "mixed_float16"


def short_run_messages(options: config.Optimizer, total_steps: int) -> list[str]:
    """Messages for the log if the run is shorter than the warm-up or the moving average of ``optimizer.ema`` need."""
    messages = shortened_warmup(options, total_steps)
    averaged = round(1 / (1 - options.ema)) if options.ema else 0
    if averaged <= total_steps:
        return messages
    reached = float(ema_decay(tf.constant(total_steps - 1), options))
    return [
        *messages,
        f"optimizer.ema={options.ema} averages the weights of about {averaged} steps, but the run has {total_steps}: "
        f"its average will cover about the last {max(1, round(1 / (1 - reached)))}",
    ]


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
