"""Ground Truth manifests of labeling, adjustment and verification jobs, and the stream of Pipe mode."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from frcnn.data.coco import load_index
from frcnn.data.formats.manifest import manifest_to_coco
from frcnn.data.formats.manifest_stream import stream_to_coco
from frcnn.errors import UserError

Box = tuple[int, float, float, float, float]
SIDES = ("class_id", "left", "top", "width", "height")


def labels(*boxes: Box) -> dict[str, Any]:
    annotations = [dict(zip(SIDES, box, strict=True)) for box in boxes]
    return {"image_size": [{"width": 100, "height": 50, "depth": 3}], "annotations": annotations}


def metadata(names: dict[str, str], date: str = "2024-01-01T00:00:00.000001", **more: Any) -> dict[str, Any]:
    return {"class-map": names, "type": "groundtruth/object-detection", "creation-date": date, **more}


def line(source: str, *boxes: Box, names: dict[str, str] | None = None) -> dict[str, Any]:
    return {"source-ref": source, "bb": labels(*boxes), "bb-metadata": metadata(names or {})}


@pytest.fixture
def write(tmp_path: Path, make_images: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a manifest beside images a.jpg, b.jpg and deep/c.jpg."""

    def of(*lines: dict[str, Any] | str) -> Path:
        make_images(tmp_path, "a.jpg", "b.jpg", "deep/c.jpg")
        texts = [entry if isinstance(entry, str) else json.dumps(entry) for entry in lines]
        (tmp_path / "output.manifest").write_text("\n".join(texts) + "\n\n", encoding="utf-8")
        return tmp_path / "output.manifest"

    return of


def test_class_maps_are_merged_and_boxes_are_kept(write: Any, tmp_path: Path) -> None:
    manifest = write(
        line("s3://bucket/some/prefix/b.jpg", (1, 11, 13, 20, 8), names={"1": "cat"}),
        line("s3://bucket/other/deep/c.jpg", (0, 1, 2, 3, 4), (1, 5, 6, 7, 8), names={"0": "dog", "1": "cat"}),
    )
    conversion = manifest_to_coco(manifest)
    assert conversion.tables == {
        "images": [
            {"id": 1, "file_name": "b.jpg", "width": 100, "height": 50},
            {"id": 2, "file_name": "deep/c.jpg", "width": 100, "height": 50},
        ],
        "annotations": [
            {"id": 1, "category_id": 1, "image_id": 1, "bbox": [11, 13, 20, 8], "area": 160, "iscrowd": 0},
            {"id": 2, "category_id": 0, "image_id": 2, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0},
            {"id": 3, "category_id": 1, "image_id": 2, "bbox": [5, 6, 7, 8], "area": 56, "iscrowd": 0},
        ],
        "categories": [{"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}],
    }
    assert conversion.report.lines() == []
    (tmp_path / "instances.json").write_text(json.dumps(conversion.tables))
    index = load_index(tmp_path, tmp_path / "instances.json", "error")
    assert (index.class_names, index.images[0].boxes.tolist()) == (("dog", "cat"), [[11, 13, 31, 21]])


def test_adjusted_labels_win(write: Any, rows: Any) -> None:
    adjusted = {
        **line("s3://b/a.jpg", (0, 1, 1, 5, 5), names={"0": "dog"}),
        "once": labels((0, 2, 2, 5, 5)),
        "once-metadata": metadata({"0": "dog"}, "2024-02-01", **{"adjustment-status": "adjusted"}),
        "twice": labels((0, 3, 3, 5, 5)),
        "twice-metadata": metadata({"0": "dog"}, "2024-03-01", **{"adjustment-status": "unadjusted"}),
    }
    only_labeled = line("s3://b/b.jpg", (0, 4, 4, 5, 5), names={"0": "dog"})
    manifest = write(adjusted, only_labeled)
    other = ("b.jpg", "dog", [4, 4, 5, 5])
    assert rows(manifest_to_coco(manifest)) == [("a.jpg", "dog", [3, 3, 5, 5]), other]
    assert rows(manifest_to_coco(manifest, attribute="bb")) == [("a.jpg", "dog", [1, 1, 5, 5]), other]
    conversion = manifest_to_coco(manifest, attribute="once")
    assert rows(conversion) == [("a.jpg", "dog", [2, 2, 5, 5])]
    assert conversion.report.lines() == ["skipped 1: lines without a label attribute 'once' (line 2)"]


def test_several_attributes_without_an_adjustment_need_a_choice(write: Any) -> None:
    entry = line("s3://b/a.jpg", (0, 1, 1, 5, 5), names={"0": "dog"}) | {"more": labels()}
    with pytest.raises(
        UserError, match=r"line 1: several label attributes \('bb', 'more'\); choose one with .* --attribute"
    ):
        manifest_to_coco(write(entry))


def test_verdicts_of_a_verification_job(write: Any, rows: Any, counts: Any) -> None:
    def verified(source: str, verdict: str) -> dict[str, Any]:
        more = {"class-name": verdict, "type": "groundtruth/label-verification", "confidence": 0.93}
        return line(source, (0, 1, 1, 5, 5), names={"0": "dog"}) | {"check": "1", "check-metadata": more}

    manifest = write(verified("s3://b/a.jpg", "good"), verified("s3://b/b.jpg", "bad"))
    conversion = manifest_to_coco(manifest)
    assert [file for file, *_ in rows(conversion)] == ["a.jpg", "b.jpg"]
    assert counts(conversion) == {
        "images verified as 'good', which are kept (select with --verified)": 1,
        "images verified as 'bad', which are kept (select with --verified)": 1,
    }
    conversion = manifest_to_coco(manifest, verified="good")
    assert [file for file, *_ in rows(conversion)] == ["a.jpg"]
    assert counts(conversion) == {"images without the verdict 'good' of a verification job": 1}


def test_failed_and_unlabeled_lines_are_counted(write: Any, rows: Any) -> None:
    failed = {"source-ref": "s3://b/b.jpg", "bb-metadata": {"failure-reason": "ClientError: too few annotations"}}
    unlabeled = {"source-ref": "s3://b/deep/c.jpg"}
    manifest = write(line("s3://b/a.jpg", (0, 1, 1, 5, 5), names={"0": "dog"}), failed, unlabeled)
    conversion = manifest_to_coco(manifest)
    assert rows(conversion) == [("a.jpg", "dog", [1, 1, 5, 5])]
    assert conversion.report.lines() == [
        "skipped 1: lines whose labeling failed (line 2: 'ClientError: too few annotations')",
        "skipped 1: lines without a label attribute with 'annotations' (a bounding box job) (line 3)",
    ]
    with pytest.raises(UserError, match="no usable images; skipped 1: lines whose labeling failed"):
        manifest_to_coco(write(failed))


def test_byte_order_mark_and_line_separators_in_strings(
    write: Any, tmp_path: Path, rows: Any, make_images: Any
) -> None:
    """U+2028 and U+0085 are line ends for str.splitlines, but JSON strings may contain them unescaped."""
    make_images(tmp_path, "a\u2028b.jpg")
    entry = line("s3://b/a\u2028b.jpg", (0, 1, 1, 5, 5), names={"0": "do\u0085g"})
    manifest = write("\ufeff" + json.dumps(entry, ensure_ascii=False) + "\r")
    assert rows(manifest_to_coco(manifest)) == [("a\u2028b.jpg", "do g", [1, 1, 5, 5])]


def test_class_ids_that_lines_disagree_on(write: Any, rows: Any, counts: Any) -> None:
    manifest = write(
        line("a.jpg", (0, 1, 1, 5, 5), (7, 2, 2, 5, 5), names={"0": "dog"}),
        line("b.jpg", (0, 3, 3, 5, 5), (1, 4, 4, 5, 5), names={"0": "cat", "1": "dog"}),
    )
    conversion = manifest_to_coco(manifest)
    assert rows(conversion) == [
        ("a.jpg", "dog", [1, 1, 5, 5]),
        ("a.jpg", "class 7", [2, 2, 5, 5]),
        ("b.jpg", "cat", [3, 3, 5, 5]),
        ("b.jpg", "dog", [4, 4, 5, 5]),
    ]
    assert counts(conversion) == {
        "ids of several classes, of which all but one got a new id": 1,
        "classes with different ids in different places, matched by name": 1,
        "classes that the class map does not name, named by their id": 1,
    }


def test_damaged_boxes_are_counted(write: Any, rows: Any, counts: Any) -> None:
    entry = line("a.jpg", (0, 1, 1, 5, 5), (0, float("nan"), 1, 5, 5), (0, 1, 1, 0, 5), names={"0": "dog"})
    entry["bb"]["annotations"] += [
        {"class_id": "0", "left": "2", "top": 2, "width": 5.5, "height": 5},
        {"left": 1},
        None,
    ]
    entry["bb"]["image_size"] = [{"width": 0, "height": 0}]
    conversion = manifest_to_coco(write(entry))
    assert rows(conversion) == [("a.jpg", "dog", [1, 1, 5, 5]), ("a.jpg", "dog", [2, 2, 5.5, 5])]
    assert conversion.tables["images"] == [{"id": 1, "file_name": "a.jpg"}]  # the size is read in training
    assert counts(conversion) == {
        "boxes with a coordinate that is not a usable number": 1,
        "boxes without width or height": 1,
        "annotations without class_id, left, top, width and height": 2,
    }


def test_missing_images(write: Any, tmp_path: Path, rows: Any) -> None:
    manifest = write(line("s3://b/a.jpg", (0, 1, 1, 5, 5), names={"0": "dog"}), line("s3://b/gone.jpg"))
    with pytest.raises(UserError, match=r"1 images of .*output.manifest are missing from .*: s3://b/gone.jpg"):
        manifest_to_coco(manifest)
    conversion = manifest_to_coco(manifest, skip_missing=True)
    assert rows(conversion) == [("a.jpg", "dog", [1, 1, 5, 5])]
    assert conversion.report.lines() == [
        f"skipped 1: images that are not in {tmp_path} (see --images) (s3://b/gone.jpg)"
    ]


def test_repeated_images_are_merged(write: Any, rows: Any, counts: Any) -> None:
    first, second = line("a.jpg", (0, 1, 1, 5, 5), names={"0": "dog"}), line("a.jpg", (0, 2, 2, 5, 5))
    conversion = manifest_to_coco(write(first, second | {"bb-metadata": metadata({"0": "dog"})}, first))
    assert rows(conversion) == [("a.jpg", "dog", [1, 1, 5, 5]), ("a.jpg", "dog", [2, 2, 5, 5])]
    assert counts(conversion) == {
        "images listed more than once, merged": 2,
        "objects listed twice (same image, class and box)": 1,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"source-ref": ', "line 1 is not valid JSON"),
        ("[" * 100_000, "line 1 is not usable: the JSON is nested too deeply"),
        ("[]", "line 1: 'source-ref' is None"),
        ('{"source-ref": 7}', "line 1: 'source-ref' is 7; expected the address of an image"),
    ],
)
def test_malformed_lines_are_refused(write: Any, text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"output.manifest, {message}"):
        manifest_to_coco(write(text))


def test_order_of_the_stream_does_not_matter(write: Any, tmp_path: Path, make_images: Any) -> None:
    make_images(tmp_path / "source", "a.jpg")
    make_images(tmp_path / "source", "b.jpg", size=(60, 40))
    entries = [line("a.jpg", (0, 1, 2, 3, 4), names={"0": "dog"}), line("b.jpg", (3, 5, 6, 7, 8), names={"3": "cow"})]
    records = [
        [
            (tmp_path / "source" / entry["source-ref"]).read_bytes(),
            json.dumps(entry["bb"]).encode(),
            json.dumps(entry["bb-metadata"]).encode(),
        ]
        for entry in entries
    ]
    forward = stream_to_coco([part for group in records for part in group], tmp_path / "forward").tables
    backward = stream_to_coco([part for group in reversed(records) for part in group], tmp_path / "backward").tables
    assert forward == backward
    assert {category["name"] for category in forward["categories"]} == {"dog", "cow"}
    nameless = stream_to_coco([part for group in records for part in group[:2]], tmp_path / "nameless").tables
    assert nameless["categories"] == [{"id": 0, "name": "class 0"}, {"id": 3, "name": "class 3"}]
    with pytest.raises(UserError, match="record 0 of the stream is a label without an image"):
        stream_to_coco([records[0][1]], tmp_path / "broken")
    failed = stream_to_coco([*records[0], records[1][0], b'{"failure-reason": "ClientError"}'], tmp_path / "failed")
    assert len(failed.tables["images"]) == 1
    assert failed.report.lines()[0].startswith("skipped 1: images whose labeling failed")
