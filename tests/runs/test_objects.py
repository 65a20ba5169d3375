from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from autoq.errors import DataError
from autoq.models import load_model
from autoq.runs.objects import match_objects


def test_objects_are_labelled_with_outputs() -> None:
    loaded = load_model("swin_shapes", pretrained=False)
    matched = match_objects("shapes/val", loaded, 4, required=True)
    assert matched is not None
    assert matched.mapping.by == "name"
    found = matched.between(0, 3)
    assert [each.labels.tolist() for each in found] == [matched.source.objects(i).labels.tolist() for i in range(3)]


def test_images_without_boxes() -> None:
    loaded = load_model("swin_shapes", pretrained=False)
    assert match_objects("digits", loaded, 4, required=False) is None
    with pytest.raises(DataError, match="images in 'digits' have no boxes"):
        match_objects("digits", loaded, 4, required=True)


def test_masks_are_asked_for_where_they_are_measured(tmp_path: Path) -> None:
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    image = {"id": 1, "file_name": "a.png", "width": 64, "height": 64}
    document = {"images": [image], "annotations": [entry], "categories": [{"id": 1, "name": "ring"}]}
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    loaded = load_model("swin_shapes", pretrained=False)
    assert match_objects(f"coco:{path}", loaded, 4, required=True) is not None
    assert match_objects(f"coco:{path}", loaded, 4, required=False, with_masks=True) is None
    with pytest.raises(DataError, match=r"not all objects in '.*boxes\.json' have masks"):
        match_objects(f"coco:{path}", loaded, 4, required=True, with_masks=True)
    assert match_objects("shapes", loaded, 4, required=True, with_masks=True) is not None
    path.write_text(json.dumps(document | {"annotations": []}), encoding="utf-8")
    assert match_objects(f"coco:{path}", loaded, 4, required=False) is None
    with pytest.raises(DataError, match=r"boxes\.json' have no boxes: give coco:FILE\.json with annotations"):
        match_objects(f"coco:{path}", loaded, 4, required=True)


def test_a_file_that_is_no_image_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    image = {"id": 1, "file_name": "a.png", "width": 64, "height": 64}
    document = {"images": [image], "annotations": [entry], "categories": [{"id": 1, "name": "ring"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(document), encoding="utf-8")
    (tmp_path / "a.png").write_bytes(b"no image")
    loaded = load_model("swin_shapes", pretrained=False)
    with pytest.raises(DataError, match=r"cannot read image '.*a\.png': it is not an image"):
        match_objects(f"coco:{tmp_path / 'boxes.json'}", loaded, 4, required=True)
