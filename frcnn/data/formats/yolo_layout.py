"""Where the images and class names of a YOLO dataset are: ``data.yaml``, or a file of names beside the images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from frcnn.config import parse_yaml
from frcnn.data.formats.image_finder import address_parts
from frcnn.data.formats.report import Report
from frcnn.data.formats.values import clean_name, read_text, short, split_lines
from frcnn.data.image_files import is_image_name, list_images
from frcnn.data.json_values import as_integer
from frcnn.errors import UserError

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NAMES_FILES = ("obj.names", "classes.txt", "classes.names")


class YoloLayout(NamedTuple):
    """One split of a YOLO dataset.

    Attributes:
        images: the image files, which exist.
        folders: those in which every image belongs to the split; without labels of their own they have orphans.
        class_names: by class id; empty if no file has them.
        keypoints: how many numbers follow the box of a pose label; 0 for other tasks.
        split: its key in ``data.yaml``; "" if there is no such file.
        other_splits: further ones that ``data.yaml`` has.
    """

    images: list[Path]
    folders: list[Path]
    class_names: dict[int, str]
    keypoints: int
    split: str
    other_splits: list[str]


def find_layout(source: Path, split: str | None, report: Report) -> YoloLayout:
    """Read ``data.yaml``, or look through a folder that has none.

    Args:
        source: the YAML file, or the dataset's folder.
        split: ``train``, ``val`` or ``test``; None: the first of them that ``data.yaml`` has.
        report: receives listed images that do not exist.

    Raises:
        UserError: no images, or a malformed file.
    """
    source = Path(os.path.abspath(source))  # lists may contain absolute paths, and all images need a common folder
    file = source if source.is_file() else _find_yaml(source)
    if file is not None:
        return _layout_of_yaml(file, split, report)
    if not source.is_dir():
        raise UserError(f"{source} does not exist; give data.yaml, or the folder of a YOLO dataset")
    if split is not None:
        raise UserError(f"{source} has no data.yaml, which defines splits; give the folder of the split instead")
    images = list_images(source).images
    if not images:
        raise UserError(f"{source} has neither data.yaml nor images; give data.yaml, or the folder of a YOLO dataset")
    names = next((source / name for name in NAMES_FILES if (source / name).is_file()), None)
    lines = split_lines(read_text(names)) if names else []
    while lines and not lines[-1].strip():  # an empty line in between counts: the line number is the class id
        lines.pop()
    return YoloLayout(images, [source], dict(enumerate(map(clean_name, lines))), 0, "", [])


def _find_yaml(folder: Path) -> Path | None:
    for name in YAML_NAMES:
        if (folder / name).is_file():
            return folder / name
    single = [path for suffix in ("*.yaml", "*.yml") for path in sorted(folder.glob(suffix)) if path.name[0] != "."]
    return single[0] if len(single) == 1 else None


def _layout_of_yaml(file: Path, split: str | None, report: Report) -> YoloLayout:
    content = _read_yaml(file)
    given = {name: content[key] for name, keys in SPLITS.items() for key in reversed(keys) if _is_given(content, key)}
    if not given:
        raise UserError(f"{file} has none of 'train', 'val' and 'test'; expected the data.yaml of a YOLO dataset")
    chosen = split or next(iter(given))
    if chosen not in given:
        raise UserError(f"{file} has no split {chosen!r}; it has {', '.join(given)}: choose one with --split")
    sources = given[chosen] if isinstance(given[chosen], list) else [given[chosen]]
    roots = _roots(file, content.get("path"))
    images: list[Path] = []
    folders: list[Path] = []
    for source in sources:
        path = _resolve(source, roots, f"{file}: {chosen}")
        if path.is_dir():
            folders.append(path)
            images += list_images(path).images
        elif path.suffix.lower() == ".txt":
            images += _read_list(path, roots, report)
        elif is_image_name(path.name):
            images.append(path)
        else:
            raise UserError(f"{file}: {chosen} names {path}; expected a folder, a list in a .txt file, or an image")
    if not images:
        raise UserError(f"{file}: split {chosen!r} has no images: looked in {', '.join(map(short, sources))}")
    names = _class_names(content, file, report)
    return YoloLayout(
        list(dict.fromkeys(images)),
        folders,
        names,
        _keypoints(content.get("kpt_shape"), file),
        chosen,
        [name for name in given if name != chosen],
    )


def _is_given(content: dict[str, Any], key: str) -> bool:
    return content.get(key) not in (None, "", "null", "~", [])


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        # All scalars stay text, so that the class names yes, no, 007 and 2020-01-01 are not converted to other types.
        content = parse_yaml(read_text(file), yaml.BaseLoader)
    except ValueError as error:
        raise UserError(f"{file} is not valid YAML: {error}") from error
    except RecursionError as error:
        raise UserError(f"{file} is not usable: the YAML is nested too deeply") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} contains a {type(content).__name__}; expected the keys of a YOLO data.yaml")
    return content


def _roots(file: Path, path: Any) -> list[Path]:
    """Folders that the paths of ``data.yaml`` may start from, most likely first."""
    here = file.parent
    roots = [here]
    if isinstance(path, str) and path.strip():
        written = Path(path.strip().replace("\\", "/")).expanduser()
        roots = [here / written, Path.cwd() / written, here]
    return list(dict.fromkeys(roots))


def _resolve(source: Any, roots: Sequence[Path], place: str) -> Path:
    """An existing file or folder for a path that may have been written on another machine or for another folder."""
    if not isinstance(source, str) or not source.strip() or "\0" in source:
        raise UserError(f"{place} is {short(source)}; expected a path, or a list of paths")
    text = source.strip()
    written = Path(text.replace("\\", "/")).expanduser()
    parts = address_parts(text)  # Roboflow writes ../train/images for the folder train/images beside the file
    ends = [PurePosixPath(*parts[start:]) for start in range(len(parts))]
    candidates = [*(root / written for root in roots), *(root / end for end in ends for root in roots)]
    found = next((path for path in candidates if _exists(path)), None)
    if found is None:
        raise UserError(
            f"{place} is {text!r}, which does not exist: looked for it below {', '.join(map(str, roots))}; correct the "
            "path, or 'path'"
        )
    return Path(os.path.normpath(found))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, not encodable
        return False


def _read_list(file: Path, roots: Sequence[Path], report: Report) -> list[Path]:
    """Images of a list, one path per line, relative to the list or to the dataset's folder."""
    images = []
    for line in filter(None, map(str.strip, split_lines(read_text(file)))):
        try:
            images.append(_resolve(line, [file.parent, *roots], str(file)))
        except UserError:
            report.skip("listed images that do not exist", f"{file.name}: {line}")
    return images


def _class_names(content: dict[str, Any], file: Path, report: Report) -> dict[int, str]:
    names, number = content.get("names"), as_integer(content.get("nc"))
    if not _is_given(content, "names"):
        return {class_id: f"class {class_id}" for class_id in range(min(number or 0, 100_000))}
    entries = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(entries, dict):
        raise UserError(f"{file}: 'names' is {short(names)}; expected a list of class names, or names by class id")
    result: dict[int, str] = {}
    for key, value in entries.items():
        class_id = as_integer(key)
        name = clean_name(value)
        if class_id is None or class_id < 0 or not name:
            raise UserError(f"{file}: 'names' has {short(key)}: {short(value)}; expected a class id and its name")
        result[class_id] = name
    if number is not None and number != len(result):
        report.note(f"'nc' is {number}, but 'names' has {len(result)} classes; 'names' is used", file.name)
    return result


def _keypoints(shape: Any, file: Path) -> int:
    if shape in (None, ""):
        return 0
    numbers = [as_integer(value) for value in shape] if isinstance(shape, list) else []
    if len(numbers) != 2 or any(number is None or not 0 < number < 10_000 for number in numbers):
        raise UserError(f"{file}: 'kpt_shape' is {short(shape)}; expected [number of keypoints, 2 or 3]")
    return (numbers[0] or 0) * (numbers[1] or 0)
