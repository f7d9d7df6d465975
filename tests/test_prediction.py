"""Which files a prediction reads and writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from frcnn.errors import UserError
from frcnn.prediction import find_images


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_folders_are_searched_in_order_and_keep_their_structure(tmp_path: Path) -> None:
    touch(tmp_path / "in/b/2.PNG", tmp_path / "in/b/1.JPeG", tmp_path / "in/a.webp", tmp_path / "in/notes.txt")
    jobs = find_images([tmp_path / "in"], tmp_path / "out")
    assert [(str(job.source.relative_to(tmp_path)), str(job.target.relative_to(tmp_path))) for job in jobs] == [
        ("in/a.webp", "out/a.png"),
        ("in/b/1.JPeG", "out/b/1.jpg"),
        ("in/b/2.PNG", "out/b/2.png"),
    ]


def test_equal_names_do_not_replace_each_other(tmp_path: Path) -> None:
    paths = [tmp_path / "a/1.jpg", tmp_path / "b/1.jpg", tmp_path / "b/1.jpeg", tmp_path / "b/1.gif"]
    jobs = find_images(paths, tmp_path / "out")
    assert [job.target.name for job in jobs] == ["1.jpg", "1_2.jpg", "1_3.jpg", "1.png"]


def test_files_of_any_name_and_missing_ones_are_tried(tmp_path: Path) -> None:
    (job,) = find_images([tmp_path / "picture"], tmp_path / "out")
    assert job == (tmp_path / "picture", tmp_path / "out" / "picture.png")


def test_pictures_of_an_earlier_call_are_not_taken_for_new_ones(tmp_path: Path) -> None:
    touch(tmp_path / "in/1.jpg", tmp_path / "in/found/1.jpg")
    assert [job.source for job in find_images([tmp_path / "in"], tmp_path / "in/found")] == [tmp_path / "in/1.jpg"]


@pytest.mark.parametrize("paths", [["in"], ["in/1.jpg"], ["other/1.jpg", "in/1.jpg"]])
def test_a_source_is_never_replaced(tmp_path: Path, paths: list[str]) -> None:
    touch(tmp_path / "in/1.jpg", tmp_path / "other/1.jpg")
    with pytest.raises(UserError, match=r"would replace .*in/1\.jpg; choose another folder"):
        find_images([tmp_path / path for path in paths], tmp_path / "in")


def test_an_empty_folder_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no pictures"):
        find_images([tmp_path], tmp_path / "out")
