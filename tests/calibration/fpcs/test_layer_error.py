"""Quadratic forms against the output of the real layer with real quantizers, in double precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoq.calibration.fpcs.layer_error import QuadraticError, affine_loss
from autoq.calibration.fpcs.layer_product import gram_factor
from autoq.calibration.fpcs.scaled_loss import log_unit, scaled_loss
from autoq.quantizers import create_quantizer
from autoq.recipe import OperandConfig
from tests.calibration.output_samples import (
    SiteSample,
    attention,
    batched_product,
    convolution,
    correlated,
    from_range,
    generator,
    linear,
    shared_product,
    solver_of,
    transposed_convolution,
    uniform,
)


def by_parameter(error: Tensor, axis: int | None) -> Tensor:
    """Sum an output's error over everything that shares parameters."""
    return error.sum().view(1) if axis is None else error.transpose(0, axis).flatten(1).sum(1)


def check(
    sample: SiteSample,
    name: str,
    config: OperandConfig,
    other: OperandConfig | None,
    axis: int | None,
    weights: Tensor | None = None,
) -> None:
    """Errors of candidates equal those of the layer itself; ``axis`` of the output is what parameters vary along."""
    other_name = next(each for each in sample.operands if each != name)
    quantized = None if other is None else from_range(sample, other_name, other, 0.8)
    form = solver_of(sample, weights=weights).error(name, config, other_name, quantized)
    starts = [from_range(sample, name, config, factor).qparams() for factor in (1.0, 0.5, 1.3)]
    rows = len(form.values)
    scale, zero_point = (torch.cat([start[p].reshape(rows, 1) for start in starts], 1) for p in ("scale", "zero_point"))
    loss = affine_loss(form, config.bits, binary=config.symmetric and config.bits == 1)
    found = loss(scale, zero_point)
    assert found.dtype == torch.float64
    for index, start in enumerate(starts):
        quantizers = {name: create_quantizer(config, sample.site.operand(name).layout, start)}
        if quantized is not None:
            quantizers[other_name] = quantized
        expected = by_parameter(sample.error(quantizers) * (1 if weights is None else weights.double()), axis)
        torch.testing.assert_close(found[:, index], expected, rtol=1e-4, atol=max(1e-9, 1e-6 * float(expected.max())))


OPERANDS = pytest.mark.parametrize(
    ("make", "name", "config", "axis"),
    [
        (linear, "weight", uniform(3, "channel"), -1),
        (linear, "weight", uniform(3), None),
        (linear, "weight", uniform(1, "channel", symmetric=True), -1),
        (linear, "input", uniform(4), None),
        (convolution, "weight", uniform(3, "channel"), 1),
        (convolution, "input", uniform(3), None),
        (convolution, "input", uniform(1, symmetric=True), None),
        (lambda: convolution(1), "input", uniform(3), None),
        (transposed_convolution, "weight", uniform(3, "channel"), 1),
        (transposed_convolution, "weight", uniform(3), None),
        (transposed_convolution, "input", uniform(3), None),
        (transposed_convolution, "input", uniform(1, symmetric=True), None),
        (lambda: convolution(3), "weight", uniform(3, "channel"), 1),
        (lambda: convolution(3), "input", uniform(3), None),
        (attention, "lhs", uniform(3, "head"), 1),
        (attention, "lhs", uniform(3), None),
        (attention, "rhs", uniform(3, "head"), 1),
        (lambda: attention("av"), "lhs", uniform(3, "head"), 1),
        (lambda: attention("av"), "rhs", uniform(3, "head"), 1),
        (lambda: attention("av"), "rhs", uniform(3, "channel"), 3),
        (batched_product, "lhs", uniform(3), None),
        (batched_product, "rhs", uniform(3, "channel"), 2),
        (shared_product, "lhs", uniform(3), None),
        (shared_product, "rhs", uniform(3, "channel"), 2),
    ],
)


@pytest.mark.parametrize("other", [None, uniform(2), uniform(8)])
@OPERANDS
def test_equals_the_error_of_the_layer(
    make: Callable[[], SiteSample], name: str, config: OperandConfig, axis: int | None, other: OperandConfig | None
) -> None:
    sample = make()
    if sample.convolution is not None and config.symmetric and config.bits == 1:
        # Padding is no value: a quantizer without zero must leave it alone, as it does in the real layer.
        assert sample.convolution.reads_zeros
    check(sample, name, config, other, axis)


@pytest.mark.parametrize("other", [None, uniform(2)])
@pytest.mark.parametrize("at_once", [1, 1 << 17])
@OPERANDS
def test_equals_the_weighted_error_of_the_layer(
    make: Callable[[], SiteSample],
    name: str,
    config: OperandConfig,
    axis: int | None,
    at_once: int,
    other: OperandConfig | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However little is computed at a time; but transposed convolutions, whose outputs count alike."""
    monkeypatch.setattr("autoq.calibration.fpcs.layer_error.ELEMENTS_AT_ONCE", at_once)
    sample = make()
    weights = torch.randn(sample.output({}).shape, generator=generator(9)).square() + 0.1
    form = solver_of(sample, weights=weights).error(name, config, next(n for n in sample.operands if n != name), None)
    is_transposed = sample.site.op == "conv_transpose2d"
    assert (form.weights is None) == is_transposed
    if not is_transposed:
        assert form.screened(2, 0) is None
        check(sample, name, config, other, axis, weights)


@given(
    images=st.integers(1, 3),
    tokens=st.integers(1, 40),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 40),
    bits=st.integers(1, 8),
    other_bits=st.integers(1, 8),
    is_quantized=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_linear_of_any_shape(
    images: int, tokens: int, inputs: int, outputs: int, bits: int, other_bits: int, is_quantized: bool
) -> None:
    """More or fewer vectors than their length: with Gram matrices and without."""
    sample = linear(images, tokens, inputs, outputs)
    other = uniform(other_bits) if is_quantized else None
    check(sample, "weight", uniform(bits, "channel"), other, -1)
    check(sample, "input", uniform(bits), other, None)


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 12),
    st.integers(1, 6),
    st.sampled_from(["qk", "av"]),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_attention_of_any_shape(
    images: int, heads: int, tokens: int, width: int, role: str, is_quantized: bool
) -> None:
    sample = attention(role, images, heads, tokens, width)
    other = uniform(3, "head") if is_quantized else None
    check(sample, "lhs", uniform(4, "head"), other, 1)
    check(sample, "rhs", uniform(4), other, None)


@pytest.mark.parametrize("scheme", ["adalog", "log2", "log_sqrt2"])
@pytest.mark.parametrize(
    ("make", "name", "granularity"),
    [
        (lambda: linear(producer="gelu"), "input", "tensor"),
        (lambda: attention("av"), "lhs", "head"),
        (convolution, "input", "tensor"),
    ],
)
@pytest.mark.parametrize("overflow", ["zero_code", "extra_zero"])
@pytest.mark.parametrize("bits", [3, 6])
def test_logarithmic_errors_equal_those_of_the_layer(
    make: Callable[[], SiteSample], name: str, granularity: str, scheme: str, overflow: str, bits: int
) -> None:
    sample = make()
    operand = sample.site.operand(name)
    other_name = next(each for each in sample.operands if each != name)
    config = OperandConfig.model_validate(
        {"scheme": scheme, "bits": bits, "granularity": granularity, "overflow": overflow}
    )
    quantized = from_range(sample, other_name, uniform(4))
    form = solver_of(sample).error(name, config, other_name, quantized)
    start = from_range(sample, name, config).qparams()
    bases, scales = torch.tensor([[10.0, 37.0, 137.0]]), torch.tensor([[1.0, 0.8, 0.6]])
    loss = scaled_loss(
        form.shifted(start["shift"].flatten()[0]), log_unit(config, torch.device("cpu")), start["scale"].reshape(-1, 1)
    )
    found = loss(bases, scales)
    for index in range(3):
        qparams = start | {"scale": start["scale"] * scales[0, index]}
        if scheme == "adalog":
            qparams["log_base_numerator"] = bases[0, index]
        quantizer = create_quantizer(config, operand.layout, qparams)
        expected = sample.error({name: quantizer, other_name: quantized}).sum()
        torch.testing.assert_close(found[0, index], expected, rtol=1e-4, atol=1e-9)


def test_no_cancellation_around_a_large_mean() -> None:
    """Eight-bit errors beside outputs a million times larger."""
    sample = linear(4, 50, 16, 8)
    sample.operands["input"] += 1000
    check(sample, "weight", uniform(8, "channel"), None, -1)
    check(sample, "weight", uniform(8, "channel"), uniform(8), -1)


def test_memory_is_bounded_and_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    forms = [
        solver_of(attention()).error("lhs", uniform(3, "head"), "rhs", None),
        solver_of(linear()).error("input", uniform(3), "weight", from_range(linear(), "weight", uniform(3))),
        solver_of(linear()).error("weight", uniform(3, "channel"), "input", None),
    ]
    for form in forms:
        scale = torch.rand(len(form.values), 9, generator=generator(0)) + 0.1
        whole = affine_loss(form, 3)(scale, torch.full_like(scale, 3.0))
        for size in (1, 20, 100, 1000):
            monkeypatch.setattr("autoq.calibration.fpcs.layer_error.ELEMENTS_AT_ONCE", size)
            split = affine_loss(form, 3)(scale, torch.full_like(scale, 3.0))
            torch.testing.assert_close(split, whole, rtol=1e-5, atol=0)
        monkeypatch.undo()


def test_screening_ranks_like_the_whole_form() -> None:
    inputs, outputs = 160, 20
    x, weight = correlated(400, inputs), torch.randn(outputs, inputs, generator=generator(3))
    form = QuadraticError(weight[:, None, None, :], factor=gram_factor(x)[None, None])
    screened = form.screened(8, 0)
    assert screened is not None
    assert screened.factor is not None
    assert screened.factor.shape[-1] == inputs // 8
    scale = torch.linspace(0.1, 0.6, 50).expand(outputs, -1)
    exact, cheap = (affine_loss(each, 4)(scale, torch.full_like(scale, 8.0)) for each in (form, screened))
    chosen = exact.gather(1, cheap.sort(1).indices[:, :8]).amin(1)
    assert (chosen <= 1.02 * exact.amin(1)).all()
    assert form.screened(0, 0) is None
    assert replace(form, factor=None).screened(8, 0) is None


def test_screening_is_exact_where_the_rest_is_diagonal() -> None:
    """A quadratic form that is a diagonal plus few directions keeps its values."""
    length = 256
    leading = 0.5 * torch.randn(length, 4, generator=generator(0))
    factor = torch.cat([leading, torch.diag(torch.rand(length, generator=generator(1)))], 1)
    form = QuadraticError(torch.randn(5, 1, 1, length, generator=generator(2)), factor=factor[None, None])
    screened = form.screened(8, 0)
    assert screened is not None
    scale = torch.full((5, 1), 0.4)
    exact, cheap = (affine_loss(each, 4)(scale, torch.full_like(scale, 8.0)) for each in (form, screened))
    torch.testing.assert_close(cheap, exact, rtol=0.1, atol=0)
