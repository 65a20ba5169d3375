from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from autoq.tasks._resizing import on_image


@pytest.mark.parametrize("size", [(5, 7), (40, 3), (16, 24)])
def test_an_image_that_fills_the_input_is_interpolated_as_usual(size: tuple[int, int]) -> None:
    maps = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(maps[None], size=size, mode="bilinear")[0]
    torch.testing.assert_close(on_image(maps, size, (0.0, 0.0, 1.0, 1.0)), expected, rtol=0, atol=1e-5)


def test_a_map_of_a_box_lies_there_and_nothing_outside() -> None:
    maps = torch.arange(8.0).reshape(2, 2, 2)
    boxes = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.3, 0.3, 0.3, 0.6]])
    found = on_image(maps, (4, 8), (0.0, 0.0, 1.0, 1.0), boxes)
    torch.testing.assert_close(found[0, 2:, 2:4], maps[0], rtol=0, atol=1e-5)
    assert found[0].isfinite().sum() == 4
    assert not found[1].isfinite().any(), "its box is empty"
    half = on_image(maps, (4, 8), (0.0, 0.5, 0.5, 1.0), boxes)  # the image is a quarter of the input
    torch.testing.assert_close(half[0, ::3, 4::3], maps[0], rtol=0, atol=1e-5, msg="corners")
    assert not half[0, :, :4].isfinite().any()


def test_a_part_is_what_lies_there() -> None:
    maps = torch.arange(64.0).reshape(1, 8, 8)
    assert torch.equal(on_image(maps, (4, 2), (0.5, 0.25, 0.75, 0.75)), maps[:, 2:6, 4:6])
    assert on_image(maps[:0], (4, 2), (0.0, 0.0, 1.0, 1.0)).shape == (0, 4, 2)
