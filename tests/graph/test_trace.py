"""Small modules, each with one thing that tracing must get right."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from autoq.errors import TraceError
from autoq.graph.trace import trace
from tests.graph.small import tokens, traced


def test_a_batch_of_one_suffices() -> None:
    found = traced(nn.Linear(8, 8), tokens(1))
    assert found.graph_module(tokens(5)).shape == (5, 6, 8)


def test_training_mode_is_refused_even_in_a_part() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1)).eval()
    model[1].train()
    with pytest.raises(TraceError, match="training mode: call"):
        trace(model, tokens())


@pytest.mark.parametrize("example", [torch.zeros(0, 6, 8), torch.zeros(())])
def test_an_example_without_images_is_refused(example: Tensor) -> None:
    with pytest.raises(TraceError, match=r"the example has shape \[.*\]: give a batch of at least one image"):
        trace(nn.Linear(8, 8).eval(), example)


def test_a_traced_model_finds_sites_operands_and_weights() -> None:
    module = nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    found = traced(module)
    assert found.macs == 6 * (8 * 4 + 4 * 2)
    assert list(found.sites_by_name) == ["0", "1", "2", "output"]
    assert [(site.name, operand.name) for site, operand in found.operands()] == list(found.edges)
    assert found.weight("2").data_ptr() == module[2].weight.data_ptr()
    with pytest.raises(KeyError):
        found.weight("1")


def test_every_product_that_is_no_site_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="autoq.graph.trace"):
        traced(nn.Sequential(nn.Linear(8, 8), nn.ConvTranspose1d(6, 3, 2)))
    [record] = [record for record in caplog.records if record.name == "autoq.graph.trace"]
    assert record.getMessage() == (
        "1 (conv_transpose1d) is not counted and stays in floating point: autoq has no site for this operation"
    )
