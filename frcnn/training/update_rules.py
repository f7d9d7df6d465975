"""SGD and AdamW as PyTorch defines them, in few operations per variable.

Keras composes an update from elementary operations: ten and more for each variable and step, and each is a launch on a
GPU. These subclasses call TensorFlow's fused update of a variable instead. Variables, and so checkpoints, are Keras's.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from frcnn import config

ADAM_EPSILON = 1e-8  # PyTorch's
# The average of the first n updates weighs them with a decay of n / (n + 9): it covers about the last tenth of the run
# until that exceeds the decay of the options. TensorFlow's ExponentialMovingAverage has the same ramp.
EMA_RAMP = 9
STAGES = 5  # of the backbone: the stem and four stages


class UpdateRule:
    """What both optimizers share; a mixin before Keras's class.

    Args of :meth:`configure`: the options of the run. The weight decay acts on the variables that :func:`is_decayed`
    selects, and the learning rate of a variable is multiplied by :func:`rate_factor`.
    """

    options: config.Optimizer
    # Of Keras's class.
    _iterations: keras.Variable
    _model_variables_moving_average: list[keras.Variable]

    def configure(self, options: config.Optimizer) -> None:
        self.options = options

    def _backend_update_step(
        self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable], learning_rate: tf.Tensor
    ) -> None:
        """Keras's hook for the update of all variables."""
        rates: dict[float, tf.Tensor] = {}
        self._begin_update()
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            factor = rate_factor(variable.path, self.options)
            if factor not in rates:
                rates[factor] = tf.cast(learning_rate, tf.float32) * factor
            decay = self.options.weight_decay if is_decayed(variable.path, self.options) else 0.0
            self._update(variable, tf.convert_to_tensor(gradient), rates[factor], decay)

    def _begin_update(self) -> None:
        """Compute what all variables share."""

    def _update(self, variable: keras.Variable, gradient: tf.Tensor, rate: tf.Tensor, decay: float) -> None:
        raise NotImplementedError

    def _clip_gradients(self, grads: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        limit = self.options.clip_norm
        return tf.clip_by_global_norm(grads, limit)[0] if limit else grads

    def _update_model_variables_moving_average(self, trainable_variables: Sequence[keras.Variable]) -> None:
        if not self.options.ema:
            return
        kept = ema_decay(self._iterations.value, self.options)
        for variable, average in zip(trainable_variables, self._model_variables_moving_average, strict=True):
            # average - (1 - kept) * (average - variable)
            difference = average.value - variable.value
            tf.raw_ops.ResourceApplyGradientDescent(var=average.value.handle, alpha=1.0 - kept, delta=difference)


class SGD(UpdateRule, keras.optimizers.SGD):
    """Momentum SGD. The decay is added to the gradient and so passes through the momentum, after clipping."""

    def _update(self, variable: keras.Variable, gradient: tf.Tensor, rate: tf.Tensor, decay: float) -> None:
        if decay:
            gradient += decay * variable.value
        handle = variable.value.handle
        if not self.momentum:
            tf.raw_ops.ResourceApplyGradientDescent(var=handle, alpha=rate, delta=gradient)
            return
        momentum = self.momentums[self._get_variable_index(variable)]
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=handle,
            accum=momentum.value.handle,
            lr=rate,
            grad=gradient,
            momentum=tf.constant(self.momentum),
            use_nesterov=self.nesterov,
        )


class AdamW(UpdateRule, keras.optimizers.Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), epsilon as in PyTorch."""

    def _begin_update(self) -> None:
        updates = tf.cast(self.iterations + 1, tf.float32)
        self._powers = (tf.pow(self.beta_1, updates), tf.pow(self.beta_2, updates))
        # TensorFlow adds epsilon to sqrt(v), PyTorch to sqrt(v / (1 - beta_2^t)).
        self._epsilon = ADAM_EPSILON * tf.sqrt(1.0 - self._powers[1])

    def _update(self, variable: keras.Variable, gradient: tf.Tensor, rate: tf.Tensor, decay: float) -> None:
        if decay:
            variable.value.assign(variable.value * (1.0 - decay * rate))
        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.value.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=self._powers[0],
            beta2_power=self._powers[1],
            lr=rate,
            beta1=tf.constant(self.beta_1),
            beta2=tf.constant(self.beta_2),
            epsilon=self._epsilon,
            grad=gradient,
        )


def is_decayed(path: str, options: config.Optimizer) -> bool:
    """Whether the weight decay acts on the variable of this path."""
    kind = path.rpartition("/")[2]
    chosen = {"gamma": options.decay_norm, "beta": options.decay_norm, "bias": options.decay_bias}.get(kind, True)
    return options.decay_norm_and_bias if chosen is None else chosen


def rate_factor(path: str, options: config.Optimizer) -> float:
    """Factor of the learning rate of the variable of this path.

    ``backbone_rate`` for the backbone, times ``layer_rate`` for each stage from the last one down to the variable's.
    """
    top, _, rest = path.partition("backbone/")
    if top or not rest:
        return 1.0
    name = rest.partition("/")[0]  # stem, stage2_block1, ...
    stage = int(name.removeprefix("stage").partition("_")[0]) if name.startswith("stage") else 1
    return float(options.backbone_rate * options.layer_rate ** (STAGES - stage))


def ema_decay(batches: tf.Tensor, options: config.Optimizer) -> tf.Tensor:
    """Decay of the moving average after ``batches`` earlier batches, float32 scalar.

    0 until the first update, so that the average starts at its result; then rising to ``options.ema``.
    """
    updates = tf.cast(tf.maximum(batches + 1 - options.accumulation, 0), tf.float32)
    return tf.minimum(options.ema or 0.0, updates / (updates + EMA_RAMP))
