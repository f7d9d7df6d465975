"""Precision-recall curves in the format of TensorBoard's plugin."""

from __future__ import annotations

import numpy as np

from frcnn.evaluation.matching import Matches
from frcnn.evaluation.thresholds import ScoreCounts, count_at_scores

THRESHOLDS = np.linspace(0.0, 1.0, 101)  # scores; the plugin expects them at equal distances
OVERALL, OF_CLASS = "precision_recall/overall", "precision_recall_of_class"  # tags


def pr_curve_summaries(matches: Matches) -> list[bytes]:
    """Serialized summaries at IoU 0.5: of all classes together, and of each class with objects.

    Raises:
        ImportError: this TensorBoard does not have the plugin.
    """
    counts = {OVERALL: count_at_scores(matches, THRESHOLDS)}
    for label, name in enumerate(matches.class_names, start=1):
        counts[f"{OF_CLASS}/{name}"] = count_at_scores(matches, THRESHOLDS, label)
    return [_summary(tag, counted) for tag, counted in counts.items() if counted.objects]


def _summary(tag: str, counts: ScoreCounts) -> bytes:
    from tensorboard.plugins.pr_curve.summary import raw_data_pb  # here: the plugin is not needed to train

    found = counts.correct + counts.wrong
    summary = raw_data_pb(
        tag,
        true_positive_counts=counts.correct,
        false_positive_counts=counts.wrong,
        true_negative_counts=np.zeros_like(found),  # detection has none
        false_negative_counts=counts.objects - counts.correct,
        precision=counts.correct / np.maximum(found, 1),  # TensorBoard leaves out thresholds that nothing reaches
        recall=counts.correct / counts.objects,
        num_thresholds=len(THRESHOLDS),
    )
    serialized: bytes = summary.SerializeToString()
    return serialized
