"""What every quantizer must fulfil. Inherit :class:`QuantizerContract` in a ``Test...`` class and list its cases."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from autoq.errors import CalibrationError
from autoq.quantizers import BaseQuantizer, OperandLayout, create_quantizer, quantizer_class
from autoq.recipe import OperandConfig

LINEAR_INPUT = OperandLayout(ndim=3, channel_axis=-1, group_axis=-1, instance_group_axis=-1, summed_axis=-1)
LINEAR_WEIGHT = OperandLayout(ndim=2, channel_axis=-2, group_axis=-1, instances_per_image=0, summed_axis=-1)
CONV_INPUT = OperandLayout(ndim=4, channel_axis=-3, group_axis=-3, instance_group_axis=-3, summed_axis=-3)
ATTENTION_MAP = OperandLayout(ndim=4, channel_axis=-1, head_axis=-3, group_axis=-1, instance_group_axis=-2)
WINDOWED_INPUT = replace(LINEAR_INPUT, instances_per_image=4)


@dataclass(frozen=True)
class Case:
    """One quantizer to check: how it is configured, what it quantizes, and between which bounds."""

    config: OperandConfig
    layout: OperandLayout = LINEAR_INPUT
    shape: tuple[int, ...] = (4, 7, 12)
    lower: float = -1.0
    upper: float = 2.0

    def bounds_shape(self) -> tuple[int, ...]:
        return quantizer_class(self.config.scheme).range_shape(self.config, self.layout, self.shape)

    def make(self) -> BaseQuantizer:
        """Every unit gets bounds of its own, 50 % to 100 % of the case's."""
        shape = self.bounds_shape()
        factor = torch.linspace(0.5, 1.0, torch.Size(shape).numel()).reshape(shape)
        return self.make_between(self.lower * factor, self.upper * factor)

    def make_between(self, lower: Tensor, upper: Tensor) -> BaseQuantizer:
        return quantizer_class(self.config.scheme).from_range(self.config, self.layout, lower, upper)

    def sample(self, seed: int = 0) -> Tensor:
        """Values inside, at and outside the bounds."""
        uniform = torch.rand(self.shape, generator=torch.Generator().manual_seed(seed))
        return self.lower - 0.2 + uniform * (self.upper - self.lower + 0.4)

    def skip_if_weight(self) -> None:
        if self.layout.instances_per_image == 0:
            pytest.skip("weights have no batch")

    def __str__(self) -> str:
        settings = "-".join(f"{key}={value}" for key, value in self.config.to_json().items() if key != "scheme")
        return f"{settings}-{'x'.join(map(str, self.shape))}-from{self.lower:g}"


class _Model(nn.Module):
    """A quantizer in front of the product that it is for."""

    def __init__(self, quantizer: BaseQuantizer, features: int) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.linear = nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.quantizer(x))
        return y


class QuantizerContract:
    """Checks for the quantizers in ``cases``."""

    cases: ClassVar[list[Case]]
    is_idempotent: ClassVar[bool] = True
    """Quantizing a quantized tensor changes nothing."""
    gradient_is_one_within: ClassVar[tuple[float, float]]
    """An interval inside the bounds of every case and unit."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", self.cases, ids=str)

    def unit_ids(self, quantizer: BaseQuantizer, x: Tensor) -> Tensor:
        """A number for each element, shared by the elements that share parameters."""
        scale: Tensor = quantizer.scale  # type: ignore[assignment]
        ids = torch.arange(scale.numel()).reshape(scale.shape)
        return quantizer._broadcast(ids, x).expand(x.shape)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
    def test_keeps_shape_dtype_device_and_input(self, case: Case, dtype: torch.dtype) -> None:
        x = case.sample().to(dtype)
        before = x.clone()
        y = case.make()(x)
        assert (y.shape, y.dtype, y.device) == (x.shape, x.dtype, x.device)
        assert torch.equal(x, before)
        assert y.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_may_write_to_given_memory(self, case: Case, dtype: torch.dtype) -> None:
        quantizer, x = case.make(), case.sample().to(dtype)
        expected = quantizer(x)
        out = torch.empty_like(x)
        written = quantizer.fake_quantize(x, out)
        assert torch.equal(written, expected)
        assert dtype != torch.float32 or written.data_ptr() == out.data_ptr()
        assert torch.equal(quantizer.fake_quantize(x, out=x), expected)

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_cuda_agrees_with_cpu(self, case: Case) -> None:
        quantizer, x = case.make(), case.sample()
        expected, codes = quantizer(x), quantizer.quantize(x)
        quantizer.to("cuda")
        y = quantizer(x.cuda())
        assert y.device.type == "cuda"
        torch.testing.assert_close(y.cpu(), expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(quantizer.quantize(x.cuda()).cpu(), codes)

    def test_half_precision_is_float32_arithmetic_rounded_once(self, case: Case) -> None:
        quantizer, x = case.make(), case.sample().bfloat16()
        assert torch.equal(quantizer(x), quantizer(x.float()).bfloat16())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_uses_at_most_2_to_the_bits_codes_and_values(self, case: Case, dtype: torch.dtype) -> None:
        quantizer, x = case.make(), case.sample().to(dtype)
        count = 2**case.config.bits + (case.config.overflow == "extra_zero")
        codes, values, units = quantizer.quantize(x), quantizer(x), self.unit_ids(quantizer, x)
        assert codes.dtype == torch.int32
        assert codes.shape == x.shape
        assert codes.min() >= 0
        assert codes.max() < count
        for unit in units.unique():
            assert len(values[units == unit].unique()) <= count

    def test_values_are_nearest_codes_dequantized(self, case: Case) -> None:
        quantizer, x = case.make(), case.sample()
        groups = quantizer.assign(x)
        assert torch.equal(quantizer.dequantize(quantizer.quantize(x), groups), quantizer(x))
        assert torch.equal(quantizer.quantize(x, groups), quantizer.quantize(x))

    def test_affine_parameters_are_those_of_the_values(self, case: Case) -> None:
        quantizer, x = case.make(), case.sample()
        affine = quantizer.affine_qparams()
        assert (affine is not None) == quantizer.is_affine
        if affine is not None:
            scale, zero_point = (quantizer._broadcast(parameter, x) for parameter in affine)
            assert torch.equal((quantizer.quantize(x) - zero_point) * scale, quantizer(x))

    def test_what_it_says_of_its_configuration(self, case: Case) -> None:
        cls = type(case.make())
        assert set(cls.config_fields) | set(cls.fitted_fields) <= set(OperandConfig.model_fields) - {"scheme", "bits"}
        once = cls.canonical_config(case.config, case.layout, case.shape)
        assert quantizer_class(once.scheme).canonical_config(once, case.layout, case.shape) == once
        label = cls.label(case.config)
        assert label.mark or label.note
        resolved = case.make().resolved_config()
        assert all(getattr(resolved, name) is not None for name in cls.fitted_fields)

    def test_is_idempotent(self, case: Case) -> None:
        quantizer = case.make()
        once = quantizer(case.sample())
        if self.is_idempotent:
            torch.testing.assert_close(quantizer(once), once, rtol=1e-6, atol=1e-6)

    def test_nan_stays_nan_alone(self, case: Case) -> None:
        quantizer, x = case.make(), case.sample()
        x.view(-1)[::5] = torch.nan
        x.view(-1)[::10] = -torch.tensor(torch.nan)
        for y in (quantizer(x), quantizer(x.double()), quantizer(x.clone().requires_grad_())):
            assert torch.equal(y.isnan(), x.isnan())
        codes = quantizer.quantize(x)
        assert codes.min() >= 0
        assert codes.max() <= 2**case.config.bits

    def test_infinities_are_the_end_values(self, case: Case) -> None:
        quantizer = case.make()
        for infinite in (torch.full(case.shape, torch.inf), torch.full(case.shape, -torch.inf)):
            huge = torch.nan_to_num(infinite) / 8
            assert quantizer(infinite).isfinite().all()
            assert quantizer(infinite.clone().requires_grad_()).isfinite().all()
            if quantizer.assign(huge) is None:
                assert torch.equal(quantizer(infinite), quantizer(huge))
                assert torch.equal(quantizer.quantize(infinite), quantizer.quantize(huge))

    @pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 3e38, -3e38, 1e-30, 1e-45])
    def test_constant_inputs_and_ranges(self, case: Case, value: float) -> None:
        x = torch.full(case.shape, value)
        bound = torch.full(case.bounds_shape(), value)
        lower = bound.clamp(max=0.0) if case.lower < 0 else bound.abs() * 0
        fitted = case.make_between(lower, bound.clamp(min=0.0) if case.lower < 0 else bound.abs())
        for quantizer in (case.make(), fitted):
            y = quantizer(x)
            assert y.isfinite().all()
            assert torch.equal(y, quantizer(x.clone().requires_grad_()))

    def test_extreme_inputs(self, case: Case) -> None:
        quantizer, x = case.make(), case.sample()
        for factor in (1e-40, 1e-20, 1e20, 1e38):
            assert quantizer(x * factor).isfinite().all()

    def test_empty_batch(self, case: Case) -> None:
        case.skip_if_weight()
        assert case.make()(torch.empty(0, *case.shape[1:])).shape == (0, *case.shape[1:])

    def test_memory_layout_does_not_matter(self, case: Case) -> None:
        quantizer, x = case.make(), case.sample()
        expected = quantizer(x)
        transposed = x.transpose(0, -1).contiguous().transpose(0, -1)
        sliced = torch.stack([x, x + 1], -1)[..., 0]
        repeated = x[:1].expand(x.shape)
        assert torch.equal(quantizer(transposed), expected)
        assert torch.equal(quantizer(sliced), expected)
        assert torch.equal(quantizer(repeated), quantizer(repeated.contiguous()))

    def test_is_rebuilt_bit_for_bit(self, case: Case) -> None:
        quantizer, x = case.make(), case.sample()
        expected = quantizer(x)
        qparams = quantizer.qparams()
        rebuilt = create_quantizer(quantizer.config, quantizer.layout, qparams)
        assert torch.equal(rebuilt(x), expected)
        assert all(torch.equal(value, qparams[name]) for name, value in rebuilt.qparams().items())
        assert torch.equal(copy.deepcopy(quantizer)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(quantizer))(x), expected)

    def test_state_dict_replaces_parameters(self, case: Case) -> None:
        quantizer, x = case.make(), case.sample()
        halved = torch.full(case.bounds_shape(), 0.5)
        other = case.make_between(case.lower * halved, case.upper * halved)
        assert set(quantizer.state_dict()) == set(quantizer.qparam_names)
        other.load_state_dict(quantizer.state_dict())
        assert torch.equal(other(x), quantizer(x))

    def test_casting_a_model_leaves_parameters_alone(self, case: Case) -> None:
        quantizer, x = case.make(), case.sample().bfloat16()
        expected = quantizer(x)
        before = {name: value.clone() for name, value in quantizer.qparams().items()}
        nn.Sequential(quantizer).to(torch.bfloat16)
        assert torch.equal(quantizer(x), expected)
        for name, value in quantizer.qparams().items():
            assert value.dtype == torch.float32
            assert torch.equal(value, before[name])

    def test_survives_export_with_a_dynamic_batch(self, case: Case) -> None:
        case.skip_if_weight()
        model, x = _Model(case.make(), case.shape[-1]).eval(), case.sample()
        with torch.no_grad():
            program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}})
            other = torch.cat([x, case.sample(1), case.sample(2)])
            other.view(-1)[0] = torch.nan
            assert torch.equal(program.module()(x), model(x))
            assert torch.equal(model.quantizer(other).isnan(), other.isnan())
            torch.testing.assert_close(program.module()(other), model(other), rtol=0, atol=0, equal_nan=True)

    def test_gradient_passes_straight_through(self, case: Case) -> None:
        quantizer, x = case.make(), case.sample().requires_grad_()
        y = quantizer(x)
        assert torch.equal(y.detach(), quantizer(x.detach()))
        y.sum().backward()
        assert x.grad is not None
        least, greatest = self.gradient_is_one_within
        inside = (x > least) & (x < greatest)
        assert inside.any()
        assert (x.grad[inside] - 1).abs().max() < 1e-5
        assert ((x.grad == 0) | ((x.grad - 1).abs() < 1e-5)).all()

    def test_gradient_is_zero_where_clipped(self, case: Case) -> None:
        quantizer = case.make()
        if quantizer.assign(case.sample()) is not None:
            pytest.skip("parameters are assigned at run time")
        x = torch.full(case.shape, 3.0 * case.upper, requires_grad=True)
        quantizer(x).sum().backward()
        assert x.grad is not None
        assert (x.grad == 0).all()

    def test_learned_scale_gets_finite_gradients(self, case: Case) -> None:
        quantizer = case.make()
        if not quantizer.learnable:
            pytest.skip("nothing is learned of this scheme")
        scale: Any = getattr(quantizer, *quantizer.learnable)
        scale.requires_grad_()
        quantizer(case.sample()).square().sum().backward()
        assert scale.grad.shape == scale.shape
        assert scale.grad.isfinite().all()
        assert scale.grad.any()
        with torch.no_grad():
            scale.mul_(1.5)
        learned = quantizer.learned()
        assert not any(value.requires_grad for value in learned.buffers())
        reach = max(float(value.abs().max()) for value in quantizer.qparams().values())
        assert torch.allclose(getattr(learned, *learned.learnable), scale, rtol=1e-4, atol=1e-6 * reach)

    def test_refuses_wrong_parameters(self, case: Case) -> None:
        quantizer = case.make()
        qparams = quantizer.qparams()
        name = quantizer.qparam_names[0]
        wrong: list[dict[str, Tensor]] = [
            {},
            qparams | {"nonsense": torch.ones(1)},
            qparams | {name: torch.full_like(qparams[name], torch.nan)},
            qparams | {name: torch.ones(5, 1, 1, 1, 1)},
        ]
        for parameters in wrong:
            with pytest.raises(CalibrationError):
                create_quantizer(case.config, case.layout, parameters)
        with pytest.raises(CalibrationError):
            type(quantizer)(case.config.model_copy(update={"scheme": "other"}), case.layout, qparams)
