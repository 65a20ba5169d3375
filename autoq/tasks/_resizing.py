"""From maps of a model's input to maps of the image that was resized to it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from autoq.pixels import Content


def on_image(maps: Tensor, size: tuple[int, int], content: Content) -> Tensor:
    """Interpolate maps of the input bilinearly to the pixels of the image.

    Args:
        maps: of the whole input, of shape (maps, h, w), of any resolution.
        size: height and width of the image in pixels.
        content: what the image takes up of the input.

    Returns:
        Of shape (maps, *size).

    >>> import torch
    >>> halves = torch.tensor([[[1.0, 1.0, 5.0, 5.0]]])  # the image fills the right half of its input
    >>> on_image(halves, (1, 2), (0.5, 0.0, 1.0, 1.0)).tolist()
    [[[5.0, 5.0]]]
    """
    if not len(maps):
        return maps.new_zeros(0, *size)
    left, top, right, bottom = content
    rows = [[right - left, 0.0, left + right - 1], [0.0, bottom - top, top + bottom - 1]]
    grid = functional.affine_grid(maps.new_tensor([rows]), [1, 1, *size], align_corners=False)
    return functional.grid_sample(maps.unsqueeze(0), grid, padding_mode="border", align_corners=False)[0]
