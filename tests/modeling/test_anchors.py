"""Anchors against torchvision's published numbers and a table computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from frcnn.config import Anchors
from frcnn.modeling.anchors import base_anchors, level_anchors


def test_rounded_base_anchors_equal_torchvisions() -> None:
    # 32 pixels at height/width 0.5, 1, 2: half sides 22.63 and 11.31 round to 23 and 11.
    expected = [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    assert base_anchors(32, (0.5, 1.0, 2.0), rounded=True).tolist() == expected


def test_rounding_is_half_to_even() -> None:
    assert base_anchors(5, (1.0,), rounded=True).tolist() == [[-2, -2, 2, 2]]
    assert base_anchors(7, (1.0,), rounded=True).tolist() == [[-4, -4, 4, 4]]


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0, 3.0])
def test_unrounded_anchors_keep_area_and_ratio(ratio: float) -> None:
    x1, y1, x2, y2 = base_anchors(64, (ratio,), rounded=False)[0].tolist()
    assert (x2 - x1) * (y2 - y1) == pytest.approx(64**2, rel=1e-5)
    assert (y2 - y1) / (x2 - x1) == pytest.approx(ratio, rel=1e-5)
    assert (x1 + x2, y1 + y2) == (0, 0)


def test_order_is_rows_then_columns_then_ratios() -> None:
    options = Anchors(sizes=(8, 16, 32, 64, 128), aspect_ratios=(1.0, 4.0), stride="fixed")
    anchors = level_anchors((8, 12), (2, 3), 0, options)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    expected = [[x, y] for y in (0, 4) for x in (0, 4, 8) for _ in range(2)]
    assert centers.tolist() == expected
    assert anchors[0].tolist() == [-4, -4, 4, 4]
    assert anchors[1].tolist() == [-2, -8, 2, 8]


def test_feature_stride_of_a_canvas_not_divisible_by_64() -> None:
    # A height of 800 gives 13 rows on P6: torchvision's stride is 800 // 13 = 61, Detectron2's 64.
    feature = level_anchors((800, 1344), (13, 21), 4, Anchors())
    fixed = level_anchors((800, 1344), (13, 21), 4, Anchors(stride="fixed"))
    rows = [np.unique((anchors[:, 1] + anchors[:, 3]) / 2) for anchors in (feature, fixed)]
    assert [row[1] - row[0] for row in rows] == [61, 64]
