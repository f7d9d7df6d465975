"""Start-up: TensorFlow without its messages, and a check for temporary files."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

from frcnn.errors import UserError


def import_tensorflow() -> None:
    """Import TensorFlow and list its devices; messages of its libraries are shown only if that fails.

    They bypass Python's streams, and some ignore the log level.

    Raises:
        UserError: TensorFlow cannot be imported, or temporary files cannot be created.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only
    check_temporary_folder()
    try:
        with _captured_stderr():
            import tensorflow as tf

            tf.config.list_physical_devices()
    except ImportError as error:
        raise UserError(f"TensorFlow cannot be imported: {error}; 'frcnn doctor' says what is missing") from error


def check_temporary_folder() -> None:
    """Check that temporary files can be created.

    Raises:
        UserError: no folder for them is writable, as in a read-only container.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise UserError(
            "no folder for temporary files is writable (tried TMPDIR, /tmp, /var/tmp and the working directory); "
            "add --tmpfs /tmp to docker run, or set TMPDIR to a writable folder"
        ) from error


@contextlib.contextmanager
def _captured_stderr() -> Iterator[None]:
    """Redirect the process's standard error to a file, which is printed only if an exception is raised."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except BaseException:
            captured.seek(0)
            with os.fdopen(os.dup(original), "wb") as stderr:
                shutil.copyfileobj(captured, stderr)
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)
