"""Which files are images, which are ignored, and which file a name leads to."""

from __future__ import annotations

import unicodedata
from pathlib import Path, PurePath

import pytest

from frcnn.data.image_files import IMAGE_SUFFIXES, is_hidden, is_image_name, list_images, locate_files


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("a.jpg", False),
        ("day.1/a.b.jpg", False),
        ("../a.jpg", False),
        ("._a.jpg", True),
        (".DS_Store", True),
        (".ipynb_checkpoints/a.jpg", True),
        ("__MACOSX/train/a.jpg", True),
        ("train/Thumbs.db", True),
        ("__init__/a.jpg", False),
    ],
)
def test_hidden_paths(path: str, hidden: bool) -> None:
    assert is_hidden(PurePath(path)) == hidden


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_image_suffixes_in_any_case(suffix: str) -> None:
    assert is_image_name(f"photo{suffix}")
    assert is_image_name(f"PHOTO{suffix.upper()}")
    assert not is_image_name(f".photo{suffix}")
    assert not is_image_name(f"photo{suffix}.txt")


def test_suffixes_of_phones_and_browsers_are_known() -> None:
    assert {".jfif", ".jpe", ".avif", ".heic"} < set(IMAGE_SUFFIXES)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_listing_follows_links_and_ignores_hidden_files(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    touch(root, "b.JPG", "sub/a.avif", "notes.txt", "._b.jpg", ".cache/c.jpg", "__MACOSX/b.jpg", "sub/.DS_Store")
    touch(tmp_path / "disk", "d.jpe")
    (root / "linked").symlink_to(tmp_path / "disk")
    (root / "sub" / "loop").symlink_to(root)
    (root / "dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    images, ignored = list_images(root)
    assert [path.relative_to(root).as_posix() for path in images] == ["b.JPG", "linked/d.jpe", "sub/a.avif"]
    assert ignored == 3  # notes.txt, ._b.jpg, sub/.DS_Store


def test_files_are_found_under_another_spelling(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Zürich/Käfer.jpg") for form in ("NFC", "NFD"))
    touch(tmp_path, "a.jpg", "sub/b.JPG", decomposed, "x.png", "X.PNG", "extra.jpg", "._extra.jpg", "readme.txt")
    names = ["a.jpg", "sub\\b.jpg", composed, "./sub//b.JPG", "A.JPG", "X.Png", "missing.jpg"]
    located = locate_files(tmp_path, names)
    assert located.missing == ["X.Png", "missing.jpg"]  # X.Png could be either of two files
    assert [path.relative_to(tmp_path).as_posix() for path in located.paths[:5]] == [
        "a.jpg",
        "sub/b.JPG",
        decomposed,
        "sub/b.JPG",
        "a.jpg",
    ]
    assert located.respelled == 3
    assert located.unlisted == 3  # x.png, X.PNG, extra.jpg


def test_names_that_no_file_can_have_are_missing(tmp_path: Path) -> None:
    names = ["a" * 300 + ".jpg", "\ud800/a.jpg", "sub/", "."]
    assert locate_files(tmp_path, names).missing == names
    assert locate_files(tmp_path / "nowhere", ["a.jpg"]).missing == ["a.jpg"]
