"""Determinism and TF32: what is set on which device, and what the run says."""

from __future__ import annotations

import pytest
import tensorflow as tf

from frcnn.config import load_config
from frcnn.training.numerics import configure_numerics

AUTO, ON, OFF = "training.deterministic=auto", "training.deterministic=true", "training.deterministic=false"


@pytest.mark.parametrize(
    ("gpus", "options", "deterministic", "tf32", "line"),
    [
        (
            0,
            [],
            True,
            True,
            "precision: float32 (training.precision=float32, training.tf32=true); deterministic on a",
        ),
        (0, [OFF], False, True, "; not deterministic on a CPU (training.deterministic=false)"),
        (1, [AUTO], False, True, "precision: float32 with TF32 where the GPU has it ("),
        (1, [AUTO], False, True, "; not deterministic on a GPU (training.deterministic=auto)"),
        (1, [ON, "training.tf32=false"], True, False, "precision: float32 without TF32 ("),
        (1, [ON], True, True, "; deterministic on a GPU (training.deterministic=true)"),
        (1, ["training.precision=mixed_bfloat16"], False, True, "precision: mixed_bfloat16 ("),
    ],
)
def test_numerics(
    monkeypatch: pytest.MonkeyPatch, gpus: int, options: list[str], deterministic: bool, tf32: bool, line: str
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["GPU"] * gpus)
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: calls.append("deterministic"))
    message = configure_numerics(load_config(overrides=options))
    try:
        assert calls == ["deterministic"] * deterministic
        assert tf.config.experimental.tensor_float_32_execution_enabled() is tf32
        assert line in message
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(True)
