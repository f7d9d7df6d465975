"""A job's log lines back into the records they were printed from, so that its curves can be drawn while it runs."""

from __future__ import annotations

import re
from typing import Any

_RECORD = re.compile(r"\b(train|evaluation) ((?:\S+=\S+ ?)+)$")


def read_record(line: str) -> dict[str, Any] | None:
    """The record of a line that ``frcnn.training.metric_lines`` made, whatever stands before it; None for any other line.

    Returns:
        as a line of ``metrics.jsonl``: ``record`` and the numbers by name; what is no number is left out.
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
