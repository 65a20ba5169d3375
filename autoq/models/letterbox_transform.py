"""From an image to a detector's input: resized to fit, its shape kept, the rest filled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from autoq.models.square_transform import normalised
from autoq.pixels import Content, in_mode

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class LetterboxTransform:
    """Resize an RGB image to fit into a fixed size, its shape kept, fill what is left, and normalise it.

    Metrics are told what the image takes up of the input, so that boxes and masks are found again on the image.

    >>> from PIL import Image
    >>> letterbox = LetterboxTransform((64, 64))
    >>> tuple(letterbox(Image.new("RGB", (200, 100))).shape), letterbox.content((100, 200))
    ((3, 64, 64), (0.0, 0.25, 1.0, 0.75))

    Attributes:
        size: height and width of the input.
        mean: of each channel, of pixels between 0 and 1.
        std: likewise.
        fill: red, green and blue of what is left, from 0 to 255.
        centred: whether the image lies in the middle; False: at the top left.
    """

    size: tuple[int, int]
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)
    fill: tuple[int, int, int] = (114, 114, 114)
    centred: bool = True

    @property
    def description(self) -> dict[str, Any]:
        """The settings as plain JSON."""
        settings = {"mean": list(self.mean), "std": list(self.std), "interpolation": "bilinear", "resize": "letterbox"}
        return {"mode": "RGB", **settings, "fill": list(self.fill), "centred": self.centred}

    def content(self, size: tuple[int, int]) -> Content:
        """Return what an image of a height and width takes up of the input."""
        (left, top), (width, height) = self._place(size)
        rows, columns = self.size
        return left / columns, top / rows, (left + width) / columns, (top + height) / rows

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform one image to a float32 tensor of shape (3, height, width).

        Raises:
            DataError: a pixel is outside of the range of its type.
        """
        from PIL import Image

        pixels = in_mode(image, "RGB")
        corner, resized = self._place((pixels.height, pixels.width))
        if pixels.size != resized:
            pixels = pixels.resize(resized, Image.Resampling.BILINEAR)
        filled = Image.new("RGB", (self.size[1], self.size[0]), self.fill)
        filled.paste(pixels, corner)
        return normalised(filled, self.mean, self.std)

    def _place(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return left and top, width and height in pixels of the input, of an image of a height and width."""
        scale = min(of_input / of_image for of_input, of_image in zip(self.size, size, strict=True))
        height, width = (max(1, round(scale * side)) for side in size)
        left, top = ((self.size[1] - width) // 2, (self.size[0] - height) // 2) if self.centred else (0, 0)
        return (left, top), (width, height)
