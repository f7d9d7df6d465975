"""The two operations that TensorFlow lacks: ROIAlign over a pyramid, and NMS for a batch.

This is the public contract; ``reference.py`` defines it in plain TensorFlow.
"""

from __future__ import annotations

from frcnn.ops.reference import nms, roi_align

__all__ = ["nms", "roi_align"]
