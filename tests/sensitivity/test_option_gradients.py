"""Gradients and errors at the sites of one stage, in closed form."""

from __future__ import annotations

import torch

from autoq.recipe import OperandConfig
from autoq.sensitivity.option_gradients import OptionGradients
from tests.graph.probes import assert_gradients
from tests.sensitivity.test_fisher import TwoLayers, bank_of

FOUR = OperandConfig(scheme="uniform", bits=4)


@torch.no_grad()
def test_one_layer() -> None:
    batch = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    bank = bank_of(TwoLayers, batch)
    activation, weight = ("first", "input", FOUR), ("first", "weight", FOUR)
    stage = OptionGradients(bank, 0, (batch,), [activation, weight], has_earlier=True)
    first = bank.model.traced.weight("first")
    upstream = torch.eye(3, 5)
    gradients, before = stage.differentiate([[upstream], [2 * upstream], [None]])
    assert (stage.point_of(activation), stage.point_of(weight)) == (("first", "input"), ("first", None))
    expected = {("first", "input"): upstream @ first, ("first", None): upstream}
    assert_gradients(gradients, expected, "those of weights at the output: others add up all images")
    assert before[0][0] is not None
    torch.testing.assert_close(before[0][0], upstream @ first)
    assert before[2] == [None]


@torch.no_grad()
def test_errors_go_where_they_are_wanted() -> None:
    batch = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    bank = bank_of(TwoLayers, batch)
    activation, weight = ("first", "input", FOUR), ("first", "weight", FOUR)
    stage = OptionGradients(bank, 0, (batch,), [activation, weight], has_earlier=False)
    every = torch.full((3, 2, 4), torch.nan)
    stage.error_(every[:, 1], activation)
    torch.testing.assert_close(every[:, 1], bank.quantizer(*activation)(batch) - batch)
    assert every[:, 0].isnan().all()
    first, of_output = bank.model.traced.weight("first"), torch.empty(3, 5)
    stage.error_(of_output, weight)
    torch.testing.assert_close(of_output, batch @ (bank.quantizer(*weight)(first) - first).T)
