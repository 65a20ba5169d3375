"""Which products' rows a number can be added to: those that go to softmaxes whole, whatever the way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from autoq.calibration.transforms.centring.softmax_rows import SoftmaxRowProbe
from tests.calibration.transforms.centring.models import Attention
from tests.calibration.transforms.rotation.models import traced

MASK = torch.triu(torch.full((8, 8), float("-inf")), 1)


INVARIANT: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda s: s.softmax(-1),
    "scaled": lambda s: (s * 0.3 / 2).softmax(3),
    "masked by addition": lambda s: (s + MASK.to(s)).softmax(-1),
    "an offset taken away": lambda s: (s - torch.arange(8).to(s)).softmax(-1),
    "in another view": lambda s: s.flatten(0, 1).softmax(-1).view(-1, 2, 8, 8),
    "two softmaxes": lambda s: s.softmax(-1) + (2 * s).softmax(-1),
}
OTHER: dict[str, Callable[[Tensor], Tensor]] = {
    "no softmax": lambda s: s,
    "over queries": lambda s: s.softmax(-2),
    "over half of the keys": lambda s: torch.cat([s[..., :4].softmax(-1), s[..., 4:].softmax(-1)], -1),
    "scores beside their softmax": lambda s: s.softmax(-1) + s,
    "a nonlinear function": lambda s: s.relu().softmax(-1),
    "a factor for each key": lambda s: (s * torch.arange(8).to(s)).softmax(-1),
    "added to themselves": lambda s: (s + s.mT).softmax(-1),
    "taken away from a number": lambda s: (1 / s).softmax(-1),
    "entries replaced": lambda s: s.masked_fill(MASK.to(s) < 0, -3.0).softmax(-1),
}


def invariant(weigh: Callable[[Tensor], Tensor]) -> bool:
    model = traced(Attention(weigh))
    probe = SoftmaxRowProbe(model.graph_module)
    probe.run_on_zeros()
    product = next(site.name for site in model.sites if site.op == "matmul")
    return model.edges[product, "lhs"].node in probe.invariant


@pytest.mark.parametrize("name", INVARIANT)
def test_rows_that_a_number_can_be_added_to(name: str) -> None:
    assert invariant(INVARIANT[name])


@pytest.mark.parametrize("name", OTHER)
def test_rows_whose_values_count(name: str) -> None:
    assert not invariant(OTHER[name])


def test_windows_in_a_view_of_their_own() -> None:
    def weigh(scores: Tensor) -> Tensor:
        return (scores.unflatten(0, (1, -1)) + MASK.to(scores)).flatten(0, 1).softmax(-1)

    assert invariant(weigh)
