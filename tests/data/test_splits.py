"""Where the images and annotations of a split are found, by the command line and by the container alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from frcnn.config import Data, Split
from frcnn.container.channels import find_inputs
from frcnn.container.input_files import InputChannel
from frcnn.data.splits import find_split
from frcnn.errors import UserError


def test_explicit_paths_take_precedence(real_data: Path) -> None:
    bccd = real_data / "bccd"
    other = Split(annotations=bccd / "annotations" / "instances_val.json", images=bccd / "val")
    assert find_split(Data(root=bccd, train=other), "train") == (
        bccd / "val",
        bccd / "annotations" / "instances_val.json",
    )


def write(root: Path, annotations: str, image: str, file_name: str = "a.jpg") -> None:
    """An annotation file that lists one image, and the image."""
    for path in (root / annotations, root / image):
        path.parent.mkdir(parents=True, exist_ok=True)
    (root / annotations).write_text(json.dumps({"images": [{"id": 1, "file_name": file_name}]}))
    (root / image).touch()


@pytest.mark.parametrize(
    ("images", "annotations", "split"),
    [
        ("train2017", "annotations/instances_train2017.json", "train"),
        ("val2017", "annotations/instances_val2017.json", "validation"),
        ("val", "annotations/instances_val.json", "val"),
        ("valid", "valid/_annotations.coco.json", "validation"),
        ("test", "annotations/instances_test.json", "test"),
        ("images/train", "annotations/train.json", "train"),
        ("train/images", "train/annotations.json", "train"),
        ("training/data", "training/labels.json", "train"),
        ("images", "annotations/instances_train.json", "train"),
        ("train", "train/my_export.json", "train"),
        ("train", "train/my_export.JSON", "train"),
        ("train2017", "annotations/instances_train2017.JSON", "train"),
    ],
)
def test_layouts(tmp_path: Path, images: str, annotations: str, split: str) -> None:
    write(tmp_path, annotations, f"{images}/a.jpg")
    assert find_split(Data(root=tmp_path), split) == (tmp_path / images, tmp_path / annotations)


@pytest.mark.parametrize(
    ("annotations", "image", "file_name", "folder"),
    [
        ("result.json", "images/a.jpg", "images/a.jpg", ""),  # Label Studio
        ("result.json", "images/a.jpg", "images\\a.jpg", ""),  # the same on Windows
        ("result.json", "images/a.jpg", "a.jpg", "images"),
        ("annotations/instances_default.json", "images/a.jpg", "a.jpg", "images"),  # CVAT
        ("annotations/instances_default.json", "images/default/a.jpg", "a.jpg", "images/default"),
        ("labels.json", "data/a.jpg", "a.jpg", "data"),  # FiftyOne
        ("_annotations.coco.json", "a.jpg", "a.jpg", ""),  # Roboflow
    ],
)
def test_a_folder_of_one_split_is_found_by_command_line_and_container(
    tmp_path: Path, annotations: str, image: str, file_name: str, folder: str
) -> None:
    root = tmp_path / "train"
    write(root, annotations, image, file_name)
    (root / "._result.json").write_text("hidden file of macOS")
    expected = (root / folder, root / annotations)
    assert find_split(Data(root=root), "train") == expected
    data = find_inputs([InputChannel("train", root)], tmp_path / "scratch").data["train"]
    assert (data["images"], data["annotations"]) == expected
    with pytest.raises(UserError, match=r"has no .* of the validation split"):
        find_split(Data(root=root), "validation")


def test_the_images_folder_is_where_listed_files_are(tmp_path: Path) -> None:
    (tmp_path / "train" / "images").mkdir(parents=True)
    write(tmp_path, "annotations/train.json", "images/train/a.jpg")
    assert find_split(Data(root=tmp_path), "train")[0] == tmp_path / "images" / "train"


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "disk", "annotations/instances_train.json", "photos/a.jpg")
    root = tmp_path / "data"
    root.mkdir()
    (root / "train").symlink_to(tmp_path / "disk" / "photos")
    (root / "annotations").symlink_to(tmp_path / "disk" / "annotations")
    assert find_split(Data(root=root), "train") == (root / "train", root / "annotations" / "instances_train.json")


def test_other_json_files_are_not_taken_for_annotations(tmp_path: Path) -> None:
    write(tmp_path / "train", "export.json", "a.jpg")
    (tmp_path / "train" / "settings.json").write_text('{"zoom": 3}')
    assert find_split(Data(root=tmp_path), "train")[1] == tmp_path / "train" / "export.json"
    write(tmp_path / "train", "second_export.json", "a.jpg")
    with pytest.raises(UserError, match=r"has no annotation file for .*train of the train split"):
        find_split(Data(root=tmp_path), "train")


def test_errors_name_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"set data.root to a COCO folder, or set data.train.images and data.train.annotations"
    ):
        find_split(Data(), "train")
    with pytest.raises(UserError, match=r"'data.root' is '.*nowhere', which is not a folder"):
        find_split(Data(root=tmp_path / "nowhere"), "train")
    (tmp_path / "train").mkdir()
    (tmp_path / ".DS_Store").touch()
    with pytest.raises(
        UserError, match=r"has no annotation file for .*train of the train split: searched for .*; found train/;"
    ):
        find_split(Data(root=tmp_path), "train")
    write(tmp_path / "export", "result.json", "images/a.jpg", "../../upload/b.jpg")
    with pytest.raises(UserError, match=r"has no folder with the files that .*result.json lists of the train split"):
        find_split(Data(root=tmp_path / "export"), "train")
    with pytest.raises(UserError, match=r"option 'data.train.annotations' is 'no.json', which is not a file"):
        find_split(Data(root=tmp_path, train=Split(annotations="no.json")), "train")
    with pytest.raises(UserError, match=r"unknown split 'dev'; expected one of train, validation, test"):
        find_split(Data(root=tmp_path), "dev")
