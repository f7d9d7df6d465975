"""Progress of a process that reports nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from frcnn.evaluation.matching import Matches
from frcnn.training.folders import Folders


class NullProgress:
    """The :class:`frcnn.training.progress.Progress` of ranks that do not report."""

    def __enter__(self) -> NullProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def is_due(self, step: int) -> bool:
        return False

    def status(self, activity: str) -> None:
        pass

    def step(self, step: int, losses: Mapping[str, Any], learning_rate: Any) -> None:
        pass

    def evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        pass

    def images(self, step: int, name: str, draw: Callable[[Path], Sequence[np.ndarray]]) -> None:
        pass

    def pr_curves(self, step: int, matches: Matches) -> None:
        pass

    def report(self, write: Callable[[Path, Sequence[Mapping[str, Any]]], Path]) -> None:
        pass

    def optional(self, file: Path, write: Callable[[], object]) -> None:
        pass

    def checkpoint(self, step: int) -> None:
        pass

    def keep_history(self, folders: Folders) -> None:
        pass

    def message(self, text: str) -> None:
        pass
