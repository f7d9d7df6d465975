"""Settings of TensorFlow that trade reproducibility and precision for speed."""

from __future__ import annotations

import tensorflow as tf

from frcnn import ops
from frcnn.config import Config


def configure_numerics(config: Config) -> str:
    """Apply ``training.deterministic`` and ``training.tf32``; returns a line that describes the precision of the run.

    Called before the first operation. Determinism cannot be switched off again in a process.
    """
    training = config.training
    on_gpu = ops.uses_gpu()
    # On a CPU determinism costs little; on a GPU it disables cuDNN's autotuning and selects slower kernels.
    deterministic = not on_gpu if training.deterministic == "auto" else training.deterministic
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(training.tf32)
    # TF32 rounds the inputs of float32 convolutions and matrix products to 10 bits of mantissa, on GPUs from Ampere on.
    if training.precision == "float32" and on_gpu:
        precision = "float32 with TF32 where the GPU has it" if training.tf32 else "float32 without TF32"
    else:
        precision = training.precision
    return (
        f"precision: {precision} (training.precision={training.precision}, "
        f"training.tf32={str(training.tf32).lower()}); "
        f"{'deterministic' if deterministic else 'not deterministic'} on a {'GPU' if on_gpu else 'CPU'} "
        f"(training.deterministic={str(training.deterministic).lower()})"
    )
