"""Top-k row by row, as on a GPU, against NumPy's stable sort."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from frcnn.modeling.top_k import LONG_ROW, top_k


@pytest.mark.parametrize("gpus", [[], ["GPU:0"]])
@pytest.mark.parametrize(("rows", "columns"), [(3, LONG_ROW + 1), (1, LONG_ROW + 1), (3, 50)])
def test_as_a_stable_sort(rows: int, columns: int, gpus: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda _kind: gpus)
    values = np.random.default_rng(0).integers(0, 60, (rows, columns)).astype(np.float32)  # with many ties
    traced = tf.function(lambda: top_k(tf.constant(values), 20)).get_concrete_function()
    found = traced()
    order = np.argsort(-values, axis=1, kind="stable")[:, :20]
    np.testing.assert_array_equal(found.indices, order)
    np.testing.assert_array_equal(found.values, np.take_along_axis(values, order, axis=1))
    assert found.indices.shape == (rows, 20)
    sorts = [node.name for node in traced.graph.as_graph_def().node if node.op == "TopKV2"]
    assert len(sorts) == (rows if gpus and columns > LONG_ROW else 1)
