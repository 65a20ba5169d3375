"""Reparameterizations: nothing changes in full precision, and one scale can do what one for each channel could."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoq.calibration import CalibrationSettings
from autoq.calibration.transforms.reparameterization import (
    ChannelFactors,
    choose_factors,
    observe_factors,
    reparameterize,
    rewritable_norms,
    shared_quantizers,
)
from autoq.errors import CalibrationError
from autoq.graph.consumers import linears_by_norm
from autoq.graph.insert import FixedTensor, QuantizedModel
from autoq.graph.trace import TracedModel
from autoq.quantizers import UniformQuantizer
from autoq.quantizers._affine import choose_affine_qparams
from autoq.recipe import Granularity, OperandConfig
from tests.graph.small import tokens, traced
from tests.graph.zoo import example

SETTINGS = CalibrationSettings()
REWRITABLE = ["vit", "beit", "cait", "xcit", "swin", "pvt_v2", "maxvit", "tiny_vit", "yolos_eager"]
CHANNELS = 8


def uniform(granularity: Granularity, bits: int = 4) -> OperandConfig:
    return OperandConfig(scheme="uniform", bits=bits, granularity=granularity)


class Keep(nn.Module):
    """Sits in a slot and remembers what it saw."""

    seen: Tensor

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x


def random_factors(channels: int, seed: int = 0) -> ChannelFactors:
    """Ratios from 1/8 to 8, offsets about as large as a LayerNorm's output."""
    generator = torch.Generator().manual_seed(seed)
    ratio = 2 ** (6 * torch.rand(channels, generator=generator) - 3)
    return factors_of(ratio, torch.randn(channels, generator=generator))


def factors_of(ratio: Tensor, offset: Tensor) -> ChannelFactors:
    """Factors whose scale and zero point do not matter."""
    return ChannelFactors(ratio, offset, torch.tensor(0.1), torch.tensor(3.0))


def factors_for(found: TracedModel, norms: tuple[str, ...]) -> dict[str, ChannelFactors]:
    return {
        norm: random_factors(found.sites_by_name[norm].operand("input").shape[-1], seed)
        for seed, norm in enumerate(norms)
    }


@torch.no_grad()
def outputs(found: TracedModel, batch: Tensor) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(found.graph_module(batch)) if isinstance(leaf, Tensor)]


def assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert len(actual) == len(expected) > 0
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@torch.no_grad()
def inputs(found: TracedModel, batch: Tensor, sites: tuple[str, ...]) -> dict[str, Tensor]:
    model, keeps = QuantizedModel(found), {site: Keep() for site in sites}
    model.insert_({(site, "input"): keep for site, keep in keeps.items()})
    model.run(batch)
    return {site: keep.seen for site, keep in keeps.items()}


def assert_rewritten(found: TracedModel, batch: Tensor, factors: Mapping[str, ChannelFactors]) -> TracedModel:
    """Everything that must hold of a rewritten model; the old one is compared with itself before."""
    before = outputs(found, batch)
    state = {name: value.clone() for name, value in found.graph_module.state_dict().items()}
    graph, edges = str(found.graph_module.graph), dict(found.edges)
    new = reparameterize(found, factors)

    assert_close(outputs(new, batch), before)
    assert (new.sites, new.uncounted, list(new.edges)) == (found.sites, found.uncounted, list(found.edges))
    linears = linears_by_norm(found)
    changed = [site for norm in factors for site in linears[norm]]
    old_inputs, new_inputs = (inputs(model, batch, tuple(changed)) for model in (found, new))
    for norm, chosen in factors.items():
        for site in linears[norm]:
            torch.testing.assert_close(
                new_inputs[site], (old_inputs[site] + chosen.offset) / chosen.ratio, rtol=1e-4, atol=1e-4
            )
            torch.testing.assert_close(new.weight(site), found.weight(site) * chosen.ratio)
    for site, operand in found.operands():
        if operand.is_weight and site.name not in changed:
            assert new.weight(site.name, operand.name).data_ptr() == found.weight(site.name, operand.name).data_ptr()

    assert all(torch.equal(a, b) for a, b in zip(outputs(found, batch), before, strict=True))
    after = found.graph_module.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[name], value) for name, value in state.items())
    assert (str(found.graph_module.graph), found.edges) == (graph, edges)
    return new


@pytest.mark.parametrize("name", REWRITABLE)
def test_models_of_the_zoo_stay_the_same(name: str) -> None:
    case = example(name)
    norms = rewritable_norms(case.traced)
    assert norms
    new = assert_rewritten(case.traced, case.images(2), factors_for(case.traced, norms))
    model = QuantizedModel(new)
    expected = case.model(case.images(3))
    assert pytree.tree_structure(model(case.images(3))) == pytree.tree_structure(expected)


def test_the_published_norms_are_chosen() -> None:
    assert rewritable_norms(example("vit").traced) == tuple(f"blocks.{i}.norm{j}" for i in range(2) for j in (1, 2))
    swin = rewritable_norms(example("swin").traced)
    assert "layers.1.downsample.norm" in swin
    assert len(swin) == 9
    assert rewritable_norms(example("convnext").traced) == ()  # the only linear layer is the classifier
    assert rewritable_norms(example("resnet18").traced) == ()


def test_the_classifier_s_norm_can_be_asked_for() -> None:
    case = example("vit")
    assert_rewritten(case.traced, case.images(2), factors_for(case.traced, ("norm", "blocks.1.norm1")))


class Attention(nn.Module):
    """q, k and v as three layers after one norm; a second norm, perhaps with something around it."""

    def __init__(self, *, bias: bool = True, affine: bool = True, residual: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(CHANNELS, elementwise_affine=affine, eps=1e-3)
        self.q, self.k, self.v = (nn.Linear(CHANNELS, CHANNELS, bias=bias) for _ in range(3))
        self.norm2 = nn.LayerNorm(CHANNELS, elementwise_affine=affine, bias=bias)
        self.fc = nn.Linear(CHANNELS, 16, bias=bias)
        self.head = nn.Linear(16, 3)
        self.residual = residual
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + (self.q(y) @ self.k(y).mT / 8).softmax(-1) @ self.v(y)
        y = self.norm2(x)
        return self.head(self.fc(y).relu()) + (y.mean(-1, keepdim=True) if self.residual else 0)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_missing_parameters_are_added(bias: bool, affine: bool) -> None:
    found = traced(Attention(bias=bias, affine=affine))
    assert rewritable_norms(found) == ("norm", "norm2")
    new = assert_rewritten(found, tokens(), factors_for(found, ("norm", "norm2")))
    assert all(parameter.requires_grad for parameter in new.graph_module.parameters())
    # Two for each of two norms and five layers: what was replaced is let go.
    assert len(list(new.graph_module.parameters())) == 14
    assert_rewritten(found, tokens(), factors_for(found, ("norm2",)))


def test_functions_with_few_arguments() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.beta = nn.Parameter(torch.linspace(-1, 1, CHANNELS), requires_grad=False)
            self.weight = nn.Parameter(torch.eye(CHANNELS) - 0.3)

        def forward(self, x: Tensor) -> Tensor:
            y = F.linear(input=F.layer_norm(x, (CHANNELS,), eps=1e-2), weight=self.weight)
            return F.linear(F.layer_norm(y, (CHANNELS,), bias=self.beta), self.weight, bias=self.beta)

    found = traced(Functional())
    norms = tuple(linears_by_norm(found))
    assert norms == ("layer_norm", "layer_norm@2")
    assert_rewritten(found, tokens(), factors_for(found, norms))


def test_a_norm_that_something_else_reads_is_refused() -> None:
    found = traced(Attention(residual=True))
    assert rewritable_norms(found) == ("norm",)
    with pytest.raises(CalibrationError, match=r"^LayerNorm 'norm2' cannot be reparameterized: .* leave it out$"):
        reparameterize(found, factors_for(found, ("norm", "norm2")))
    with pytest.raises(CalibrationError, match=r"^the model has no LayerNorm 'nrom' .* Did you mean 'norm'\?$"):
        reparameterize(found, {"nrom": random_factors(CHANNELS)})
    with pytest.raises(CalibrationError, match="no LayerNorm 'fc'"):
        reparameterize(found, {"fc": random_factors(CHANNELS)})


def test_weights_that_depend_on_the_image_are_refused() -> None:
    class Modulated(nn.Module):
        def __init__(self, *, norm: bool) -> None:
            super().__init__()
            self.norm, self.layer = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, CHANNELS)
            self.is_norm = norm

        def forward(self, x: Tensor) -> Tensor:
            if self.is_norm:
                return self.layer(F.layer_norm(x, (CHANNELS,), x[0, 0])) + 1
            return F.linear(self.norm(x), self.layer.weight, x[0, 0])

    for is_norm in (True, False):
        found = traced(Modulated(norm=is_norm))
        [norm] = linears_by_norm(found)
        assert rewritable_norms(found) == ()
        with pytest.raises(CalibrationError, match="constant weights"):
            reparameterize(found, {norm: random_factors(CHANNELS)})


def test_shared_parameters_are_copied() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.layer = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, CHANNELS)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.norm(self.layer(self.norm(x)))) + self.layer(x)

    found = traced(Twice())
    assert list(linears_by_norm(found)) == ["norm", "norm@2"]
    for norms in [("norm",), ("norm@2",), ("norm", "norm@2")]:
        assert_rewritten(found, tokens(), factors_for(found, norms))


def test_a_rewritten_model_can_be_rewritten_again() -> None:
    found = traced(Attention())
    factors = factors_for(found, ("norm", "norm2"))
    once = assert_rewritten(found, tokens(), factors)
    twice = assert_rewritten(once, tokens(), {"norm": factors["norm2"]})
    inverse = {"norm": factors_of(1 / factors["norm"].ratio, -factors["norm"].offset / factors["norm"].ratio)}
    assert_close(outputs(twice, tokens()), outputs(found, tokens()))
    back = reparameterize(once, inverse)
    for site in ("q", "k", "v"):
        torch.testing.assert_close(back.weight(site), found.weight(site))


def test_no_factors_make_a_copy() -> None:
    found = traced(Attention())
    new = assert_rewritten(found, tokens(), {})
    assert new.graph_module is not found.graph_module
    assert torch.equal(outputs(new, tokens())[0], outputs(found, tokens())[0])


@pytest.mark.parametrize(
    ("ratio", "offset", "message"),
    [
        (torch.ones(7), torch.zeros(8), "has 8 channels, but its ratio has 7"),
        (torch.ones(8), torch.zeros(1), "has 8 channels, but its offset has 1"),
        (torch.zeros(8), torch.zeros(8), "its ratio must be positive, the least is 0"),
        (torch.ones(8), torch.full((8,), torch.nan), "its offset has NaN"),
        (torch.full((8,), 1e-38), torch.full((8,), 1e10), "overflow torch.float32"),
    ],
)
def test_factors_that_do_not_fit_are_refused(ratio: Tensor, offset: Tensor, message: str) -> None:
    found = traced(Attention())
    with pytest.raises(CalibrationError, match=f"norm2.*{message}"):
        reparameterize(found, {"norm2": factors_of(ratio, offset)})


def test_bfloat16_models_keep_their_type() -> None:
    module = Attention(affine=False).to(torch.bfloat16)
    found = traced(module, tokens().to(torch.bfloat16))
    new = reparameterize(found, factors_for(found, ("norm", "norm2")))
    assert {parameter.dtype for parameter in new.graph_module.parameters()} == {torch.bfloat16}
    batch = tokens().to(torch.bfloat16)
    expected = outputs(traced(copy.deepcopy(module).float()), tokens())[0]
    errors = [(outputs(model, batch)[0].float() - expected).abs().mean() for model in (found, new)]
    assert errors[1] < 4 * errors[0]


bounds = st.lists(st.tuples(st.floats(-50, 50, width=32), st.floats(0, 50, width=32)), min_size=1, max_size=12).map(
    lambda pairs: (torch.tensor([low for low, _ in pairs]), torch.tensor([low + span for low, span in pairs]))
)


def factors_between(lower: Tensor, upper: Tensor, bits: int) -> ChannelFactors:
    """Factors of channels whose ranges are widened to zero."""
    return choose_factors(*choose_affine_qparams(lower, upper, bits, include_zero=True))


def shared_qparams(lower: Tensor, upper: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The paper's scale s̃ and zero point z̃ of all channels: the means over those that have a range, z̃ rounded."""
    scale, zero_point = choose_affine_qparams(lower, upper, bits, include_zero=True)
    has_range = scale > scale.max() * torch.finfo(torch.float32).eps
    return scale[has_range].mean(), zero_point[has_range].mean().round()


@given(bounds, st.integers(2, 8))
@settings(deadline=None, max_examples=60)
def test_one_scale_does_what_one_per_channel_would(pair: tuple[Tensor, Tensor], bits: int) -> None:
    lower, upper = pair
    factors = factors_between(lower, upper, bits)
    scale, zero_point = shared_qparams(lower, upper, bits)
    assert (factors.scale, factors.zero_point) == (scale, zero_point)
    assert zero_point == zero_point.round()
    assert 0 <= zero_point <= 2**bits - 1
    for value in (factors.ratio, factors.offset, scale):
        assert torch.isfinite(value).all()
    # s = ratio · s̃ and z = offset / s + z̃, the reference written from the paper, a channel at a time.
    for c in range(len(lower)):
        low, high = min(float(lower[c]), 0.0), max(float(upper[c]), 0.0)
        step = (high - low) / (2**bits - 1)
        if step < 1e-5:  # may count as a channel without a range
            continue
        x = torch.linspace(low - step, high + step, 101, dtype=torch.float64)
        quotient = x / step
        x = x[((quotient - quotient.floor()) - 0.5).abs() > 1e-3]  # ties may fall either way
        expected = (torch.round(x / step) + round(-low / step)).clamp(0, 2**bits - 1)
        changed = (x + factors.offset[c].double()) / factors.ratio[c].double()
        codes = (torch.round(changed / scale.double()) + zero_point).clamp(0, 2**bits - 1)
        is_tie = abs(-low / step % 1 - 0.5) < 1e-3
        assert torch.equal(codes, expected) or is_tie


def test_channels_without_a_range_stay_as_they_are() -> None:
    lower = torch.tensor([-1.0, 0.0, -6.0, 2.0, -1e-30, 0.0])
    upper = torch.tensor([2.0, 0.0, 3.0, 2.0, 1e-30, 3.0])
    spans = torch.tensor([3.0, 9.0, 2.0, 3.0])
    factors = factors_between(lower.reshape(1, 1, 6), upper.reshape(1, 1, 6), 4)
    scale, zero_point = shared_qparams(lower, upper, 4)
    torch.testing.assert_close(scale, spans.mean() / 15)
    assert zero_point == 4  # of 5, 10, 0, 0
    for dead in (1, 4):
        assert (factors.ratio[dead], factors.offset[dead]) == (1, 0)
    torch.testing.assert_close(factors.ratio[[0, 2, 3, 5]], spans / 15 / scale)
    torch.testing.assert_close(factors.offset[2], torch.tensor(9 / 15 * (10 - 4)))
    nothing = factors_between(torch.zeros(3), torch.zeros(3), 4)
    assert (nothing.ratio.tolist(), nothing.offset.tolist()) == ([1, 1, 1], [0, 0, 0])


def per_tensor_and_per_channel(name: str, bits: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Outputs: old model quantized per channel, new one per tensor, and old one per tensor."""
    case = example(name)
    norms = rewritable_norms(case.traced)
    batch = case.images(2)
    observed = QuantizedModel(case.traced)
    factors = observe_factors(observed, [batch], dict.fromkeys(norms, bits), SETTINGS)
    assert all(slot.quantizer is None for slot in observed.slots.values())
    old, new, naive = (QuantizedModel(m) for m in (case.traced, reparameterize(case.traced, factors), case.traced))
    for norm in norms:
        linears = linears_by_norm(case.traced)[norm]
        seen = torch.cat([x.flatten(0, -2) for x in inputs(case.traced, batch, linears).values()])
        lower, upper = seen.aminmax(dim=0)
        for site in linears:
            layout = case.traced.sites_by_name[site].operand("input").layout
            wide = (1,) * (layout.ndim - 1) + (-1,)
            channel = UniformQuantizer.from_range(uniform("channel", bits), layout, lower.view(wide), upper.view(wide))
            scale, zero_point = (value.view(wide) for value in shared_qparams(lower, upper, bits))
            tensor = UniformQuantizer(uniform("tensor", bits), layout, {"scale": scale, "zero_point": zero_point})
            whole = UniformQuantizer.from_range(
                uniform("tensor", bits), layout, lower.min().view(wide), upper.max().view(wide)
            )
            for model, quantizer in ((old, channel), (new, tensor), (naive, whole)):
                model.insert_({(site, "input"): quantizer})
    with torch.no_grad():
        return list(old.run(batch)), list(new.run(batch)), list(naive.run(batch))


@pytest.mark.parametrize("name", ["vit", "swin", "cait"])
def test_a_quantized_model_gains_what_channels_of_their_own_would(name: str) -> None:
    channel, tensor, naive = per_tensor_and_per_channel(name, bits=4)
    full = outputs(example(name).traced, example(name).images(2))
    assert_close(tensor, channel)
    assert not torch.allclose(naive[0], channel[0], rtol=1e-2)
    assert (channel[0] - full[0]).norm() < (naive[0] - full[0]).norm()


def test_quantized_weights_go_where_the_new_weights_are() -> None:
    found = traced(Attention())
    new = reparameterize(found, factors_for(found, ("norm",)))
    model = QuantizedModel(new)
    model.insert_({(site, "weight"): FixedTensor(torch.zeros(CHANNELS, CHANNELS)) for site in "qkv"})
    # Without weights, what is left of v is its bias: b − W · offset.
    offset = factors_for(found, ("norm",))["norm"].offset
    state = found.graph_module.state_dict()
    model.insert_({("av", "rhs"): (kept := Keep())})
    with torch.no_grad():
        model.run(tokens())
    expected = state["v.bias"] - state["v.weight"] @ offset
    torch.testing.assert_close(kept.seen, expected.expand_as(kept.seen))


def test_observed_factors_are_those_of_the_bounds() -> None:
    found = traced(Attention())
    model, batches = QuantizedModel(found), [tokens(3), tokens(5)[3:]]
    counts: list[int] = []
    factors = observe_factors(model, batches, {"norm": 3, "norm2": 6}, SETTINGS, progress=counts.append)
    assert counts == [3, 2]
    for norm, site, bits in (("norm", "q", 3), ("norm2", "fc", 6)):
        seen = torch.cat([inputs(found, batch, (site,))[site] for batch in batches]).flatten(0, -2)
        expected = factors_between(seen.amin(0), seen.amax(0), bits)
        assert torch.equal(factors[norm].ratio, expected.ratio)
        assert torch.equal(factors[norm].offset, expected.offset)
    with pytest.raises(CalibrationError, match="no calibration images"):
        observe_factors(model, [], {"norm": 3}, SETTINGS)
    with pytest.raises(CalibrationError, match="fc:input has NaN"):
        observe_factors(model, [tokens() * torch.inf], {"norm2": 3}, SETTINGS)
    with pytest.raises(CalibrationError, match="no LayerNorm 'fc'"):
        observe_factors(model, batches, {"fc": 3}, SETTINGS)


def test_factors_of_another_observer_and_of_ranges_as_they_are() -> None:
    """A channel of values in 2..3 gets 15 steps between them, and not between 0 and 3."""
    found = traced(Attention())
    model, batches = QuantizedModel(found), [tokens(3)]
    seen = inputs(found, batches[0], ("q",))["q"].flatten(0, -2)
    as_it_is = replace(SETTINGS, include_zero=False)
    factors = observe_factors(model, batches, {"norm": 4}, as_it_is)["norm"]
    scale, _ = choose_affine_qparams(*seen.aminmax(dim=0), 4, include_zero=False)
    torch.testing.assert_close(factors.ratio * factors.scale, scale)
    best = observe_factors(model, batches, {"norm": 4}, replace(SETTINGS, norm_observer="mse"))["norm"]
    assert not torch.allclose(best.ratio, factors.ratio)


def test_quantizers_of_the_factors_scale_and_zero_point() -> None:
    found = traced(Attention())
    factors = {"norm": factors_of(torch.rand(CHANNELS) + 0.5, torch.randn(CHANNELS))}
    sites = {"q": {"input": uniform("tensor")}, "k": {"input": uniform("channel")}, "fc": {"input": uniform("tensor")}}
    (key, quantizer), *others = shared_quantizers(found, factors, sites).items()
    assert (key, others) == (("q", "input"), [])
    assert {name: value.item() for name, value in quantizer.qparams().items()} == {
        "scale": pytest.approx(0.1),
        "zero_point": 3,
    }
