"""What a conversion skipped, repaired or wants to mention: counts and first examples."""

from __future__ import annotations

from dataclasses import dataclass, field

EXAMPLES = 3  # kept per finding
LONGEST_PLACE = 200  # characters of an example; damaged files contain names of any length


@dataclass
class Finding:
    """All occurrences of one kind.

    Attributes:
        examples: places of the first occurrences, such as ``a.txt line 2``.
    """

    count: int = 0
    examples: list[str] = field(default_factory=list)


class Report:
    """Findings by kind, in order of occurrence. A kind is a plural noun phrase, such as ``boxes without area``."""

    def __init__(self) -> None:
        self.skipped: dict[str, Finding] = {}
        self.repaired: dict[str, Finding] = {}
        self.notes: dict[str, Finding] = {}

    def skip(self, kind: str, place: str) -> None:
        """Record something that is missing from the result."""
        _record(self.skipped, kind, place)

    def repair(self, kind: str, place: str) -> None:
        """Record something that is in the result, but not as the file has it."""
        _record(self.repaired, kind, place)

    def note(self, kind: str, place: str = "") -> None:
        """Record something that is in the result unchanged, and that the user may not expect."""
        _record(self.notes, kind, place)

    def lines(self) -> list[str]:
        """One line per finding: ``skipped 3: boxes without area (a.txt line 2, b.txt line 1, …)``."""
        return [
            f"{verb} {finding.count}: {kind}{_examples(finding)}"
            for verb, findings in (("skipped", self.skipped), ("repaired", self.repaired), ("note", self.notes))
            for kind, finding in findings.items()
        ]


def _record(findings: dict[str, Finding], kind: str, place: str) -> None:
    finding = findings.setdefault(kind, Finding())
    finding.count += 1
    if place and len(finding.examples) < EXAMPLES:
        finding.examples.append(place if len(place) <= LONGEST_PLACE else f"{place[:LONGEST_PLACE]}…")


def _examples(finding: Finding) -> str:
    if not finding.examples:
        return ""
    return f" ({'; '.join(finding.examples)}{'; …' if finding.count > len(finding.examples) else ''})"
