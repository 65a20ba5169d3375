"""Image folders and tars for tests, and what a refused source says."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoq.data import ImageSource, open_source
from autoq.errors import DataError


def write_image(path: Path, value: int, mode: str = "RGB") -> None:
    """Write an image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 5), value).save(path)


def make_tar(folder: Path, path: Path, mode: str, arcname: str) -> Path:
    """Put a folder into a tar."""
    with tarfile.open(path, mode) as archive:
        archive.add(folder, arcname)
    return path


def contents(source: ImageSource) -> list[tuple[int | None, object]]:
    """Labels and pixels of all images."""
    return [(source.label(i), np.asarray(source.load(i)).tolist()) for i in range(len(source))]


def message_of(spec: str) -> str:
    """The line that says why a source cannot be opened."""
    with pytest.raises(DataError) as raised:
        open_source(spec, "calibration")
    text = str(raised.value)
    assert "\n" not in text
    assert repr(spec) in text
    return text
