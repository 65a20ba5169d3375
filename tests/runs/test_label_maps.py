from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoq.data import map_of_objects
from autoq.errors import DataError
from autoq.models import LoadedModel, load_model
from autoq.runs.label_maps import match_maps


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model("swin_shapes", pretrained=False)


def write_map(folder: Path, values: list[int], names: str | None = None) -> str:
    for name, pixels in (("images", np.zeros((1, 4, 3), dtype=np.uint8)), ("labels", np.array([values], np.uint8))):
        (folder / name).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / name / "0.png")
    if names is not None:
        (folder / "labels" / "classes.txt").write_text(names, encoding="utf-8")
    return f"maps:{folder / 'images'}:{folder / 'labels'}"


def test_named_classes_become_outputs(loaded: LoadedModel, tmp_path: Path) -> None:
    matched = match_maps(write_map(tmp_path, [0, 1, 2, 255], "\nring\nellipse\n"), loaded, 4, required=True)
    assert matched is not None
    assert (matched.by, matched.between(0, 1)[0].classes.tolist()) == ("name", [[255, 3, 0, 255]])
    with pytest.raises(DataError, match="category 'square': the model has no class of that name"):
        match_maps(write_map(tmp_path, [0] * 4, "square\nring\n"), loaded, 4, required=True)


def test_values_without_names_are_outputs(loaded: LoadedModel, tmp_path: Path) -> None:
    matched = match_maps(write_map(tmp_path, [0, 3, 2, 255]), loaded, 4, required=True)
    assert matched is not None
    assert (matched.by, matched.between(0, 1)[0].classes.tolist()) == ("index", [[0, 3, 2, 255]])
    beyond = match_maps(write_map(tmp_path, [0, 4, 2, 255]), loaded, 4, required=True)
    assert beyond is not None
    with pytest.raises(DataError, match=r"image 0 of .* has the value 4, but the model has the classes 0 to 3"):
        beyond.between(0, 1)


def test_objects_serve_as_maps(loaded: LoadedModel) -> None:
    matched = match_maps("shapes/val", replace(loaded, label_names=loaded.label_names[::-1]), 4, required=True)  # type: ignore[index]
    assert matched is not None
    assert matched.by == "name"
    own = map_of_objects(matched.source.objects(1))  # type: ignore[attr-defined]
    found = matched.between(1, 2)[0].classes
    assert np.array_equal(found, np.where(own == 255, 255, 3 - own))


def test_images_without_classes_of_pixels(loaded: LoadedModel) -> None:
    assert match_maps("digits", loaded, 4, required=False) is None
    with pytest.raises(DataError, match="images in 'digits' have no classes of pixels: give maps:IMAGES:LABELS"):
        match_maps("digits", loaded, 4, required=True)


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ("images/0.png", r"cannot read image '.*0\.png': it is not an image"),
        ("labels/0.png", r"cannot read label map '.*0\.png'"),
    ],
)
def test_a_file_that_is_no_image_is_refused_before_anything_is_measured(
    loaded: LoadedModel, tmp_path: Path, damaged: str, message: str
) -> None:
    name = write_map(tmp_path, [0, 1, 2, 255])
    (tmp_path / damaged).write_bytes(b"no image")
    with pytest.raises(DataError, match=message):
        match_maps(name, loaded, 4, required=True)
