"""Where the images and annotations of a split are on disk: one search for the command line and the container."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NoReturn

from frcnn import config
from frcnn.data.image_files import FolderNames, is_hidden, locate_files, normal_name
from frcnn.errors import UserError

# Names of a split, the first one found wins; COCO's own carry a year.
SPLIT_NAMES = {
    "train": ("train2017", "train2014", "train", "training"),
    "validation": ("val2017", "val2014", "val", "valid", "validation"),
    "test": ("test2017", "test2014", "test"),
}
# Annotation files of one split in a folder that may hold several, without suffix.
NAMED_FILES = ("annotations/instances_{}", "annotations/{}", "instances_{}", "{}")
# Annotation files in a folder of one split: Roboflow, ours, Label Studio, FiftyOne, CVAT.
SINGLE_FILES = (
    "_annotations.coco.json",
    "annotations.json",
    "instances.json",
    "result.json",
    "labels.json",
    "annotations/instances_default.json",
    "instances_default.json",
)
# Images of one split in a folder that may hold several.
IMAGE_FOLDERS = ("{}/images", "{}", "images/{}")
# Images in a folder of one split.
SINGLE_IMAGE_FOLDERS = ("", "images", "data", "images/default")

_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_COCO_KEY = re.compile(rb'"(images|annotations|categories|file_name)"\s*:')
_HEAD = 1 << 20  # bytes of an annotation file that are searched for file names
_NAMES = 1000  # file names tried: enough to find one unless the images are sharded over hundreds of hosts


def find_split(data: config.Data, split: str, remedy: str | None = None) -> tuple[Path, Path]:
    """Images folder and annotation file of a split.

    Paths in the configuration take precedence; the rest is searched for below ``data.root``, see ``docs/data.md``. A
    folder without splits, such as an export of Label Studio or CVAT, is the training split.

    Args:
        data: the configuration's section.
        split: ``train``, ``validation`` (or ``val``) or ``test``.
        remedy: what error messages advise, for commands whose options have other names than those of ``data``.

    Raises:
        UserError: says which of the two was not found and where it was searched for.
    """
    split = "validation" if split in SPLIT_NAMES["validation"] else split
    if split not in SPLIT_NAMES:
        raise UserError(f"unknown split {split!r}; expected one of {', '.join(SPLIT_NAMES)}")
    paths = getattr(data, split, config.Split())  # `test` has no options of its own
    for option, path, exists in (
        ("images", paths.images, os.path.isdir),
        ("annotations", paths.annotations, os.path.isfile),
    ):
        if path is not None and not exists(path):
            kind = "folder" if option == "images" else "file"
            raise UserError(
                f"option 'data.{split}.{option}' is {str(path)!r}, which is not a {kind}; "
                + (remedy or f"give the path of an existing {kind}")
            )
    if paths.images and paths.annotations:
        return paths.images, paths.annotations
    if data.root is None:
        raise UserError(
            f"no dataset is configured for the {split} split; "
            + (remedy or f"set data.root to a COCO folder{_explicit_options(split)}")
        )
    if not data.root.is_dir():
        raise UserError(
            f"option 'data.root' is {str(data.root)!r}, which is not a folder; "
            + (remedy or "give the path of a COCO folder")
        )
    found = find_named_split(data.root, split, paths)
    if found is None and split == "train":
        found = _find_only_split(data.root, paths)
    return found or _refuse(data.root, split, paths, remedy or f"rename them{_explicit_options(split)}")


def find_named_split(root: Path, split: str, paths: config.Split | None = None) -> tuple[Path, Path] | None:
    """Images folder and annotation file of a split in a folder that may hold several; None unless both are found.

    Args:
        root: the folder.
        split: a key of ``SPLIT_NAMES``.
        paths: what is known already.
    """
    paths = paths or config.Split()
    for name in SPLIT_NAMES[split]:
        annotations = paths.annotations or _named_annotations(root, name, split)
        if annotations is None:
            continue
        folders = [folder.format(name) for folder in IMAGE_FOLDERS]
        inside = [f"{name}/{folder}" for folder in SINGLE_IMAGE_FOLDERS]
        images = paths.images or _images_of(root, annotations, folders, [*folders, *inside, *SINGLE_IMAGE_FOLDERS])
        if images:
            return images, annotations
    return None


def find_annotations(
    folder: Path, split: str, suffixes: Sequence[str] = (".json",), *, only_split: bool = False
) -> Path | None:
    """The annotation file of a split in a folder.

    Args:
        folder: with annotations, perhaps of several splits.
        split: a key of ``SPLIT_NAMES``.
        suffixes: of files that are accepted under the name of the split.
        only_split: whether the folder holds no other split, so that its only annotation file is the one.
    """
    names = [file.format(name) for name in SPLIT_NAMES[split] for file in NAMED_FILES]
    found = _first_file(folder, [name + suffix for name in names for suffix in suffixes])
    if found or not only_split:
        return found
    if found := _first_file(folder, SINGLE_FILES):
        return found
    files = (file for file in _listed(folder) if file.suffix.lower() in suffixes and file.is_file())
    single = [file for file in files if file.suffix.lower() != ".json" or _looks_like_coco(file)]
    return single[0] if len(single) == 1 else None


def find_images(folder: Path, annotations: Path, split: str) -> Path:
    """The images folder in or below a folder of one split: where files that ``annotations`` lists are.

    The folder itself if none is found; with sharded data a host holds only some of the images.
    """
    subfolders = [path.relative_to(folder).as_posix() for path in _listed(folder / "images") if path.is_dir()]
    places = [*SINGLE_IMAGE_FOLDERS, *SPLIT_NAMES[split], *subfolders]
    return _images_of(folder, annotations, (), places) or folder


def list_folder(folder: Path, limit: int = 8) -> str:
    """Names in a folder for messages, folders with a slash, hidden ones left out."""
    if not folder.is_dir():
        return f"{folder} does not exist"
    names = [path.name + ("/" if path.is_dir() else "") for path in _listed(folder)]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "") or "nothing"


def _find_only_split(root: Path, paths: config.Split) -> tuple[Path, Path] | None:
    annotations = paths.annotations or find_annotations(root, "train", only_split=True)
    if annotations is None:
        return None
    images = paths.images or find_images(root, annotations, "train")
    return (images, annotations) if paths.images or _holds_files(images, _listed_names(annotations)) else None


def _refuse(root: Path, split: str, paths: config.Split, remedy: str) -> NoReturn:
    """Raise UserError with what is missing, where it was searched for, and what is there instead."""
    missing = "images folder and annotation file"
    if split == "train" and (only := find_annotations(root, split, only_split=True)):
        missing = f"folder with the files that {only} lists"
    for name in SPLIT_NAMES[split]:
        images = next(
            (root / folder.format(name) for folder in IMAGE_FOLDERS if (root / folder.format(name)).is_dir()), None
        )
        annotations = paths.annotations or _named_annotations(root, name, split)
        if images or paths.images:
            missing = f"annotation file for {paths.images or images}"
        elif annotations:
            missing = f"images folder for {annotations}"
    files = [*(f"{file.format('NAME')}.json" for file in NAMED_FILES), "a COCO file in NAME"]
    searched = ", ".join([*(folder.format("NAME") for folder in IMAGE_FOLDERS), *files])
    raise UserError(
        f"{root} has no {missing} of the {split} split: searched for {searched} with NAME = "
        f"{', '.join(SPLIT_NAMES[split])}; found {list_folder(root)}; {remedy}"
    )


def _named_annotations(root: Path, name: str, split: str) -> Path | None:
    named = _first_file(root, [f"{file.format(name)}.json" for file in NAMED_FILES])
    return named or find_annotations(root / name, split, only_split=True)


def _first_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The first that exists, in any letter case."""
    listings: dict[Path, FolderNames] = {}
    for name in names:
        parent = (folder / name).parent
        if parent not in listings:
            listings[parent] = FolderNames(parent)
        found = listings[parent].find(Path(name).name)
        if found is not None and (parent / found).is_file():
            return parent / found
    return None


def _images_of(root: Path, annotations: Path, preferred: Sequence[str], places: Sequence[str]) -> Path | None:
    """The first of ``places`` with a file that ``annotations`` lists, or the first of ``preferred`` that exists."""
    names = _listed_names(annotations)
    folders = [root / place for place in places]
    for name in names:
        for folder in folders:
            if (folder / name).is_file():
                return folder
    for folder in folders:
        if _holds_files(folder, names):
            return folder
    return next((root / place for place in preferred if (root / place).is_dir()), None)


def _holds_files(folder: Path, names: Sequence[str]) -> bool:
    return folder.is_dir() and len(locate_files(folder, names).missing) < len(names)


def _listed_names(annotations: Path) -> list[str]:
    """The first file names of an annotation file, with slashes; empty where it cannot be read."""
    try:
        with annotations.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return []
    return list(_file_names(head))


def _file_names(head: bytes) -> Iterator[str]:
    for match in islice(_FILE_NAME.finditer(head), _NAMES):
        try:
            name = normal_name(json.loads(match[1]))
            os.fsencode(name)
        except ValueError:  # not UTF-8, or characters that no file name can have
            continue
        if name and "\0" not in name:
            yield name


def _looks_like_coco(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return _COCO_KEY.search(stream.read(_HEAD)) is not None
    except OSError:
        return False


def _explicit_options(split: str) -> str:
    return "" if split == "test" else f", or set data.{split}.images and data.{split}.annotations"


def _listed(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without hidden files; empty where it does not exist."""
    if not folder.is_dir():
        return []
    return sorted(folder / name for name in os.listdir(folder) if not is_hidden(Path(name)))
