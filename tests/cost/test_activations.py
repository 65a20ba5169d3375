"""Bytes of live activations against a simulation that keeps and frees tensors one by one."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autoq.cost.activations import activation_bytes
from autoq.graph.trace import trace
from autoq.recipe import OperandConfig, SiteConfig


class Plain(nn.Module):
    """A chain with one residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 7), nn.Linear(7, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(x + self.b(self.a(x).relu()))  # type: ignore[no-any-return]


TRACED = trace(Plain().eval(), torch.rand(2, 5))


def simulated(bits: dict[str, int | None]) -> int:
    """The chain by hand: ``x`` is read by a layer and an addition, all else by one layer; the output is float."""

    def size(elements: int, width: int | None) -> int:
        return math.ceil(elements * (32 if width is None else width) / 8)

    memory = {"x": size(5, None)}
    peak = 0
    for written, elements, width, freed in (
        ("relu of a", 7, bits["b"], ()),
        ("sum", 5, bits["c"], ("x", "relu of a")),
        ("output", 3, None, ("sum",)),
    ):
        memory[written] = size(elements, width)
        peak = max(peak, sum(memory.values()))
        for name in freed:
            del memory[name]
    return peak


@given(st.lists(st.one_of(st.none(), st.integers(1, 16)), min_size=3, max_size=3))
def test_the_largest_set_is_that_of_a_simulation(widths: list[int | None]) -> None:
    bits = dict(zip("abc", widths, strict=True))
    recipe: dict[str, SiteConfig] = {
        name: {"input": OperandConfig(scheme="uniform", bits=width)}
        for name, width in bits.items()
        if width is not None
    }
    assert activation_bytes(TRACED.live_sets, recipe) == simulated(bits)


def test_the_widest_reader_counts() -> None:
    """Separate projections of one tensor share it."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.q(x) + self.k(x)  # type: ignore[no-any-return]

    live = trace(Two().eval(), torch.rand(2, 6)).live_sets

    def peak(q: int, k: int) -> int:
        configs = {"q": q, "k": k}.items()
        return activation_bytes(live, {n: {"input": OperandConfig(scheme="uniform", bits=b)} for n, b in configs})

    assert peak(4, 4) + 3 == peak(4, 8) == peak(8, 4) == peak(8, 8)
