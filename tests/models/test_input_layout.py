from __future__ import annotations

import pytest
import torch

from autoq.errors import ModelError
from autoq.models.input_layout import InputLayout

LAYOUT = InputLayout(((3, 4, 5), (7, 2), (1,)))


def test_inputs_come_back_as_they_were() -> None:
    inputs = [torch.randn(6, *shape) for shape in LAYOUT.shapes]
    packed = LAYOUT.pack(*inputs)
    assert packed.shape == (6, LAYOUT.size) == (6, 60 + 14 + 1)
    for found, given in zip(LAYOUT.unpack(packed), inputs, strict=True):
        assert torch.equal(found, given)


def test_images_stay_whole_in_subsets_of_the_batch() -> None:
    inputs = [torch.randn(6, *shape) for shape in LAYOUT.shapes]
    chosen = LAYOUT.pack(*inputs)[[4, 1]]
    assert torch.equal(LAYOUT.unpack(chosen)[1], inputs[1][[4, 1]])


def test_other_shapes_are_refused() -> None:
    inputs = [torch.randn(6, *shape) for shape in LAYOUT.shapes]
    with pytest.raises(ModelError, match=r"give \(N, 3, 4, 5\), \(N, 7, 2\), \(N, 1\)"):
        LAYOUT.pack(*inputs[:2])
    with pytest.raises(ModelError, match=r"\(5, 1\)"):
        LAYOUT.pack(*inputs[:2], torch.zeros(5, 1))
