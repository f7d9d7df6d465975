"""Finds images, annotations, weights and a recipe in the job's input channels.

Supported layouts:

* ``train`` (or ``training``) and ``validation`` hold images, with annotation files beside them or in ``annotations``;
* one channel of any name holds a whole COCO folder;
* an annotation file is COCO JSON, or an augmented manifest of Ground Truth, which is converted in a scratch folder;
* a Pipe channel streams an augmented manifest in RecordIO, which is written to the scratch folder before training
  begins.

``weights`` and ``config`` are optional. A suffix may follow the word, as in ``val-set``; other channels are ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from frcnn import config
from frcnn.container.input_files import InputChannel
from frcnn.data.image_files import is_hidden
from frcnn.data.splits import (
    find_annotations,
    find_images,
    find_named_split,
    find_split,
    list_folder,
)
from frcnn.errors import UserError, print_message
from frcnn.serving.model_source import ARCHIVE, find_model
from frcnn.weights.model_files import WEIGHTS

if TYPE_CHECKING:
    from frcnn.data.formats.builder import Conversion

ROLES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "eval", "evaluation"),
    "annotations": ("annotations", "annotation", "labels"),
    "weights": ("weights", "pretrained", "model"),
    "config": ("config", "recipe"),
}
MANIFESTS = (".manifest", ".jsonl")


@dataclass(frozen=True)
class JobInputs:
    """The inputs of a job.

    Attributes:
        data: the location of the splits, as values of the configuration section ``data``.
        weights: model folder or weights file to start from.
        config: YAML file.
        messages: lines for the log.
    """

    data: dict[str, Any]
    weights: Path | None = None
    config: Path | None = None
    messages: tuple[str, ...] = field(default=())


def role_of(name: str) -> str | None:
    """The role of a channel, by the first word of its name: ``"train"`` for ``Training-2024``; None for other names."""
    word = re.split(r"[-_.]", name.lower())[0]
    return next((role for role, words in ROLES.items() if word in words), None)


def check_distribution(channels: Sequence[InputChannel], hosts: int, sharded: bool) -> None:
    """Check that every host has all files it needs; with ``data.sharded`` training images may be distributed.

    Raises:
        UserError: a channel that every host needs in full is sharded over the hosts.
    """
    roles, _ = _roles(channels)
    may_be_sharded = [
        roles.get("weights"),
        roles.get("config"),
        roles.get("train") if sharded and "annotations" in roles else None,
    ]
    for channel in channels:
        if channel.distribution == "ShardedByS3Key" and hosts > 1 and channel not in may_be_sharded:
            raise UserError(
                f"channel {channel.name!r} is ShardedByS3Key over {hosts} hosts, but every host needs all images and "
                "annotations, because each reads a part of every batch: set FullyReplicated, with input mode FastFile "
                "if the download takes too long. Only training images may be sharded, with data.sharded=true and the "
                "annotations in a separate channel"
            )


def find_inputs(channels: Sequence[InputChannel], scratch: Path, want_data: bool = True) -> JobInputs:
    """Search the channels; converts manifests and reads pipes to the end.

    Args:
        scratch: folder for converted annotations and images read from pipes.
        want_data: False if a hyperparameter gives the location of the data.

    Raises:
        UserError: no training data, or an unsupported layout; lists what was found.
    """
    roles, others = _roles(channels)
    messages = [f"channel {channel.name!r} is not used" for channel in others]
    data = _data(roles, others, scratch, channels) if want_data else {}
    weights = _weights(roles["weights"], scratch) if "weights" in roles else None
    recipe = _only(roles["config"], ("*.yaml", "*.yml"), "recipe") if "config" in roles else None
    return JobInputs(data, weights, recipe, tuple(messages) if "root" not in data else ())


def _roles(channels: Sequence[InputChannel]) -> tuple[dict[str, InputChannel], list[InputChannel]]:
    """Channels by role, exact names before names with a suffix; and the channels without a role."""
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
    # A training channel of one split is left to _split, which also converts manifests.
    search = find_named_split if train else _find_split_below
    whole = [channel for channel in candidates if channel.mode != "Pipe" and search(channel.folder, "train")]
    if len(whole) == 1:
        return {"root": whole[0].folder}
    if train is None:
        raise UserError(
            f"no channel contains training data: found {_listing(channels)}. Use channels 'train' (images) and "
            "'annotations' (instances_train.json), or one channel with train2017/ and "
            "annotations/instances_train2017.json"
        )
    annotations = roles.get("annotations")
    data: dict[str, Any] = {}
    for split in ("train", "validation"):
        if split in roles:
            images, file = _split(split, roles[split], annotations, scratch, alone="validation" not in roles)
            data[split] = {"images": images, "annotations": file}
    return data


def _find_split_below(folder: Path, split: str) -> tuple[Path, Path] | None:
    try:
        return find_split(config.Data(root=folder), split)
    except UserError:
        return None


def _split(
    split: str, channel: InputChannel, annotations: InputChannel | None, scratch: Path, alone: bool
) -> tuple[Path, Path]:
    """Image folder and COCO file of a split."""
    if channel.mode == "Pipe":
        return _read_pipe(channel, split, scratch)
    places = [(channel, True)] + ([(annotations, alone)] if annotations else [])
    for place, only_split in reversed(places):
        file = find_annotations(place.folder, split, (".json", *MANIFESTS), only_split=only_split)
        if file is None:
            continue
        if file.suffix in MANIFESTS:
            from frcnn.data.formats.manifest import manifest_to_coco

            return channel.folder, _write_tables(manifest_to_coco(file, images=channel.folder), split, scratch)
        return find_images(channel.folder, file, split), file
    searched = ", ".join(f"{place.name!r}" for place, _ in places)
    name = "train" if split == "train" else "val"
    raise UserError(
        f"no annotation file of the {split} split in {'channel' if len(places) == 1 else 'channels'} {searched}: found "
        f"{_listing([place for place, _ in places])}. Put _annotations.coco.json beside the images of channel "
        f"{channel.name!r}, or instances_{name}.json into a channel 'annotations'"
    )


def _read_pipe(channel: InputChannel, split: str, scratch: Path) -> tuple[Path, Path]:
    from frcnn.data.formats.manifest_stream import stream_to_coco
    from frcnn.data.recordio import read_records

    if channel.record_wrapper != "RecordIO":
        raise UserError(
            f"channel {channel.name!r} uses Pipe mode with RecordWrapperType {channel.record_wrapper}; only augmented "
            "manifests in RecordIO can be streamed: set RecordWrapperType to RecordIO and AttributeNames to the image "
            "and its labels, or use input mode File or FastFile"
        )
    images = scratch / split
    pipe = channel.pipe(0)
    if not pipe.exists():
        raise UserError(
            f"channel {channel.name!r} uses Pipe mode, but {pipe} does not exist; SageMaker creates it before the "
            "container starts"
        )
    with pipe.open("rb") as stream:
        conversion = stream_to_coco(read_records(stream, str(pipe)), images)
    return images, _write_tables(conversion, split, scratch)


def _write_tables(conversion: Conversion, split: str, scratch: Path) -> Path:
    """Write converted tables to the scratch folder and log what was skipped or repaired."""
    for line in conversion.report.lines():
        print_message(f"{split} manifest: {line}")
    scratch.mkdir(parents=True, exist_ok=True)
    file = scratch / f"instances_{split}.json"
    file.write_text(json.dumps(conversion.tables))
    return file


def _weights(channel: InputChannel, scratch: Path) -> Path:
    """A model folder, the ``model.tar.gz`` of an earlier job, or a weights file."""
    if (channel.folder / ARCHIVE).is_file():
        return find_model(channel.folder / ARCHIVE, scratch)
    for candidate in (channel.folder, channel.folder / "model"):
        if (candidate / WEIGHTS).is_file():
            return candidate
    return _only(channel, ("*.safetensors",), f"model folder, {ARCHIVE} or weights file")


def _only(channel: InputChannel, patterns: tuple[str, ...], what: str) -> Path:
    files = [file for pattern in patterns for file in sorted(channel.folder.glob(pattern))]
    files = [file for file in files if not is_hidden(PurePath(file.name))]
    if len(files) != 1:
        raise UserError(
            f"expected one {what} ({', '.join(patterns)}) in channel {channel.name!r}; found {_listing([channel])}"
        )
    return files[0]


def _listing(channels: Sequence[InputChannel]) -> str:
    """The first files of each channel."""
    if not channels:
        return "no channels"
    return "; ".join(f"{channel.name} ({_contents(channel)})" for channel in channels)


def _contents(channel: InputChannel) -> str:
    return "Pipe mode" if channel.mode == "Pipe" else list_folder(channel.folder)
