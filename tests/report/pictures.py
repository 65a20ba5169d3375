"""What is on a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def pixels_of(path: Path) -> np.ndarray:
    """A picture as (rows, columns, RGB)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def has_color(pixels: np.ndarray, color: str) -> bool:
    """Whether a pixel or more has a colour, written ``#rrggbb``."""
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return bool((np.abs(pixels.astype(int) - wanted).max(axis=2) <= 2).any())
