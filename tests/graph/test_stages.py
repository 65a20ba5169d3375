"""Where a graph is cut, and that its pieces run as the whole does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoq.graph import stages
from autoq.graph.insert import QuantizedModel
from tests.graph.small import Weighted, tokens, traced


class Residual(nn.Module):
    """Two layers beside an identity."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x).relu())


class Beside(Weighted):
    """Keeps its input until the end: a single tensor is alive at the very start only."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = x = x * 2
        for block in self.blocks:
            y = block(y).relu()
        return self.layer(y) + x


class Masked(Weighted):
    """Adds a mask of zeros, as many as there are images, to the input of each layer."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros(x.shape[0], 6, 1).where(torch.ones(6, 1) > 0, -1.0)
        for _ in range(3):
            x = self.layer(x + mask).relu()
        return x - mask


class Noisy(Weighted):
    """Adds the same random numbers twice."""

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand(6, 8)
        return self.layer(self.layer(x + noise).relu() + noise)


class Sized(Weighted):
    """Reads the batch size before its first layer and uses it after the last."""

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[0]
        y = self.layer(self.layer(x).relu())
        return y.reshape(count, 48)


class EncoderDecoder(nn.Module):
    """Twelve layers that each read the sum of those before, and what an encoder made of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(Residual(), Residual())
        self.decoder = nn.ModuleList(nn.Linear(8, 8) for _ in range(12))

    def forward(self, x: Tensor) -> Tensor:
        memory = y = self.encoder(x)
        for layer in self.decoder:
            y = y + layer(y * memory).relu()
        return y * memory


def sites_of_stages(module: nn.Module) -> list[tuple[str, ...]]:
    """Names of the sites of each stage that are not optional: those change neither cuts nor names of stages."""
    model = QuantizedModel(traced(module))
    optional = {site.name for site in model.traced.sites if site.is_optional}
    found = [tuple(name for name in stage.sites if name not in optional) for stage in model.stages]
    assert [stage.name for stage in model.stages] == [next(iter(sites), "") for sites in found]
    assert {name for stage in model.stages for name in stage.sites} == set(model.traced.sites_by_name)
    return found


def test_a_model_that_ends_in_a_norm_is_cut_before_it() -> None:
    """What hands the norm's result out, behind it, is no operation to cut off."""
    assert sites_of_stages(nn.Sequential(nn.Linear(8, 8), Residual(), nn.LayerNorm(8))) == [
        ("0",),
        ("1.first", "1.second"),
        ("2",),
    ]


def test_residual_branches_stay_whole() -> None:
    module = nn.Sequential(nn.Linear(8, 8), Residual(), Residual(), nn.Linear(8, 3))
    assert sites_of_stages(module) == [("0",), ("1.first", "1.second"), ("2.first", "2.second"), ("3",)]


def test_a_tensor_that_is_always_alive_does_not_prevent_cuts() -> None:
    *found, addition = sites_of_stages(Beside())
    assert found == [("blocks.0",), ("blocks.1",), ("blocks.2",), ("layer",)]
    assert addition == ()


def test_a_decoder_is_cut_where_its_state_and_the_encoders_are_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = [(f"encoder.{number}.first", f"encoder.{number}.second") for number in range(2)]
    layers = [f"decoder.{number}" for number in range(12)]
    found = sites_of_stages(EncoderDecoder())
    assert found[:2] == encoder
    assert [sites for sites in found[2:] if sites] == [(layer,) for layer in layers]
    model = QuantizedModel(traced(EncoderDecoder()))
    state = model.run_stages(range(6), (tokens(3),))
    assert [tuple(value.shape) for value in state if isinstance(value, Tensor)] == [(3, 6, 8)] * 2
    own = 6 * 8 * 4  # bytes of the decoder's tensor of an image; the encoder's is alive before it
    monkeypatch.setattr(stages, "_MOST_BYTES", own)
    assert sites_of_stages(EncoderDecoder()) == found
    monkeypatch.setattr(stages, "_MOST_BYTES", own - 1)
    assert sites_of_stages(EncoderDecoder()) == [*encoder, tuple(layers)], "a state of an image takes more"


def test_a_mask_that_follows_from_sizes_is_computed_where_it_is_read() -> None:
    assert sites_of_stages(Masked())[:2] == [("layer",), ("layer@2",)]
    model = QuantizedModel(traced(Masked()))
    state = model.run_stage(0, (tokens(3),))
    assert [tuple(value.shape) for value in state if isinstance(value, Tensor)] == [(3, 6, 8)]
    assert 3 in state
    assert torch.equal(model(tokens(3)), model.traced.graph_module(tokens(3)))


def test_random_numbers_are_drawn_once_for_all_stages() -> None:
    model = QuantizedModel(traced(Noisy()))
    assert len(model.stages) > 1
    torch.manual_seed(0)
    expected = model.traced.graph_module(tokens(3))
    torch.manual_seed(0)
    assert torch.equal(model(tokens(3)), expected)


@pytest.mark.parametrize("module", [Beside(), Sized(), EncoderDecoder(), nn.Sequential(nn.Linear(8, 8)), nn.ReLU()])
@torch.no_grad()
def test_stages_repeat_the_whole_from_any_one_on(module: nn.Module) -> None:
    model = QuantizedModel(traced(module))
    batch = tokens(3)
    expected = module(batch)
    state: tuple[object, ...] = (batch,)
    for index in range(len(model.stages)):
        assert torch.equal(model.run(batch, index, state)[0], expected)
        state = model.run_stage(index, state)
    assert torch.equal(state[0], expected)  # type: ignore[arg-type]


def test_sizes_travel_between_stages() -> None:
    model = QuantizedModel(traced(Sized()))
    assert 3 in model.run_stage(0, (tokens(3),))


def test_parameters_are_shared_by_the_stages_that_read_them() -> None:
    module = nn.Sequential(nn.Linear(8, 8), Residual())
    model = QuantizedModel(traced(module))
    found = {parameter.data_ptr() for stage in model.stages for parameter in stage.graph_module.parameters()}
    assert {parameter.data_ptr() for parameter in module.parameters()} <= found
