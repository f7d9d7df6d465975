"""Where a split's images and annotation file are on disk."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from frcnn import config
from frcnn.errors import UserError

# The names a split goes by, best known first; COCO's own add a year.
SPLIT_NAMES = {
    "train": ("train2017", "train2014", "train"),
    "validation": ("val2017", "val2014", "val", "valid", "validation"),
    "test": ("test2017", "test2014", "test"),
}


def find_split(data: config.Data, split: str) -> tuple[Path, Path]:
    """Images folder and annotation file of a split.

    What the configuration names wins; the rest is looked for below ``data.root``: images in ``<split>/``, ``images/<split>/``
    or ``<split>/images/``, annotations in ``annotations/instances_<split>.json``, ``annotations/<split>.json``,
    ``<split>/_annotations.coco.json`` or ``<split>/annotations.json``.

    Args:
        data: the configuration's section.
        split: ``train``, ``validation`` (or ``val``) or ``test``.

    Raises:
        UserError: says which of the two was not found and where it was looked for.
    """
    split = "validation" if split in SPLIT_NAMES["validation"] else split
    if split not in SPLIT_NAMES:
        raise UserError(f"unknown split {split!r}; expected one of {', '.join(SPLIT_NAMES)}")
    channel = getattr(data, split, config.Split())  # `test` has no options of its own
    for option, path, there in (
        ("images", channel.images, os.path.isdir),
        ("annotations", channel.annotations, os.path.isfile),
    ):
        if path is not None and not there(path):
            kind = "folder" if option == "images" else "file"
            raise UserError(
                f"option 'data.{split}.{option}' is {str(path)!r}, which is not a {kind}; give the path of an existing {kind}"
            )
    if channel.images and channel.annotations:
        return channel.images, channel.annotations
    if data.root is None:
        raise UserError(
            f"nothing says where the {split} split is: set data.root to a COCO folder{_explicit_options(split)}"
        )
    if not data.root.is_dir():
        raise UserError(
            f"option 'data.root' is {str(data.root)!r}, which is not a folder; give the path of a COCO folder"
        )
    return _search(data.root, split, channel)


def _search(root: Path, split: str, channel: config.Split) -> tuple[Path, Path]:
    lacking = "images folder and annotation file"
    for name in SPLIT_NAMES[split]:
        images = channel.images or next(filter(os.path.isdir, _image_folders(root, name)), None)
        annotations = channel.annotations or next(filter(os.path.isfile, _annotation_files(root, name)), None)
        if images and annotations:
            return images, annotations
        if images:
            lacking = f"annotation file for {images}"
        elif annotations:
            lacking = f"images folder for {annotations}"
    looked = [str(path.relative_to(root)) for path in (*_image_folders(root, "NAME"), *_annotation_files(root, "NAME"))]
    raise UserError(
        f"{root} has no {lacking} of the {split} split: looked for {', '.join(looked)} with NAME = {', '.join(SPLIT_NAMES[split])}; "
        f"found {_listing(root)}; rename them{_explicit_options(split)}"
    )


def _image_folders(root: Path, name: str) -> Iterator[Path]:
    yield root / name / "images"
    yield root / name
    yield root / "images" / name


def _annotation_files(root: Path, name: str) -> Iterator[Path]:
    yield root / "annotations" / f"instances_{name}.json"
    yield root / "annotations" / f"{name}.json"
    yield root / name / "_annotations.coco.json"
    yield root / name / "annotations.json"


def _explicit_options(split: str) -> str:
    return "" if split == "test" else f", or set data.{split}.images and data.{split}.annotations"


def _listing(folder: Path) -> str:
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in os.scandir(folder))
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "an empty folder"


def check_file_name(name: str, file: Path) -> None:
    """Refuse a ``file_name`` of the annotation ``file`` that leads out of the images folder."""
    # One quick test spares the parsing of a hundred thousand ordinary names.
    if ".." in name or name[0] in "/\\~" or ":" in name or "\0" in name:
        windows = PureWindowsPath(name)
        if ".." in windows.parts or windows.drive or windows.root or PurePosixPath(name).is_absolute() or "\0" in name:
            raise UserError(f"{file}: file_name {name!r} leads out of the images folder; expected a path below it")


def missing_files(folder: Path, names: Sequence[str]) -> list[str]:
    """Those of the relative ``names`` that are not files below ``folder``; every folder is listed once, no file is touched."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_folder[os.path.dirname(name)].append(name)
    missing: set[str] = set()
    for subfolder, members in by_folder.items():
        try:
            with os.scandir(folder / subfolder) as entries:
                present = {entry.name for entry in entries}
        except OSError:
            present = set()
        missing.update(name for name in members if os.path.basename(name) not in present)
    return [name for name in names if name in missing] if missing else []
