"""MLP reconstruction: GELU becomes ReLU, and training makes up for it."""

from __future__ import annotations

import math
import zlib
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from autoq.calibration.perturbation_hessian import stage_hessians
from autoq.errors import CalibrationError, ModelError, RunDirectoryError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import TracedModel, trace
from autoq.reconstruction.mlp import MlpProgress, ReconstructedMlps, reconstruct_mlps
from autoq.reconstruction.mlp_graph import find_mlps, with_relu
from autoq.reconstruction.mlp_training import (
    MlpSettings,
    forward_twice,
    mlp_loss,
    normalized,
    positive_quantile,
    span_of,
)
from tests.graph.small import traced


class Branch(nn.Module):
    """x + fc2(act(fc1(norm(x)))), its parts called by other names."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.scaler = nn.LayerNorm(8)
        self.widen = nn.Linear(8, 20)
        self.act = nn.GELU() if act is None else act
        self.narrow = nn.Linear(20, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.act(self.widen(self.scaler(x))))


class Small(nn.Module):
    """Takes images of shape (N, 1, 6, 8), as six tokens of eight channels."""

    def __init__(self, branches: int = 2, act: nn.Module | None = None) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.layers = nn.ModuleList([Branch(act) for _ in range(branches)])
        self.classify = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images.squeeze(1))
        for layer in self.layers:
            x = layer(x)
        return self.classify(x.mean(1))


def small(branches: int = 2, act: nn.Module | None = None) -> Small:
    torch.manual_seed(0)
    module = Small(branches, act).eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "widen.weight" in name:  # so that negative values matter
                parameter.mul_(2)
    return module


def images(count: int = 12) -> Tensor:
    return torch.randn(count, 1, 6, 8, generator=torch.Generator().manual_seed(1))


@cache
def traced_small(branches: int = 2, act: nn.Module | None = None) -> TracedModel:
    return trace(small(branches, act), images(2))


QUICK = MlpSettings(iterations=15, batch_size=4, learning_rate=5e-3)


def states_of(result: ReconstructedMlps) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in result.parameters.items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


# Finding


def test_finds_layers_around_a_gelu_by_structure_alone() -> None:
    (first, second) = find_mlps(traced_small())
    assert (first.name, first.norm) == ("layers.0", "layers.0.scaler")
    assert (second.fc1, second.fc2) == ("layers.1.widen", "layers.1.narrow")
    parts = ("scaler", "widen", "narrow")
    assert first.parameters == tuple(f"layers.0.{part}.{kind}" for part in parts for kind in ("weight", "bias"))


class Several(nn.Module):
    """Layers that can be put together in several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.norm = nn.LayerNorm(8)
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.point, self.wide = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        gelu = functional.gelu
        if self.way == "moved":
            hidden = gelu(self.a(x).transpose(1, 2))
            return self.c(hidden.reshape(-1, 8, 6).transpose(1, 2))
        if self.way == "shared norm":
            normed = self.norm(x)
            return self.b(gelu(self.a(normed))) + self.c(normed)
        if self.way == "gated":
            return self.c(gelu(self.a(x)) * self.b(x))
        if self.way == "read twice":
            hidden = gelu(self.a(x))
            return self.b(hidden) + self.c(hidden)
        if self.way == "read by the output":
            hidden = gelu(self.a(x))
            return self.b(hidden) + hidden
        if self.way == "shared layer":
            return self.a(gelu(self.a(x)))
        if self.way == "no first layer":
            return self.a(gelu(x))
        maps = x.transpose(1, 2).reshape(-1, 8, 2, 3)
        return (self.point if self.way == "pointwise" else self.wide)(gelu(self.point(maps)))


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("moved", [(None, "a", "c")]),
        ("shared norm", [(None, "a", "b")]),
        ("gated", []),
        ("read twice", []),
        ("read by the output", []),
        ("shared layer", []),
        ("no first layer", []),
        ("wide", []),
    ],
)
def test_tells_mlps_from_what_only_looks_like_one(way: str, expected: list[tuple[str | None, str, str]]) -> None:
    assert [(mlp.norm, mlp.fc1, mlp.fc2) for mlp in find_mlps(traced(Several(way)))] == expected


def test_finds_pointwise_convolutions() -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 1), nn.GELU(), nn.Conv2d(4, 3, 1))
    batch = torch.randn(2, 2, 3, 3)
    (mlp,) = find_mlps(trace(module.eval(), batch))
    assert (mlp.fc1, mlp.fc2, mlp.parameters) == ("0", "2", ("0.weight", "0.bias", "2.weight", "2.bias"))
    assert mlp.name == "2"  # they have no module in common


# Swapping


def test_swap_computes_what_a_module_with_relu_does() -> None:
    before = traced_small()
    batch, expected = images(3), small(act=nn.ReLU())(images(3))
    original = before.graph_module(batch)
    after = with_relu(before, find_mlps(before))
    assert torch.equal(after.graph_module(batch), expected)
    assert torch.equal(QuantizedModel(after).run(batch)[0], expected)
    assert not torch.equal(original, expected)
    assert torch.equal(before.graph_module(batch), original)  # left as it was


def test_swap_leaves_sites_and_operands_as_they_are() -> None:
    before = traced_small()
    after = with_relu(before, find_mlps(before))
    assert list(after.edges) == list(before.edges)
    assert [(site.name, site.op, site.macs) for site in after.sites] == [
        (site.name, site.op, site.macs) for site in before.sites
    ]
    producers = {(site.name, operand.name): operand.producer for site, operand in after.operands()}
    for site, operand in before.operands():
        expected = "relu" if operand.producer == "gelu" else operand.producer
        assert producers[site.name, operand.name] == expected
    assert list(producers.values()).count("relu") == 2
    assert find_mlps(after) == ()


def test_swap_of_one_mlp_copies_its_parameters_and_shares_the_rest() -> None:
    before = traced_small()
    (first, second) = find_mlps(before)
    given_bias = torch.arange(8.0)
    after = with_relu(before, [first], {"layers.0.narrow.bias": given_bias, "layers.1.narrow.bias": given_bias})
    old, new = (dict(each.graph_module.named_parameters()) for each in (before, after))
    assert {name for name in new if new[name] is not old[name]} == set(first.parameters)
    assert torch.equal(new["layers.0.narrow.bias"], given_bias)
    assert torch.equal(new["layers.0.widen.bias"], old["layers.0.widen.bias"])
    assert [mlp.name for mlp in find_mlps(after)] == [second.name]


# The loss


@given(
    values=st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=60),
    p=st.floats(0.01, 1),
)
def test_quantile_is_of_the_positive_values(values: list[float], p: float) -> None:
    positive = sorted(value for value in values if value > 0)
    found = float(positive_quantile(torch.tensor(values), p))
    assert found == (positive[max(1, math.ceil(p * len(positive))) - 1] if positive else math.inf)


def test_quantile_of_many_values_sees_all_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1 << 12, 192, generator=generator)
    x[:, ::2] = -1
    assert float(positive_quantile(x, 0.9)) == pytest.approx(0.9, abs=0.01)
    x[:, ::2] = 0.5 + torch.rand(1 << 12, 96, generator=generator) / 2
    assert float(positive_quantile(x, 0.5)) == pytest.approx(2 / 3, abs=0.01)


def test_loss_is_the_weighted_error_with_and_without_the_clamp() -> None:
    before = traced_small()
    mlp = find_mlps(before)[1]
    model = QuantizedModel(with_relu(before, [mlp]))
    span = span_of(model, mlp)
    state = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(2))
    target = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(3))
    hessian = torch.rand(1, 6, 8, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        output, clamped = forward_twice(model, span, mlp, (state,), 0.8)
        loss = mlp_loss(output, clamped, (target,), {0: hessian}, 2.0)
        branch = small().layers[1]
        hidden = branch.widen(branch.scaler(state)).relu()
        positive = sorted(value for value in hidden.flatten().tolist() if value > 0)
        top = positive[math.ceil(0.8 * len(positive)) - 1]
        expected = 0.0
        for values, weight in ((hidden, 1.0), (hidden.clamp(max=top), 2.0)):
            result = state + branch.narrow(values)
            for image, token, channel in torch.cartesian_prod(torch.arange(4), torch.arange(6), torch.arange(8)):
                error = float(result[image, token, channel] - target[image, token, channel])
                expected += weight * error**2 * float(hessian[0, token, channel]) / 2 / 4
    assert float(loss) == pytest.approx(expected, rel=1e-4)


class Overwriting(nn.Module):
    """Adds its MLP to a view, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.branch, self.head = nn.Linear(8, 8), Branch(nn.ReLU()), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images)[:, 0]
        x += self.branch(x)
        return self.head(x.mean(1))


def test_clamp_is_right_where_a_stage_overwrites_its_tensors() -> None:
    torch.manual_seed(0)
    module = Overwriting().eval()
    relu = trace(module, images(2))
    # Find it with GELU, run it with ReLU: the names of the nodes are the same but for the activation's.
    module.branch.act = nn.GELU().eval()
    (mlp,) = find_mlps(trace(module, images(2)))
    module.branch.act = nn.ReLU().eval()
    model = QuantizedModel(relu)
    assert any("add_" in str(node.target) for node in relu.graph_module.graph.nodes)
    span = span_of(model, mlp)
    state: tuple[object, ...] = (images(3),)
    with torch.no_grad():
        for index in range(span.first):
            state = model.run_stage(index, state)
        x = module.embed(images(3))[:, 0]
        hidden = module.branch.widen(module.branch.scaler(x)).relu()
        low = hidden.clamp(max=float(positive_quantile(hidden, 0.5)))
        expected = [x + x + module.branch.narrow(values) for values in (hidden, low)]
        for found, wanted in zip(forward_twice(model, span, mlp, state, 0.5), expected, strict=True):
            leaves = [each for each in found if isinstance(each, Tensor)]
            assert any(each.shape == wanted.shape and torch.allclose(each, wanted, atol=1e-5) for each in leaves)


def test_hessians_are_brought_to_mean_one() -> None:
    found = normalized({0: torch.tensor([[1.0, 2.0]]), 3: torch.tensor([[6.0]])})
    assert torch.allclose(found[0], torch.tensor([[1 / 3, 2 / 3]]))
    assert torch.allclose(found[3], torch.tensor([[2.0]]))
    assert torch.equal(normalized({0: torch.zeros(1, 2)})[0], torch.ones(1, 2))


# Training


def trained_slowly(module: Small, data: Tensor, settings: MlpSettings) -> dict[str, Tensor]:
    """The same for both MLPs, from the definition, without a graph."""
    original, result = small(), module
    traced_model = trace(small(), data[:2])
    stages = [span_of(QuantizedModel(traced_model), mlp).last for mlp in find_mlps(traced_model)]
    hessians = stage_hessians(QuantizedModel(traced_model), [data], stages)
    parameters: dict[str, Tensor] = {}
    for index, branch in enumerate(result.layers):
        branch.act = nn.ReLU()
        (entry,) = hessians[stages[index]]
        assert entry is not None
        weight = entry / entry.mean()
        with torch.no_grad():
            target = source = original.embed(data.squeeze(1))
            if settings.inputs == "reconstructed":
                source = result.embed(data.squeeze(1))
            for before in range(index):
                target = original.layers[before](target)
                source = (result if settings.inputs == "reconstructed" else original).layers[before](source)
            target = original.layers[index](target)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{settings.seed} layers.{index}".encode()))
        optimizer = torch.optim.Adam(branch.parameters(), lr=settings.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.iterations)
        for _ in range(settings.iterations):
            chosen = torch.randperm(len(data), generator=generator)[: settings.batch_size]
            hidden = branch.widen(branch.scaler(source[chosen])).relu()
            positive = hidden.detach()[hidden > 0].sort().values
            top = positive[math.ceil(settings.clamp_quantile * len(positive)) - 1]
            loss = torch.zeros(())
            for values, factor in ((hidden, 1), (hidden.clamp(max=top), settings.clamp_weight)):
                error = source[chosen] + branch.narrow(values) - target[chosen]
                loss = loss + factor * (error**2 * weight).sum() / 2 / settings.batch_size
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        parameters |= {f"layers.{index}.{name}": value.detach() for name, value in branch.named_parameters()}
    return parameters


@pytest.mark.parametrize("inputs", ["original", "reconstructed"])
def test_trains_as_defined(inputs: str) -> None:
    settings = MlpSettings(6, 5, 1e-3, clamp_quantile=0.8, clamp_weight=3.0, inputs=inputs, seed=5)  # type: ignore[arg-type]
    found = reconstruct_mlps(traced_small(), images(), settings).parameters
    expected = trained_slowly(small(), images(), settings)
    start = dict(small().named_parameters())
    assert found.keys() == expected.keys()
    for name, value in found.items():
        moved = (value - start[name]).abs().max()
        assert moved > 1e-3, name
        assert (value - expected[name]).abs().max() < 0.02 * moved, name


@pytest.mark.parametrize("inputs", ["original", "reconstructed"])
def test_training_lowers_the_error_and_leaves_the_original_alone(inputs: str) -> None:
    module = small()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    settings = MlpSettings(60, 4, 5e-3, inputs=inputs)  # type: ignore[arg-type]
    result = reconstruct_mlps(trace(module, images(2)), images(), settings)
    assert list(result.errors) == ["layers.0", "layers.1"]
    for errors in result.errors.values():
        assert 0 < errors.after < errors.before / 2
    assert_same(before, dict(module.state_dict()))
    assert all(parameter.grad is None for parameter in module.parameters())
    with_trained = small(act=nn.ReLU())
    with_trained.load_state_dict(before | result.parameters)
    assert torch.equal(result.traced.graph_module(images()), with_trained(images()))
    assert not any(value.requires_grad for value in result.parameters.values())


def test_mlps_that_share_a_stage_are_trained_one_after_the_other() -> None:
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = Branch(), Branch(), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = x.squeeze(1)
            return self.head((self.one(tokens) + self.two(tokens)).mean(1))

    torch.manual_seed(0)
    model = trace(Parallel().eval(), images(2))
    result = reconstruct_mlps(model, images(), MlpSettings(40, 4, 5e-3))
    assert all(errors.after < errors.before for errors in result.errors.values())
    assert {name.split(".")[0] for name in result.parameters} == {"one", "two"}


class Killed(Exception):  # noqa: N818
    """Stands for the end of a process."""


@pytest.mark.parametrize("inputs", ["original", "reconstructed"])
def test_a_killed_run_goes_on_and_ends_as_an_uninterrupted_one(tmp_path: Path, inputs: str) -> None:
    settings = MlpSettings(15, 4, 5e-3, inputs=inputs)  # type: ignore[arg-type]
    model = traced_small(3)
    whole = reconstruct_mlps(model, images(), settings)

    def kill(event: MlpProgress) -> None:
        if (event.index, event.iteration) == (1, 10):
            raise Killed

    folder = tmp_path / "mlps"
    with pytest.raises(Killed):
        reconstruct_mlps(model, images(), settings, folder, progress=kill)
    assert sorted(path.name for path in folder.iterdir()) == ["00-layers.0.safetensors", "hessians.safetensors"]
    events: list[MlpProgress] = []
    resumed = reconstruct_mlps(traced_small(3), images(), settings, folder, progress=events.append)
    assert_same(states_of(whole), states_of(resumed))
    assert whole.errors == resumed.errors
    assert {event.index for event in events} == {1, 2}
    assert events[-1] == MlpProgress("layers.2", 2, 3, 15, 15, events[-1].loss)
    events.clear()
    again = reconstruct_mlps(traced_small(3), images(), settings, folder, progress=events.append)
    assert_same(states_of(whole), states_of(again))
    assert not events


def test_states_on_disk_give_the_same(tmp_path: Path) -> None:
    in_memory = reconstruct_mlps(traced_small(), images(), QUICK)
    on_disk = reconstruct_mlps(traced_small(), images(), QUICK, states_folder=tmp_path)
    assert_same(states_of(in_memory), states_of(on_disk))
    assert not list(tmp_path.iterdir())


def test_works_inside_inference_mode() -> None:
    model = traced_small()
    with torch.inference_mode():
        inside = reconstruct_mlps(model, images(), QUICK)
    assert_same(states_of(inside), states_of(reconstruct_mlps(traced_small(), images(), QUICK)))


# Refusals


def test_refuses_a_folder_made_for_something_else(tmp_path: Path) -> None:
    reconstruct_mlps(traced_small(), images(), QUICK, tmp_path)
    for data, settings in ((images(), MlpSettings(16, 4, 5e-3)), (images(8), QUICK)):
        with pytest.raises(RunDirectoryError, match="another model, other images or other settings"):
            reconstruct_mlps(traced_small(), data, settings, tmp_path)
    changed = small()
    with torch.no_grad():
        changed.embed.bias.add_(1)
    with pytest.raises(RunDirectoryError, match="another model"):
        reconstruct_mlps(trace(changed, images(2)), images(), QUICK, tmp_path)


def test_refuses_a_damaged_file(tmp_path: Path) -> None:
    reconstruct_mlps(traced_small(), images(), QUICK, tmp_path)
    path = tmp_path / "01-layers.1.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(RunDirectoryError, match=r"01-layers\.1\.safetensors.*delete it"):
        reconstruct_mlps(traced_small(), images(), QUICK, tmp_path)


def test_refuses_a_model_without_gelu() -> None:
    with pytest.raises(ModelError, match="no GELU between two linear layers"):
        reconstruct_mlps(traced_small(act=nn.ReLU()), images(), QUICK)


def test_refuses_to_go_on_when_training_diverges() -> None:
    with pytest.raises(CalibrationError, match=r"'layers\.0'.*learning rate below 1e\+30"):
        reconstruct_mlps(traced_small(), images(), MlpSettings(20, 4, 1e30))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iterations", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("clamp_quantile", 0.0),
        ("clamp_quantile", 1.1),
        ("clamp_weight", -1.0),
        ("inputs", "quantized"),
    ],
)
def test_refuses_settings_that_make_no_sense(name: str, value: object) -> None:
    with pytest.raises(CalibrationError, match=str(value)):
        MlpSettings(**{name: value})  # type: ignore[arg-type]
