from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoq.data import check_headers, open_source
from autoq.data.coco import CocoSource
from autoq.data.shapes import draw_shapes
from autoq.errors import DataError, DataNotFoundError

CASES: list[tuple[str, dict[str, Any], str]] = [
    ("annotations", {"bbox": [60, 10, 20, 10]}, r"annotations\[0\] has the box .* lies outside of its image of 64×64"),
    ("annotations", {"bbox": [-9, 0, 20, 10]}, r"annotations\[0\] .* lies outside"),
    ("annotations", {"bbox": [0, 0, 0, 10]}, r"annotations\[0\] .* the last two above 0"),
    ("annotations", {"bbox": None}, r"annotations\[0\] has 'bbox' None: give image_id, category_id and bbox"),
    ("annotations", {"bbox": [0, 0, float("nan"), 3]}, r"annotations\[0\] .* the last two above 0"),
    ("annotations", {"category_id": "x"}, r"annotations\[0\] has 'category_id' 'x': give"),
    ("annotations", {"category_id": float("inf")}, r"annotations\[0\] has 'category_id' inf: give"),
    ("annotations", {"image_id": 0.5}, r"annotations\[0\] has 'image_id' 0.5: give"),
    ("annotations", {"segmentation": [[1, 2, 3]]}, r"annotations\[0\] has no usable 'segmentation': give polygons"),
    ("annotations", {"segmentation": "x" * 9}, r"annotations\[0\] has no usable 'segmentation'"),
    ("annotations", {"segmentation": {"size": [64, 32], "counts": [1]}}, r"annotations\[0\] has a mask of height and "),
    ("categories", {"name": None}, r"categories\[0\] has 'name' None: give id and name"),
    ("categories", {"id": 2}, r"categories\[1\] has the id 2 of another category"),
    ("annotations", {"category_id": 9}, r"annotations\[0\] has category 9, which is not among 'categories'"),
    ("annotations", {"image_id": 77}, r"annotations\[0\] is of image 77, which is not among 'images'"),
    ("images", {"width": 0}, r"images\[0\] is 0×64 pixels"),
    (
        "images",
        {"file_name": None, "height": "x"},
        r"images\[0\] has 'height' 'x': give id, file_name, height and width",
    ),
    ("images", {"file_name": None}, r"images\[0\] has 'file_name' None: give"),
    ("images", {"file_name": "away.png"}, r"lists 'away.png', which is not in .* \(1 of 8 images are missing\)"),
    ("images", {"id": 1}, "two entries of 'images' have one id"),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "draw_shapes.py"))
    path: Path = script["write_data_set"](tmp_path_factory.mktemp("shapes"), "val", 8)
    return path


def changed(written: Path, folder: Path, document: Any) -> str:
    path = folder / "annotations.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return f"coco:{path}:{written.parent}"


def test_what_was_drawn_comes_back(written: Path) -> None:
    source = open_source(f"coco:{written}", "evaluation")
    assert isinstance(source, CocoSource)
    assert len(source) == 8
    assert source.class_names == ("ellipse", "rectangle", "triangle", "ring")
    seen = 0
    for index in range(8):
        drawn, objects = draw_shapes("val", index), source.objects(index)
        assert np.array_equal(np.array(source.load(index)), drawn.pixels)
        assert objects.labels.tolist() == list(drawn.labels)
        assert objects.masks is not None
        assert np.array_equal(objects.masks, drawn.masks)
        assert objects.size == (64, 64)
        seen += len(drawn.labels)
    assert seen > 8


def test_polygons_and_boxes_alone(written: Path, tmp_path: Path) -> None:
    document = json.loads(written.read_text(encoding="utf-8"))
    image = document["images"][0]
    entry = {"id": 1, "image_id": image["id"], "category_id": 1, "bbox": [4, 8, 10, 6]}
    polygon = {**entry, "segmentation": [[4, 8, 14, 8, 14, 14, 4, 14]]}
    masks = open_source(changed(written, tmp_path, document | {"annotations": [polygon]}), "evaluation")
    assert isinstance(masks, CocoSource)
    found = masks.objects(0)
    expected = np.zeros((64, 64), dtype=bool)
    expected[8:14, 4:14] = True
    assert found.masks is not None
    assert np.array_equal(found.masks[0], expected)
    assert found.boxes.tolist() == [[4, 8, 14, 14]]
    crowd = {**entry, "iscrowd": 1}
    boxes = open_source(changed(written, tmp_path, document | {"annotations": [crowd]}), "evaluation")
    assert isinstance(boxes, CocoSource)
    assert boxes.objects(0).masks is None
    assert boxes.objects(0).crowd.tolist() == [True]
    assert boxes.objects(1).labels.shape == (0,)  # an image without objects is fine


def test_numbers_may_be_written_as_text(written: Path, tmp_path: Path) -> None:
    document = json.loads(written.read_text(encoding="utf-8"))
    for each in document["annotations"]:
        each["category_id"], each["image_id"] = float(each["category_id"]), str(each["image_id"])
    names = (changed(written, tmp_path, document), f"coco:{written}")
    found, expected = (open_source(name, "evaluation") for name in names)
    assert isinstance(found, CocoSource)
    assert isinstance(expected, CocoSource)
    assert [found.objects(index).labels.tolist() for index in range(8)] == [
        expected.objects(index).labels.tolist() for index in range(8)
    ]


def test_an_image_of_another_size_is_refused(written: Path, tmp_path: Path) -> None:
    """By its header, and when it is read."""
    document = json.loads(written.read_text(encoding="utf-8"))
    document["images"][3] |= {"width": 96, "height": 128}
    for each in document["annotations"]:
        del each["segmentation"]
    source = open_source(changed(written, tmp_path, document), "evaluation")
    message = "has 64×64 pixels, but 96×128 in the annotation file"
    with pytest.raises(DataError, match=message):
        source.load(3)
    with pytest.raises(DataError, match=message):
        check_headers(source, range(8))
    check_headers(source, [0, 1, 2])


def test_runs_in_plain_and_in_compressed_form(written: Path, tmp_path: Path) -> None:
    """The compressed text is pycocotools' of a mask whose rows 1 and 2 are set in columns 1 to 3 of 4×6 pixels."""
    image = {"id": 1, "file_name": "a.png", "height": 4, "width": 6}
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 2]}
    expected = np.zeros((4, 6), dtype=bool)
    expected[1:3, 1:4] = True
    for counts in ([5, 2, 2, 2, 2, 2, 9], "5220007"):
        document = {"images": [image], "annotations": [{**entry, "segmentation": {"size": [4, 6], "counts": counts}}]}
        document["categories"] = [{"id": 1, "name": "ring"}]
        (tmp_path / "a.png").touch()
        changed(written, tmp_path, document)
        source = open_source(f"coco:{tmp_path / 'annotations.json'}", "evaluation")
        assert isinstance(source, CocoSource)
        assert source.has_masks
        masks = source.objects(0).masks
        assert masks is not None
        assert np.array_equal(masks[0], expected)


def test_boxes_alone_beside_an_image_without_objects(written: Path, tmp_path: Path) -> None:
    document = json.loads(written.read_text(encoding="utf-8"))
    first = document["images"][0]["id"]
    document["annotations"] = [each for each in document["annotations"] if each["image_id"] != first]
    for each in document["annotations"]:
        del each["segmentation"]
    source = open_source(changed(written, tmp_path, document), "evaluation")
    assert isinstance(source, CocoSource)
    assert not source.has_masks
    assert source.objects(0).masks is source.objects(1).masks is None


@pytest.mark.parametrize(("key", "change", "message"), CASES)
def test_a_wrong_entry_is_named(written: Path, tmp_path: Path, key: str, change: dict[str, Any], message: str) -> None:
    document = json.loads(written.read_text(encoding="utf-8"))
    document[key][0] |= change
    with pytest.raises(DataError, match=message):
        open_source(changed(written, tmp_path, document), "evaluation")


def test_what_is_no_annotation_file_is_refused(written: Path, tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="no annotation file"):
        open_source(f"coco:{tmp_path / 'none.json'}", "evaluation")
    with pytest.raises(DataNotFoundError, match="no folder of images"):
        open_source(f"coco:{written}:{tmp_path / 'none'}", "evaluation")
    for document, message in (([1], "no list 'images'"), ({"images": []}, "no list 'annotations'")):
        with pytest.raises(DataError, match=message):
            open_source(changed(written, tmp_path, document), "evaluation")
    (tmp_path / "annotations.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="is not JSON"):
        open_source(f"coco:{tmp_path / 'annotations.json'}", "evaluation")


def test_a_damaged_mask_is_named_when_it_is_read(written: Path, tmp_path: Path) -> None:
    document = json.loads(written.read_text(encoding="utf-8"))
    document["annotations"][0]["segmentation"] = {"size": [64, 64], "counts": "no runs"}
    source = open_source(changed(written, tmp_path, document), "evaluation")
    assert isinstance(source, CocoSource)
    first = document["annotations"][0]["image_id"]
    with pytest.raises(DataError, match=r"a mask of .* "):
        source.objects(first)
