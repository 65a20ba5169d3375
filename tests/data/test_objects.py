from __future__ import annotations

import numpy as np

from autoq.data.objects import boxes_of_masks


def test_boxes_are_the_smallest_around_masks() -> None:
    masks = np.zeros((2, 4, 6), dtype=bool)
    masks[0, 1:3, 2:5] = True
    masks[1, 3, 5] = True
    assert boxes_of_masks(masks).tolist() == [[2, 1, 5, 3], [5, 3, 6, 4]]
    assert boxes_of_masks(masks[:0]).shape == (0, 4)
