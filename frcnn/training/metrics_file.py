"""``metrics.jsonl``, the records of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from frcnn.atomic import write_atomically


class MetricsFile:
    """``metrics.jsonl``: one JSON object per record with ``record`` (its kind), ``step`` and the values; append-only.

    Args:
        file: created if it does not exist.
        start_step: records of later steps are removed, and so are lines that are not records.
        warn: called with a message if lines other than an incomplete last one were removed, or the file was deleted.

    Raises:
        OSError: the file cannot be read or written.
    """

    def __init__(self, file: Path, start_step: int = 0, warn: Callable[[str], None] = lambda _: None) -> None:
        self._file = file
        self._warn = warn
        records, damaged = read_records(file)
        if damaged:
            warn(f"warning: {file}: removed {damaged} damaged lines; the other {len(records)} records are kept")
        kept = [record for record in records if record["step"] <= start_step]
        self._recorded = {_identity(record) for record in kept}
        write_atomically(file, "".join(json.dumps(record) + "\n" for record in kept))
        self._lines: TextIO = file.open("a")

    def append(self, kind: str, step: int, values: Mapping[str, Any]) -> bool:
        """Write one record; returns False if the file already has one of this kind, step and validation data."""
        record = {"record": kind, "step": step, **_null_if_not_finite(values)}
        if _identity(record) in self._recorded:
            return False
        self._recorded.add(_identity(record))
        if not self._file.exists():
            self._warn(f"warning: {self._file} was deleted during the run; its earlier records are lost")
            self._lines.close()
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._lines = self._file.open("a")
        self._lines.write(json.dumps(record, allow_nan=False) + "\n")
        self._lines.flush()
        return True

    def close(self) -> None:
        self._lines.close()


def _identity(record: Mapping[str, Any]) -> tuple[object, ...]:
    """What a resumed run does not record twice; ``data`` is the fingerprint of the validation data, in evaluations."""
    return (record["record"], record["step"], str(record.get("data")))


def read_records(file: Path) -> tuple[list[dict[str, Any]], int]:
    """Records of a ``metrics.jsonl`` in order, and the number of damaged lines; empty if the file does not exist.

    A last line without a line end, from a process that was killed, is skipped and not counted.
    """
    if not file.exists():
        return [], 0
    *lines, incomplete = file.read_bytes().split(b"\n")
    records = [_parse(line) for line in lines if line.strip()]
    last = _parse(incomplete)
    found = [record for record in (*records, last) if record is not None]
    return found, records.count(None)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record of a line, or None if the line is not one."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # ValueError: not UTF-8, not JSON, or an integer of thousands of digits
        return None
    if not isinstance(record, dict) or not isinstance(record.get("record"), str):
        return None
    step = record.get("step")
    return record if isinstance(step, int) and not isinstance(step, bool) and step >= 0 else None


def _null_if_not_finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _null_if_not_finite(entry) for name, entry in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
