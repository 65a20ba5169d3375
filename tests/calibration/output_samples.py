"""Hand-made sites of every kind, and their outputs computed directly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from autoq.calibration import CalibrationSettings, OperandSample, solve
from autoq.calibration.convolutions import Convolution, TransposedConvolution
from autoq.calibration.fpcs.output_search import solve_site
from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.calibration.fpcs.site_solver import SiteSolver
from autoq.graph.sites import Operand, Producer, Site, SiteOp
from autoq.quantizers import BaseQuantizer, OperandLayout, quantizer_class
from autoq.recipe import OperandConfig, SiteConfig
from tests.calibration.samples import SETTINGS

FPCS = FpcsSettings()
EVERYTHING = FpcsSettings(tokens=1 << 20, zero_point_window="observed")
"""Every vector counts."""
_CONVOLUTIONS = {"conv1d": functional.conv1d, "conv2d": functional.conv2d, "conv3d": functional.conv3d}


@dataclass(frozen=True)
class SiteSample:
    """A site with its full-precision operands."""

    site: Site
    operands: dict[str, Tensor]
    convolution: Convolution | TransposedConvolution | None = None

    def output(self, quantizers: dict[str, BaseQuantizer]) -> Tensor:
        """In double precision, operands quantized by the real quantizers; the batch comes first."""
        left, right = (
            (quantizers[name](value) if name in quantizers else value).double() for name, value in self.operands.items()
        )
        if self.site.op == "linear":
            return functional.linear(left, right)
        if self.convolution is None:
            return left @ right
        if isinstance(self.convolution, TransposedConvolution):
            geometry = self.convolution
            return functional.conv_transpose2d(
                left, right, None, geometry.stride, geometry.padding, geometry.output_padding, 1, geometry.dilation
            )
        padding = [amount for pair in reversed(self.convolution.padding) for amount in pair]
        return _CONVOLUTIONS[self.site.op](
            functional.pad(left, padding),
            right,
            stride=self.convolution.stride,
            dilation=self.convolution.dilation,
            groups=self.convolution.groups,
        )

    def error(self, quantizers: dict[str, BaseQuantizer]) -> Tensor:
        """Squared error of every output element."""
        return (self.output(quantizers) - self.output({})).square()


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlated(*shape: int, seed: int = 0) -> Tensor:
    """Channels (the last axis) that share a few directions, around a mean that is far from zero."""
    channels = shape[-1]
    mixing = torch.randn(channels, channels, generator=generator(seed + 1)) * torch.logspace(0, -2, channels)
    mean = 3 * torch.randn(channels, generator=generator(seed + 2))
    return torch.randn(*shape, generator=generator(seed)) @ mixing.T + mean


def _site(op: SiteOp, left: Operand, right: Operand) -> Site:
    return Site(f"block.{op}", op, 1, (left, right))


def linear(
    images: int = 3, tokens: int = 7, inputs: int = 6, outputs: int = 5, producer: Producer = "other"
) -> SiteSample:
    x = correlated(images, tokens, inputs)
    if producer == "gelu":
        x = functional.gelu(x)
    weight = torch.randn(outputs, inputs, generator=generator(5))
    left = Operand("input", (1, tokens, inputs), producer, OperandLayout(3, -1, None, -1, -1, 1, -1))
    right = Operand("weight", (outputs, inputs), "parameter", OperandLayout(2, -2, None, -1, None, 0, -1))
    return SiteSample(_site("linear", left, right), {"input": x, "weight": weight})


def convolution(dimensions: int = 2, groups: int = 1, images: int = 2) -> SiteSample:
    """Strided, padded and dilated."""
    op: SiteOp = ("conv1d", "conv2d", "conv3d")[dimensions - 1]  # type: ignore[assignment]
    size, kernel = (9, 8, 7)[:dimensions], (3, 2, 2)[:dimensions]
    x = torch.randn(images, 4, *size, generator=generator(0)) + 1
    weight = torch.randn(6, 4 // groups, *kernel, generator=generator(1))
    geometry = Convolution(
        (2, 1, 2)[:dimensions], ((1, 1), (2, 0), (0, 1))[:dimensions], (1, 2, 1)[:dimensions], groups
    )
    ndim = dimensions + 2
    axis = 1 - ndim
    summed = axis if groups == 1 else None
    left = Operand("input", (1, 4, *size), "other", OperandLayout(ndim, axis, None, axis, None, 1, summed))
    layout = OperandLayout(ndim, -ndim, None, axis, None, 0, summed)
    right = Operand("weight", tuple(weight.shape), "parameter", layout)
    return SiteSample(_site(op, left, right), {"input": x, "weight": weight}, geometry)


def transposed_convolution(images: int = 2) -> SiteSample:
    """With overlaps, and outputs that see one element of the kernel, two or four."""
    x = torch.randn(images, 4, 5, 6, generator=generator(0)) + 1
    weight = torch.randn(4, 6, 3, 3, generator=generator(1))
    geometry = TransposedConvolution((2, 2), (1, 0), (1, 0), (1, 1))
    left = Operand("input", (1, 4, 5, 6), "other", OperandLayout(4, -3, None, -3, None, 1, -3))
    right = Operand("weight", (4, 6, 3, 3), "parameter", OperandLayout(4, -3, None, -4, None, 0, -4))
    return SiteSample(_site("conv_transpose2d", left, right), {"input": x, "weight": weight}, geometry)


def attention(role: str = "qk", images: int = 3, heads: int = 2, tokens: int = 5, width: int = 4) -> SiteSample:
    queries = correlated(images, heads, tokens, width)
    keys = correlated(images, heads, tokens, width, seed=10).mT
    if role == "qk":
        left, right, axes = queries, keys, (-1, -2)
    else:
        left, right, axes = (
            (queries @ keys / 4).softmax(-1),
            correlated(images, heads, tokens, width, seed=20),
            (-1, -1),
        )
    lhs, rhs = (
        Operand(
            name,
            (1, *values.shape[1:]),
            "softmax" if role == "av" and name == "lhs" else "other",
            OperandLayout(4, axis, -3, summed, None, 1, summed),
        )
        for name, values, axis, summed in zip(("lhs", "rhs"), (left, right), axes, (-1, -2), strict=True)
    )
    return SiteSample(_site("matmul", lhs, rhs), {"lhs": left, "rhs": right})


def batched_product(windows: int = 6) -> SiteSample:
    """A bmm, without heads."""
    left, right = correlated(windows, 5, 4), correlated(windows, 4, 3, seed=7)
    operands = [
        Operand(name, (1, *values.shape[1:]), "other", OperandLayout(3, -1))
        for name, values in (("lhs", left), ("rhs", right))
    ]
    return SiteSample(_site("bmm", *operands), {"lhs": left, "rhs": right})


def shared_product() -> SiteSample:
    """A matmul whose right operand is the same for every image."""
    left, right = correlated(3, 5, 4), torch.randn(4, 6, generator=generator(3))
    lhs = Operand("lhs", (1, 5, 4), "other", OperandLayout(3, -1))
    rhs = Operand("rhs", (4, 6), "parameter", OperandLayout(2, -1, instances_per_image=0))
    return SiteSample(_site("matmul", lhs, rhs), {"lhs": left, "rhs": right})


def uniform(bits: int = 3, granularity: str = "tensor", **fields: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": "uniform", "bits": bits, "granularity": granularity} | fields)


def solve_sample(sample: SiteSample, configs: SiteConfig, fpcs: FpcsSettings = EVERYTHING) -> dict[str, BaseQuantizer]:
    return solve_site(sample.site, configs, sample.operands, replace(SETTINGS, fpcs=fpcs), sample.convolution)


def by_own_error(
    sample: SiteSample, configs: SiteConfig, settings: CalibrationSettings = SETTINGS
) -> dict[str, BaseQuantizer]:
    solved = {}
    for name, config in configs.items():
        operand, values = sample.site.operand(name), sample.operands[name]
        kept = {axis % values.ndim for axis in (operand.layout.channel_axis, operand.layout.head_axis) if axis}
        others = [axis for axis in range(values.ndim) if axis not in kept]
        bounds = values.amin(others, keepdim=True), values.amax(others, keepdim=True)
        data: Tensor | OperandSample = values if operand.is_weight else OperandSample(values, *bounds, None)
        solved[name] = solve(operand, config, data, settings)
    return solved


def solver_of(sample: SiteSample, fpcs: FpcsSettings = EVERYTHING, weights: Tensor | None = None) -> SiteSolver:
    settings = replace(SETTINGS, fpcs=fpcs)
    return SiteSolver(sample.site, sample.operands, settings, sample.convolution, output_weights=weights)


def from_range(sample: SiteSample, name: str, config: OperandConfig, factor: float = 1.0) -> BaseQuantizer:
    operand, values = sample.site.operand(name), sample.operands[name]
    shape = operand.layout.parameter_shape(values.shape, config)
    others = [axis for axis, size in enumerate(shape) if size == 1 or values.shape[axis] != size]
    low, high = values.amin(others, keepdim=True), values.amax(others, keepdim=True)
    return quantizer_class(config.scheme).from_range(config, operand.layout, factor * low, factor * high)


def assert_equal(one: dict[str, BaseQuantizer], other: dict[str, BaseQuantizer]) -> None:
    assert one.keys() == other.keys()
    for name, quantizer in one.items():
        for parameter, value in quantizer.qparams().items():
            assert torch.equal(value, other[name].qparams()[parameter])
