"""Image folders as sources of images."""

import pytest

from autoq.data import open_source
from autoq.errors import DataError
from tests.data.sources import message_of, write_image


def test_folders_are_labelled_by_the_folder_that_holds_the_image_in_natural_order(image_folder):
    source = open_source(str(image_folder), "calibration")
    assert source.name == str(image_folder)
    assert source.class_names == ("2", "10", "cat", "deep")
    assert [str(path) for path in source.paths] == ["10/a.JPG", "10/b.png", "2/d.bmp", "2/deep/c.webp", "cat/e.jpeg"]
    assert [source.label(i) for i in range(len(source))] == [1, 1, 0, 3, 2]
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
