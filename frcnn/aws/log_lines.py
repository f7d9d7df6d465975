"""Parse a job's log lines back into metric records, to plot its curves while it runs."""

from __future__ import annotations

import re
from typing import Any

_RECORD = re.compile(r"\b(train|evaluation) ((?:\S+=\S+ ?)+)$")


def read_record(line: str) -> dict[str, Any] | None:
    """Parse a line printed by ``frcnn.training.metric_lines``, with any prefix; None for any other line.

    Returns:
        the same as a line of ``metrics.jsonl``: ``record`` and the numbers by name. Values that are not numbers are
        left out.
    """
    found = _RECORD.search(line.rstrip())
    if not found:
        return None
    record: dict[str, Any] = {"record": found[1]}
    for pair in found[2].split():
        name, _, text = pair.partition("=")
        try:
            record[name] = float(text)
        except ValueError:
            continue
    return record if "step" in record else None
