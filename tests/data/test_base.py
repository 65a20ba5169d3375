"""What folders and archives share: labels by folder, what is an image, decoding."""

from __future__ import annotations

import io
from pathlib import PurePosixPath

import pytest
from PIL import Image

from autoq.data import open_source
from autoq.data._base import classes_of, decode, is_image_path
from autoq.errors import DataError
from tests.data.sources import make_tar


def test_classes_are_numbered_in_natural_order() -> None:
    names, labels = classes_of(
        [PurePosixPath(path) for path in ("n10/a.png", "N2/b.png", "n2/c.png", "d.png", "n9/x/e.png")]
    )
    assert names == ("N2", "n2", "n9", "n10")
    assert labels == (3, 0, 1, None, 2)
    assert classes_of([PurePosixPath("a.png")]) == (None, (None,))
    assert classes_of([]) == (None, ())


@pytest.mark.parametrize(
    ("path", "is_image"),
    [("a/b.PNG", True), ("b.webp", True), ("b.txt", False), ("png", False), (".b.png", False), (".a/b.png", False)],
)
def test_images_are_told_by_their_suffix(path: str, is_image: bool) -> None:
    assert is_image_path(PurePosixPath(path)) is is_image


def test_whole_images_are_decoded_in_the_mode_they_are_stored_in() -> None:
    stream = io.BytesIO()
    Image.new("L", (3, 2), 7).save(stream, "PNG")
    decoded = decode(lambda: io.BytesIO(stream.getvalue()), "a.png")
    assert (decoded.mode, decoded.size, decoded.getpixel((2, 1))) == ("L", (3, 2), 7)


def test_implausibly_large_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    Image.new("L", (30, 20)).save(stream, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"cannot read image 'large\.png'"):
        decode(lambda: io.BytesIO(stream.getvalue()), "large.png")


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda _: b"", lambda data: b"GIF89a" + data])
def test_corrupt_image_is_named(tmp_path, damage):
    path = tmp_path / "a.jpg"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(damage(path.read_bytes()))
    for spec in (tmp_path, make_tar(tmp_path, tmp_path / "t.tar", "w", ".")):
        source = open_source(str(spec), "calibration")
        with pytest.raises(DataError, match=r"a\.jpg'.*remove or replace it") as raised:
            source.load(0)
        assert "\n" not in str(raised.value)
