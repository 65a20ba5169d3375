from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoq.errors import RecipeError
from autoq.graph.blocks import choose_blocks, find_blocks
from autoq.graph.insert import QuantizedModel
from tests.graph.small import traced


class Residual(nn.Module):
    """Two residual branches, as in a transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(self.norm(x))
        return x + self.mlp(x)


class Nested(nn.Module):
    """Numbered blocks in numbered levels, a layer between them, norms on their own, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_first = nn.LayerNorm(8)
        self.levels = nn.ModuleList(nn.ModuleDict({"blocks": nn.Sequential(Residual(), Residual())}) for _ in range(2))
        self.between = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)
        self.norm_last = nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.levels[0]["blocks"](self.norm_first(x))
        x = self.levels[1]["blocks"](self.between(x))
        return self.norm_last(self.head(self.norm(x)))


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    return QuantizedModel(traced(Nested()))


def test_both_branches_of_a_block_are_one_and_norms_go_with_what_follows(model: QuantizedModel) -> None:
    blocks = find_blocks(model)
    assert [block.name for block in blocks] == [
        "levels.0.blocks.0",
        "levels.0.blocks.1",
        "between",
        "levels.1.blocks.0",
        "levels.1.blocks.1",
        "head",
    ]
    assert "norm_first" in blocks[0].sites
    assert {"norm", "head", "norm_last", "output"} == set(blocks[-1].sites)


def test_every_stage_and_site_is_in_one_block(model: QuantizedModel) -> None:
    blocks = find_blocks(model)
    assert [index for block in blocks for index in block.stages] == list(range(len(model.stages)))
    assert [site for block in blocks for site in block.sites] == [s for stage in model.stages for s in stage.sites]


def test_a_model_that_is_one_layer_is_one_block() -> None:
    assert [block.name for block in find_blocks(QuantizedModel(traced(nn.Sequential(nn.Linear(8, 8)))))] == ["0"]


def test_blocks_are_chosen_by_name_in_execution_order(model: QuantizedModel) -> None:
    blocks = find_blocks(model)
    assert choose_blocks(blocks, None) == blocks
    assert [block.name for block in choose_blocks(blocks, ["head", "between"])] == ["between", "head"]
    with pytest.raises(RecipeError, match=r"no block 'levels.0.blocks.2'. Did you mean 'levels.0.blocks.\d'"):
        choose_blocks(blocks, ["levels.0.blocks.2"])


def test_the_state_after_a_block_is_a_single_tensor_in_residual_networks(model: QuantizedModel) -> None:
    state: tuple[object, ...] = (torch.randn(2, 6, 8),)
    for block in find_blocks(model):
        for index in block.stages:
            state = model.run_stage(index, state)
        assert sum(isinstance(value, Tensor) for value in state) == 1
