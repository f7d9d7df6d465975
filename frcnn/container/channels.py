"""What the job's channels hold: pictures, annotations, weights, a recipe; whichever way they are laid out.

* ``train`` (or ``training``) and ``validation`` hold pictures; their annotation files are in ``annotations`` or beside the pictures.
* one channel holds a whole COCO folder.
* an annotation file is COCO's JSON, or an augmented manifest of Ground Truth, which is converted to one in a scratch folder.
* a Pipe channel streams an augmented manifest in RecordIO; it is written to the scratch folder before training begins.

``weights`` and ``config`` are optional. Names may go on after the word, as ``val-set`` does; other channels are left alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from frcnn import config
from frcnn.container.input_files import InputChannel
from frcnn.data.splits import SPLIT_NAMES, find_split
from frcnn.errors import UserError
from frcnn.serving.model_source import ARCHIVE, find_model

ROLES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "eval", "evaluation"),
    "annotations": ("annotations", "annotation", "labels"),
    "weights": ("weights", "pretrained", "model"),
    "config": ("config", "recipe"),
}
MANIFESTS = (".manifest", ".jsonl")
WEIGHTS = "weights.safetensors"
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_HEAD = 1 << 20  # bytes of an annotation file in which the first pictures' names are looked for
_NAMES = 1000  # of them: some are here, unless the channel is spread over hundreds of hosts


@dataclass(frozen=True)
class JobInputs:
    """What a job is given.

    Attributes:
        data: the values of the configuration's section ``data`` that say where the splits are.
        weights: model folder or weights file to start from.
        config: YAML file.
        notes: for the log.
    """

    data: dict[str, Any]
    weights: Path | None = None
    config: Path | None = None
    notes: tuple[str, ...] = field(default=())


def role_of(name: str) -> str | None:
    """What a channel of this name is for, by its first word: ``"train"`` of ``Training-2024``; None for other names."""
    word = re.split(r"[-_.]", name.lower())[0]
    return next((role for role, words in ROLES.items() if word in words), None)


def refuse_parts(channels: Sequence[InputChannel], hosts: int, sharded: bool) -> None:
    """Check that every host has what it needs: all, or with option ``data.sharded`` its part of the training pictures.

    Raises:
        UserError: a channel that every host needs whole is spread over them.
    """
    roles, _ = _roles(channels)
    may_be_parts = [
        roles.get("weights"),
        roles.get("config"),
        roles.get("train") if sharded and "annotations" in roles else None,
    ]
    for channel in channels:
        if channel.distribution == "ShardedByS3Key" and hosts > 1 and channel not in may_be_parts:
            raise UserError(
                f"channel {channel.name!r} is ShardedByS3Key over {hosts} hosts; every host needs all pictures and annotations, since "
                "each takes its share of every batch: set FullyReplicated, with the input mode FastFile where copies take too long. Only "
                "training pictures may be spread, with data.sharded=true and the annotations in a channel of their own"
            )


def find_inputs(channels: Sequence[InputChannel], scratch: Path, want_data: bool = True) -> JobInputs:
    """Look through the channels; converts manifests and reads pipes to their end.

    Args:
        scratch: folder for converted annotations and piped pictures.
        want_data: False where something else says where the data are.

    Raises:
        UserError: no training data, or a layout that is none of ours; says what was found where.
    """
    roles, others = _roles(channels)
    notes = [f"channel {channel.name!r} is not used" for channel in others]
    data = _data(roles, others, scratch, channels) if want_data else {}
    weights = _weights(roles["weights"], scratch) if "weights" in roles else None
    recipe = _only(roles["config"], ("*.yaml", "*.yml"), "recipe") if "config" in roles else None
    return JobInputs(data, weights, recipe, tuple(notes) if "root" not in data else ())


def _roles(channels: Sequence[InputChannel]) -> tuple[dict[str, InputChannel], list[InputChannel]]:
    """Channels by what they are for, a name that is exact before one that goes on; and those of other names."""
    found: dict[str, InputChannel] = {}
    others = []
    for channel in sorted(channels, key=lambda channel: (len(re.split(r"[-_.]", channel.name)), channel.name)):
        role = role_of(channel.name)
        if role is None or role in found:
            others.append(channel)
        else:
            found[role] = channel
    return found, others


def _data(
    roles: dict[str, InputChannel], others: list[InputChannel], scratch: Path, channels: Sequence[InputChannel]
) -> dict[str, Any]:
    train = roles.get("train")
    candidates = (
        [train] if train and not {"validation", "annotations"} & set(roles) else others if train is None else []
    )
    whole = [channel for channel in candidates if channel.mode != "Pipe" and _is_coco_folder(channel.folder)]
    if len(whole) == 1:
        return {"root": whole[0].folder}
    if train is None:
        raise UserError(
            f"no channel holds training data; name one 'train', or give one with a COCO folder. Found {_listing(channels)}"
        )
    annotations = roles.get("annotations")
    data: dict[str, Any] = {}
    for split in ("train", "validation"):
        if split in roles:
            images, file = _split(split, roles[split], annotations, scratch, alone="validation" not in roles)
            data[split] = {"images": images, "annotations": file}
    return data


def _is_coco_folder(folder: Path) -> bool:
    try:
        find_split(config.Data(root=folder), "train")
    except UserError:
        return False
    return True


def _split(
    split: str, channel: InputChannel, annotations: InputChannel | None, scratch: Path, alone: bool
) -> tuple[Path, Path]:
    """Images folder and COCO file of a split."""
    if channel.mode == "Pipe":
        return _read_pipe(channel, split, scratch)
    places = [(channel, True)] + ([(annotations, alone)] if annotations else [])
    for place, only_one in reversed(places):
        file = _annotation_file(place.folder, split, only_one)
        if file is None:
            continue
        if file.suffix in MANIFESTS:
            from frcnn.data.manifest import manifest_to_coco

            return channel.folder, _write_tables(manifest_to_coco(file, channel.folder), split, scratch)
        return _images_folder(channel.folder, file, split), file
    looked = ", ".join(f"{place.name!r}" for place, _ in places)
    raise UserError(
        f"no annotation file of the {split} split in {'channel' if len(places) == 1 else 'channels'} {looked}: looked for "
        f"{', '.join(path.as_posix() for path in _annotation_names(SPLIT_NAMES[split][0]))}, the same with other names of the split, "
        f"and a single .json, .manifest or .jsonl file; found {_listing([place for place, _ in places])}"
    )


def _annotation_names(name: str) -> Iterator[Path]:
    for folder in (Path(), Path("annotations")):
        for prefix in ("instances_", ""):
            for suffix in (".json", *MANIFESTS):
                yield folder / f"{prefix}{name}{suffix}"


def _annotation_file(folder: Path, split: str, only_one: bool) -> Path | None:
    """By the split's name, by Roboflow's, or the only one there is."""
    named = [folder / path for name in SPLIT_NAMES[split] for path in _annotation_names(name)]
    usual = (
        [folder / "_annotations.coco.json", folder / "annotations.json", folder / "instances.json"] if only_one else []
    )
    for file in (*named, *usual):
        if file.is_file():
            return file
    single = (
        [path for suffix in (".json", *MANIFESTS) for path in sorted(folder.glob(f"*{suffix}"))] if only_one else []
    )
    return single[0] if len(single) == 1 else None


def _images_folder(folder: Path, annotations: Path, split: str) -> Path:
    """Where the first pictures that the annotation file names are, among the usual places; else the channel itself.

    A channel that is spread over hosts has only some of them here.
    """
    places = (folder, folder / "images", *(folder / name for name in SPLIT_NAMES[split]), *folder.glob("images/*"))
    with annotations.open("rb") as file:
        head = file.read(_HEAD)
    for match in islice(_FILE_NAME.finditer(head), _NAMES):
        try:
            name = json.loads(match[1])
        except ValueError:
            return folder
        for place in places:
            if (place / name).is_file():
                return place
    return folder


def _read_pipe(channel: InputChannel, split: str, scratch: Path) -> tuple[Path, Path]:
    from frcnn.data.manifest import stream_to_coco
    from frcnn.data.recordio import read_records

    if channel.record_wrapper != "RecordIO":
        raise UserError(
            f"channel {channel.name!r} is piped with RecordWrapperType {channel.record_wrapper}; only augmented manifests in RecordIO can "
            "be: set RecordWrapperType to RecordIO and AttributeNames to the picture and its labels, or choose the mode File or FastFile"
        )
    images = scratch / split
    pipe = channel.pipe(0)
    if not pipe.exists():
        raise UserError(
            f"channel {channel.name!r} is piped, but {pipe} does not exist; SageMaker makes it before the container starts"
        )
    with pipe.open("rb") as stream:
        tables = stream_to_coco(read_records(stream, str(pipe)), images)
    return images, _write_tables(tables, split, scratch)


def _write_tables(tables: dict[str, Any], split: str, scratch: Path) -> Path:
    scratch.mkdir(parents=True, exist_ok=True)
    file = scratch / f"instances_{split}.json"
    file.write_text(json.dumps(tables))
    return file


def _weights(channel: InputChannel, scratch: Path) -> Path:
    """A model folder, as such or as the ``model.tar.gz`` that an earlier job left; or a weights file."""
    if (channel.folder / ARCHIVE).is_file():
        return find_model(channel.folder / ARCHIVE, scratch)
    for candidate in (channel.folder, channel.folder / "model"):
        if (candidate / WEIGHTS).is_file():
            return candidate
    return _only(channel, ("*.safetensors",), f"model folder, {ARCHIVE} or weights file")


def _only(channel: InputChannel, patterns: tuple[str, ...], what: str) -> Path:
    files = [file for pattern in patterns for file in sorted(channel.folder.glob(pattern))]
    if len(files) != 1:
        raise UserError(
            f"expected one {what} ({', '.join(patterns)}) in channel {channel.name!r}; found {_listing([channel])}"
        )
    return files[0]


def _listing(channels: Sequence[InputChannel]) -> str:
    """What is in the channels, shortly."""
    if not channels:
        return "no channels at all"
    return "; ".join(f"{channel.name} ({_contents(channel)})" for channel in channels)


def _contents(channel: InputChannel) -> str:
    if channel.mode == "Pipe":
        return "piped"
    if not channel.folder.is_dir():
        return f"no folder {channel.folder}"
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in channel.folder.iterdir())
    return (", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")) or "empty"
