"""Pixels of 16 and 32 bits as pixels of 8 bits, which is what models are fed from, and where they lie in the input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from autoq.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

Content = tuple[float, float, float, float]
"""What an image takes up of a model's input: left, top, right and bottom in shares of the input."""

WHOLE: Content = (0.0, 0.0, 1.0, 1.0)
"""All of it."""

_WHITE = {"I;16": 65535, "I;16L": 65535, "I;16B": 65535, "I;16N": 65535, "I": 65535, "F": 1.0}
"""Value of white by mode of Pillow; 32-bit integers hold 16-bit values, as Pillow once opened 16-bit files."""


def eight_bit(image: Image.Image) -> Image.Image:
    """Scale an image of 16 or 32 bits to mode ``L``, by the range of its type; return others as they are.

    Pillow's own conversion clips at 255, so that such images become white, or black.

    Args:
        image: in any mode. Integers run from 0 to 65535, floats from 0 to 1.

    Raises:
        DataError: there are values outside of that range, or NaN.

    >>> from PIL import Image
    >>> eight_bit(Image.new("F", (1, 1), 0.2)).getpixel((0, 0))
    51
    """
    white = _WHITE.get(image.mode)
    if white is None:
        return image
    from PIL import Image

    values = np.asarray(image).astype(np.float64)
    if values.size and not (values.min() >= 0 and values.max() <= white):
        raise DataError(
            f"values of mode {image.mode!r} run from {values.min():g} to {values.max():g}, not from 0 to {white:g}: "
            "save it with 8 bits, or scale it to that range"
        )
    return Image.fromarray(np.round(values * (255 / white)).astype(np.uint8))


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image to 8 bits in a mode of Pillow, such as ``RGB``; transparency is dropped.

    Raises:
        DataError: pixels are outside of the range of their type, or Pillow does not convert this mode.
    """
    image = eight_bit(image)
    if "transparency" in image.info:
        image = image.convert("RGBA")  # else a palette's transparent colour would be lost with a warning
    try:
        return image.convert(mode)
    except ValueError as error:
        raise DataError(f"an image of mode {image.mode!r} cannot be converted to {mode}: save it as RGB") from error
