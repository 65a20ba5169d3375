"""The block Hadamard quantizer, against a slow reference: SciPy's matrices and NumPy's rounding."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard
from torch import Tensor

from autoq.errors import CalibrationError
from autoq.quantizers import BaseQuantizer, HadamardQuantizer, OperandLayout, create_quantizer, quantizer_class
from autoq.recipe import OperandConfig
from tests.contracts.quantizers import CONV_INPUT, LINEAR_INPUT, LINEAR_WEIGHT, Case, QuantizerContract

CONV_WEIGHT = OperandLayout(ndim=4, channel_axis=-4, group_axis=-3, instances_per_image=0, summed_axis=-3)
KEYS = OperandLayout(ndim=4, channel_axis=-2, head_axis=-3, group_axis=-2, summed_axis=-2)


def config(bits: int = 4, block: int = 4, **fields: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": "hadamard", "bits": bits, "hadamard_block": block} | fields)


def dense(channels: int, block: int) -> np.ndarray:
    """Return SciPy's Hadamard matrices with signs, the greatest that divide the channels up to ``block``."""
    size = max(b for b in (2**k for k in range(12)) if b <= block and channels % b == 0)
    pairs = [[(index >> bit & 1) * (index >> bit + 1 & 1) for bit in range(0, 12, 2)] for index in range(size)]
    signs = [(-1) ** sum(products) for products in pairs]
    return np.kron(np.eye(channels // size), np.diag(signs) @ hadamard(size) / np.sqrt(size))


def transformed(x: Tensor, quantizer: BaseQuantizer) -> Tensor:
    """Return what the codes of ``x`` are of, by SciPy's matrix in double precision."""
    axis = quantizer.layout.summed_axis
    assert axis is not None
    matrix = dense(x.shape[axis], quantizer.config.hadamard_block)
    return torch.from_numpy(np.moveaxis(np.moveaxis(x.double().numpy(), axis, -1) @ matrix, -1, axis).copy())


class TestContract(QuantizerContract):
    gradient_is_one_within = (-0.4, 0.4)
    cases: ClassVar[list[Case]] = [
        Case(config(4), LINEAR_INPUT),
        Case(config(8, 128), LINEAR_INPUT, (2, 3, 256)),
        Case(config(2, 4, symmetric=True), LINEAR_INPUT),
        Case(config(1, 2, symmetric=True), LINEAR_INPUT),
        Case(config(3, 8, granularity="channel"), LINEAR_WEIGHT, (6, 16)),
        Case(config(4, 2, granularity="group", groups=5), LINEAR_INPUT),
        Case(config(4, 4), CONV_INPUT, (2, 12, 3, 5)),
        Case(config(4, 16, granularity="channel"), CONV_WEIGHT, (3, 12, 2, 2)),
        Case(config(5, 8, granularity="head"), KEYS, (2, 3, 8, 5)),
    ]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_uses_at_most_2_to_the_bits_codes_and_values(self, case: Case, dtype: torch.dtype) -> None:
        """In the basis of the codes; in the operand's own, a value is a sum of as many as a block has."""
        quantizer, x = case.make(), case.sample().to(dtype)
        codes, units = quantizer.quantize(x), self.unit_ids(quantizer, x)
        assert codes.dtype == torch.int32
        assert codes.shape == x.shape
        assert codes.min() >= 0
        assert codes.max() < 2**case.config.bits
        scale, zero_point = (quantizer._broadcast(each, x) for each in quantizer.code_grid() or ())
        values = (codes - zero_point) * scale
        torch.testing.assert_close(transformed(quantizer(x), quantizer).float(), values, rtol=2e-2, atol=2e-2)
        for unit in set(units.flatten().tolist()):
            assert len(set(values[units == unit].tolist())) <= 2**case.config.bits

    def test_gradient_passes_straight_through(self, case: Case) -> None:
        self.check_gradient(case, case.sample())

    def test_gradient_is_zero_where_clipped(self, case: Case) -> None:
        self.check_gradient(case, 5 * case.sample())

    def check_gradient(self, case: Case, x: Tensor) -> None:
        """It is that of the uniform quantizer in the basis of the codes."""
        quantizer, upstream = case.make(), torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        x = x.clone().requires_grad_()
        y = quantizer(x)
        assert torch.equal(y.detach(), quantizer(x.detach()))
        y.backward(upstream)
        uniform = create_quantizer(HadamardQuantizer.in_basis(case.config, 1), case.layout, quantizer.qparams())
        inside = transformed(x.detach(), quantizer).requires_grad_()
        uniform(inside).backward(transformed(upstream, quantizer))
        assert x.grad is not None
        assert inside.grad is not None
        assert inside.grad.any()
        torch.testing.assert_close(transformed(x.grad, quantizer), inside.grad, rtol=1e-4, atol=1e-5)


@settings(deadline=None)
@given(
    exponents=st.tuples(st.integers(0, 9), st.integers(0, 4)),
    odd=st.sampled_from([1, 3, 5]),
    bits=st.integers(1, 8),
    symmetric=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_codes_and_values_are_those_of_a_dense_reference(
    exponents: tuple[int, int], odd: int, bits: int, symmetric: bool, seed: int
) -> None:
    channels, block = odd * 2 ** exponents[1], 2 ** exponents[0]
    chosen = config(bits, block, symmetric=symmetric)
    x = torch.randn(2, 3, channels, generator=torch.Generator().manual_seed(seed)).double()
    matrix = dense(channels, block)
    y = x.numpy() @ matrix
    quantizer = HadamardQuantizer.from_range(
        chosen, LINEAR_INPUT, *(torch.full((1, 1, 1), b) for b in (y.min(), y.max()))
    )
    scale, zero_point = float(quantizer.scale), float(quantizer.zero_point)
    if bits == 1 and symmetric:
        codes = (y >= 0).astype(float)
    else:
        codes = np.clip(np.round(y / scale) + zero_point, 0, 2**bits - 1)
    is_tie = np.abs(y / scale - np.floor(y / scale) - (0.0 if bits == 1 and symmetric else 0.5)) < 1e-6
    found = quantizer.quantize(x).double().numpy()
    assert (found == codes)[~is_tie].all()
    values = (found - zero_point) * scale @ matrix.T
    np.testing.assert_allclose(quantizer(x).numpy(), values, rtol=1e-6, atol=1e-6)


@settings(deadline=None)
@given(channels=st.sampled_from([1, 6, 8, 48, 192, 320, 1024]), block=st.sampled_from([1, 2, 8, 64, 128, 256, 1024]))
def test_the_basis_is_orthogonal_and_block_diagonal(channels: int, block: int) -> None:
    basis = HadamardQuantizer.basis(config(4, block), channels)
    expected = torch.from_numpy(dense(channels, block)).float()
    torch.testing.assert_close(torch.eye(channels) if basis is None else basis, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(expected @ expected.t(), torch.eye(channels), rtol=0, atol=1e-5)


@settings(deadline=None)
@given(bits=st.integers(1, 8), symmetric=st.booleans(), seed=st.integers(0, 1000))
def test_the_error_of_a_block_is_at_most_that_of_its_codes(bits: int, symmetric: bool, seed: int) -> None:
    """As the transform keeps lengths, a block of b channels is off by √b times the greatest error of a code at most."""
    block = 8
    x = torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(seed)).double()
    y = x.numpy() @ dense(16, block)
    bounds = (torch.full((1, 1, 1), b) for b in (y.min(), y.max()))
    quantizer = HadamardQuantizer.from_range(config(bits, block, symmetric=symmetric), LINEAR_INPUT, *bounds)
    error = (quantizer(x) - x).unflatten(-1, (-1, block)).square().sum(-1).sqrt()
    steps = 0.5 if symmetric else 1.0  # a rounded zero point moves the grid by up to half a step
    assert (error <= block**0.5 * steps * float(quantizer.scale) * (1 + 1e-6)).all()


def test_an_outlier_is_spread_over_its_block() -> None:
    x = torch.zeros(1, 1, 256)
    x[..., 7] = 16.0
    y = HadamardQuantizer.from_range(
        config(8, 128), LINEAR_INPUT, *(torch.full((1, 1, 1), bound) for bound in (-2.0, 2.0))
    ).to_basis(x)
    assert torch.equal(y[..., :128].abs(), torch.full((1, 1, 128), 16 / 128**0.5))
    assert not y[..., 128:].any()


@pytest.mark.parametrize(
    ("wanted", "shape", "layout", "scheme", "block"),
    [
        (128, (1, 5, 1536), LINEAR_INPUT, "hadamard", 128),
        (128, (1, 5, 192), LINEAR_INPUT, "hadamard", 64),
        (1024, (1, 5, 1536), LINEAR_INPUT, "hadamard", 512),
        (128, (1, 5, 7), LINEAR_INPUT, "uniform", 1),
        (1, (1, 5, 8), LINEAR_INPUT, "uniform", 1),
        (128, (1, 24, 5, 5), CONV_INPUT, "hadamard", 8),
        (128, (1, 24, 5, 5), OperandLayout(4, -3, group_axis=-3), "uniform", 1),
    ],
)
def test_canonical_block(wanted: int, shape: tuple[int, ...], layout: OperandLayout, scheme: str, block: int) -> None:
    canonical = HadamardQuantizer.canonical_config(config(4, wanted, symmetric=True), layout, shape)
    assert canonical == OperandConfig(scheme=scheme, bits=4, symmetric=True, hadamard_block=block)


def test_a_block_that_does_not_divide_the_channels_means_the_canonical_one() -> None:
    x = torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(0))
    quantizers = [Case(config(4, block), LINEAR_INPUT, (2, 3, 24)).make() for block in (8, 64)]
    assert torch.equal(quantizers[0](x), quantizers[1](x))


def test_uniform_and_hadamard_are_each_other_in_another_basis() -> None:
    uniform = OperandConfig(scheme="uniform", bits=3, granularity="channel", symmetric=True)
    there = quantizer_class("uniform").in_basis(uniform, 64)
    assert there == config(3, 64, granularity="channel", symmetric=True)
    assert HadamardQuantizer.in_basis(there, 1) == uniform
    assert quantizer_class("uniform").in_basis(uniform, 1) == uniform
    assert quantizer_class("log2").in_basis(OperandConfig(scheme="log2", bits=3), 64) is None


def test_double_precision_is_kept() -> None:
    x = torch.randn(2, 3, 256, generator=torch.Generator().manual_seed(0)).double()
    bounds = (torch.full((1, 1, 1), bound) for bound in (-6.0, 6.0))
    quantizer = HadamardQuantizer.from_range(config(4, 128), LINEAR_INPUT, *bounds)
    torch.testing.assert_close(quantizer.from_basis(quantizer.to_basis(x)), x, rtol=0, atol=1e-14)


def test_refuses_operands_whose_channels_cannot_be_mixed() -> None:
    layout = OperandLayout(ndim=4, channel_axis=-3, group_axis=-3)
    with pytest.raises(CalibrationError, match="hadamard: the operand has no channels that every output sums over"):
        Case(config(4), layout, (2, 12, 3, 3)).make()


@pytest.mark.parametrize("block", [0, 3, -4, 96])
def test_blocks_are_powers_of_two(block: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        config(4, block)
