"""The command line as a person meets it: real commands, their output, files and exit codes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from command_line import error_of, frcnn
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from frcnn.cli import main
from frcnn.data.coco import Index
from frcnn.data.formats.label_files import FORMATS
from frcnn.evaluation import evaluate
from frcnn.inference import Detections, Detector
from frcnn.tiling import Tiling
from frcnn.training.tracking.pr_curves import OVERALL

TINY = """
image: {min_size: [64], max_size: 64, canvas_aspects: [1.0]}
backbone: {name: resnet18, norm: gn}
fpn: {channels: 16}
anchors: {sizes: [16, 32, 64, 128, 256]}
rpn: {samples: 16, pre_nms_train: 30, post_nms_train: 10, pre_nms_test: 30, post_nms_test: 10}
roi_head: {samples: 8, fc_channels: 16}
optimizer: {learning_rate: 0.001, warmup_steps: 2}
training: {epochs: 1, batch_size: 4, log_every: 1, evaluate_every: null}
"""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "shapes"
    assert frcnn("make-shapes", folder, "--images", "10", "--seed", "3").exit_code == 0
    return folder


@pytest.fixture(scope="module")
def model(shapes: Path) -> Path:
    """A model folder that `frcnn train` left after few steps."""
    recipe = shapes.parent / "tiny.yaml"
    recipe.write_text(TINY)
    result = frcnn("train", "--config", recipe, f"data.root={shapes}", f"output={shapes.parent / 'run'}")
    assert result.exit_code == 0, result.output
    assert "train step=2 " in result.stdout
    assert result.stdout.splitlines()[-1] == f"model: {shapes.parent / 'run' / 'model'}"
    return shapes.parent / "run" / "model"


def test_evaluate_works_from_the_model_folder_alone(model: Path, tmp_path: Path) -> None:
    result = frcnn("evaluate", "--model", model, "--json", tmp_path / "deep" / "metrics.json")
    assert result.exit_code == 0, result.output
    assert "2 images" in result.stdout
    numbers = json.loads((tmp_path / "deep" / "metrics.json").read_text())
    trained = json.loads((model / "metrics.json").read_text())
    assert [numbers[key] for key in ("AP", "AP50", "AR100", "class_AP")] == [
        trained[key] for key in ("AP", "AP50", "AR100", "class_AP")
    ]
    assert re.search(rf"^AP50 +{trained['AP50']:.4f}$", result.stdout, re.M)
    assert re.search(r"^AP of triangle +", result.stdout, re.M)
    # Both commands store the summary that they print.
    assert numbers["dataset"] == trained["datasets"]["validation"]
    assert numbers["dataset"]["objects"] == numbers["dataset"]["annotations"] == numbers["objects"]
    assert trained["datasets"]["train"]["images"] == 8


def test_training_writes_pr_curves_for_tensorboard(model: Path) -> None:
    events = EventAccumulator(str(model.parent / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    (curve,) = events.Tensors(f"{OVERALL}/pr_curves")
    found, _, _, missed, _, _ = tf.make_ndarray(curve.tensor_proto)
    trained = json.loads((model / "metrics.json").read_text())
    assert set((found + missed).tolist()) == {trained["objects"]}
    assert curve.step == trained["step"]


def test_evaluate_takes_other_data(model: Path, shapes: Path) -> None:
    result = frcnn(
        "evaluate",
        "--model",
        model,
        "--images",
        shapes / "val",
        "--annotations",
        shapes / "annotations/instances_val.json",
    )
    assert result.exit_code == 0, result.output
    trained = json.loads((model / "metrics.json").read_text())
    assert re.search(rf"^AR100 +{trained['AR100']:.4f}$", result.stdout, re.M)
    nowhere, empty = shapes.parent / "nowhere", shapes.parent / "empty"
    empty.mkdir(exist_ok=True)
    assert error_of("evaluate", "--model", model, "--data", nowhere).startswith(
        f"frcnn: --data is '{nowhere}', which is"
    )
    message = error_of("evaluate", "--model", model, "--data", empty)
    assert message.endswith("found nothing; rename them, or give --images and --annotations")
    moved = shutil.copytree(model, shapes.parent / "moved")
    config = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(config.replace(str(shapes), str(nowhere)))
    assert "config.yaml is damaged or was changed" in error_of("evaluate", "--model", moved)
    (moved / "SHA256SUMS").unlink()
    message = error_of("evaluate", "--model", moved)
    assert message.endswith("the model's configuration names it; give --data, or --images and --annotations")


def test_evaluate_gives_no_metrics_when_images_are_unreadable(model: Path, shapes: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(shapes / "val", tmp_path / "val")
    for image in broken.iterdir():
        image.write_bytes(image.read_bytes()[:200])
    result = frcnn(
        "evaluate", "--model", model, "--images", broken, "--annotations", shapes / "annotations/instances_val.json"
    )
    assert result.exit_code == 2
    assert "2 of 2 images could not be read, more than data.max_bad_image_share=0.01 allows" in result.stderr
    assert "AP" not in result.stdout


def test_predict_draws_every_image_and_reports_those_it_cannot_read(model: Path, shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    Image.fromarray(np.full((40, 60, 3), 128, np.uint8)).save(tmp_path / "in" / "deep" / "grey.bmp")
    (tmp_path / "in" / "broken.png").write_text("not an image")
    out = tmp_path / "out"
    result = frcnn(
        "predict",
        shapes / "val",
        tmp_path / "in",
        tmp_path / "nowhere.jpg",
        "--model",
        model,
        "--out",
        out,
        "--score",
        "0.01",
    )
    assert result.exit_code == 1
    assert f"{tmp_path / 'in' / 'broken.png'} is not an image of a known format" in result.stderr
    assert f"{tmp_path / 'nowhere.jpg'} does not exist" in result.stderr
    assert "2 of 5 images could not be read" in result.stderr
    written = sorted(str(file.relative_to(out)) for file in out.rglob("*.*"))
    assert written == ["000008.jpg", "000009.jpg", "deep/grey.png", "detections.json"]
    entries = json.loads((out / "detections.json").read_text())
    assert entries
    readable = [shapes / "val" / "000008.jpg", shapes / "val" / "000009.jpg", tmp_path / "in" / "deep" / "grey.bmp"]
    assert {entry["file_name"] for entry in entries} <= set(map(str, readable))
    for entry in entries:
        assert set(entry) == {"image_id", "category_id", "bbox", "score", "file_name"}
        assert entry["category_id"] in range(1, 6)
        assert len(entry["bbox"]) == 4
    assert frcnn("predict", shapes / "val" / "000008.jpg", "--model", model, "--out", out).exit_code == 0


def detect_ground_truth(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tiling | None, str | None]]:
    """Let every model find all objects with a score of 0.625.

    Returns:
        Filled with the tiling and test options of each call.
    """
    calls: list[tuple[Tiling | None, str | None]] = []

    def ground_truth(
        saved: Any,
        find_index: Callable[[], Index],
        world: Any,
        batch_size: int,
        bar: Any,
        tiling: Tiling | None,
        test: str | None,
    ) -> evaluate.DetectedSplit:
        calls.append((tiling, test))
        index = find_index()
        results = {
            record.image_id: Detections(record.boxes, np.full(len(record.boxes), 0.625, np.float32), record.labels)
            for record in index.images
        }
        return evaluate.DetectedSplit(index, results, {})

    monkeypatch.setattr(evaluate, "detect_model", ground_truth)
    return calls


def test_thresholds_and_report_detect_in_tiles_and_say_so(
    model: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    calls = detect_ground_truth(monkeypatch)
    result = frcnn("thresholds", "--model", copy, "--tile", 64)
    assert re.search(r"images of validation, tiles of 64 pixels with an overlap of 0\.2\n", result.stdout)
    assert json.loads((copy / "thresholds.json").read_text())["tiling"] == {"tile": 64, "overlap": 0.2}
    whole = frcnn("report", copy, "--out", tmp_path / "whole")
    assert "chosen with tiles of 64 pixels with an overlap of 0.2, and are applied to whole images" in whole.stderr
    options = ("--tile", 64, "--overlap", 0.2, "--test", "flip=true")
    assert frcnn("thresholds", "--model", copy, *options).exit_code == 0
    tiled = frcnn("report", copy, shapes, "--out", tmp_path / "tiled", *options)
    assert tiled.exit_code == 0
    assert "chosen with" not in tiled.stderr
    tiles = Tiling(64, 0.2)
    assert calls == [(tiles, None), (None, None), (tiles, "flip=true"), (tiles, "flip=true")]
    pages = [(tmp_path / name / "index.html").read_text() for name in ("whole", "tiled")]
    assert ["tiles of 64 pixels" in page for page in pages] == [False, True]
    assert "give --tile as well" in error_of("thresholds", "--model", copy, "--overlap", 0.2)


def test_thresholds_are_stored_and_predict_draws_by_them(
    model: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "model"))
    (copy / "thresholds.json").unlink(missing_ok=True)

    calls = detect_ground_truth(monkeypatch)
    result = frcnn("thresholds", "--model", copy, "--precision", "0.95")
    assert result.exit_code == 0, result.output
    assert calls == [(None, None)]
    assert re.search(r"precision of at least 0\.95 at IoU 0\.5, \d+ images of validation\n", result.stdout)
    assert re.search(r"^all classes +0\.62 +1\.0000 +1\.0000 +1\.0000", result.stdout, re.M)
    drawn = frcnn("predict", shapes / "val" / "000008.jpg", "--model", copy, "--out", tmp_path / "out")
    assert re.search(r"minimum score of drawn detections: .*circle 0\.62.*precision of at least 0\.95", drawn.stdout)
    assert "thresholds" not in drawn.stderr
    explicit = frcnn(
        "predict", shapes / "val" / "000008.jpg", "--model", copy, "--out", tmp_path / "out", "--score", 0.7
    )
    assert "minimum score of drawn detections: 0.7\n" in explicit.stdout
    both = frcnn("thresholds", "--model", copy, "--precision", 0.9, "--recall", 0.9)
    assert both.exit_code == 2
    assert "exclude each other" in both.stderr


def test_predict_writes_what_it_has_when_an_image_cannot_be_drawn_or_ctrl_c_is_pressed(
    model: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = shapes / "val" / "000008.jpg", shapes / "val" / "000009.jpg"
    arguments = ("predict", first, second, "--model", model, "--out", tmp_path / "out", "--score", "0")
    (tmp_path / "out" / "000008.jpg").mkdir(parents=True)  # in the way of the drawn copy
    result = frcnn(*arguments)
    assert result.exit_code == 1
    assert f"the drawn copy of {first} could not be written to {tmp_path / 'out' / '000008.jpg'} (" in result.stderr
    assert "1 of 2 images could not be drawn" in result.stderr
    assert (tmp_path / "out" / "000009.jpg").is_file()
    entries = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {entry["file_name"] for entry in entries} == {str(first), str(second)}

    detect = Detector.detect
    interrupt = iter([False, True])

    def interrupted(self: Detector, images: list[np.ndarray], batch_size: int = 1) -> object:
        if next(interrupt):
            raise KeyboardInterrupt
        return detect(self, images, batch_size)

    monkeypatch.setattr(Detector, "detect", interrupted)
    result = frcnn(*arguments)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (130, "frcnn: interrupted")
    before_ctrl_c = [entry for entry in entries if entry["file_name"] == str(first)]
    assert before_ctrl_c
    assert json.loads((tmp_path / "out" / "detections.json").read_text()) == before_ctrl_c


def test_predict_writes_labels_and_the_images_to_label_next(model: Path, shapes: Path, tmp_path: Path) -> None:
    assert main.commands["predict"].params
    (option,) = (option for option in main.commands["predict"].params if option.name == "label_format")
    assert tuple(option.type.choices) == tuple(FORMATS)
    arguments = ("predict", shapes / "val", "--model", model, "--out", tmp_path, "--format", "coco-dataset")
    result = frcnn(*arguments, "--above", "0.05", "--uncertain", "1")
    assert result.exit_code == 0, result.output
    labels = tmp_path / "labels" / "instances_default.json"
    tables = json.loads(labels.read_text())
    assert [image["file_name"] for image in tables["images"]] == ["000008.jpg", "000009.jpg"]
    wanted = [entry for entry in json.loads((tmp_path / "detections.json").read_text()) if entry["score"] >= 0.05]
    assert [entry["category_id"] for entry in tables["annotations"]] == [entry["category_id"] for entry in wanted]
    assert wanted
    listed = (tmp_path / "uncertain.csv").read_text().splitlines()
    assert listed[0] == "image,uncertainty"
    assert len(listed) == 2
    assert listed[1].startswith(f"{shapes / 'val'}/00000")
    assert Image.open(tmp_path / "uncertain.png").height > 100
    labels.write_text("corrected by hand")
    assert "labels exists already; choose another --out" in error_of(*arguments)
    assert labels.read_text() == "corrected by hand"
    whole = json.loads((tmp_path / "detections.json").read_text())
    assert frcnn(*arguments, "--overwrite", "--tile", "128").exit_code == 0
    assert json.loads(labels.read_text())["images"] == tables["images"]
    assert json.loads((tmp_path / "detections.json").read_text()) != whole
    assert "give --tile as well" in error_of(*arguments[:6], "--overlap", "0.3")
    assert "give --format as well" in error_of(*arguments[:6], "--above", "0.4")


def test_a_missing_split_is_named(model: Path, shapes: Path) -> None:
    assert "of the test split" in error_of("evaluate", "--model", model, "--split", "test")
