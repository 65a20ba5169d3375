"""Image folders as sources of images."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoq.data import open_source
from autoq.errors import DataError
from tests.data.sources import message_of, write_image


def test_folders_are_labelled_by_the_folder_of_the_root_that_the_image_lies_in_in_natural_order(image_folder):
    source = open_source(str(image_folder), "calibration")
    assert source.name == str(image_folder)
    assert source.class_names == ("2", "10", "cat")
    assert [str(path) for path in source.paths] == ["10/a.JPG", "10/b.png", "2/d.bmp", "2/deep/c.webp", "cat/e.jpeg"]
    assert [source.label(i) for i in range(len(source))] == [1, 1, 0, 0, 2]
    assert source.load(1).size == (6, 5)


def test_a_flat_folder_has_no_labels(tmp_path):
    write_image(tmp_path / "b.png", 1)
    write_image(tmp_path / "a.png", 2)
    source = open_source(str(tmp_path), "evaluation")
    assert source.class_names is None
    assert [source.label(i) for i in range(len(source))] == [None, None]
    assert [str(path) for path in source.paths] == ["a.png", "b.png"]


def test_images_beside_class_folders_have_no_label(tmp_path):
    write_image(tmp_path / "cat" / "a.png", 1)
    write_image(tmp_path / "z.png", 2)
    source = open_source(str(tmp_path), "evaluation")
    assert (source.class_names, source.label(0), source.label(1)) == (("cat",), 0, None)


def test_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    assert ".jpg" in message_of(str(tmp_path))


def test_image_that_disappears_is_named(tmp_path):
    write_image(tmp_path / "a.png", 1)
    source = open_source(str(tmp_path), "calibration")
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png'.*No such file"):
        source.load(0)


@pytest.mark.parametrize("loops", [1, 2])
def test_every_folder_is_read_once(tmp_path: Path, loops: int) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / "data" / name / "0.png", 1)
    for name in ("a", "b")[:loops]:
        (tmp_path / "data" / name / "up").symlink_to("..")
    (tmp_path / "data" / "B").symlink_to("b")
    source = open_source(str(tmp_path / "data"), "calibration")
    assert [str(path) for path in source.paths] == ["a/0.png", "b/0.png"], "a folder counts under its own name"


def test_links_are_followed(tmp_path: Path) -> None:
    write_image(tmp_path / "elsewhere" / "deep" / "0.png", 1)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    source = open_source(str(tmp_path / "data"), "evaluation")
    assert ([str(path) for path in source.paths], source.class_names) == (["cat/deep/0.png"], ("cat",))


@pytest.mark.parametrize(
    "names", [("train", "val"), ("TEST", "validation"), ("train2017", "val2017"), ("x_train", "y-val")]
)
def test_a_root_with_splits_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        write_image(tmp_path / name / "cat" / "0.png", 1)
    assert f"holds the splits {names[0]!r} and {names[1]!r}" in message_of(str(tmp_path))
    assert f"such as '{tmp_path}/{names[1]}'" in message_of(str(tmp_path))
    assert open_source(str(tmp_path / names[1]), "evaluation").class_names == ("cat",)


def test_one_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    for name in ("train", "bus"):
        write_image(tmp_path / name / "0.png", 1)
    assert open_source(str(tmp_path), "evaluation").class_names == ("bus", "train")


def test_folders_without_images_are_known(tmp_path: Path) -> None:
    write_image(tmp_path / "cat" / "0.png", 1)
    for name in ("dog", "10", ".hidden", "cat/none"):
        (tmp_path / name).mkdir()
    assert open_source(str(tmp_path), "evaluation").empty_classes == ("10", "dog")


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "cat" / "0.png", 1)
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(DataError, match="cat': Permission denied; make it readable"):
        open_source(str(tmp_path), "calibration")


def test_a_name_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(DataError, match=r"data 'caf\\xe9' is not named in UTF-8: rename it"):
        open_source(os.fsdecode(b"caf\xe9"), "calibration")


def test_pixels_are_taken_as_stored(tmp_path: Path) -> None:
    """An orientation in EXIF is not applied, as by timm and torchvision; 16 bits are scaled to 8."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.arange(12, dtype="uint8").reshape(3, 4) * 20)
    image.save(tmp_path / "a.png", exif=exif)
    deep = np.arange(12).reshape(3, 4) * 20 * 257
    Image.fromarray(deep.astype("uint16")).save(tmp_path / "b.png")
    source = open_source(str(tmp_path), "calibration")
    assert np.asarray(source.load(0)).tolist() == np.asarray(source.load(1)).tolist() == np.asarray(image).tolist()


def test_values_outside_of_their_range_name_the_image(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 255.0, dtype="float32")).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif': values of mode 'F' run from 255 to 255, not from 0 to 1"):
        open_source(str(tmp_path), "calibration").load(0)
