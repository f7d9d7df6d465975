"""Import of another framework's file into a model folder, and its use."""

from __future__ import annotations

import re
from pathlib import Path

import foreign_names
import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner, Result

from frcnn.cli import main
from frcnn.config import load_config
from frcnn.errors import UserError
from frcnn.inference import Detector
from frcnn.modeling.faster_rcnn import build_model
from frcnn.weights.import_weights import import_weights
from frcnn.weights.model_folder import load_weights, read_model_folder

TINY = """
image: {min_size: [64], max_size: 64, canvas_aspects: [1.0]}
backbone: {name: resnet18, norm: frozen_bn, freeze: 5}
fpn: {channels: 16}
rpn: {samples: 16, pre_nms_train: 30, post_nms_train: 10, pre_nms_test: 30, post_nms_test: 10}
roi_head: {samples: 8, fc_channels: 16}
ops: {kernel: reference}
optimizer: {learning_rate: 0.001, warmup_steps: 2}
training: {epochs: 1, batch_size: 4, log_every: 1, evaluate_every: null}
"""


def frcnn(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write(file: Path, shapes: foreign_names.Shapes) -> dict[str, np.ndarray]:
    tensors = foreign_names.random_tensors(shapes)
    safetensors.numpy.save_file(tensors, file)
    return tensors


@pytest.fixture
def detector_file(tmp_path: Path) -> Path:
    write(
        tmp_path / "r18.safetensors", foreign_names.torchvision_detector(18, 4, channels=16, width=32) | {"extra": (2,)}
    )
    return tmp_path / "r18.safetensors"


def test_a_detector_becomes_a_model_folder(detector_file: Path, tmp_path: Path) -> None:
    report = import_weights(detector_file, "torchvision", tmp_path / "model")
    assert report.network == "resnet18 Faster R-CNN"
    assert report.class_names == ("class 1", "class 2", "class 3")
    assert {name for name in report.left_out if not name.endswith("num_batches_tracked")} == {"extra"}
    tensors = safetensors.numpy.load_file(detector_file)
    assert report.used + len(report.left_out) == len(tensors)
    detector = Detector.load(tmp_path / "model")
    stored = {variable.path: variable.numpy() for variable in detector.model.variables}
    np.testing.assert_array_equal(stored["rpn/objectness/bias"], tensors["rpn.head.cls_logits.bias"])
    assert detector.class_names == report.class_names


def test_imported_weights_initialize_a_model_of_other_classes(detector_file: Path, tmp_path: Path) -> None:
    import_weights(detector_file, "torchvision", tmp_path / "model")
    saved = read_model_folder(tmp_path / "model")
    model = build_model(7, saved.config)
    kept = load_weights(model, saved.weights, new_classes=True)
    assert sorted(kept) == [
        f"roi_head/{layer}/{part}" for layer in ("box_deltas", "class_logits") for part in ("bias", "kernel")
    ]


def test_a_resnet_becomes_a_folder_for_training_only(tmp_path: Path) -> None:
    tensors = write(tmp_path / "r18.safetensors", foreign_names.torchvision_classifier(18))
    report = import_weights(tmp_path / "r18.safetensors", "torchvision", tmp_path / "backbone")
    assert (report.network, report.class_names) == ("resnet18", ())
    assert {"fc.weight", "fc.bias"} <= report.left_out.keys()
    assert sorted(path.name for path in (tmp_path / "backbone").iterdir()) == [
        "SHA256SUMS",
        "config.yaml",
        "weights.safetensors",
    ]
    with pytest.raises(UserError, match=r"labels\.json is missing"):
        read_model_folder(tmp_path / "backbone")
    config = load_config(tmp_path / "backbone" / "config.yaml")
    model = build_model(2, config)
    before = {variable.path: variable.numpy() for variable in model.variables}
    assert load_weights(model, tmp_path / "backbone" / "weights.safetensors", new_classes=True) == [
        "fpn",
        "roi_head",
        "rpn",
    ]
    after = {variable.path: variable.numpy() for variable in model.variables}
    np.testing.assert_array_equal(after["backbone/stem/conv/kernel"], tensors["conv1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(after["fpn/lateral2/conv/kernel"], before["fpn/lateral2/conv/kernel"])
    with pytest.raises(UserError, match=r"\d+ missing tensors, first 'fpn/"):
        load_weights(model, tmp_path / "backbone" / "weights.safetensors")


MISFITS = {
    "another shape": (
        {"rpn.head.bbox_pred.weight": np.zeros((8, 16, 1, 1), np.float32)},
        r"'rpn\.head\.bbox_pred\.weight' has shape \(8, 16, 1, 1\), laid out as \(1, 1, 16, 8\), "
        r"which does not fit 'rpn/deltas/kernel' \(1, 1, 16, 12\) of a resnet18 Faster R-CNN",
    ),
    "too few axes": (
        {"roi_heads.box_predictor.bbox_pred.weight": np.zeros((), np.float32)},
        r"'roi_heads\.box_predictor\.bbox_pred\.weight' has shape \(\), "
        r"which does not fit 'roi_head/box_deltas/kernel' \(32, 12\)",
    ),
    "number of classes unknown": (
        {"roi_heads.box_predictor.cls_score.weight": np.zeros(4, np.float32)},
        r"'roi_heads\.box_predictor\.cls_score\.weight' has shape \(4,\); expected 2 axes, none of them empty",
    ),
    "width unknown": (
        {"rpn.head.cls_logits.weight": np.zeros((3, 0, 1, 1), np.float32)},
        r"'rpn\.head\.cls_logits\.weight' has shape \(3, 0, 1, 1\); expected 4 axes, none of them empty",
    ),
    "not finite": (
        {"backbone.body.bn1.bias": np.full(64, np.nan, np.float32)},
        r"tensor 'backbone\.body\.bn1\.bias' contains values that are not finite; the file is damaged or its training "
        r"diverged",
    ),
}


@pytest.mark.parametrize(("changes", "sentence"), MISFITS.values(), ids=MISFITS)
def test_nothing_is_written_if_a_tensor_does_not_fit(
    changes: dict[str, np.ndarray], sentence: str, tmp_path: Path
) -> None:
    tensors = foreign_names.random_tensors(foreign_names.torchvision_detector(18, 4, channels=16, width=32))
    safetensors.numpy.save_file(tensors | changes, tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match=rf"^{re.escape(str(tmp_path))}/bad\.safetensors: .*{sentence}"):
        import_weights(tmp_path / "bad.safetensors", "torchvision", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_files_of_the_other_framework_and_of_frcnn_are_recognized(detector_file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"it is a checkpoint of torchvision, not of detectron2; import it with --from torchvision$"
    ):
        import_weights(detector_file, "detectron2", tmp_path / "model")
    safetensors.numpy.save_file(
        {"backbone/stem/conv/kernel": np.zeros((7, 7, 3, 64), np.float32)}, tmp_path / "own.safetensors"
    )
    with pytest.raises(UserError, match="it contains weights of frcnn, which need no import"):
        import_weights(tmp_path / "own.safetensors", "torchvision", tmp_path / "model")


def test_options_from_a_file_are_validated(tmp_path: Path) -> None:
    shapes = foreign_names.detectron2_detector(50, 4, channels=16, width=32)
    tensors = foreign_names.random_tensors(shapes) | {"pixel_std": np.zeros((3, 1, 1), np.float32)}
    safetensors.numpy.save_file(tensors, tmp_path / "zero.safetensors")
    with pytest.raises(
        UserError,
        match=r"zero\.safetensors: options of the checkpoint: option 'image\.std\[0\]' is 0\.0; "
        r"expected a number greater than 0",
    ):
        import_weights(tmp_path / "zero.safetensors", "detectron2", tmp_path / "model")


def test_a_backbone_removes_the_labels_of_a_previous_detector(detector_file: Path, tmp_path: Path) -> None:
    import_weights(detector_file, "torchvision", tmp_path / "model")
    write(tmp_path / "r18.safetensors", foreign_names.torchvision_classifier(18))
    import_weights(tmp_path / "r18.safetensors", "torchvision", tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "SHA256SUMS",
        "config.yaml",
        "weights.safetensors",
    ]


def test_a_folder_that_cannot_be_written_is_an_error(detector_file: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(
        UserError,
        match=r"model folder .*taken cannot be written \(.*File exists.*\); free disk space or choose another",
    ):
        import_weights(detector_file, "torchvision", tmp_path / "taken")


def test_the_command_reports_every_tensor_and_training_starts_from_the_folder(tmp_path: Path) -> None:
    tensors = write(tmp_path / "resnet18.safetensors", foreign_names.torchvision_classifier(18))
    result = frcnn(
        "import-weights", tmp_path / "resnet18.safetensors", "--from", "torchvision", "--out", tmp_path / "backbone"
    )
    assert result.exit_code == 0, result.output
    first, used, *left_out, last = result.stdout.splitlines()
    assert first == f"{tmp_path / 'resnet18.safetensors'}: resnet18, backbone only"
    assert used == f"{len(tensors) - len(left_out)} tensors used"
    assert "left out: fc.weight (classifier of ImageNet's classes)" in left_out
    assert last == f"model: {tmp_path / 'backbone'}"
    (tmp_path / "tiny.yaml").write_text(TINY)
    folders = (f"data.root={tmp_path / 'shapes'}", f"output={tmp_path / 'run'}", f"weights={tmp_path / 'backbone'}")
    assert frcnn("make-shapes", tmp_path / "shapes", "--images", "5").exit_code == 0
    result = frcnn("train", "--config", tmp_path / "tiny.yaml", *folders)
    assert result.exit_code == 0, result.output
    assert re.search(
        r"started from .*backbone: only the backbone, which is all it contains; "
        r"fpn, roi_head, rpn initialized randomly",
        result.stdout,
    )
    trained = safetensors.numpy.load_file(tmp_path / "run" / "model" / "weights.safetensors")
    np.testing.assert_array_equal(trained["backbone/stem/conv/kernel"], tensors["conv1.weight"].transpose(2, 3, 1, 0))
