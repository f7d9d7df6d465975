"""Files that predict reads and writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from frcnn.errors import UserError
from frcnn.prediction.predict import find_images


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_folders_are_searched_in_order_and_keep_their_structure(tmp_path: Path) -> None:
    touch(tmp_path / "in/b/2.PNG", tmp_path / "in/b/1.JPeG", tmp_path / "in/a.webp", tmp_path / "in/notes.txt")
    tasks = find_images([tmp_path / "in"], tmp_path / "out")
    assert [
        (str(task.source.relative_to(tmp_path)), str(task.target.relative_to(tmp_path)), task.name) for task in tasks
    ] == [
        ("in/a.webp", "out/a.png", "a.webp"),
        ("in/b/1.JPeG", "out/b/1.jpg", "b/1.JPeG"),
        ("in/b/2.PNG", "out/b/2.png", "b/2.PNG"),
    ]


def test_hidden_files_and_other_files_are_skipped_and_counted(tmp_path: Path) -> None:
    touch(tmp_path / "in/1.JPE", tmp_path / "in/._1.jpg", tmp_path / "in/.DS_Store", tmp_path / "in/notes.txt")
    touch(tmp_path / "in/.ipynb_checkpoints/1.jpg", tmp_path / "in/__MACOSX/2.jpg")
    messages: list[str] = []
    assert find_images([tmp_path / "in"], tmp_path / "out", messages.append) == [
        (tmp_path / "in/1.JPE", tmp_path / "out/1.jpg", "1.JPE")
    ]
    assert messages == [f"{tmp_path / 'in'}: skipped 3 files that are hidden or not images"]


def test_equal_names_do_not_replace_each_other(tmp_path: Path) -> None:
    paths = [tmp_path / "a/1.jpg", tmp_path / "b/1.jpg", tmp_path / "b/1.jpeg", tmp_path / "b/1.gif"]
    tasks = find_images(paths, tmp_path / "out")
    assert [task.target.name for task in tasks] == ["1.jpg", "1_2.jpg", "1_3.jpg", "1.png"]


def test_files_of_any_name_and_missing_ones_are_tried(tmp_path: Path) -> None:
    (task,) = find_images([tmp_path / "photo"], tmp_path / "out")
    assert task == (tmp_path / "photo", tmp_path / "out" / "photo.png", "photo")


def test_results_of_an_earlier_call_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path / "in/1.jpg", tmp_path / "in/found/1.jpg")
    assert [task.source for task in find_images([tmp_path / "in"], tmp_path / "in/found")] == [tmp_path / "in/1.jpg"]


@pytest.mark.parametrize("paths", [["in"], ["in/1.jpg"], ["other/1.jpg", "in/1.jpg"]])
def test_a_source_is_never_replaced(tmp_path: Path, paths: list[str]) -> None:
    touch(tmp_path / "in/1.jpg", tmp_path / "other/1.jpg")
    with pytest.raises(UserError, match=r"would replace .*in/1\.jpg; choose a --out other"):
        find_images([tmp_path / path for path in paths], tmp_path / "in")


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="contains no images"):
        find_images([tmp_path], tmp_path / "out")
