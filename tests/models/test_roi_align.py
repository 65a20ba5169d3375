from __future__ import annotations

import torch
from torchvision.ops import MultiScaleRoIAlign

from autoq.models.roi_align import PyramidRoIAlign


def test_pools_what_torchvision_pools_from_every_level() -> None:
    generator = torch.Generator().manual_seed(0)
    strides, size = (4, 8, 16, 32), 1024
    features = [torch.randn(2, 3, size // stride, size // stride, generator=generator) for stride in strides]
    side = torch.tensor([5.0, 60, 111.9, 112, 224, 300, 447.9, 448, 900])  # canonical borders among them
    left_top = torch.rand(2, len(side), 2, generator=generator) * 100
    boxes = torch.cat([left_top, left_top + side.view(-1, 1)], 2)
    pool = PyramidRoIAlign(7, strides)
    reference = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    named = {str(level): feature for level, feature in enumerate(features)}
    assert torch.equal(pool(features, boxes), reference(named, [*boxes], [(size, size)] * 2))
    assert pool._levels(boxes).unique().tolist() == [0, 1, 2, 3]
