"""Which model is kept and when a run stops early: the rule by hand, and runs whose evaluations are given."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from runs import Interrupted, records, variables

from frcnn.config import Config, Training
from frcnn.config.training_options import COCO_METRICS
from frcnn.errors import UserError
from frcnn.evaluation.coco import SUMMARY_NAMES, Metrics
from frcnn.evaluation.matching import match_detections
from frcnn.inference import Detections
from frcnn.training import validation
from frcnn.training.best_model import Best, metric_value
from frcnn.training.folders import Folders
from frcnn.training.null_progress import NullProgress
from frcnn.training.optimizer import AveragedWeights
from frcnn.training.trainer import Trainer

MakeConfig = Callable[..., Config]


def metrics(ap: float, ap50: float = 0.5, cross: float = 0.25) -> Metrics:
    summary = dict.fromkeys(SUMMARY_NAMES, 0.0) | {"AP": ap, "AP50": ap50, "APs": float("nan")}
    return Metrics(summary, {"circle": 0.125, "cross": cross}, 6, 9)


# Values, min_delta, then by hand: whether each is the best, and the evaluations waited after each.
@pytest.mark.parametrize(
    ("values", "min_delta", "best", "waited"),
    [
        ([0.0, 0.1, 0.3, 0.2, 0.25], 0.0, [1, 1, 1, 0, 0], [0, 0, 0, 1, 2]),
        ([0.3, 0.3, 0.3], 0.0, [1, 1, 1], [0, 1, 2]),  # kept, as the latest, but no improvement
        # Steps of 0.04 below the delta of 0.05, until their sum exceeds it.
        ([0.30, 0.34, 0.38, 0.40], 0.05, [1, 1, 1, 1], [0, 1, 0, 1]),
    ],
)
def test_best_and_waited_by_hand(values: list[float], min_delta: float, best: list[int], waited: list[int]) -> None:
    state, found = Best(), []
    for value in values:
        state, is_best = state.updated(metrics(value), min_delta)
        assert Best.from_state(json.loads(json.dumps({"best_AP": state.ap, "best": state._asdict()}))) == state
        found.append((int(is_best), state.waited))
    assert found == list(zip(best, waited, strict=True))
    assert state.value == state.ap == max(values)
    assert [state.exhausted(Training(patience=patience)) for patience in (1, 2, 3, None)] == [
        state.waited >= 1, state.waited >= 2, False, False
    ]  # fmt: skip


def test_an_evaluation_that_early_stopping_does_not_count_can_still_be_the_best() -> None:
    state = Best("AP", 0.5, 0.5, 0.5, 1)
    assert state.updated(metrics(0.75), 0.0, counts=False) == (Best("AP", 0.75, 0.75, 0.5, 1), True)
    assert state.updated(metrics(0.25), 0.0, counts=False) == (state, False)


def test_metrics_by_name() -> None:
    measured = metrics(0.4, ap50=0.75)
    assert [metric_value(measured, name) for name in ("AP", "AP50", "APs", "AP of cross")] == [0.4, 0.75, 0.0, 0.25]
    assert Best("AP", 0.5, 0.5, 0.5, 1).replaced_by(metrics(0.75)) == Best("AP", 0.75, 0.75, 0.5, 1)
    best, _ = Best("AP of cross").updated(measured, 0.0)
    assert best.records() == {"best_AP": 0.4, "best_class_AP": 0.25}
    assert COCO_METRICS == SUMMARY_NAMES


def test_states_of_checkpoints() -> None:
    assert Best.from_state({"best_AP": 0.5}) == Best("AP", 0.5, 0.5, 0.5, 0)  # of earlier versions
    good = Best("AP50", 0.75, 0.5, 0.75, 1)._asdict()
    assert Best.from_state({"best_AP": 0.5, "best": good}) == Best("AP50", 0.75, 0.5, 0.75, 1)
    for name, value in (("value", 7.0), ("reference", "1"), ("waited", -1), ("waited", True), ("metric", 3)):
        with pytest.raises(ValueError, match="best"):
            Best.from_state({"best_AP": 0.5, "best": {**good, name: value}})
    with pytest.raises(ValueError, match="entries"):
        Best.from_state({"best_AP": 0.5, "best": {}})


def test_f1_is_measured_where_it_selects_the_model(
    unbroken: Trainer, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the annotations as detections, some of them of another class and with a low score."""
    evaluation = copy.copy(unbroken.validation)
    assert evaluation.index is not None
    evaluation.config = tiny_config(tmp_path, "training.best_metric=F1")
    evaluation.folders = Folders.below(tmp_path)
    scores = {image.image_id: np.full(len(image.labels), 0.75, np.float32) for image in evaluation.index.images}
    found = {
        image.image_id: Detections(
            np.concatenate([image.boxes, image.boxes]),
            np.concatenate([scores[image.image_id], scores[image.image_id] / 2]),
            np.concatenate([image.labels, image.labels % 5 + 1]),
        )
        for image in evaluation.index.images
    }
    monkeypatch.setattr(validation, "detect_split", lambda *_: found)
    matched = []
    monkeypatch.setattr(
        validation, "match_detections", lambda *given: matched.append(match_detections(*given)) or matched[0]
    )
    weights = AveragedWeights(unbroken.optimizer, unbroken.model.trainable_variables)
    images = unbroken.unreadable_images
    best = evaluation.run(12, Best("F1"), images, NullProgress(), weights, last=False)
    assert (best.metric, best.value, len(matched)) == ("F1", 1.0, 1)
    assert best.records()["best_F1"] == 1.0
    assert json.loads((tmp_path / "model" / "metrics.json").read_text())["F1"] == 1.0
    overall = json.loads((tmp_path / "model" / "thresholds.json").read_text())["overall"]
    assert (overall["f1"], overall["threshold"]) == (1.0, 0.75)


def test_refused_options(tiny_config: MakeConfig, tmp_path: Path, shapes: Path) -> None:
    with pytest.raises(
        UserError, match=r"best_metric 'mAP' must be one of AP, AP50, .*ARl, F1, or 'AP of ' and the name"
    ):
        tiny_config(tmp_path, "training.best_metric=mAP")
    with pytest.raises(UserError, match="patience 2 needs evaluations during training: set evaluate_every"):
        tiny_config(tmp_path, "training.patience=2", "training.evaluate_every=null")
    with pytest.raises(UserError, match=r"'training.best_metric' is 'AP of dot', but there is no class 'dot'; .*cross"):
        Trainer(tiny_config(tmp_path, "training.best_metric=AP of dot"))
    data = tmp_path / "data"
    (data / "annotations").mkdir(parents=True)
    (data / "train").symlink_to(shapes / "train")
    (data / "annotations" / "instances_train.json").symlink_to(shapes / "annotations" / "instances_train.json")
    with pytest.raises(UserError, match=r"'training.patience' is 2, but there is no validation split"):
        Trainer(tiny_config(tmp_path, "training.patience=2", f"data.root={data}"))


def test_a_run_stops_early_and_an_interrupted_one_at_the_same_step(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluations after every second step, with values given: AP50 is best at step 4, AP at step 2.

    The raw weights, which are evaluated at the end alone, are better than all of them, and do not make the run go on.
    """
    given = {2: (0.5, 0.1), 4: (0.4, 0.3), 6: (0.3, 0.3), 8: (0.2, 0.2), 10: (0.1, 0.1), 12: (0.0, 0.9)}
    running: Trainer
    evaluated: list[tuple[Trainer, int]] = []

    def evaluate(*_: object) -> Metrics:
        evaluated.append((running, running.step))
        return metrics(*given[running.step]) if evaluated.count(evaluated[-1]) == 1 else metrics(0.25, 0.4)

    monkeypatch.setattr(validation, "evaluate_detections", evaluate)
    monkeypatch.setattr(validation, "detect_split", lambda *_: {})
    monkeypatch.setattr(validation, "draw_comparisons", lambda *_: [])
    options = ("training.evaluate_every=0.3333", "training.best_metric=AP50", "training.patience=2")
    running = whole = Trainer(tiny_config(tmp_path / "whole", *options))
    whole.run()
    assert (whole.step, whole.finished, whole.total_steps) == (8, True, 12)
    assert whole.best == Best("AP50", 0.4, 0.25, 0.3, 2)
    model = json.loads((whole.folders.model / "metrics.json").read_text())
    assert (model["step"], model["AP50"], model["weights"]) == (8, 0.4, "raw")
    evaluations = records(tmp_path / "whole", "evaluation")
    assert [record["best_AP50"] for record in evaluations] == [0.1, 0.3, 0.3, 0.4]
    assert [record["best_AP"] for record in evaluations] == [0.5, 0.4, 0.3, 0.25]
    assert [record.get("raw_AP50") for record in evaluations] == [None, None, None, 0.4]
    assert [step for _, step in evaluated] == [2, 4, 6, 8, 8]

    running = part = Interrupted(tiny_config(tmp_path / "parts", *options))
    part.at = 6
    part.run()
    assert (part.step, part.best.waited) == (7, 1)
    running = last = Trainer(tiny_config(tmp_path / "parts", *options))
    last.run()
    assert (last.step, last.best) == (whole.step, whole.best)
    expected, got = variables(whole), variables(last)
    assert all((got[name] == value).all() for name, value in expected.items())

    again = Trainer(tiny_config(tmp_path / "whole", *options))
    assert again.finished
    longer = Trainer(tiny_config(tmp_path / "whole", *options[:2], "training.patience=3"))
    assert (longer.finished, longer.best.waited) == (False, 2)
    other = Trainer(tiny_config(tmp_path / "whole", options[0], "training.patience=2"))
    assert (other.best, other.finished) == (Best("AP"), False)
    assert (
        "training.best_metric was AP50 and is AP, so the best AP50 so far (0.4000) is not comparable and is forgotten; "
        "the next evaluation writes its model"
    ) in other.messages
