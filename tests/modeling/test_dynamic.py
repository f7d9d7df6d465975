"""Dynamic R-CNN's schedule against NumPy, its state in checkpoints, and sums over ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from slow_boxes import slow_iou

from frcnn.config import load_config
from frcnn.modeling import dynamic
from frcnn.modeling.dynamic import DynamicSchedule
from frcnn.modeling.faster_rcnn import build_model
from frcnn.modeling.matching import Sample
from frcnn.modeling.roi_head import RoISample
from frcnn.modeling.rpn import Proposals

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


class Step:
    """Two images with proposals near their objects; the second has one object, or none at all."""

    def __init__(self, seed: int, objects: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.gt_valid = np.array([[True, True, False], [objects > 0, False, False]])
        corner = rng.uniform(0, 50, (2, 3, 2))
        gt = np.concatenate([corner, corner + rng.uniform(20, 50, (2, 3, 2))], axis=2)
        self.gt = np.where(self.gt_valid[..., None], gt, 0).astype(np.float32)
        self.proposals = (gt[:, [0, 1, 0, 1, 0, 2]] + rng.normal(0, 4, (2, 6, 4))).astype(np.float32)
        self.valid = rng.random((2, 6)) < 0.8
        self.labels = np.array([[1, 2, 0, 0], [objects, 0, 0, 0]])
        self.matched = gt[:, [0, 1, 0, 0]].astype(np.float32)

    def observe(self, schedule: DynamicSchedule) -> None:
        sampled = Sample(tf.zeros([2, 4], tf.int64), tf.constant(self.labels > 0), tf.fill([2, 4], True))
        rois = RoISample(
            tf.constant(self.proposals[:, :4]), tf.constant(self.labels), tf.constant(self.matched), sampled
        )
        proposals = Proposals(tf.constant(self.proposals), tf.constant(self.valid))
        schedule.observe(proposals, tf.constant(self.gt), tf.constant(self.gt_valid), rois, WEIGHTS)

    def slow(self, iou_rank: int, beta_rank: int) -> tuple[float, float]:
        """The step's IoU and target."""
        ious, targets = [], []
        for image in range(2):
            objects = self.gt[image][self.gt_valid[image]]
            if len(objects):
                best = [
                    max(slow_iou(box, truth) for truth in objects) if valid else 0.0
                    for box, valid in zip(self.proposals[image], self.valid[image], strict=True)
                ]
                ious.append(sorted(best)[-iou_rank])
            for box, truth, label in zip(self.proposals[image], self.matched[image], self.labels[image], strict=False):
                if label:
                    shift = np.abs((truth[:2] + truth[2:] - box[:2] - box[2:]) / 2 / (box[2:] - box[:2]))
                    targets.append(10 * shift.mean())
        return float(np.mean(ious)), sorted(targets)[min(2 * beta_rank, len(targets)) - 1]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of four steps, and ranks for a handful of boxes."""
    for name, value in (("WINDOW", 4), ("IOU_RANK", 3), ("BETA_RANK", 1)):
        monkeypatch.setattr(dynamic, name, value)


def test_both_values_change_after_each_window(short: None) -> None:
    schedule = DynamicSchedule()
    steps = [Step(seed, objects=seed % 2) for seed in range(8)]
    for number, step in enumerate(steps):
        if number in (1, 3):
            assert (float(schedule.iou), float(schedule.beta)) == (pytest.approx(0.4), 1.0)
        step.observe(schedule)
        if number in (3, 7):
            ious, targets = zip(*(step.slow(3, 1) for step in steps[number - 3 : number + 1]), strict=True)
            assert 0.4 < np.mean(ious) < 1
            assert float(schedule.iou) == pytest.approx(np.mean(ious), rel=1e-5)
            assert float(schedule.beta) == pytest.approx(min(1.0, np.median(targets)), rel=1e-4)


def test_ranks_have_the_same_values_from_the_sums_of_all(short: None) -> None:
    alone, ranks = DynamicSchedule(), [DynamicSchedule(), DynamicSchedule()]
    sums: list[tf.Tensor] = []
    for schedule in (alone, *ranks):
        schedule.allreduce_sum = lambda values, name: sums.append(values) or values  # type: ignore[func-returns-value]
    for seed in range(4):
        Step(seed).observe(alone)
    total = [2 * values for values in sums]
    sums.clear()
    for rank in ranks:
        waiting = iter(total)
        rank.allreduce_sum = lambda values, name, waiting=waiting: next(waiting)
        for seed in range(4):
            Step(seed).observe(rank)
    for rank in ranks:
        assert (float(rank.iou), float(rank.beta)) == (float(alone.iou), float(alone.beta))


def test_steps_without_objects_do_not_count(short: None) -> None:
    schedule = DynamicSchedule()
    step = Step(0)
    step.observe(schedule)
    for _ in range(3):
        empty = Step(1, objects=0)
        empty.gt_valid[:] = False
        empty.labels[:] = 0
        empty.observe(schedule)
    iou, target = step.slow(3, 1)
    assert float(schedule.iou) == pytest.approx(max(0.4, iou), rel=1e-5)
    assert float(schedule.beta) == pytest.approx(min(1.0, target), rel=1e-4)


def test_the_state_is_in_checkpoints_but_not_in_the_model(short: None, tmp_path: Path) -> None:
    tiny = ["backbone.name=resnet18", "fpn.channels=32", "roi_head.fc_channels=16", "roi_head.dynamic=true"]
    model = build_model(2, load_config(overrides=tiny))
    assert not [variable.path for variable in model.variables if "dynamic" in variable.path]
    for seed in range(5):
        Step(seed).observe(model.dynamic_schedule)
    before = [variable.numpy() for variable in model.training_state]
    assert before[0].size * before[2].size > 0
    tracked = tf.train.Checkpoint(model=model)
    path = tracked.write(str(tmp_path / "state"))
    for variable in model.training_state:
        variable.assign(tf.zeros_like(variable))
    tracked.read(path).assert_consumed()
    for variable, value in zip(model.training_state, before, strict=True):
        np.testing.assert_array_equal(variable, value)
