"""Addresses of annotation tools, and the files that they mean."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from frcnn.data.formats.image_finder import ImageFinder, safe_name

FILES = (
    "a.jpg",
    "x/a.jpg",
    "x/y/b c.JPG",
    "u/é.png",
    "100%.jpg",
    "one/d.jpg",
    "two/d.jpg",
    "noimage",
    "up/E.jpg",
    "up/e.jpg",
)


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory) -> ImageFinder:
    folder = tmp_path_factory.mktemp("images")
    for name in (*FILES, ".hidden/f.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "link").symlink_to(folder)  # a cycle
    return ImageFinder(folder)


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("a.jpg", "a.jpg"),
        ("x/a.jpg", "x/a.jpg"),
        ("./x//a.jpg", "x/a.jpg"),
        ("other/a.jpg", "a.jpg"),
        ("s3://bucket/prefix/x/a.jpg", "x/a.jpg"),
        ("C:\\data\\x\\a.jpg", "x/a.jpg"),
        ("../../x/a.jpg", "x/a.jpg"),
        ("b c.JPG", "x/y/b c.JPG"),
        ("b c.jpg", "x/y/b c.JPG"),
        ("https://host/b%20c.jpg?token=1/2", "x/y/b c.JPG"),
        ("/data/local-files/?d=x/y/b c.JPG", "x/y/b c.JPG"),
        (unicodedata.normalize("NFD", "é.png"), "u/é.png"),
        ("100%.jpg", "100%.jpg"),
        ("up/e.jpg", "up/e.jpg"),
        ("up/E.JPG", None),  # two files differ from it in case only
        ("d.jpg", None),  # two files have the name
        ("three/d.jpg", None),
        ("noimage", "noimage"),
        ("f.jpg", None),
        ("", None),
        ("/", None),
        ("\0", None),
        ("\ud800.jpg", None),
        ("x" * 5000, None),
    ],
)
def test_find(finder: ImageFinder, address: str, found: str | None) -> None:
    assert finder.find(address) == found


def test_find_by_stem(finder: ImageFinder) -> None:
    assert finder.find_stem("B C") == "x/y/b c.JPG"
    assert finder.find_stem("a") is None  # two
    assert finder.find_stem("noimage") is None


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("a.jpg", "a.jpg"),
        ("sub/./a.jpg", "sub/a.jpg"),
        ("sub\\a.jpg", "sub/a.jpg"),
        ("C:\\x\\a.jpg", "a.jpg"),
        ("/abs/a.jpg", "a.jpg"),
        ("~/a.jpg", "a.jpg"),
        ("../a.jpg", "a.jpg"),
        ("s3://b/x/a.jpg", "a.jpg"),
        ("https://host/a.jpg?x=/..", "a.jpg"),
        ("", ""),
        ("..", ""),
    ],
)
def test_safe_names_stay_below_a_folder(address: str, name: str) -> None:
    assert safe_name(address) == name
    assert not Path(name).is_absolute()
