"""Importing TensorFlow without its start-up messages."""

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
        UserError: TensorFlow cannot be imported.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only
    try:
        with _captured_stderr():
            import tensorflow as tf

            tf.config.list_physical_devices()
    except ImportError as error:
        raise UserError(f"TensorFlow cannot be imported: {error}; 'frcnn doctor' says what is missing") from error


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
