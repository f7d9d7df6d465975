"""A stop while rank 0 computes metrics or the final report, which takes long for a large split."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from frcnn.evaluation.split import Stopped
from frcnn.inference import Detections
from frcnn.training import validation
from frcnn.training.best_model import Best
from frcnn.training.folders import Folders
from frcnn.training.null_progress import NullProgress
from frcnn.training.optimizer import AveragedWeights
from frcnn.training.progress import Progress
from frcnn.training.trainer import Trainer


@pytest.mark.parametrize("asked", [0, 5])  # in the AP of the first class; in the matching, after five classes
def test_metrics_are_abandoned(unbroken: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: int) -> None:
    evaluation, calls = copy.copy(unbroken.validation), count()
    assert evaluation.index is not None
    found = {
        image.image_id: Detections(image.boxes, np.ones(len(image.labels), np.float32), image.labels)
        for image in evaluation.index.images
    }
    monkeypatch.setattr(validation, "detect_split", lambda *_: found)
    vars(evaluation).update(folders=Folders.below(tmp_path), stopped=lambda: next(calls) >= asked)
    variables = unbroken.model.trainable_variables
    before, weights = variables[0].numpy(), AveragedWeights(unbroken.optimizer, variables)
    with pytest.raises(Stopped):
        evaluation.run(12, Best(), unbroken.unreadable_images, NullProgress(), weights, last=False)
    assert next(calls) == asked + 1
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(variables[0].numpy(), before)


def test_the_report_is_abandoned_and_written_by_the_next_run(
    unbroken: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = copy.copy(unbroken.validation)
    folders = replace(unbroken.folders, output=tmp_path)
    vars(evaluation).update(folders=folders, stopped=lambda: True)
    with Progress(tmp_path, total_steps=12, batch_size=4) as progress:
        evaluation.report(progress)
    assert capsys.readouterr().out == (
        "stopped before the report was complete; rerun the same command to write report/\n"
    )
    assert not (tmp_path / "report").exists()
