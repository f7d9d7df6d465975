"""Importing TensorFlow without its start-up chatter."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

from frcnn.errors import UserError


def import_tensorflow() -> None:
    """Import TensorFlow and look at its devices; what its libraries write meanwhile is shown only where that fails.

    They write past Python, and some of it whatever the log level.

    Raises:
        UserError: TensorFlow cannot be imported.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only
    try:
        with _standard_error_held_back():
            import tensorflow as tf

            tf.config.list_physical_devices()
    except ImportError as error:
        raise UserError(f"TensorFlow cannot be imported: {error}; 'frcnn doctor' says what is missing") from error


@contextlib.contextmanager
def _standard_error_held_back() -> Iterator[None]:
    """Send the process's standard error into a file, and pass that on only where an exception ends this."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except BaseException:
            aside.seek(0)
            with os.fdopen(os.dup(kept), "wb") as stderr:
                shutil.copyfileobj(aside, stderr)
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
