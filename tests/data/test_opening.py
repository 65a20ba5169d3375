"""From a name to a source of images."""

import pytest

from autoq.data import open_source
from autoq.errors import DataNotFoundError
from tests.data.sources import message_of


def test_digits_follow_the_role():
    assert open_source("digits", "calibration").indices == open_source("digits/calib", "evaluation").indices
    assert open_source("digits", "evaluation").indices == open_source("digits/val", "calibration").indices


def test_unknown_split():
    assert "Did you mean 'digits/val'?" in message_of("digits/vall")
    assert "digits/train" in message_of("digits/")


def test_missing_folder_names_the_nearest(image_folder, monkeypatch):
    assert "Did you mean 'images'?" in message_of(str(image_folder.parent / "imagse"))
    assert "Did you mean 'images'?" in message_of(str(image_folder.parent / "imagse" / "10"))
    assert "Give an image folder" in message_of(str(image_folder.parent / "zzzzzzzz"))
    monkeypatch.chdir(image_folder)
    assert "Did you mean 'digits'?" in message_of("digit")
    message_of("")


def test_images_that_were_objects_cannot_be_opened_by_name():
    with pytest.raises(DataNotFoundError, match="given in Python, as an object of class 'DataLoader'"):
        open_source("memory:DataLoader", "calibration")
