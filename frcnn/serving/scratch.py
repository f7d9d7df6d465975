"""Temporary folders of an endpoint, and the settings in them that the supervisor hands to its processes."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from frcnn.errors import UserError
from frcnn.serving.options import ServeOptions

SETTINGS, METRICS = "settings.json", "metrics"  # in the scratch folder
SOCKET = "gunicorn.sock"  # in the folder shared with nginx
MAX_SOCKET_PATH = 107  # bytes, of Linux (unix(7))


class Settings(NamedTuple):
    """What gunicorn and its workers need to know.

    Attributes:
        model: the model folder.
        shared: folder of the socket.
    """

    options: ServeOptions
    model: Path
    shared: Path


@contextlib.contextmanager
def scratch_folder(prefix: str, max_length: int | None = None) -> Iterator[Path]:
    """A new folder with an unpredictable name that only this user can open; removed at the end.

    Args:
        max_length: of the path in bytes; if TMPDIR is too long, the folder is in another one for temporary files.

    Raises:
        UserError: no such folder can be created.
    """
    error: OSError | None = None
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        if max_length is not None and len(os.fsencode(parent)) + len(prefix) + 10 > max_length:
            continue
        try:
            folder = tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True)
        except OSError as failure:
            error = failure
            continue
        with folder as path:
            yield Path(path)
        return
    raise UserError(f"no folder for temporary files can be written ({error}); set TMPDIR to one, of a short path")


def write_settings(scratch: Path, settings: Settings) -> None:
    """Write the settings, and make the folder of the metrics."""
    document = {
        "options": settings.options.model_dump(mode="json"),
        "model": str(settings.model),
        "shared": str(settings.shared),
    }
    (scratch / SETTINGS).write_text(json.dumps(document))
    (scratch / METRICS).mkdir()


def read_settings(scratch: Path) -> Settings:
    """The settings as written by :func:`write_settings`."""
    document = json.loads((scratch / SETTINGS).read_text())
    return Settings(ServeOptions(**document["options"]), Path(document["model"]), Path(document["shared"]))


def listen_address(options: ServeOptions) -> str:
    """``bind:port`` in the notation of nginx and gunicorn."""
    return f"[{options.bind}]:{options.port}" if ":" in options.bind else f"{options.bind}:{options.port}"
