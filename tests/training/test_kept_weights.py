"""Which weights a run keeps: the averaged or the raw ones, whichever evaluate better."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from runs import records

from frcnn.evaluation.coco import Metrics
from frcnn.training import validation
from frcnn.training.best_model import Best
from frcnn.training.folders import Folders
from frcnn.training.null_progress import NullProgress
from frcnn.training.optimizer import AveragedWeights
from frcnn.training.time_limit import TimeLimit
from frcnn.training.trainer import Trainer
from frcnn.training.validation import Measured


def test_saved_model_has_the_averaged_weights_and_training_continues_with_the_raw_ones(unbroken: Trainer) -> None:
    first, last = records(unbroken.config.output, "evaluation")
    assert "raw_AP" in last
    assert "raw_AP" not in first
    kept = json.loads((unbroken.config.output / "model" / "metrics.json").read_text())
    assert kept["AP"] == max(first["AP"], last["AP"], last["raw_AP"])
    assert kept["weights"] in ("averaged", "raw")
    averages = unbroken.optimizer._model_variables_moving_average
    for variable, average in zip(unbroken.model.trainable_variables, averages, strict=True):
        assert not np.array_equal(variable.numpy(), average.numpy()) or not variable.numpy().any()


@pytest.fixture
def given_values(
    unbroken: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Best, list[str], list[str]]]:
    """``given_values(raw, averaged, **changes)``: an evaluation at the end with these values after a best of 0.4.

    Returns the best, the kinds of weights that were measured, and the messages.
    """
    measured, messages = [], []
    monkeypatch.setattr(validation, "thresholds_document", lambda *_: None)

    class Messages(NullProgress):
        def message(self, text: str) -> None:
            messages.append(text)

    def evaluate(raw: float, averaged: float, **changes: object) -> tuple[Best, list[str], list[str]]:
        evaluation = copy.copy(unbroken.validation)
        vars(evaluation).update(folders=Folders.below(tmp_path), **changes)
        variables, averages = unbroken.model.trainable_variables, unbroken.optimizer._model_variables_moving_average
        expected = {"raw": variables[0].numpy(), "averaged": averages[0].numpy()}

        def measure(_index: object, weights: str, _unreadable: object) -> Measured:
            np.testing.assert_array_equal(variables[0].numpy(), expected[weights])
            measured.append(weights)
            metrics = Metrics({"AP": raw if weights == "raw" else averaged}, {}, 6, 9)
            return Measured(weights, {}, metrics, matches=None)

        monkeypatch.setattr(evaluation, "_measure", measure)
        monkeypatch.setattr(evaluation, "_keep_detections", lambda *_: None)
        weights = AveragedWeights(unbroken.optimizer, variables)
        so_far = Best(value=0.4, ap=0.4, reference=0.4)
        best = evaluation.run(12, so_far, unbroken.unreadable_images, Messages(), weights, last=True)
        np.testing.assert_array_equal(variables[0].numpy(), expected["raw"])
        return best, measured, messages

    return evaluate


# Early stopping counts one evaluation, of the averaged weights; the reference is the last improvement of these.
@pytest.mark.parametrize(
    ("raw", "averaged", "reference", "waited"),
    [(0.6, 0.5, 0.5, 0), (0.5, 0.6, 0.6, 0), (0.6, 0.6, 0.6, 0), (0.6, 0.3, 0.4, 1), (0.3, 0.2, 0.4, 1)],
)
def test_the_better_of_raw_and_averaged_weights_is_kept(
    unbroken: Trainer,
    given_values: Callable[..., tuple[Best, list[str], list[str]]],
    tmp_path: Path,
    raw: float,
    averaged: float,
    reference: float,
    waited: int,
) -> None:
    best, measured, messages = given_values(raw, averaged)
    kind = "raw" if raw > averaged else "averaged"
    assert measured == ["averaged", "raw"]
    assert messages == [
        f"step 12: AP {averaged:.4f} with averaged weights, {raw:.4f} with raw weights; the {kind} ones are better"
    ]
    value = max(raw, averaged, 0.4)
    assert best == Best("AP", value, value, reference, waited)
    if value == 0.4:
        assert not (tmp_path / "model").exists()
        return
    variable, average = unbroken.model.trainable_variables[0], unbroken.optimizer._model_variables_moving_average[0]
    saved = safetensors.numpy.load_file(tmp_path / "model" / "weights.safetensors")
    np.testing.assert_array_equal(saved[variable.path], (variable if kind == "raw" else average).numpy())
    assert json.loads((tmp_path / "model" / "metrics.json").read_text())["weights"] == kind


def test_a_run_out_of_time_says_that_it_evaluates_the_averaged_weights_alone(
    given_values: Callable[..., tuple[Best, list[str], list[str]]], tmp_path: Path
) -> None:
    over = TimeLimit(1, 61.0, 6, passes=2)
    assert given_values(0.6, 0.5, time_limit=over) == (
        Best("AP", 0.5, 0.5, 0.5, 0),
        ["averaged"],
        [
            "training.max_minutes leaves no time to evaluate the raw weights as well; only the averaged weights were "
            "evaluated"
        ],
    )
    assert json.loads((tmp_path / "model" / "metrics.json").read_text())["weights"] == "averaged"
