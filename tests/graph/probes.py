"""What gradients of three probes are held against: upstream gradients, twice those, and none."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoq.graph.gradients import Gradients, Point


def assert_gradients(gradients: Mapping[Point, Gradients], expected: Mapping[Point, Tensor], message: str = "") -> None:
    """Check the gradients of a probe, of one twice as large, and of one on which nothing of the output depends."""
    assert gradients.keys() == expected.keys(), message
    for point, gradient in expected.items():
        one, two, none = gradients[point]
        assert one is not None
        assert two is not None
        torch.testing.assert_close(one, gradient)
        torch.testing.assert_close(two, 2 * gradient)
        assert none is None, "a probe on which nothing of the output depends"
