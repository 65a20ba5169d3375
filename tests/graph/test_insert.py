"""Where the slots of a model are, and what they hold."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from autoq.errors import RecipeError
from autoq.graph import insert
from autoq.graph.insert import FixedTensor, QuantizedModel
from autoq.graph.stages import Stage, cut_into_stages
from autoq.graph.trace import trace
from autoq.recipe import OperandConfig
from tests.calibration.samples import block_model
from tests.calibration.samples import images as loud_tokens
from tests.graph.small import tokens, traced


class Chain(nn.Module):
    """Layers one after another, without residuals: a cut is possible anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.middle = nn.Conv2d(4, 4, 3, groups=4)
        self.last = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.relu(self.middle(functional.max_pool2d(x, 2)))
        return self.head(self.last(x.mean((2, 3))))


class Twice(nn.Module):
    """One layer called twice, and a product of an activation with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(functional.relu(self.layer(x)))
        return x @ x.transpose(1, 2)


def after_every_slot(
    whole: fx.GraphModule, site_of: Callable[[fx.Node], str | None], sums: Collection[str]
) -> tuple[Stage, ...]:
    """Cuts between the slots of a site and its node."""
    del site_of, sums
    return cut_into_stages(whole, lambda node: str(node.target) if node.op == "call_module" else None)


def chain() -> tuple[QuantizedModel, Tensor]:
    batch = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return QuantizedModel(trace(Chain().eval(), batch)), batch


def twice() -> tuple[QuantizedModel, Tensor]:
    return QuantizedModel(traced(Twice())), tokens()


def block() -> tuple[QuantizedModel, Tensor]:
    return block_model(), loud_tokens(2)


@pytest.mark.parametrize(
    ("make", "apart"), [(chain, False), (twice, False), (block, False), (chain, True), (twice, True)]
)
def test_stage_of_names_the_stage_that_runs_the_slot(
    make: Callable[[], tuple[QuantizedModel, Tensor]], apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if apart:
        monkeypatch.setattr(insert, "cut_into_stages", after_every_slot)
    model, batch = make()
    current, ran, operated = 0, dict[tuple[str, str], int](), dict[str, int]()
    for key, slot in model.slots.items():
        slot.register_forward_hook(lambda *_, key=key: ran.update({key: current}))
    for site, operation in model.operations.items():
        operation.register_forward_hook(lambda *_, site=site: operated.update({site: current}))
    state: tuple[object, ...] = (batch,)
    for current in range(len(model.stages)):
        state = model.run_stage(current, state)
    assert model.stage_of == ran
    assert model.stage_of_operation == operated
    node_stage = {site: index for index, stage in enumerate(model.stages) for site in stage.sites}
    if apart:  # a slot that its site's node is not in the stage of
        stage_of_node = _stages_of_nodes(model)
        assert any(stage != stage_of_node[site] for (site, _), stage in model.stage_of.items())
    else:
        assert {site: node_stage[site] for site, _ in model.slots} == {s: i for (s, _), i in model.stage_of.items()}


def _stages_of_nodes(model: QuantizedModel) -> dict[str, int]:
    """By the slot in a node's arguments."""
    site_of = {slot: site for (site, _), slot in model.slots.items()}
    stages: dict[str, int] = {}
    for index, stage in enumerate(model.stages):
        modules = dict(stage.graph_module.named_modules())
        for node in stage.graph_module.graph.nodes:
            slot = modules.get(str(node.target)) if node.op == "call_module" else None
            if slot not in site_of:
                continue
            for user in node.users:
                if user.op != "output":
                    stages[site_of[slot]] = index
    return stages


def test_configuration_is_what_the_slots_hold() -> None:
    model, _ = block()
    assert model.configuration() == {}
    four, eight = (OperandConfig(scheme="uniform", bits=bits) for bits in (4, 8))

    class Configured(nn.Identity):
        def __init__(self, config: OperandConfig) -> None:
            super().__init__()
            self.config = config

    fixed = FixedTensor(torch.zeros(16, 8), eight)
    model.insert_({("fc1", "input"): Configured(four), ("fc1", "weight"): fixed, ("qkv", "input"): Configured(eight)})
    assert model.configuration() == {"fc1": {"input": four, "weight": eight}, "qkv": {"input": eight}}
    model.remove_([("fc1", "input")])
    assert model.configuration() == {"fc1": {"weight": eight}, "qkv": {"input": eight}}
    model.remove_()
    assert model.configuration() == {}


def test_replacing_unknown_operations() -> None:
    model, _ = block()
    with pytest.raises(RecipeError, match=r"'nrom' is no LayerNorm or softmax\. Did you mean 'norm'\?"):
        model.replace_({"nrom": nn.Identity()})


def test_unknown_sites_and_operands_are_refused_with_the_nearest_name() -> None:
    model = QuantizedModel(traced(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))))
    with pytest.raises(RecipeError, match=r"^the model has no site '00'\. Did you mean '0'\?$"):
        model.insert_({("00", "input"): nn.Identity()})
    with pytest.raises(RecipeError, match=r"^site '0' has no operand 'lhs'; it has input, weight$"):
        model.insert_({("0", "input"): nn.Identity(), ("0", "lhs"): nn.Identity()})
    assert all(slot.quantizer is None for slot in model.slots.values())
    with pytest.raises(RecipeError):
        model.remove_([("nowhere", "input")])


def test_a_fixed_tensor_takes_a_weight_s_place() -> None:
    module = nn.Sequential(nn.Linear(8, 3, bias=False))
    model = QuantizedModel(traced(module))
    model.insert_({("0", "weight"): FixedTensor(torch.zeros(3, 8))})
    assert torch.equal(model(tokens()), torch.zeros(2, 6, 3))
    assert module[0].weight.abs().sum() > 0
