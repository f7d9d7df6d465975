"""VIA files of versions 1 to 3, JSON and CSV, against boxes computed by hand. All images are 100 x 50 pixels."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from frcnn.data.formats.via import via_to_coco
from frcnn.errors import UserError


def region(shape: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


def rect(x: Any, y: Any, width: Any, height: Any) -> dict[str, Any]:
    return {"name": "rect", "x": x, "y": y, "width": width, "height": height}


def image(name: str, *regions: Any) -> dict[str, Any]:
    return {"filename": name, "size": 1234, "regions": list(regions), "file_attributes": {}}


def export(*images: dict[str, Any]) -> dict[str, Any]:
    return {f"{entry['filename']}1234": entry for entry in images}


@pytest.fixture
def write(tmp_path: Path, make_images: Any) -> Any:
    """Writes a file beside a.jpg and b.jpg."""

    def of(content: Any, name: str = "via.json") -> Path:
        make_images(tmp_path, "a.jpg", "b.jpg")
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return tmp_path / name

    return of


DOG = region(rect(10, 5, 20, 20), type="dog")
DOG_ROW = ("a.jpg", "dog", [10, 5, 20, 20])


def test_version_2(write: Any, tmp_path: Path) -> None:
    conversion = via_to_coco(write(export(image("a.jpg", DOG), image("b.jpg"))))
    assert conversion.tables == {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 100, "height": 50},
            {"id": 2, "file_name": "b.jpg", "width": 100, "height": 50},
        ],
        "annotations": [{"id": 1, "category_id": 1, "image_id": 1, "bbox": [10, 5, 20, 20], "area": 400, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "dog"}],
    }
    assert conversion.images == tmp_path
    assert conversion.report.lines() == []


def test_projects_and_version_1(write: Any, rows: Any) -> None:
    project = {"_via_settings": {}, "_via_img_metadata": export(image("a.jpg", DOG)), "_via_attributes": {}}
    assert rows(via_to_coco(write(project))) == [DOG_ROW]
    version_1 = export(image("a.jpg") | {"regions": {"0": DOG, "1": region(rect(1, 1, 2, 2), type="cat")}})
    assert rows(via_to_coco(write(version_1))) == [DOG_ROW, ("a.jpg", "cat", [1, 1, 2, 2])]


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        (rect("10", 5.5, 20, 20), [10, 5.5, 20, 20]),
        ({"name": "circle", "cx": 50, "cy": 25, "r": 5}, [45, 20, 10, 10]),
        ({"name": "ellipse", "cx": 50, "cy": 25, "rx": 10, "ry": 5}, [40, 20, 20, 10]),
        ({"name": "ellipse", "cx": 50, "cy": 25, "rx": 10, "ry": 5, "theta": math.pi / 2}, [45, 15, 10, 20]),
        ({"name": "polygon", "all_points_x": [10, 30, 12], "all_points_y": [5, 7, 25]}, [10, 5, 20, 20]),
    ],
)
def test_shapes(write: Any, rows: Any, shape: dict[str, Any], box: list[float]) -> None:
    conversion = via_to_coco(write(export(image("a.jpg", region(shape, type="dog")))))
    assert rows(conversion) == [("a.jpg", "dog", pytest.approx(box))]
    assert conversion.report.lines() == []


def test_regions_without_a_box_are_counted(write: Any, rows: Any, counts: Any) -> None:
    others = [
        region({"name": "point", "cx": 1, "cy": 1}, type="dog"),
        region({"name": "polyline", "all_points_x": [1, 2], "all_points_y": [1, 2]}, type="dog"),
        region({"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1]}, type="dog"),
        region({"name": "circle", "cx": 1, "cy": 1}, type="dog"),
        region(rect(None, 1, 2, 2), type="dog"),
        region(rect(1, 1, 2, "nan"), type="dog"),
        region(rect(1, 1, 2, 2), type=""),
        region(rect(1, 1, 2, 2), type=3),
        region(rect(1, 1, 2, 2)),
        {"shape_attributes": []},
        "text",
    ]
    conversion = via_to_coco(write(export(image("a.jpg", *others, DOG))))
    assert rows(conversion) == [DOG_ROW]
    assert counts(conversion) == {
        "regions of shape point, which has no area": 1,
        "regions of shape polyline, which has no area": 1,
        "regions without a usable shape": 5,
        "boxes with a coordinate that is not a usable number": 1,
        "regions without a single value of the attribute 'type'": 3,
    }


def test_choice_of_the_attribute(write: Any, rows: Any) -> None:
    file = write(export(image("a.jpg", region(rect(10, 5, 20, 20), type="dog", color="red"))))
    with pytest.raises(UserError, match="choose the attribute that is the class with --attribute: 'color', 'type'"):
        via_to_coco(file)
    assert rows(via_to_coco(file, attribute="color")) == [("a.jpg", "red", [10, 5, 20, 20])]
    with pytest.raises(UserError, match="no region has the attribute 'kind'; the attributes are: 'color', 'type'"):
        via_to_coco(file, attribute="kind")


def test_regions_without_attributes_need_the_class(write: Any, rows: Any) -> None:
    file = write(export(image("a.jpg", region(rect(10, 5, 20, 20)))))
    with pytest.raises(UserError, match="the regions have no attributes; give the name of their only class"):
        via_to_coco(file)
    assert rows(via_to_coco(file, classes=["dog"])) == [DOG_ROW]


def test_checkboxes(write: Any, rows: Any, counts: Any) -> None:
    regions = [
        region(rect(10, 5, 20, 20), type={"dog": True, "cat": False}),
        region(rect(1, 1, 2, 2), type={"dog": True, "cat": True}),
        region(rect(1, 1, 3, 3), type={}),
    ]
    conversion = via_to_coco(write(export(image("a.jpg", *regions))))
    assert rows(conversion) == [DOG_ROW]
    assert counts(conversion) == {"regions without a single value of the attribute 'type'": 2}


def test_images_are_found_by_address(write: Any, tmp_path: Path, make_images: Any, rows: Any, counts: Any) -> None:
    make_images(tmp_path / "deep", "c d.JPG")
    file = write(export(image("https://host/x/c%20d.jpg?size=1", DOG), image("gone.jpg", DOG), image("b.jpg")))
    conversion = via_to_coco(file)
    assert rows(conversion) == [("deep/c d.JPG", "dog", [10, 5, 20, 20])]
    assert counts(conversion) == {f"images that are not in {tmp_path} (see --images)": 1}


def csv_2(*rows: tuple[Any, ...]) -> str:
    text = io.StringIO()
    columns = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    csv.writer(text).writerows([columns.split(","), *rows])
    return text.getvalue()


def test_csv_of_version_2(write: Any, rows: Any, counts: Any) -> None:
    shape, attributes = json.dumps(rect(10, 5, 20, 20)), json.dumps({"type": "dog"})
    text = csv_2(
        ("a.jpg", 1234, "{}", 1, 0, shape, attributes),
        ("b.jpg", 1234, "{}", 0, 0, "{}", "{}"),
        ("a.jpg", 1234, "{}", 1, 0, "{", attributes),
        ("a.jpg",),
    )
    conversion = via_to_coco(write("\ufeff" + text, "via.CSV"))
    assert rows(conversion) == [DOG_ROW]
    assert [entry["file_name"] for entry in conversion.tables["images"]] == ["a.jpg", "b.jpg"]
    assert counts(conversion) == {"regions that are not valid JSON": 1, "rows with too few columns": 1}


ATTRIBUTES_3 = {
    "1": {"aname": "type", "anchor_id": "FILE1_Z0_XY1", "type": 4, "options": {"0": "cat", "1": "dog"}},
    "2": {"aname": "comment", "anchor_id": "FILE1_Z0_XY1", "type": 1, "options": {"default": "x"}},
}


def project_3(**metadata: Any) -> dict[str, Any]:
    files = {"1": {"fid": "1", "fname": "a.jpg", "type": 2, "loc": 1}, "2": {"fid": "2", "fname": "b.mp4", "type": 4}}
    views = {"1": {"fid_list": ["1"]}, "2": {"fid_list": ["2"]}, "3": {"fid_list": ["1", "2"]}}
    return {"project": {}, "config": {}, "attribute": ATTRIBUTES_3, "file": files, "view": views, "metadata": metadata}


def metadata_3(xy: Any, view: str = "1", **values: Any) -> dict[str, Any]:
    return {"vid": view, "flg": 0, "z": [], "xy": xy, "av": values}


def test_projects_of_version_3(write: Any, rows: Any, counts: Any) -> None:
    project = project_3(
        rect=metadata_3([2, 10, 5, 20, 20], **{"1": "1"}),
        circle=metadata_3([3, 50, 25, 5], **{"1": "0"}),
        ellipse=metadata_3([4, 50, 25, 10, 5], **{"1": "0"}),
        polygon=metadata_3([7, 1, 1, 9, 2, 3, 8], **{"1": "0", "2": "seen"}),
        extreme=metadata_3([8, 1, 10, 30, 20, 15, 2, 16, 40], **{"1": "1"}),
        point=metadata_3([1, 5, 5], **{"1": "1"}),
        whole=metadata_3([], **{"1": "1"}),
        odd=metadata_3([2, 10, 5, 20], **{"1": "1"}),
        unset=metadata_3([2, 1, 1, 5, 5], **{"1": "9"}),
        video=metadata_3([2, 10, 5, 20, 20], view="2", **{"1": "1"}),
    )
    conversion = via_to_coco(write(project), attribute="type")
    assert rows(conversion) == [
        DOG_ROW,
        ("a.jpg", "cat", [45, 20, 10, 10]),
        ("a.jpg", "cat", [40, 20, 20, 10]),
        ("a.jpg", "cat", [1, 1, 8, 7]),
        ("a.jpg", "dog", [1, 2, 29, 38]),
    ]
    assert counts(conversion) == {
        "views that are not a single image": 2,
        "regions of shape point, which has no area": 1,
        "attributes of whole images": 1,
        "regions without a usable shape": 1,
        "regions without a single value of the attribute 'type'": 1,
        "regions of views that are not a single image": 1,
    }


@pytest.mark.parametrize(
    ("header", "value", "name"),
    [("# ATTRIBUTE = " + json.dumps(ATTRIBUTES_3), "1", "dog"), ('# ATTRIBUTES = {"1": "type"}', "1", "1")],
)
def test_csv_of_version_3(write: Any, rows: Any, counts: Any, header: str, value: str, name: str) -> None:
    rows_3 = io.StringIO()
    csv.writer(rows_3).writerows(
        [
            ("1_a", '["a.jpg"]', 0, "[]", "[2,10,5,20,20]", json.dumps({"1": value})),
            ("1_b", '["a.jpg","b.jpg"]', 0, "[]", "[2,10,5,20,20]", "{}"),
            ("1_c", '["a.jpg"]', 0, "[]", "[2,10", "{}"),
        ]
    )
    columns = "# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata"
    conversion = via_to_coco(write(f"# Exported using VIA\r\n{header}\r\n{columns}\r\n{rows_3.getvalue()}", "via.csv"))
    assert rows(conversion) == [("a.jpg", name, [10, 5, 20, 20])]
    assert counts(conversion) == {
        "regions of views that are not a single image": 1,
        "regions that are not valid JSON": 1,
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("via.json", "[]", "has no VIA regions; expected a JSON or CSV export of VIA"),
        ("via.json", '{"images": []}', "has no VIA regions"),
        ("via.json", "{", "is not valid JSON"),
        ("via.csv", "a,b\n1,2\n", "the first line has no columns filename"),
        ("via.csv", "", "the first line has no columns filename"),
        ("via.csv", "# Exported\n1,2\n", "expected VIA 3"),
    ],
)
def test_other_files_are_refused(write: Any, name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        via_to_coco(write(text, name))
