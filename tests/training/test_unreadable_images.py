"""Runs whose image files cannot all be read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from frcnn.config import Config
from frcnn.errors import UserError
from frcnn.training.null_progress import NullProgress
from frcnn.training.trainer import Trainer

MakeConfig = Callable[..., Config]


def test_too_many_unreadable_images_end_the_run_after_saving(
    tiny_config: MakeConfig, tmp_path: Path, shapes: Path
) -> None:
    data = shutil.copytree(shapes, tmp_path / "data")
    broken = sorted((data / "train").iterdir())[:3]
    for file in broken:
        file.write_bytes(file.read_bytes()[:200])
    trainer = Trainer(tiny_config(tmp_path / "run", f"data.root={data}", "data.max_bad_image_share=0.1"))
    with pytest.raises(
        UserError, match=r"3 of 24 images could not be read, more than data.max_bad_image_share=0.1 allows: .*train"
    ):
        trainer.run()
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1


def test_an_evaluation_counts_the_unreadable_images_of_both_splits(
    tiny_config: MakeConfig, tmp_path: Path, shapes: Path
) -> None:
    data = shutil.copytree(shapes, tmp_path / "data")
    for split, broken in (("train", 1), ("val", 2)):
        for file in sorted((data / split).iterdir())[:broken]:
            file.write_bytes(file.read_bytes()[:200])
    options = (f"data.root={data}", "training.epochs=1", "training.evaluate_every=null")
    first = Trainer(tiny_config(tmp_path / "run", "data.max_bad_image_share=0.1", *options))
    with pytest.raises(
        UserError, match=r"2 of 6 images could not be read, more than data.max_bad_image_share=0.1 allows: .*val"
    ):
        first.run()
    again = Trainer(tiny_config(tmp_path / "run", "data.max_bad_image_share=0.4", *options))
    assert again.evaluation_pending
    counts = []
    progress = NullProgress()
    progress.evaluation = lambda _, record: counts.append(record["unreadable_images"])  # type: ignore[method-assign]
    again._evaluate(progress)  # in a process that read no training image
    assert not again.evaluation_pending
    again.unreadable_images = first.unreadable_images
    again._evaluate(progress)  # in the process that trained
    assert counts == [2, 3]
