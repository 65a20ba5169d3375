"""Comparing what was exported with what it was made from."""

from __future__ import annotations

import torch
from torch import Tensor

from autoq.exporters.checking import compare
from tests.api.models import IMAGES
from tests.exporters.sources import source_of


@torch.no_grad()
def test_agreement_and_differences_are_means_over_all_images() -> None:
    module = source_of("w8a8").module
    expected = module(IMAGES)

    def shifted(images: Tensor) -> list[Tensor]:
        output = module(images)
        logits = output["logits"] + 0.25
        logits[0] = -logits[0]  # the first of a batch answers something else
        return [output["tokens"], logits]

    found = compare(module, IMAGES, shifted)
    assert found.images == len(IMAGES)
    assert found.agreement_percent == 100 * (len(IMAGES) - 1) / len(IMAGES)
    difference = torch.full_like(expected["logits"], 0.25)
    difference[0] = (2 * expected["logits"][0] + 0.25).abs()
    assert abs(found.mean_difference - float(difference.mean())) < 1e-6
    assert abs(found.mean_magnitude - float(expected["logits"].abs().mean())) < 1e-6
