"""The training loop as the user sees it: complete, interrupted, resumed and refused runs."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from runs import records

from frcnn.config import Config
from frcnn.data.batch import Batch
from frcnn.data.pipeline import training_batches
from frcnn.errors import UserError
from frcnn.inference import Detector
from frcnn.training.null_progress import NullProgress
from frcnn.training.progress import Progress
from frcnn.training.shard import load_splits
from frcnn.training.trainer import Trainer

MakeConfig = Callable[..., Config]


def test_outputs_of_a_run(unbroken: Trainer) -> None:
    output = unbroken.config.output
    losses = [record["rpn_objectness"] for record in records(output, "train")]
    assert len(losses) == 12
    assert losses[-1] < losses[0]
    assert [record["step"] for record in records(output, "evaluation")] == [6, 12]
    metrics = json.loads((output / "model" / "metrics.json").read_text())
    assert {"AP", "AP50", "AP75", "APs", "class_AP", "step", "train_data", "versions"} <= metrics.keys()
    assert len(list((output / "images").glob("*.jpg"))) == 6
    checkpoints = sorted((output / "checkpoints").glob("step-*"))
    assert [folder.name for folder in checkpoints] == ["step-00000006", "step-00000012"]
    # The report is on the model that was kept, from the detections of its evaluation.
    report = json.loads((output / "report" / "report.json").read_text())
    assert report["metrics"]["AP"][0] == pytest.approx(metrics["AP"], abs=1e-6)
    assert report["data"] == unbroken.validation_index.fingerprint
    assert "Validation AP" in (output / "report" / "index.html").read_text()


def test_step_traces_once_per_canvas(unbroken: Trainer, tiny_config: MakeConfig, tmp_path: Path) -> None:
    assert unbroken.train_step.traces == 1
    several = Trainer(tiny_config(tmp_path, "image.max_size=96", "training.epochs=3"))
    steps: Counter[tuple[int, ...]] = Counter()
    for batch in training_batches(several.train_index, several.config):
        canvas = tuple(batch.images.shape)
        if canvas in steps or len(steps) < 2:
            several._start_step(batch, NullProgress())
            steps[canvas] += 1
        if len(steps) == 2 and min(steps.values()) == 2:
            break
    assert several.train_step.traces == 2


def test_out_of_memory_says_what_to_lower(tiny_config: MakeConfig, tmp_path: Path) -> None:
    trainer = Trainer(tiny_config(tmp_path))
    trainer.reports.train_step = lambda *_: tf.zeros([1 << 46])  # 256 TiB, more than TensorFlow can allocate
    with pytest.raises(
        UserError,
        match=r"out of memory at step 0 with 4 images of 64 x 64 pixels in this process \(.*\); lower training.batch",
    ):
        trainer.run()


def test_records_hold_the_rate_of_their_step_and_the_warm_up_fits_the_run(
    tiny_config: MakeConfig, tmp_path: Path, train_split: Path
) -> None:
    options = """
        optimizer.ema=null optimizer.warmup_steps=500 optimizer.warmup_factor=0.5 optimizer.learning_rate=0.001
        optimizer.schedule=multistep optimizer.milestones=[1.0] training.epochs=1
    """
    trainer = Trainer(tiny_config(tmp_path, f"data.root={train_split}", *options.split()))
    assert (
        "optimizer.warmup_steps=500 is more than a third of the run's 6 steps: using 2 warm-up steps"
        in trainer.messages
    )
    trainer.run()
    rates = [record["learning_rate"] for record in records(tmp_path, "train")]
    np.testing.assert_allclose(rates, np.array([0.5, 0.75, 1, 1, 1, 1]) * 0.001, rtol=1e-6)


def test_non_finite_loss_stops_at_the_step_and_saves_nothing(tiny_config: MakeConfig, tmp_path: Path) -> None:
    trainer = Trainer(tiny_config(tmp_path, "optimizer.learning_rate=1e30", "optimizer.warmup_steps=0"))
    with pytest.raises(
        UserError,
        match=r"loss or gradient not finite at step \d+ \(rpn_objectness .*\), images \[\d+, \d+, \d+, \d+\]; nothing ",
    ):
        trainer.run()
    assert not any((tmp_path / "checkpoints").iterdir())
    assert not (tmp_path / "model").exists()


def test_weights_of_other_classes_fill_all_but_the_predictors(
    unbroken: Trainer, tiny_config: MakeConfig, tmp_path: Path, shapes: Path
) -> None:
    data = shutil.copytree(shapes, tmp_path / "data")
    for file in (data / "annotations").iterdir():
        content = json.loads(file.read_text())
        content["categories"].append({"id": 77, "name": "hexagon"})
        file.write_text(json.dumps(content))
    model = unbroken.config.output / "model"
    trainer = Trainer(tiny_config(tmp_path / "run", f"data.root={data}", f"weights={model}"))
    assert (
        f"started from {model}: all tensors but the predictors of its classes (circle, square, triangle, star, "
        "cross); roi_head/class_logits, roi_head/box_deltas initialized randomly for this run's classes"
    ) in trainer.messages
    assert "custom operations: compiled kernels for the CPU" in trainer.messages
    saved = safetensors.numpy.load_file(model / "weights.safetensors")
    np.testing.assert_array_equal(trainer.model.roi_head.dense[0].kernel.numpy(), saved["roi_head/fc1/kernel"])


def check_overflow_is_skipped(trainer: Trainer) -> None:
    """A step whose gradients overflow changes neither weights nor averages, and halves the scale of the loss."""
    scale = trainer.optimizer.dynamic_scale
    initial = float(scale.numpy())
    scale.assign(2.0**127)  # the scaled loss is beyond float32
    inner = trainer.optimizer.inner_optimizer
    state = [*trainer.model.trainable_variables, *inner._model_variables_moving_average, *inner.momentums]
    before = [variable.numpy() for variable in state]
    trainer._start_step(next(iter(training_batches(trainer.train_index, trainer.config))), NullProgress())
    (report,) = trainer.reports.read(all_steps=True)
    assert np.isfinite(report.losses["loss"])
    assert float(scale.numpy()) == 2.0**126
    for variable, value in zip(state, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    trainer.step -= 1
    scale.assign(initial)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains(tiny_config: MakeConfig, tmp_path: Path, precision: str) -> None:
    trainer = Trainer(
        tiny_config(tmp_path, f"training.precision={precision}", "training.epochs=0.5", "optimizer.accumulation=1")
    )
    before = trainer.model.rpn.convs[0].kernel.numpy()
    if precision == "mixed_float16":
        check_overflow_is_skipped(trainer)
    trainer.run()
    assert trainer.model.rpn.convs[0].kernel.dtype == "float32"
    assert trainer.model.backbone.stem.conv.compute_dtype == precision.removeprefix("mixed_")
    assert not np.array_equal(before, trainer.model.rpn.convs[0].kernel.numpy())


def test_accumulated_batches_make_one_update(tiny_config: MakeConfig, tmp_path: Path, train_split: Path) -> None:
    trainer = Trainer(tiny_config(tmp_path, f"data.root={train_split}", "optimizer.accumulation=3"))
    rates = [float(trainer.optimizer._learning_rate(step)) for step in (0, 4, 6, 11)]
    assert rates[1] > rates[2] > rates[3] > 0.01 * rates[1], "the cosine ends with the run, not before"
    kernel = trainer.model.rpn.convs[0].kernel
    seen = []
    original = trainer._start_step

    def watch(batch: Batch, progress: Progress | NullProgress) -> None:
        original(batch, progress)
        seen.append(kernel.numpy())

    trainer._start_step = watch  # type: ignore[method-assign]
    trainer.run()
    changed = [not np.array_equal(a, b) for a, b in itertools.pairwise(seen)]
    assert changed == [False, True, False] * 3 + [False, True]


def test_frozen_layers_need_weights(tiny_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"backbone.freeze is 2 without weights: the frozen layers would stay random"):
        Trainer(tiny_config(tmp_path, "backbone.freeze=2"))
    messages = Trainer(tiny_config(tmp_path, "backbone.norm=frozen_bn")).messages
    assert any("nothing is normalized" in message for message in messages)


def test_a_missing_validation_split_is_reported_with_its_reason(
    tiny_config: MakeConfig, shapes: Path, tmp_path: Path
) -> None:
    shutil.copytree(shapes, tmp_path / "data")
    (tmp_path / "data" / "val").rename(tmp_path / "data" / "valimages")
    config = tiny_config(tmp_path / "run", f"data.root={tmp_path / 'data'}")
    messages: list[str] = []
    assert load_splits(config, messages)[1] is None
    assert messages[0].endswith(" annotations used as objects")
    assert messages[1].startswith(
        "no validation split: nothing is evaluated, and the last model is saved, not the best ("
    )
    file = tmp_path / "data" / "annotations" / "instances_train.json"
    assert messages[2] == f"divide the training data with: frcnn split {file} --val 0.2 --stratify"
    with pytest.raises(UserError, match="val_typo"):
        load_splits(
            tiny_config(tmp_path / "run", f"data.root={tmp_path / 'data'}", "data.validation.images=val_typo"), []
        )


def test_trained_model_serves_from_its_folder_alone(unbroken: Trainer, tmp_path: Path) -> None:
    folder = shutil.copytree(unbroken.config.output / "model", tmp_path / "elsewhere")
    detector = Detector.load(folder)
    assert detector.class_names == unbroken.train_index.class_names
    found = detector.detect([np.full((50, 80, 3), 200, np.uint8)])
    assert found[0].boxes.shape == (len(found[0].scores), 4)


def test_sparse_ids_crowds_and_empty_images(tiny_config: MakeConfig, tmp_path: Path, real_data: Path) -> None:
    config = tiny_config(
        tmp_path, f"data.root={real_data / 'coco128'}", "training.epochs=0.1", "training.evaluate_every=null"
    )
    trainer = Trainer(config)
    assert (len(trainer.train_index.class_names), max(trainer.train_index.category_ids)) == (80, 90)
    trainer.run()
    assert trainer.step == 3
    assert records(tmp_path, "evaluation")[0]["images"] == 128
    assert len(json.loads((tmp_path / "model" / "labels.json").read_text())) == 80
