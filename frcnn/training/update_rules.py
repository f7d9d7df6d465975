"""SGD and AdamW as PyTorch defines them, in one operation for all variables.

Keras composes an update from elementary operations: ten and more for each variable and step, and each is a launch on a
GPU. These subclasses call :func:`frcnn.ops.update` instead. Variables, and so checkpoints, are Keras's.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from frcnn import config, ops

ADAM_EPSILON = 1e-8  # PyTorch's
# The average of the first n updates weighs them with a decay of n / (n + 9): it covers about the last tenth of the run
# until that exceeds the decay of the options. TensorFlow's ExponentialMovingAverage has the same ramp.
EMA_RAMP = 9
STAGES = 5  # of the backbone: the stem and four stages


class UpdateRule:
    """What both optimizers share; a mixin before Keras's class.

    Args of :meth:`configure`: the options of the run, and the implementation of the update. The weight decay acts on
    the variables that :func:`is_decayed` selects, and the learning rate of a variable is multiplied by
    :func:`rate_factor`.
    """

    options: config.Optimizer
    kernel: ops.Kernel
    # Of Keras's class.
    _iterations: keras.Variable
    _model_variables_moving_average: list[keras.Variable]

    def configure(self, options: config.Optimizer, kernel: ops.Kernel) -> None:
        self.options, self.kernel = options, kernel

    def _backend_update_step(
        self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable], learning_rate: tf.Tensor
    ) -> None:
        """Keras's hook for the update of all variables."""
        options = self.options
        gradients = [tf.convert_to_tensor(gradient) for gradient in grads]
        scale: tf.Tensor | float = 1.0
        if options.clip_norm:
            scale = options.clip_norm / tf.maximum(ops.global_norm(gradients, self.kernel), options.clip_norm)
        variables = ops.Variables(
            [variable.value for variable in trainable_variables],
            gradients,
            rate_factors=[rate_factor(variable.path, options) for variable in trainable_variables],
            decays=[
                options.weight_decay if is_decayed(variable.path, options) else 0.0 for variable in trainable_variables
            ],
        )
        self._update(variables, trainable_variables, ops.Scalars(tf.cast(learning_rate, tf.float32), scale))

    def _update(
        self, variables: ops.Variables, trainable_variables: Sequence[keras.Variable], scalars: ops.Scalars
    ) -> None:
        """Add the optimizer's state to ``variables`` and ``scalars``, and update."""
        raise NotImplementedError

    def _clip_gradients(self, grads: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        return grads  # scaled in the update

    def _update_model_variables_moving_average(self, trainable_variables: Sequence[keras.Variable]) -> None:
        if not self.options.ema:
            return
        variables = ops.Variables(
            [variable.value for variable in trainable_variables],
            first=[average.value for average in self._model_variables_moving_average],
        )
        kept = ema_decay(self._iterations.value, self.options)
        ops.update(ops.Rule("average"), variables, ops.Scalars(kept), self.kernel)


class SGD(UpdateRule, keras.optimizers.SGD):
    """Momentum SGD. The decay is added to the gradient and so passes through the momentum, after clipping."""

    def _update(
        self, variables: ops.Variables, trainable_variables: Sequence[keras.Variable], scalars: ops.Scalars
    ) -> None:
        rule = ops.Rule("sgd")
        if self.momentum:
            rule = ops.Rule("nesterov" if self.nesterov else "momentum", momentum=self.momentum)
            velocities = [self.momentums[self._get_variable_index(variable)].value for variable in trainable_variables]
            variables = variables._replace(first=velocities)
        ops.update(rule, variables, scalars, self.kernel)


class AdamW(UpdateRule, keras.optimizers.Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), epsilon as in PyTorch."""

    def _update(
        self, variables: ops.Variables, trainable_variables: Sequence[keras.Variable], scalars: ops.Scalars
    ) -> None:
        updates = tf.cast(self.iterations + 1, tf.float32)
        # The bias of the moments: m / (1 - beta_1^t), and sqrt(v / (1 - beta_2^t)) + epsilon.
        root = tf.sqrt(1.0 - tf.pow(self.beta_2, updates))
        scalars = scalars._replace(correction=root / (1.0 - tf.pow(self.beta_1, updates)), epsilon=ADAM_EPSILON * root)
        indices = [self._get_variable_index(variable) for variable in trainable_variables]
        variables = variables._replace(
            first=[self._momentums[index].value for index in indices],
            second=[self._velocities[index].value for index in indices],
        )
        ops.update(ops.Rule("adamw", beta_1=self.beta_1, beta_2=self.beta_2), variables, scalars, self.kernel)


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
