"""``manifest.json`` of a checkpoint: step, state, and hashes of all files and of the manifest itself."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

MANIFEST = "manifest.json"
FORMAT = 2
MAX_STEP = 2**53
MAX_BYTES = 64 << 20  # far beyond any real manifest
_KEYS = {"format", "step", "state", "sha256", "manifest_sha256"}
_KEYS_OF_FORMAT_1 = {"step", "state", "sha256"}  # written by earlier versions, without a hash of the manifest
_HASH = re.compile(r"[0-9a-f]{64}")


class DamagedManifest(ValueError):
    """The manifest is unreadable, or its content is not that which was written; the message says why."""


class Manifest(NamedTuple):
    """Content of a manifest.

    Attributes:
        step: optimizer steps taken.
        state: what the trainer stored beside the variables.
        sha256: hash of each other file of the checkpoint by name.
    """

    step: int
    state: dict[str, Any]
    sha256: dict[str, str]


def write_manifest(step: int, state: dict[str, Any], sha256: dict[str, str]) -> str:
    """Text of the manifest file."""
    content = {"format": FORMAT, "step": step, "state": state, "sha256": sha256}
    return json.dumps({**content, "manifest_sha256": _hash_of(content)}, indent=2) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read and validate the manifest of a checkpoint's folder.

    Raises:
        DamagedManifest: not JSON, missing or wrong values, or a hash that does not match.
        OSError: the file cannot be read.
    """
    file = folder / MANIFEST
    if file.stat().st_size > MAX_BYTES:
        raise DamagedManifest(f"{MANIFEST} has {file.stat().st_size:,} bytes")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedManifest(f"{MANIFEST} is not valid JSON: {_short(error)}") from None
    if not isinstance(content, dict):
        raise DamagedManifest(f"{MANIFEST} is {_short(content)}, expected an object")
    if content.keys() not in (_KEYS, _KEYS_OF_FORMAT_1):
        raise DamagedManifest(f"{MANIFEST} has the keys {_short(sorted(content))}, expected {sorted(_KEYS)}")
    if "format" in content:
        expected = content.pop("manifest_sha256")
        if content["format"] != FORMAT or expected != _hash_of(content):
            raise DamagedManifest(f"{MANIFEST} differs from its hash")
    step, state, sha256 = content["step"], content["state"], content["sha256"]
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= MAX_STEP:
        raise DamagedManifest(f"step of {MANIFEST} is {_short(step)}, expected an integer from 0")
    if not isinstance(state, dict):
        raise DamagedManifest(f"state of {MANIFEST} is {_short(state)}, expected an object")
    if not isinstance(sha256, dict) or not all(_is_entry(name, value) for name, value in sha256.items()):
        raise DamagedManifest(f"sha256 of {MANIFEST} is {_short(sha256)}, expected a hash for each file name")
    return Manifest(step, state, sha256)


def hash_file(file: Path) -> str:
    """SHA-256 of a file's content, hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _hash_of(content: dict[str, Any]) -> str:
    """Hash of the values, which does not depend on white space."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _is_entry(name: str, value: object) -> bool:
    plain = bool(name) and "/" not in name and "\0" not in name and name not in (".", "..", MANIFEST)
    return plain and isinstance(value, str) and _HASH.fullmatch(value) is not None


def _short(value: object) -> str:
    """A value for a message, cut to a length that a terminal can show."""
    try:
        text = str(value)
    except ValueError:  # an integer of more digits than Python converts to text
        return "a number of thousands of digits"
    except RecursionError:
        return "deeply nested"
    return text if len(text) <= 80 else f"{text[:79]}…"
