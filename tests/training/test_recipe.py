"""The choice of a recipe: near the hand-tuned one on its dataset, and sensible on strange ones."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import yaml

from frcnn.cli import recipe as command
from frcnn.cli.model import _split_arguments
from frcnn.config import Config, load_config
from frcnn.data.coco import load_index
from frcnn.data.statistics import Statistics, dataset_statistics
from frcnn.errors import UserError
from frcnn.training import probe, suggestion
from frcnn.training.recipe import choose_recipe
from frcnn.training.suggestion import recipe_text
from frcnn.training.time_budget import Device, Speed, Weights, foreseeable_problems

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# What dataset_statistics returns for BCCD.
BCCD = Statistics(
    images=205, validation_images=87, classes=3, boxes=2804, boxes_per_image=20, most_boxes=29, min_size=384,
    small_side=24.1, anchor_sizes=(32.0, 56.0, 98.0, 172.0, 300.0), coverage=0.66, aspects=(1.34, 1.34), rarest=0.5,
    repeats=1.0, has_no_up=True,
)  # fmt: skip
CPU, GPU = Device("cpu", bfloat16=True), Device("gpu", bfloat16=True, memory_gib=16.0)
STRANGE = {
    "five images": BCCD._replace(images=5, validation_images=0, boxes=9, boxes_per_image=2, most_boxes=2),
    "one class": BCCD._replace(classes=1),
    "images of 32 pixels": BCCD._replace(images=50_000, min_size=224, boxes_per_image=1, most_boxes=1),
    "images of 4000 x 3000 pixels": BCCD._replace(images=300, min_size=1024),
    "300 boxes each": BCCD._replace(images=4000, boxes=1_200_000, boxes_per_image=300, most_boxes=420, min_size=800),
    "a rare class": BCCD._replace(rarest=0.001, repeats=1.3),
    "panoramas": BCCD._replace(aspects=(3.0, 3.0)),
}


def chosen(*arguments: Any) -> dict[str, Any]:
    return {choice.option: choice.value for choice in choose_recipe(*arguments)}


def test_bccd_in_25_minutes_is_near_the_hand_tuned_recipe() -> None:
    found = chosen(BCCD, CPU, Speed(4.4, 320, "resnet18"), 25)
    by_hand = yaml.safe_load((REPOSITORY / "configs" / "bccd_r18_fpn.yaml").read_text())
    flat = {f"{section}.{name}": value for section, options in by_hand.items() for name, value in options.items()}
    near = {"image.max_size", "image.canvas_aspects", "anchors.sizes", "optimizer.ema", "training.epochs"}
    near |= {"training.evaluate_every"}
    for name in flat.keys() - near:
        assert found[name] == flat[name], name
    assert found.keys() - flat.keys() == {"training.max_minutes"}
    assert 24 <= found["training.epochs"] <= 28
    assert abs(found["optimizer.ema"] - 0.995) < 0.001
    assert found["image.max_size"] >= round(320 * 1.34)


@pytest.mark.parametrize("name", STRANGE)
def test_strange_datasets_get_recipes_that_load_and_fit(name: str) -> None:
    data = STRANGE[name]
    for device, rate, minutes in itertools.product((CPU, GPU), (0.2, 5.0, 200.0), (None, 2, 25, 600)):
        found = chosen(data, device, Speed(rate, 320, "resnet18"), minutes)
        text = recipe_text(choose_recipe(data, device, Speed(rate, 320, "resnet18"), minutes), Path("x"), data, device,
                           Speed(rate, 320, "resnet18"))  # fmt: skip
        config = Config.from_tree(yaml.safe_load(text), name)
        assert config.training.batch_size <= data.images
        assert 224 <= config.image.min_size[0] <= data.min_size
        assert config.training.max_minutes == minutes
        assert config.roi_head.max_detections >= data.most_boxes
        assert config.rpn.post_nms_train >= data.boxes_per_image
        assert (config.data.repeat_threshold is not None) == (data.repeats > 1)
        # Small datasets are not repeated for ever, however fast the device is.
        assert found["training.epochs"] <= max(100, 6000 / data.images)
        if minutes is not None and found["training.epochs"] > 0.01:
            speed = Speed(rate, 320, "resnet18").at(config.image.min_size[0], config.backbone.name)
            images = found["training.epochs"] * data.images * data.repeats
            images += 0.5 * 2 * found.get("data.validation_fraction", 1.0) * data.validation_images
            assert images / speed <= 60 * minutes


def test_more_time_buys_epochs_then_size_and_on_gpus_a_larger_backbone() -> None:
    speed = Speed(4.4, 320, "resnet18")
    sizes = [chosen(BCCD, CPU, speed, minutes)["image.min_size"][0] for minutes in (5, 15, 25, 60)]
    assert sizes == sorted(sizes)
    assert sizes[0] < 320 < sizes[-1] == 384
    fast = Speed(100.0, 320, "resnet18")
    assert chosen(BCCD, GPU, fast, 2)["backbone.name"] == "resnet18"
    assert chosen(BCCD, GPU, fast, 25)["backbone.name"] == "resnet50"
    small = Device("gpu", bfloat16=False, memory_gib=4.0)
    assert chosen(BCCD, small, fast, 25)["training.batch_size"] < chosen(BCCD, GPU, fast, 25)["training.batch_size"]
    assert "training.precision" not in chosen(BCCD, small, fast, 25)
    # Overfitting, not time, limits a small dataset; then images should differ from epoch to epoch.
    long = chosen(BCCD, GPU, fast, 600)
    assert long["training.epochs"] == 100
    assert "augment.scale_range" in long
    assert "augment.scale_range" not in chosen(BCCD, CPU, speed, 25)


def test_weights_decide_their_architecture_and_train_less() -> None:
    detectron2 = load_config(REPOSITORY / "configs" / "detectron2_r50_fpn.yaml")
    speed = Speed(1.0, 320, "resnet50")
    found = chosen(BCCD, CPU, speed, None, Weights("coco", detectron2, detector=True))
    assert (found["weights"], found["conventions"], found["backbone.norm"]) == ("coco", "detectron2", "frozen_bn")
    assert found["training.epochs"] < chosen(BCCD, CPU, speed, None)["training.epochs"]
    assert found["optimizer.learning_rate"] < 0.02
    assert "anchors.sizes" not in found, "the RPN's predictions refer to the anchors it was trained with"
    v2 = load_config(REPOSITORY / "configs" / "torchvision_r50_fpn_v2.yaml")
    found = chosen(BCCD, CPU, speed, 25, Weights("coco", v2, detector=True))
    assert (found["fpn.norm"], found["rpn.convs"], found["roi_head.convs"]) == ("bn", 2, 4)
    assert found["backbone.norm"] == "frozen_bn"  # the weights have bn: statistics of few images would be worse
    gn = Weights("mine", load_config(None, ["backbone.norm=gn", "backbone.name=resnet18"]), detector=False)
    found = chosen(BCCD, CPU, speed, 25, gn)
    assert (found["backbone.name"], found["backbone.norm"]) == ("resnet18", "gn")
    assert "anchors.sizes" in found


def test_statistics_and_the_file(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = load_index(shapes / "train", shapes / "annotations" / "instances_train.json")
    data = dataset_statistics(index, index, Config())
    counts = sorted(len(record.labels) for record in index.images)
    assert (data.images, data.validation_images, data.classes) == (24, 24, 5)
    assert (data.boxes, data.most_boxes) == (sum(counts), counts[-1])
    assert data.aspects[0] in (1.0, 1.27, 1.34)
    assert not data.has_no_up  # too few boxes to tell

    measured: list[Config] = []

    def measure(_: object, config: Config) -> float:
        measured.append(config)
        return 40.0

    text = suggestion.suggest_recipe(shapes, 30, None, "cpu", measure=measure)
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    config = load_config(file)
    assert (config.data.root, config.training.max_minutes) == (shapes, 30)
    assert measured[0].image.min_size[0] <= 384
    options = [line for line in text.splitlines() if line.startswith("  ") and "root:" not in line]
    assert options
    assert all("  # " in line for line in options)

    # The same through train: the file is written once, and a rerun keeps it.
    monkeypatch.setattr(suggestion, "suggest_recipe", lambda *_, **__: text)
    overrides = [f"output={tmp_path / 'run'}"]
    kept = command.own_recipe(shapes, 30, overrides, 0.0, 1)
    assert kept.read_text() == text
    monkeypatch.setattr(suggestion, "suggest_recipe", lambda *_, **__: "")
    assert command.own_recipe(shapes, 30, overrides, 0.0, 1).read_text() == text
    with pytest.raises(UserError, match="by one process"):
        command.own_recipe(shapes, 30, overrides, 0.0, 2)


def test_the_speed_is_the_median_of_steps_without_tracing(
    shapes: Path, tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, calls = [0.0], []

    def step(batch: Any, *_: object) -> Any:
        calls.append(batch)
        now[0] += 60.0 if len(calls) == 1 else 2.0  # the first is traced
        return batch.image_ids

    monkeypatch.setattr(probe, "build_train_step", lambda *_: step)
    index = load_index(shapes / "train", shapes / "annotations" / "instances_train.json")
    assert probe.measure_speed(index, tiny_config(tmp_path), clock=lambda: now[0]) == 4 / 2.0
    assert len(calls) == 1 + 3


def test_devices(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("flags : fpu avx2 avx512f")
    assert probe.find_device("cpu", file, lambda: True) == Device("cpu", bfloat16=False)
    file.write_text("flags : fpu avx512_bf16 avx512f")
    assert probe.find_device("cpu", file, lambda: True) == Device("cpu", bfloat16=True)
    assert probe.find_device("cpu", file, lambda: False) == Device("cpu", bfloat16=False)
    assert probe.find_device("cpu", tmp_path / "none", lambda: True) == Device("cpu", bfloat16=False)


@pytest.mark.parametrize(("seconds", "faster"), [(0.5, True), (0.9, False), (2.0, False)])
def test_bfloat16_is_chosen_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, seconds: float, faster: bool
) -> None:
    now, calls = [0.0], []

    def convolution(dtype: Any) -> Any:
        def run() -> None:
            calls.append(dtype.name)
            tracing = 50.0 if calls.count(dtype.name) == 1 else 0.0
            now[0] += tracing + (seconds if dtype.name == "bfloat16" else 1.0)

        return run

    monkeypatch.setattr(probe, "_convolution", convolution)
    assert probe.bfloat16_is_faster(lambda: now[0]) == faster
    assert calls[:4] == ["float32", "bfloat16"] * 2


def test_the_probe_s_convolution_has_both_gradients() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "CONVOLUTION", ((1, 4, 4, 2), (3, 3, 2, 2)))
        shapes = [tuple(gradient.shape) for gradient in probe._convolution(tf.bfloat16)()]
    assert shapes == [(1, 4, 4, 2), (3, 3, 2, 2)]


@pytest.mark.parametrize(
    ("minutes", "validation_images", "share", "epochs", "every"),
    [
        # The last evaluation, of two models, may cost 810: of all 720 images; those before it as well: two of 360.
        (25, 720, None, 3, 1),  # 5400 - 4 * 360 = 3960
        (25, 5000, 0.16, 3, 1),  # of 800 images; two before it; 5400 - 4 * 400 = 3800
        (3, 700, 0.14, 0.44, None),  # (0.92 * 180 - 30) * 4 = 542; about 100 images are evaluated: 542 - 2 * 49 = 444
    ],
)
def test_a_large_validation_split_leaves_time_for_training(
    minutes: int, validation_images: int, share: float | None, epochs: float, every: int | None
) -> None:
    """By hand: 25 minutes at 4 images/s are (0.92 * 1500 - 30) * 4 = 5400 images, 15 % of them 810.

    An image that is evaluated costs half of one of training.
    """
    data = BCCD._replace(images=1000, validation_images=validation_images, min_size=224)
    found = chosen(data, CPU, Speed(4.0, 224, "resnet18"), minutes)
    assert found.get("data.validation_fraction") == share
    assert (found["training.epochs"], found["training.evaluate_every"]) == (epochs, every)


def test_what_no_recipe_can_mend_is_said() -> None:
    data = BCCD._replace(min_size=512, small_side=20.0, validation_images=5000)
    # 20 pixels at 512 are 8.75 at 224; 100 images at twice 0.5 images/s and for two models take 200 s.
    small, slow = foreseeable_problems(data, 0.5, 3, 224)
    assert "at 224 pixels, one box in ten of some class is smaller than 8.8 pixels" in small
    assert "frcnn tile), or give the run more minutes" in small
    assert "evaluating 100 validation images at the end takes about 3.3 of the 3 minutes" in slow
    assert foreseeable_problems(data._replace(small_side=10.0), 4.0, 120, 512)[0].endswith("(frcnn tile)")
    assert foreseeable_problems(data, 4.0, 120, 512) == []
    assert foreseeable_problems(data, 4.0, None, 512) == []


def test_the_cascade_needs_steps_and_heads_that_are_not_trained_yet() -> None:
    fast, slow = Speed(4.4, 320, "resnet18"), Speed(0.5, 320, "resnet18")
    assert chosen(BCCD, CPU, fast, 25)["roi_head.cascade"] == [0.5, 0.6, 0.7]
    assert "roi_head.cascade" not in chosen(BCCD, CPU, slow, 12)
    v2 = load_config(REPOSITORY / "configs" / "torchvision_r50_fpn_v2.yaml")
    assert "roi_head.cascade" not in chosen(BCCD, CPU, fast, 25, Weights("coco", v2, detector=True))


def test_arguments_of_train() -> None:
    assert _split_arguments(("bccd", "seed=1"), None, 25) == (Path("bccd"), ["data.root=bccd", "seed=1"])
    assert _split_arguments(("seed=1",), Path("r.yaml"), None) == (None, ["seed=1"])
    for arguments, minutes in ((("seed=1",), 25), (("bccd",), None), ((), None)):
        with pytest.raises(UserError, match="give a recipe with --config FILE, or a dataset folder and --minutes"):
            _split_arguments(arguments, None, minutes)
