"""Supported layouts of channels, and the messages for the others."""

from __future__ import annotations

import json
import os
import struct
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from frcnn.container.channels import check_distribution, find_inputs
from frcnn.container.input_files import InputChannel
from frcnn.data.coco import load_index
from frcnn.errors import UserError

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 60, "height": 40}],
    "categories": [{"id": 5, "name": "cell"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "bbox": [1, 2, 30, 20], "area": 600, "iscrowd": 0}],
}
BOX = {"class_id": 0, "left": 1, "top": 2, "width": 30, "height": 20}
LINE = {
    "source-ref": "s3://bucket/prefix/a.jpg",
    "bb": {"image_size": [{"width": 60, "height": 40, "depth": 3}], "annotations": [BOX]},
    "bb-metadata": {"class-map": {"0": "cell"}},
}


def channels(base: Path, *files: str, **options: dict[str, Any]) -> list[InputChannel]:
    """Channels with these files, ``channel/path``: images, COCO tables, manifests, or empty files."""
    names = list(dict.fromkeys([*(file.partition("/")[0] for file in files), *options]))
    for file in files:
        path = base / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jpg":
            Image.new("RGB", (60, 40)).save(path)
        else:
            path.write_text({".json": json.dumps(COCO), ".manifest": json.dumps(LINE) + "\n"}.get(path.suffix, ""))
    return [InputChannel(name, base / name, **options.get(name, {})) for name in names]


def splits(base: Path, found: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    return {
        split: tuple(entry[key].relative_to(base).as_posix() for key in ("images", "annotations"))
        for split, entry in found.items()
    }


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            (
                "train/a.jpg",
                "validation/a.jpg",
                "annotations/instances_train2017.json",
                "annotations/instances_val2017.json",
            ),
            {
                "train": ("train", "annotations/instances_train2017.json"),
                "validation": ("validation", "annotations/instances_val2017.json"),
            },
        ),
        (
            (
                "training/images/a.jpg",
                "val-set/a.jpg",
                "annotations/annotations/train.json",
                "annotations/annotations/val.json",
            ),
            {
                "train": ("training/images", "annotations/annotations/train.json"),
                "validation": ("val-set", "annotations/annotations/val.json"),
            },
        ),
        (
            ("train/a.jpg", "train/_annotations.coco.json", "valid/a.jpg", "valid/_annotations.coco.json"),
            {
                "train": ("train", "train/_annotations.coco.json"),
                "validation": ("valid", "valid/_annotations.coco.json"),
            },
        ),
        (
            ("train/train2017/a.jpg", "annotations/my_boxes.json"),
            {"train": ("train/train2017", "annotations/my_boxes.json")},
        ),
        (("train/a.jpg", "train/export.json", "other/readme.txt"), {"train": ("train", "train/export.json")}),
    ],
)
def test_splits_in_separate_channels(tmp_path: Path, files: tuple[str, ...], expected: dict[str, Any]) -> None:
    inputs = find_inputs(channels(tmp_path, *files), scratch=tmp_path / "scratch")
    assert splits(tmp_path, inputs.data) == expected
    for split in inputs.data.values():
        assert len(load_index(**split, on_bad_annotation="error").images) == 1
    assert inputs.messages == (("channel 'other' is not used",) if "other/readme.txt" in files else ())


@pytest.mark.parametrize("name", ["training", "train", "coco", "my-data"])
def test_one_channel_with_a_coco_folder(tmp_path: Path, name: str) -> None:
    layout = (
        "train2017/a.jpg",
        "val2017/a.jpg",
        "annotations/instances_train2017.json",
        "annotations/instances_val2017.json",
    )
    inputs = find_inputs(channels(tmp_path, *(f"{name}/{file}" for file in layout)), tmp_path / "scratch")
    assert inputs.data == {"root": tmp_path / name}
    assert inputs.messages == ()


def test_manifest_file_is_converted_to_coco(tmp_path: Path) -> None:
    found = channels(tmp_path, "train/a.jpg", "annotations/output.manifest")
    inputs = find_inputs(found, tmp_path / "scratch")
    index = load_index(**inputs.data["train"], on_bad_annotation="error")
    assert index.source == tmp_path / "scratch" / "instances_train.json"
    assert (index.class_names, index.images[0].boxes.tolist()) == (("cell",), [[1, 2, 31, 22]])


def test_streamed_manifest_is_converted_to_coco(tmp_path: Path) -> None:
    """A real FIFO, written while it is read, as SageMaker does."""
    (tmp_path / "source").mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "source" / "a.jpg")
    pipe = tmp_path / "train_0"
    os.mkfifo(pipe)
    records = [
        (tmp_path / "source" / "a.jpg").read_bytes(),
        json.dumps(LINE["bb"]).encode(),
        json.dumps(LINE["bb-metadata"]).encode(),
    ]

    def feed() -> None:
        with pipe.open("wb") as stream:
            for record in records:
                stream.write(struct.pack("<II", 0xCED7230A, len(record)) + record + b"\0" * (-len(record) % 4))

    writer = threading.Thread(target=feed)
    writer.start()
    inputs = find_inputs(
        [InputChannel("train", tmp_path / "train", "Pipe", record_wrapper="RecordIO")], tmp_path / "scratch"
    )
    writer.join()
    index = load_index(**inputs.data["train"], on_bad_annotation="error")
    assert (index.class_names, len(index.images), index.images[0].path.parent) == (
        ("cell",),
        1,
        tmp_path / "scratch" / "train",
    )


def test_weights_and_recipe(tmp_path: Path) -> None:
    base = ("train/a.jpg", "train/annotations.json")
    model = ("weights.safetensors", "config.yaml", "labels.json")
    hidden = ("config/._my.yaml", "config/.DS_Store", "weights/._model.tar.gz")  # from a Mac's archive
    found = channels(tmp_path, *base, *(f"weights/model/{file}" for file in model), "config/my.yaml", *hidden)
    inputs = find_inputs(found, tmp_path / "scratch")
    assert (inputs.weights, inputs.config) == (tmp_path / "weights" / "model", tmp_path / "config" / "my.yaml")
    with tarfile.open(tmp_path / "weights" / "model.tar.gz", "w:gz") as archive:
        for file in model:
            archive.add(tmp_path / "weights" / "model" / file, file)
    unpacked = find_inputs(found, tmp_path / "scratch").weights
    assert unpacked is not None
    assert (tmp_path / "scratch") in unpacked.parents
    assert sorted(path.name for path in unpacked.iterdir()) == sorted(model)
    bare = ("pretrained/resnet.safetensors", "pretrained/._resnet.safetensors")
    found = channels(tmp_path / "bare", *base, *bare)
    assert find_inputs(found, tmp_path).weights == tmp_path / "bare" / "pretrained" / "resnet.safetensors"


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (
            (),
            {},
            r"no channel contains training data: found no channels. Use channels 'train' \(images\) and 'annotations' "
            r"\(instances_train.json\), or one channel with train2017/ and annotations/instances_train2017.json$",
        ),
        (
            ("photos/a.jpg", "photos/b.jpg"),
            {},
            r"no channel contains training data: found photos \(a.jpg, b.jpg\)\. Use ",
        ),
        (
            ("train/a.jpg",),
            {},
            r"no annotation file of the train split in channel 'train': found train \(a.jpg\)\. Put "
            r"_annotations.coco.json beside the images of channel 'train', or instances_train.json into a channel",
        ),
        (
            ("train/a.jpg", "validation/a.jpg", "annotations/train.json"),
            {},
            r"the validation split in channels 'validation', 'annotations': found validation \(a.jpg\); annotations "
            r"\(train.json\)\. Put .* channel 'validation', or instances_val.json into a channel 'annotations'$",
        ),
        (
            (),
            {"train": {"mode": "Pipe"}},
            "uses Pipe mode with RecordWrapperType None; .*set RecordWrapperType to RecordIO",
        ),
        ((), {"train": {"mode": "Pipe", "record_wrapper": "RecordIO"}}, "train_0 does not exist"),
        (
            ("train/a.jpg", "train/x.json", "config/a.yaml", "config/b.yaml"),
            {},
            r"expected one recipe .*found config \(a.yaml, b.yaml\)",
        ),
        (
            ("train/a.jpg", "train/x.json", "weights/model.pth"),
            {},
            r"expected one model folder.*found weights \(model.pth\)",
        ),
    ],
)
def test_unusable_channels_are_reported_with_their_content(
    tmp_path: Path, files: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        find_inputs(channels(tmp_path, *files, **options), tmp_path / "scratch")


def test_only_training_images_may_be_sharded_and_only_on_request(tmp_path: Path) -> None:
    sharded_train = {"train": {"distribution": "ShardedByS3Key"}}
    whole = channels(tmp_path / "a", "train/a.jpg", "train/x.json", **sharded_train)
    apart = channels(tmp_path / "b", "train/a.jpg", "annotations/x.json", **sharded_train)
    check_distribution(whole, hosts=1, sharded=False)
    check_distribution(apart, hosts=2, sharded=True)
    for found, sharded in ((whole, False), (whole, True), (apart, False)):
        with pytest.raises(UserError, match="channel 'train' is ShardedByS3Key over 2 hosts"):
            check_distribution(found, hosts=2, sharded=sharded)


def test_image_folder_is_found_by_the_images_of_this_host(tmp_path: Path) -> None:
    found = channels(tmp_path, "train/images/b.jpg", "annotations/instances_train.json")
    entries = [
        {"id": number, "file_name": name, "width": 60, "height": 40}
        for number, name in enumerate(("a.jpg", "b.jpg"), start=1)
    ]
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps({**COCO, "images": entries}))
    assert find_inputs(found, tmp_path / "scratch").data["train"]["images"] == tmp_path / "train" / "images"
