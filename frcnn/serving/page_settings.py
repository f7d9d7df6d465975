"""What the browser page knows about the model: classes with the colors of drawn images, and the minimum scores."""

from __future__ import annotations

from typing import Any

from frcnn.drawing import Color, class_color, text_color
from frcnn.inference import Detector
from frcnn.serving.response import DRAWING_THRESHOLD


def page_settings(detector: Detector) -> dict[str, Any]:
    """The document ``page/settings.json``.

    Returns:
        ``classes``: name, color, color of the text on it, and minimum score by label, null for a model without stored
        thresholds; ``goal``: what these were chosen for, or null; ``score_threshold``: the minimum score without them.
    """
    thresholds = detector.thresholds
    classes = [
        {
            "name": name,
            "color": _css(class_color(label)),
            "text_color": _css(text_color(class_color(label))),
            "score_threshold": thresholds.by_class[name] if thresholds else None,
        }
        for label, name in enumerate(detector.class_names, start=1)
    ]
    return {
        "classes": classes,
        "goal": thresholds.goal if thresholds else None,
        "score_threshold": DRAWING_THRESHOLD,
    }


def _css(color: Color) -> str:
    return f"#{bytes(color).hex()}"
