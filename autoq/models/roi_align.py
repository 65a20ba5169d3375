"""RoIAlign on a feature pyramid, with shapes that do not depend on the boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_CANONICAL_SIDE, _CANONICAL_LEVEL = 224.0, 4
_EPSILON = 1e-6


class PyramidRoIAlign(nn.Module):
    """Pool each box from the level of a pyramid that fits its size (Lin et al., CVPR 2017, equation 1).

    The same values bit for bit as ``torchvision.ops.MultiScaleRoIAlign``, which sorts boxes by level, so that its
    shapes depend on them and it cannot be traced; here each box is pooled from every level, and one result taken.
    """

    def __init__(self, output_size: int, strides: Sequence[int], sampling_ratio: int = 2) -> None:
        """Build the layer, which has no parameters.

        Args:
            output_size: height and width of what is pooled.
            strides: of the levels, consecutive powers of two.
            sampling_ratio: samples along each side of a bin.
        """
        super().__init__()
        self.output_size = output_size
        self.strides = tuple(strides)
        self.sampling_ratio = sampling_ratio

    def forward(self, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Pool.

        Args:
            features: (N, channels, h, w) of each level.
            boxes: left, top, right and bottom in pixels, (N, boxes, 4).

        Returns:
            Of shape (N · boxes, channels, output_size, output_size), image after image.
        """
        from torchvision.ops import roi_align

        count, per_image = boxes.shape[0], boxes.shape[1]
        image = torch.arange(count, device=boxes.device, dtype=boxes.dtype).view(-1, 1, 1).expand(-1, per_image, 1)
        rois = torch.cat([image, boxes], 2).reshape(-1, 5)
        levels = self._levels(boxes).reshape(-1, 1, 1, 1)
        side = (self.output_size, self.output_size)
        pooled = None
        for level, (feature, stride) in enumerate(zip(features, self.strides, strict=True)):
            here: Tensor = roi_align(feature, rois, side, 1 / stride, self.sampling_ratio)
            pooled = here if pooled is None else torch.where(levels == level, here, pooled)
        assert pooled is not None  # noqa: S101 - there is a level
        return pooled

    def _levels(self, boxes: Tensor) -> Tensor:
        """Return the number of each box's level in the pyramid, of shape (N, boxes)."""
        first, last = (stride.bit_length() - 1 for stride in (self.strides[0], self.strides[-1]))
        side = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])).sqrt()
        level = torch.floor(_CANONICAL_LEVEL + torch.log2(side / _CANONICAL_SIDE) + _EPSILON)
        return level.clamp(first, last) - first
