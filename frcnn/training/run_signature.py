"""What all ranks of a run must have in common, as texts that can be compared."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import frcnn
from frcnn.config import Config, option_names
from frcnn.data.coco import Index

# Where things lie on a host; what is in the data is compared by its fingerprint.
_OF_THE_HOST = ("output", "weights", "data.root", "data.train.", "data.validation.", "data.workers")


def facts(config: Config, train: Index, validation: Index | None) -> dict[str, str]:
    """Name and value of everything that must not differ: code, versions, options, classes, data."""
    packages = {package: _version(package) for package in ("tensorflow", "keras", "horovod")}
    data = {} if config.data.sharded else {"training data": train.fingerprint[:12]}
    return {
        "frcnn": f"{frcnn.__version__} with sources {_sources()[:12]}",
        **packages,
        **_options(config),
        "classes": ", ".join(train.class_names),
        **data,
        "validation data": validation.fingerprint[:12] if validation else "none",
    }


def _options(config: Config) -> dict[str, str]:
    compared = {}
    for name in option_names():
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
    except PackageNotFoundError:  # TensorFlow for processors alone has another name
        return "not installed under this name"


def _sources() -> str:
    """Hash of the package's Python files."""
    root = Path(frcnn.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()
