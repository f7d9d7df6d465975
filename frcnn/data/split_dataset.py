"""Division of a COCO file into training, validation and test, without a group of images in two of them.

The division is a function of the images' groups, the shares and the seed; the order of the file does not matter.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from frcnn.data.json_values import as_integer
from frcnn.data.problems import first_few, shorten
from frcnn.errors import UserError

CLEAN = "clean the file first: frcnn convert coco-json FILE --out CLEAN.json"


class Group(NamedTuple):
    """Images that belong together.

    Attributes:
        name: value of the field, prefix or file name that they share.
        images: ids.
        objects: number of objects by category id.
    """

    name: str
    images: list[int]
    objects: Counter[int]


class Division(NamedTuple):
    """Result of :func:`split_dataset`.

    Attributes:
        tables: COCO content by split; everything of the source but images and annotations is in each of them.
        groups: the groups of each split.
        notes: what the user should know.
    """

    tables: dict[str, dict[str, Any]]
    groups: dict[str, list[Group]]
    notes: list[str]


def split_dataset(
    content: Any, shares: Mapping[str, float], *, by: str | None = None, stratify: bool = False, seed: int = 0
) -> Division:
    """Divide the images of a COCO file.

    Args:
        content: the parsed file.
        shares: share of the images by split, such as ``{"train": 0.8, "val": 0.2}``.
        by: keeps images together that have the same value in this field of the image table, or, if no image has such a
            field, the same file name up to the first occurrence of this text. None: every image for itself.
        stratify: keep the share of the objects of every class, not only of the images.
        seed: other seeds give other divisions.

    Raises:
        UserError: a malformed or repeated image, a field that does not exist, or fewer groups than splits.
    """
    images = _check_images(content)
    annotations = content["annotations"]
    objects: dict[int, Counter[int]] = defaultdict(Counter)
    notes = []
    for entry in annotations:
        if isinstance(entry, dict) and as_integer(entry.get("image_id")) in images:
            objects[as_integer(entry["image_id"]) or 0][as_integer(entry.get("category_id")) or 0] += 1
    lost = len(annotations) - sum(map(Counter.total, objects.values()))
    if lost:
        notes.append(f"{lost} annotations without a listed image are in no split; {CLEAN}")
    names, alone = _group_names(images, by)
    if alone:
        notes.append(f"{alone} images without {by!r} are groups of their own")
    members: dict[str, list[int]] = defaultdict(list)
    for image_id, name in names.items():
        members[name].append(image_id)
    groups = [Group(name, ids, sum((objects[i] for i in ids), Counter())) for name, ids in members.items()]
    if len(groups) < len(shares):
        raise UserError(f"{len(groups)} groups of images cannot be divided into {len(shares)} splits; add images")
    assigned = _assign(groups, shares, stratify, seed)
    return Division(
        {split: _part(content, {i for group in assigned[split] for i in group.images}) for split in shares},
        assigned,
        notes,
    )


def _check_images(content: Any) -> dict[int, dict[str, Any]]:
    """The image table by id."""
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise UserError("the file has no lists 'images' and 'annotations'; expected COCO instances JSON")
    images: dict[int, dict[str, Any]] = {}
    files: set[str] = set()
    for position, entry in enumerate(content["images"]):
        image_id = as_integer(entry.get("id")) if isinstance(entry, dict) else None
        if image_id is None or not isinstance(entry.get("file_name"), str):
            raise UserError(f"entry {position} of 'images' is {shorten(entry)}; expected 'id' and 'file_name'; {CLEAN}")
        if image_id in images or entry["file_name"] in files:
            raise UserError(f"image {image_id} ({entry['file_name']!r}) is listed twice; {CLEAN}")
        images[image_id] = entry
        files.add(entry["file_name"])
    return images


def _group_names(images: Mapping[int, dict[str, Any]], by: str | None) -> tuple[dict[int, str], int]:
    """Group of each image, and how many have no value for ``by``."""
    if by is None:
        return {image_id: entry["file_name"] for image_id, entry in images.items()}, 0
    names: dict[int, str] = {}
    alone = 0
    is_field = any(by in entry for entry in images.values())
    for image_id, entry in images.items():
        prefix, found, _ = entry["file_name"].partition(by)
        value = entry.get(by) if is_field else prefix if found else None
        if isinstance(value, str | int | float) and value != "":
            names[image_id] = f"{by} {value}"
        else:
            names[image_id] = f"file {entry['file_name']}"
            alone += 1
    if images and alone == len(images):
        fields = sorted({field for entry in images.values() for field in entry} - {"id", "width", "height"})
        raise UserError(
            f"--by is {by!r}, which is neither a field of the images with text or numbers ({first_few(fields)}) nor "
            f"part of a file name such as {next(iter(images.values()))['file_name']!r}"
        )
    return names, alone


def _assign(groups: Sequence[Group], shares: Mapping[str, float], stratify: bool, seed: int) -> dict[str, list[Group]]:
    """Assign large groups first, each to the split that lacks most images.

    Stratified, class by class instead, the one in the fewest groups first: each of its groups goes to the split that
    lacks most of its objects. (Sechidis et al., "On the Stratification of Multi-Label Data", 2011.)
    """
    order = sorted(groups, key=lambda group: (-len(group.images), _priority(group.name, seed)))
    total = sum(len(group.images) for group in groups)
    lacking_images = {split: share * total for split, share in shares.items()}
    objects: Counter[int] = sum((group.objects for group in groups), Counter())
    lacking = {category: {s: share * count for s, share in shares.items()} for category, count in objects.items()}
    assigned: dict[str, list[Group]] = {split: [] for split in shares}
    waiting = dict.fromkeys(range(len(order)))  # a set that keeps its order

    def assign(number: int, category: int | None = None) -> None:
        group = order[number]
        needs = lacking_images if category is None else lacking[category]
        split = max(shares, key=lambda split: (round(needs[split], 6), lacking_images[split]))
        assigned[split].append(group)
        lacking_images[split] -= len(group.images)
        for other, count in group.objects.items():
            lacking[other][split] -= count
        del waiting[number]

    if stratify:
        holders: dict[int, list[int]] = defaultdict(list)
        for number, group in enumerate(order):
            for category in group.objects:
                holders[category].append(number)
        left = {category: len(numbers) for category, numbers in holders.items()}
        while left:
            category = min(left, key=lambda category: (left[category], category))
            numbers = [number for number in holders[category] if number in waiting]
            for number in sorted(numbers, key=lambda number: -order[number].objects[category]):
                assign(number, category)
                for other in order[number].objects:
                    if other in left:
                        left[other] -= 1
            del left[category]
    for number in list(waiting):
        assign(number)
    _fill_empty(assigned)
    return assigned


def _fill_empty(assigned: dict[str, list[Group]]) -> None:
    """Give each empty split the smallest group of the split with most groups."""
    for groups in assigned.values():
        if not groups:
            donor = max(assigned.values(), key=len)
            groups.append(donor.pop(min(range(len(donor)), key=lambda number: len(donor[number].images))))


def _priority(name: str, seed: int) -> bytes:
    """A random number that depends on nothing else, so that added images hardly change the others' splits."""
    return hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogatepass")).digest()


def _part(content: Mapping[str, Any], image_ids: set[int]) -> dict[str, Any]:
    """The content with the given images and their annotations alone, in the order of the file."""
    return {
        **content,
        "images": [entry for entry in content["images"] if as_integer(entry["id"]) in image_ids],
        "annotations": [
            entry
            for entry in content["annotations"]
            if isinstance(entry, dict) and as_integer(entry.get("image_id")) in image_ids
        ],
    }
