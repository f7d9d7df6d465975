"""SHA-256 hashes of the files of a model folder, in a file that ``sha256sum --check`` reads as well."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from frcnn.errors import UserError
from frcnn.weights.model_files import HASHES

_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def write_hashes(folder: Path, names: Sequence[str]) -> None:
    """Write the hashes of these files of a folder to its file ``SHA256SUMS``."""
    (folder / HASHES).write_text("".join(f"{file_hash(folder / name)}  {name}\n" for name in names))


def verify_hashes(folder: Path, names: Sequence[str]) -> None:
    """Compare files with the hashes in their folder; those without a hash, as in folders of older versions, pass.

    Raises:
        UserError: a file is missing or not the one that was written.
    """
    try:
        lines = (folder / HASHES).read_text().splitlines()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / HASHES} cannot be read ({error})") from error
    parsed = [_LINE.fullmatch(line) for line in lines]
    if not all(parsed) or not parsed:
        raise UserError(f"{folder / HASHES} is damaged; copy the model folder again")
    hashes = {line[2]: line[1] for line in parsed if line}
    for name in hashes.keys() & set(names):
        file = folder / name
        if not file.is_file():
            problem = f"is missing, but {HASHES} lists it"
        elif file_hash(file) != hashes[name]:
            problem = f"is damaged or was changed: its SHA-256 is not the one in {HASHES}"
        else:
            continue
        raise UserError(
            f"{file} {problem}; copy the model folder again, or delete {HASHES} if you changed the folder yourself"
        )


def file_hash(file: Path) -> str:
    """SHA-256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
