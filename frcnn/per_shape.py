"""A graph function with one trace per combination of input shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


class PerShape:
    """A ``tf.function`` that is meant to be traced for several shapes, the canvases of a run.

    TensorFlow warns of "retracing" when a ``tf.function`` is called with a third shape. This class traces explicitly
    and keeps the concrete function of each combination of shapes and dtypes.

    Args:
        function: takes tensors, or nested structures of them, as positional arguments; Python's control flow is not
            converted.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = tf.function(function, autograph=False)
        self._traced: dict[tuple[object, ...], Callable[..., Any]] = {}

    def __call__(self, *arguments: Any) -> Any:
        arguments = tf.nest.map_structure(tf.convert_to_tensor, arguments)
        shapes = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tf.nest.flatten(arguments))
        traced = self._traced.get(shapes)
        if traced is None:
            traced = self._traced[shapes] = self._function.get_concrete_function(*arguments)
        return traced(*arguments)

    @property
    def traces(self) -> int:
        """Number of traces made by calls."""
        return len(self._traced)

    def get_concrete_function(self, *arguments: Any) -> Any:
        """The concrete function for tensors or ``tf.TensorSpec``, as that of ``tf.function``."""
        return self._function.get_concrete_function(*arguments)
