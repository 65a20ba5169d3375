"""What was folded into weights comes back from its tensors."""

from __future__ import annotations

import json

import pytest
import torch

from autoq.calibration.transforms.folded import FoldedTransforms
from autoq.calibration.transforms.reparameterization import ChannelFactors


def test_tensors_and_names_come_back() -> None:
    folded = FoldedTransforms(
        {"norm": ChannelFactors(torch.rand(8), torch.randn(8), *torch.rand(2))},
        {"qk": torch.randn(2, 4)},
    )
    tensors, document = folded.tensors(), json.loads(json.dumps(folded.document()))
    assert set(tensors) == {"norm.ratio", "norm.offset", "norm.scale", "norm.zero_point", "qk.centre"}
    again = FoldedTransforms.read(document, tensors)
    assert again.document() == folded.document()
    assert all(torch.equal(value, tensors[name]) for name, value in again.tensors().items())
    del tensors["qk.centre"]
    with pytest.raises(KeyError, match=r"qk\.centre"):
        FoldedTransforms.read(document, tensors)
    assert FoldedTransforms().tensors() == {}
