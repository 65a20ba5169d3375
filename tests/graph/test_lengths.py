from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from autoq.graph.lengths import free_lengths
from autoq.graph.trace import trace


class Lengths(nn.Module):
    """Takes the batch size and other lengths by ``len``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 2)])

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), -1, 4)
        for layer in self.layers:
            x = layer(x)
        return x * len(self.layers) + len("abc") + torch.ones([len(x), 1, 1])


def test_a_batch_size_taken_by_len_stays_free() -> None:
    module = Lengths().eval()
    traced = trace(module, torch.zeros(2, 8))
    images = torch.randn(5, 8)
    with torch.no_grad():
        assert torch.equal(traced.graph_module(images), module(images))


def test_the_source_file_is_as_before_even_after_an_error() -> None:
    names = vars(sys.modules[__name__])
    assert "len" not in names
    with free_lengths(Lengths()):
        assert names["len"](torch.zeros(3, 2)) == 3
    with pytest.raises(TypeError), free_lengths(Lengths()):
        names["len"](3)
    assert "len" not in names


def test_what_has_no_length_is_refused_as_by_python() -> None:
    with free_lengths(Lengths()), pytest.raises(TypeError, match="0-d"):
        vars(sys.modules[__name__])["len"](torch.zeros(()))


def test_a_len_of_the_file_itself_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own = len
    monkeypatch.setitem(vars(sys.modules[__name__]), "len", own)
    with free_lengths(Lengths()):
        assert vars(sys.modules[__name__])["len"] is own
    assert vars(sys.modules[__name__])["len"] is own
