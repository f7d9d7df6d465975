"""Small images, and conversions as rows that can be compared with a table written by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from frcnn.data.formats.builder import Conversion

Row = tuple[str, str, list[float]]


@pytest.fixture(scope="session")
def make_images() -> Callable[..., Path]:
    """Writes grey JPEG images of 100 x 50 pixels below a folder, and returns the folder."""

    def write(folder: Path, *names: str, size: tuple[int, int] = (100, 50), orientation: int | None = None) -> Path:
        exif = Image.Exif()
        if orientation:
            exif[ExifTags.Base.Orientation] = orientation
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, (128, 128, 128)).save(folder / name, "JPEG", exif=exif)
        return folder

    return write


@pytest.fixture(scope="session")
def rows() -> Callable[[Conversion], list[Row]]:
    """File name, class name and box of each annotation, in the file's order."""

    def of(conversion: Conversion) -> list[Row]:
        tables: dict[str, Any] = conversion.tables
        files = {image["id"]: image["file_name"] for image in tables["images"]}
        names = {category["id"]: category["name"] for category in tables["categories"]}
        return [(files[a["image_id"]], names[a["category_id"]], a["bbox"]) for a in tables["annotations"]]

    return of


@pytest.fixture(scope="session")
def counts() -> Callable[[Conversion], dict[str, int]]:
    """How many were skipped, repaired and noted, by kind."""

    def of(conversion: Conversion) -> dict[str, int]:
        report = conversion.report
        findings = {**report.skipped, **report.repaired, **report.notes}
        return {kind: finding.count for kind, finding in findings.items()}

    return of
