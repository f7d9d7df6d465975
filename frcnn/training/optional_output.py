"""Outputs that a run can do without: their failures are warnings, never the end of a training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from frcnn.evaluation.split import Stopped
from frcnn.training.checkpoint import without_internals


class OptionalOutput:
    """Turns exceptions of optional outputs into warnings, one per kind of output.

    Args:
        warn: called with the message.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._failed: set[str] = set()

    @contextlib.contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Context manager that reports any exception as "WHAT cannot be written".

        A broad ``except`` is right here: a full disk, a font, TensorFlow's file system and a bug in a plotting library
        raise different things, and none of them is worth losing a training for.

        Raises:
            Stopped: the work was abandoned, which is no failure.
        """
        try:
            yield
        except Stopped:
            raise
        except Exception as error:
            if what not in self._failed:
                self._failed.add(what)
                self._warn(
                    f"warning: {what} cannot be written ({without_internals(error)}); training continues without it"
                )
