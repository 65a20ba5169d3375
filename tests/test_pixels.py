"""Images of more than 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from autoq.errors import DataError
from autoq.pixels import eight_bit, in_mode


@pytest.mark.parametrize(("dtype", "white"), [("uint16", 65535), (">u2", 65535), ("int32", 65535), ("float32", 1.0)])
def test_pixels_are_scaled_by_the_range_of_their_type(dtype: str, white: float) -> None:
    shares = np.array([[0.0, 0.2], [0.6, 1.0]])
    scaled = eight_bit(Image.fromarray((shares * white).astype(dtype)))
    assert scaled.mode == "L"
    assert np.asarray(scaled).tolist() == [[0, 51], [153, 255]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_eight_bits_stay_as_they_are(mode: str) -> None:
    image = Image.new(mode, (2, 2))
    assert eight_bit(image) is image


@pytest.mark.parametrize("values", [[[-1.0, 0.5]], [[0.0, 255.0]], [[0.0, float("nan")]]])
def test_values_outside_of_the_range_are_refused(values: list[list[float]]) -> None:
    with pytest.raises(DataError, match="not from 0 to 1: save it with 8 bits"):
        eight_bit(Image.fromarray(np.array(values, dtype="float32")))


def test_modes_are_converted_or_refused() -> None:
    palette = Image.new("P", (2, 2))
    palette.info["transparency"] = 0
    assert in_mode(palette, "RGB").mode == "RGB"
    assert in_mode(Image.new("I;16", (1, 1), 65535), "RGB").getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(DataError, match="an image of mode 'LAB' cannot be converted to L: save it as RGB"):
        in_mode(Image.new("LAB", (2, 2)), "L")
