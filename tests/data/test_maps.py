from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoq.data import MapSource, open_source
from autoq.errors import DataError, DataNotFoundError

VALUES = np.arange(30, dtype=np.uint8).reshape(5, 6) % 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, one in a folder, with a map each."""
    for name in ("a.jpg", "street/b.png"):
        for root, pixels in (("images", np.zeros((5, 6, 3), dtype=np.uint8)), ("labels", VALUES)):
            path = tmp_path / root / (name if root == "images" else name.replace(".jpg", ".png"))
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path


def opened(folder: Path) -> MapSource:
    source = open_source(f"maps:{folder / 'images'}:{folder / 'labels'}", "evaluation")
    assert isinstance(source, MapSource)
    return source


def test_values_are_outputs_where_nothing_names_them(folder: Path) -> None:
    source = opened(folder)
    assert len(source) == 2
    assert source.class_names is None
    assert source.label(0) is None
    assert source.load(1).size == (6, 5)
    for index in range(2):
        assert np.array_equal(source.label_map(index), VALUES)


@pytest.mark.parametrize("mode", ["P", "I;16"])
def test_palettes_and_16_bits_are_numbers_too(folder: Path, mode: str) -> None:
    image = Image.fromarray(VALUES.astype(np.uint16) if mode == "I;16" else VALUES)
    if mode == "P":
        image.putpalette([255, 0, 0] * 3)
    image.save(folder / "labels" / "a.png")
    assert np.array_equal(opened(folder).label_map(0), VALUES)


def test_names_of_values(folder: Path) -> None:
    """Value 0 is no class, and 255 never is; the others are counted in their order."""
    (folder / "labels" / "classes.txt").write_text("\nroad\nsky\n", encoding="utf-8")
    image = VALUES.copy()
    image[0, 0] = 255
    Image.fromarray(image).save(folder / "labels" / "a.png")
    source = opened(folder)
    assert source.class_names == ("road", "sky")
    expected = np.array([255, 0, 1])[VALUES]
    expected[0, 0] = 255
    assert np.array_equal(source.label_map(0), expected)
    image[0, 0] = 3
    Image.fromarray(image).save(folder / "labels" / "a.png")
    with pytest.raises(DataError, match=r"a\.png' has the value 3, but classes\.txt has 3 lines"):
        source.label_map(0)


def test_what_does_not_fit_is_named(folder: Path) -> None:
    for spec, message in (("maps:x", "write maps:IMAGES:LABELS"), (f"maps:{folder}:no", "no folder of label maps")):
        with pytest.raises((DataError, DataNotFoundError), match=message):
            open_source(spec, "evaluation")
    source = opened(folder)
    Image.new("RGB", (6, 5)).save(folder / "labels" / "a.png")
    with pytest.raises(DataError, match=r"label map .*a\.png': its mode is 'RGB'"):
        source.label_map(0)
    Image.new("L", (5, 6)).save(folder / "labels" / "a.png")
    with pytest.raises(DataError, match="has 5×6 pixels, its image 6×5"):
        source.label_map(0)
    (folder / "labels" / "classes.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"classes\.txt' names no class"):
        opened(folder)
    (folder / "labels" / "classes.txt").write_text("x\n" * 256, encoding="utf-8")
    with pytest.raises(DataError, match="has 256 lines, but label maps tell 255 classes"):
        opened(folder)
    (folder / "labels" / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.jpg' has no label map at '.*a\.png'"):
        opened(folder)
