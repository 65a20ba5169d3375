"""Open the image source that a string such as the value of ``--data`` names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from autoq.data._base import ImageSource
from autoq.data.archive import ArchiveSource
from autoq.data.coco import PREFIX as COCO
from autoq.data.coco import CocoSource
from autoq.data.digits import SPLITS, DigitsSource
from autoq.data.folder import FolderSource
from autoq.data.given import IN_MEMORY
from autoq.data.hfds import HfdsSource
from autoq.data.maps import PREFIX as MAPS
from autoq.data.maps import MapsSource
from autoq.data.shapes import ShapesSource
from autoq.errors import DataError, DataNotFoundError
from autoq.validation import check_decodable, did_you_mean

Role = Literal["calibration", "evaluation"]

_SPLITS = {"calibration": "calib", "evaluation": "val"}


def open_source(spec: str, role: Role) -> ImageSource:
    """Open the images that a string names.

    Args:
        spec: ``digits`` (bundled, the split that suits ``role``), ``digits/train``, ``digits/calib``, ``digits/val``,
            ``shapes`` and its splits (drawn, with boxes and masks), ``coco:FILE.json`` or ``coco:FILE.json:IMAGES``,
            ``maps:IMAGES:LABELS`` (with classes of pixels), ``hfds/NAME`` or ``hfds/NAME:SPLIT``, an image folder, or a
            tar of one. A folder that is called ``digits`` is written ``./digits``.
        role: what the images are for.

    Returns:
        The source. Images lie in a fixed order. Those of a folder or tar are labelled by the folder of its root that
        they lie in, classes being in natural order; without such folders they have no labels.

    Raises:
        DataNotFoundError: there is no such source.
        DataError: it has no images, holds the splits of a data set, or has a name that is not UTF-8.
    """
    check_decodable(spec, "data", DataError)
    if spec == "digits":
        return DigitsSource.open(spec, _SPLITS[role])
    if spec.startswith("digits/"):
        return DigitsSource.open(spec, spec.removeprefix("digits/"))
    if spec == "shapes":
        return ShapesSource.open(spec, _SPLITS[role])
    if spec.startswith("shapes/"):
        return ShapesSource.open(spec, spec.removeprefix("shapes/"))
    if spec.startswith(COCO):
        return CocoSource.open(spec)
    if spec.startswith(MAPS):
        return MapsSource.open_maps(spec)
    if spec.startswith("hfds/"):
        return HfdsSource.open(spec, role)
    if spec.startswith(IN_MEMORY):
        raise DataNotFoundError(
            f"the images were given in Python, as an object of class {spec.removeprefix(IN_MEMORY)!r}: give them "
            "again, as an argument or, on the command line, as python:package.module:function"
        )
    path = Path(spec).expanduser()
    if not spec or not path.exists():
        raise DataNotFoundError(f"no image folder or tar at {spec!r}.{_suggestion(path)}")
    return FolderSource.open(spec, path) if path.is_dir() else ArchiveSource.open(spec, path)


def _suggestion(path: Path) -> str:
    """Return the nearest name beside the first part of ``path`` that does not exist."""
    missing = path
    while missing != missing.parent and not missing.parent.exists():
        missing = missing.parent
    known = ["digits", *(f"digits/{split}" for split in SPLITS)] if missing.parent == Path() else []
    if missing.parent.is_dir():
        known += [sibling.name for sibling in missing.parent.iterdir() if not sibling.name.startswith(".")]
    fallback = " Give an image folder, a tar of one, or digits."
    return did_you_mean(missing.name, known) or fallback
