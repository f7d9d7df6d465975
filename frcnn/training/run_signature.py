"""What all ranks of a run must have in common, as texts that can be compared."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import frcnn
from frcnn.config import Config, option_names
from frcnn.data.coco import Index

# Prefixes of options that may differ between hosts: places of files. The content of the data is compared by
# fingerprint.
_OF_THE_HOST = ("output", "weights", "data.root", "data.train.", "data.validation.", "data.workers")


def run_signature(config: Config, train: Index, validation: Index | None) -> dict[str, str]:
    """Name and value of everything that must be the same on all ranks: code, versions, options, classes, data."""
    packages = {package: _version(package) for package in ("tensorflow", "keras", "horovod")}
    data = {} if config.data.sharded else {"training data": train.fingerprint[:12]}
    return {
        "frcnn": f"{frcnn.__version__} with sources {_hash_of_sources()[:12]}",
        **packages,
        **_options(config),
        "classes": ", ".join(train.class_names),
        **data,
        "validation data": validation.fingerprint[:12] if validation else "none",
    }


def _options(config: Config) -> dict[str, str]:
    compared = {}
    for name in option_names(Config):
        if name.startswith(_OF_THE_HOST):
            continue
        value = config.model_dump(mode="json")
        for key in name.split("."):
            value = value[key]
        compared[f"option {name}"] = json.dumps(value)
    return compared


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # tensorflow-cpu, for example, has another name
        return "not installed under this name"


def _hash_of_sources() -> str:
    root = Path(frcnn.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()
