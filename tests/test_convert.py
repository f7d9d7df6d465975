"""frcnn convert: every format through the command line, what it prints, and what it never does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from frcnn.cli import main

VOC = (
    "<annotation><filename>a.jpg</filename><size><width>0</width><height>0</height></size><object><name>dog</name>"
    "<bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>25</ymax></bndbox></object></annotation>"
)
LABELS = {"annotations": [{"class_id": 0, "left": 10, "top": 5, "width": 20, "height": 20}]}
REGION = {
    "shape_attributes": {"name": "rect", "x": 10, "y": 5, "width": 20, "height": 20},
    "region_attributes": {"type": "dog", "color": "red"},
}
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 30, 25]}],
    "categories": [{"id": 1, "name": "dog"}],
}
LABELME = {"imagePath": "a.jpg", "shapes": [{"label": "dog", "points": [[10, 5], [30, 25]], "shape_type": "rectangle"}]}
# Format: file to write beside a.jpg, its content, and the arguments of the command.
FORMATS: dict[str, tuple[str, Any, list[str]]] = {
    "coco-json": ("in.json", COCO, ["in.json", "--box-format", "xyxy"]),
    "yolo": ("a.txt", "0 0.2 0.3 0.2 0.4", [".", "--classes", "dog"]),
    "voc": ("a.xml", VOC, [".", "--classes", "dog"]),
    "manifest": (
        "in.manifest",
        {"source-ref": "s3://b/a.jpg", "x": LABELS, "y": LABELS},
        ["in.manifest", "--attribute=y"],
    ),
    "sagemaker": ("a.json", {"file": "a.jpg", **LABELS}, [".", "--classes", "dog"]),
    "labelme": ("a.json", LABELME, [".", "--images", "."]),
    "via": ("via.json", {"a": {"filename": "a.jpg", "regions": [REGION]}}, ["via.json", "--attribute", "type"]),
}


def write(folder: Path, format: str) -> list[str]:
    """Write an input of one dog at (10, 5) with 20 x 20 pixels; returns the arguments."""
    name, content, arguments = FORMATS[format]
    Image.new("RGB", (100, 50)).save(folder / "a.jpg")
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return ["convert", format, *arguments, "--out", "new/out.json"]


@pytest.mark.parametrize("format", FORMATS)
def test_every_format(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, write(tmp_path, format), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("new/out.json: 1 images (0 without objects), 1 objects, 1 classes\n")
    tables = json.loads((tmp_path / "new" / "out.json").read_text())
    assert tables["images"][0]["file_name"] == "a.jpg"
    assert tables["annotations"][0]["bbox"] == pytest.approx([10, 5, 20, 20])
    assert set(main.commands["convert"].commands) == set(FORMATS)  # type: ignore[attr-defined]


def test_report_and_images_folder_are_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = write(tmp_path, "voc")
    (tmp_path / "b\udce9.xml").write_text("<html/>")  # a name that is not UTF-8
    result = CliRunner().invoke(main, arguments)
    assert result.output.splitlines()[1:] == [
        "skipped 1: files that are not VOC annotations (b\\udce9.xml has no <filename>, <size> or <object>)",
        "repaired 1: missing or zero image sizes, read from the image (a.xml)",
        "images: .",
    ]


def test_an_existing_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = write(tmp_path, "voc")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "out.json").write_text("precious")
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.stderr) == (
        2,
        "frcnn: --out is new/out.json, which exists already; give another path, or --overwrite\n",
    )
    assert (tmp_path / "new" / "out.json").read_text() == "precious"
    assert CliRunner().invoke(main, [*arguments, "--overwrite"]).exit_code == 0


def test_a_failed_conversion_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = write(tmp_path, "via")
    (tmp_path / "via.json").write_text("{")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("frcnn: via.json is not valid JSON")
    assert not (tmp_path / "new").exists()


def test_tensorflow_is_not_imported(tmp_path: Path) -> None:
    """Its import takes seconds, and its libraries write to standard error."""
    commands = []
    for format in FORMATS:
        (tmp_path / format).mkdir()
        commands.append((format, write(tmp_path / format, format)))
    script = (
        "import json, os, sys\n"
        "from frcnn.cli import main\n"
        "for folder, command in json.loads(sys.argv[1]):\n"
        "    os.chdir(os.path.join(sys.argv[2], folder))\n"
        "    assert main(command, standalone_mode=False) is None, command\n"
        "print('tensorflow' in sys.modules)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands), str(tmp_path)], capture_output=True, text=True
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.splitlines()[-1] == "False"
