"""Images that could not be read, and the limit on their share."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path

from frcnn.data.coco import Index
from frcnn.errors import UserError

logger = logging.getLogger(__name__)


class UnreadableImages:
    """Logs each image that could not be read once, counts them, and refuses too many.

    Thread-safe. ``reasons`` maps each path to a sentence; ``total`` is the number of images of all processes where the
    index has only a part of them.
    """

    def __init__(self, index: Index, max_share: float, total: int | None = None) -> None:
        self.reasons: dict[Path, str] = {}
        self._total = total or len(index.images)
        self._max_share = max_share
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, path: Path, reason: str) -> None:
        with self._lock:
            known = path in self.reasons
            self.reasons[path] = reason
        if not known:
            logger.warning("unreadable image replaced by a blank one: %s", reason)

    def known(self) -> dict[str, str]:
        """Path and reason of each image so far."""
        with self._lock:
            return {str(path): reason for path, reason in self.reasons.items()}

    @property
    def too_many(self) -> bool:
        """Whether the images of this process alone exceed the limit."""
        return len(self.reasons) > self._max_share * self._total

    def check(self, known: Mapping[str, str]) -> None:
        """Raise UserError if ``known``, the unreadable images of all processes, exceed ``data.max_bad_image_share``."""
        reasons = list(known.values())
        if len(reasons) > self._max_share * self._total:
            raise UserError(
                f"{len(reasons)} of {self._total} images could not be read, more than "
                f"data.max_bad_image_share={self._max_share:g} allows: "
                f"{'; '.join(reasons[:3])}{' …' if len(reasons) > 3 else ''}; `frcnn check-dataset` lists them all"
            )
