"""What the calibration tests share: a small attention block, hand-made samples, slow references."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoq.calibration import CalibrationSettings, OperandSample
from autoq.graph.insert import QuantizedModel
from autoq.graph.sites import GroupGeometry, Operand, Producer
from autoq.graph.trace import trace
from autoq.quantizers import BaseQuantizer, InstanceGroupQuantizer, OperandLayout
from autoq.quantizers.instance_groups import entry_bounds
from autoq.recipe import OperandConfig

TOKENS, CHANNELS = 6, 8
SETTINGS = CalibrationSettings()
SHAPE = (1, 64, 24)
"""Of a linear input."""


class Block(nn.Module):
    """Norm, attention with two heads, GELU: every producer that has a scheme of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(CHANNELS)
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS)
        self.fc1 = nn.Linear(CHANNELS, 2 * CHANNELS)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(2 * CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).reshape(x.shape[0], TOKENS, 3, 2, CHANNELS // 2).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1)).softmax(-1)
        x = x + (attention @ v).transpose(1, 2).reshape(x.shape[0], TOKENS, CHANNELS)
        return x + self.fc2(self.act(self.fc1(x)))


def images(count: int, seed: int = 0) -> Tensor:
    """Tokens with two loud channels."""
    loud = torch.ones(CHANNELS)
    loud[1], loud[5] = 12.0, -5.0
    return torch.randn(count, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(seed)) * loud


def block_model() -> QuantizedModel:
    """The block, traced, with seeded weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = Block().eval()
    return QuantizedModel(trace(block, images(2)))


def key_of(model: QuantizedModel, producer: Producer) -> tuple[str, str]:
    """The first operand with this producer."""
    return next((s.name, o.name) for s, o in model.traced.operands() if o.producer == producer and s.macs)


def operand(
    shape: tuple[int, ...], producer: Producer = "other", *, heads: bool = False, summed: bool = False
) -> Operand:
    """A linear input (1, T, C), or an operand of an attention product (1, H, T, D)."""
    layout = OperandLayout(
        ndim=len(shape),
        channel_axis=-1,
        head_axis=-3 if heads else None,
        group_axis=-1,
        instance_group_axis=None if heads else -1,
        summed_axis=-1 if summed else None,
    )
    return Operand("input", shape, producer, layout, GroupGeometry(1, shape[-2], shape[-1], 4))


def weight_operand(shape: tuple[int, ...], *, summed: bool = False) -> Operand:
    """A weight with output channels first."""
    axis = 1 - len(shape)
    layout = OperandLayout(len(shape), -len(shape), None, axis, None, 0, axis if summed else None)
    return Operand("weight", shape, "parameter", layout)


def sample_of(described: Operand, values: Tensor) -> OperandSample:
    """Everything of ``values`` is kept."""
    kept = {axis % values.ndim for axis in (described.layout.channel_axis, described.layout.head_axis) if axis}
    reduced = [axis for axis in range(values.ndim) if axis not in kept]
    grouped = described.layout.instance_group_axis is not None
    return OperandSample(
        values,
        values.amin(reduced, keepdim=True),
        values.amax(reduced, keepdim=True),
        entry_bounds(values, described.layout) if grouped else None,
    )


def squared_error(quantizer: BaseQuantizer, sample: OperandSample) -> float:
    """Of the sampled values, as at run time; entries are assigned by their bounds over all tokens."""
    if isinstance(quantizer, InstanceGroupQuantizer):
        assert sample.entry_bounds is not None
        groups = quantizer.assign_bounds(*sample.entry_bounds)
        result = quantizer.dequantize(quantizer.quantize(sample.values, groups), groups)
    else:
        result = quantizer(sample.values)
    return float((result - sample.values).double().square().sum())


def uniform_reference(values: Tensor, scale: float, zero_point: float, bits: int) -> float:
    """Squared error of a uniform quantizer, value by value."""
    levels = (torch.arange(2**bits, dtype=torch.float64) - zero_point) * scale
    return float((values.double().unsqueeze(1) - levels).abs().amin(1).square().sum())


def config(scheme: str, bits: int, **fields: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": scheme, "bits": bits} | fields)


def draw(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(4, *SHAPE[1:], generator=generator)
    return {
        "normal": normal,
        "gelu": torch.nn.functional.gelu(normal),
        "heavy": normal.sign() * normal.abs() ** 3,
        "positive": normal.exp(),
        "outliers": torch.where(torch.rand(normal.shape, generator=generator) > 0.999, 30 * normal.abs(), normal),
    }[kind]
