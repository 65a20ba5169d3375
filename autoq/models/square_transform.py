"""From an image to a detector's input: resized to its height and width, whatever shape the image has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from autoq.pixels import in_mode

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class SquareTransform:
    """Resize an RGB image to a fixed size, so that shares of the input are shares of the image, and normalise it.

    Attributes:
        size: height and width of the input.
        mean: of each channel, of pixels between 0 and 1.
        std: likewise.
    """

    size: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]

    @property
    def description(self) -> dict[str, Any]:
        """The settings as plain JSON."""
        settings = {"mean": list(self.mean), "std": list(self.std), "interpolation": "bilinear", "resize": "square"}
        return {"mode": "RGB", **settings}

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform one image to a float32 tensor of shape (3, height, width).

        Raises:
            DataError: a pixel is outside of the range of its type.
        """
        from PIL import Image

        height, width = self.size
        pixels = in_mode(image, "RGB")
        if pixels.size != (width, height):
            pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
        return normalised(pixels, self.mean, self.std)


def normalised(pixels: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return an RGB image as a float32 tensor of shape (3, height, width), each channel normalised."""
    values = torch.from_numpy(np.array(pixels, dtype=np.float32) / 255).permute(2, 0, 1)
    shift, scale = (torch.tensor(each, dtype=torch.float32).view(3, 1, 1) for each in (mean, std))
    return ((values - shift) / scale).contiguous()
