"""From maps of a model's input to maps of the image that was resized to it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from autoq.pixels import Content


def on_image(maps: Tensor, size: tuple[int, int], content: Content, boxes: Tensor | None = None) -> Tensor:
    """Interpolate maps of the input bilinearly to the pixels of the image.

    Args:
        maps: of shape (maps, h, w), of any resolution.
        size: height and width of the image in pixels.
        content: what the image takes up of the input.
        boxes: left, top, right and bottom of what each map shows of the input, in shares of it, of shape (maps, 4);
            outside of them the result is minus infinity. None: all of it.

    Returns:
        Of shape (maps, *size).

    >>> import torch
    >>> halves = torch.tensor([[[1.0, 1.0, 5.0, 5.0]]])  # the image fills the right half of its input
    >>> on_image(halves, (1, 2), (0.5, 0.0, 1.0, 1.0)).tolist()
    [[[5.0, 5.0]]]
    """
    if not len(maps):
        return maps.new_zeros(0, *size)
    if boxes is not None:
        return torch.stack([_in_box(each, size, content, box) for each, box in zip(maps, boxes, strict=True)])
    left, top, right, bottom = content
    rows = [[right - left, 0.0, left + right - 1], [0.0, bottom - top, top + bottom - 1]]
    grid = functional.affine_grid(maps.new_tensor([rows]), [1, 1, *size], align_corners=False)
    return functional.grid_sample(maps.unsqueeze(0), grid, padding_mode="border", align_corners=False)[0]


def _in_box(map_of_box: Tensor, size: tuple[int, int], content: Content, box: Tensor) -> Tensor:
    """Interpolate one map, of shape (h, w), which shows a box of the input; an empty box shows nothing."""
    left, top, right, bottom = box.tolist()
    outside = map_of_box.new_full(size, -torch.inf)
    if right <= left or bottom <= top:
        return outside
    begins = ((content[0] - left) / (right - left), (content[1] - top) / (bottom - top))
    ends = ((content[2] - left) / (right - left), (content[3] - top) / (bottom - top))  # in shares of the box
    rows = [
        [ends[0] - begins[0], 0.0, begins[0] + ends[0] - 1],
        [0.0, ends[1] - begins[1], begins[1] + ends[1] - 1],
    ]
    grid = functional.affine_grid(map_of_box.new_tensor([rows]), [1, 1, *size], align_corners=False)
    found = functional.grid_sample(map_of_box[None, None], grid, padding_mode="border", align_corners=False)[0, 0]
    return found.where(grid[0].abs().amax(-1) <= 1, outside)
