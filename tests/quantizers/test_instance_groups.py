from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoq.errors import CalibrationError
from autoq.quantizers import BaseQuantizer, InstanceGroupQuantizer, OperandLayout, create_quantizer
from autoq.recipe import OperandConfig
from tests.contracts.quantizers import (
    ATTENTION_MAP,
    CONV_INPUT,
    LINEAR_INPUT,
    LINEAR_WEIGHT,
    WINDOWED_INPUT,
    Case,
    QuantizerContract,
)
from tests.quantizers.samples import tensors


def instance_groups(bits: int, groups: int) -> OperandConfig:
    return OperandConfig(scheme="instance_groups", bits=bits, groups=groups)


def make(layout: OperandLayout, lower: list[float], upper: list[float], bits: int = 4) -> InstanceGroupQuantizer:
    qparams = {"lower": torch.tensor(lower), "upper": torch.tensor(upper)}
    quantizer = create_quantizer(instance_groups(bits, len(lower)), layout, qparams)
    assert isinstance(quantizer, InstanceGroupQuantizer)
    return quantizer


class TestContract(QuantizerContract):
    gradient_is_one_within = (0.05, 0.45)
    is_idempotent = False  # a quantized channel has other bounds, and may go to another group
    cases: ClassVar[list[Case]] = [
        Case(instance_groups(4, 1)),
        Case(instance_groups(4, 8)),
        Case(instance_groups(1, 3)),
        Case(instance_groups(3, 4), CONV_INPUT, (4, 6, 5, 3)),
        Case(instance_groups(3, 4), ATTENTION_MAP, (4, 3, 5, 6)),
        Case(instance_groups(4, 4), WINDOWED_INPUT, (8, 7, 12)),
    ]

    def unit_ids(self, quantizer: BaseQuantizer, x: Tensor) -> Tensor:
        groups = quantizer.assign(x)
        assert groups is not None
        return torch.arange(groups.numel()).reshape(groups.shape).expand(x.shape)


def reference_groups(entries: np.ndarray, lower: list[float], upper: list[float]) -> list[int]:
    """For each row the group with the nearest bounds, found one distance at a time."""
    groups = []
    for entry in entries:
        distances = [
            (entry.min() - low) ** 2 + (entry.max() - high) ** 2 for low, high in zip(lower, upper, strict=True)
        ]
        groups.append(distances.index(min(distances)))
    return groups


LOWER, UPPER = [-1.0, -0.5, 0.0, -8.0], [1.0, 0.25, 2.0, 8.0]


def test_channels_are_assigned_per_image() -> None:
    x = torch.randn(3, 9, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 0.3, 1, 2, 4, 8])
    groups = make(LINEAR_INPUT, LOWER, UPPER).assign(x)
    assert groups.shape == (3, 1, 6)
    for image in range(3):
        assert groups[image, 0].tolist() == reference_groups(x[image].numpy().T, LOWER, UPPER)


def test_channels_of_images_are_assigned_over_pixels() -> None:
    x = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(0)) * torch.rand(2, 5, 1, 1) * 4
    groups = make(CONV_INPUT, LOWER, UPPER).assign(x)
    assert groups.shape == (2, 5, 1, 1)
    for image in range(2):
        assert groups[image].flatten().tolist() == reference_groups(x[image].reshape(5, -1).numpy(), LOWER, UPPER)


def test_rows_are_assigned_alone() -> None:
    x = torch.softmax(torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0)) * 5, -1)
    lower, upper = [0.0, 0.0, 0.1], [1.0, 0.4, 0.3]
    groups = make(ATTENTION_MAP, lower, upper).assign(x)
    assert groups.shape == (2, 3, 5, 1)
    assert groups.flatten().tolist() == reference_groups(x.reshape(-1, 6).numpy(), lower, upper)


def test_windows_of_an_image_share_one_assignment() -> None:
    x = torch.randn(8, 7, 5, generator=torch.Generator().manual_seed(0)) * torch.rand(8, 1, 5) * 4
    groups = make(WINDOWED_INPUT, LOWER, UPPER).assign(x)
    assert groups.shape == (8, 1, 5)
    for image in range(2):
        windows = slice(4 * image, 4 * image + 4)
        expected = reference_groups(x[windows].reshape(28, 5).numpy().T, LOWER, UPPER)
        for window in groups[windows]:
            assert window.flatten().tolist() == expected


def test_other_images_make_no_difference() -> None:
    quantizer = make(LINEAR_INPUT, LOWER, UPPER)
    x = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(quantizer(x)[:1], quantizer(x[:1]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    x=tensors(60),
    bits=st.integers(1, 8),
    groups=st.integers(1, 6),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_agrees_with_slow_reference(x: Tensor, bits: int, groups: int, dtype: torch.dtype) -> None:
    x = x.reshape(2, 5, 6).to(dtype)
    x = x.clamp(-1e18, 1e18)  # distances are squares
    width = torch.linspace(0.2, 1.0, groups) * float(x.float().abs().max())
    lower, upper = (-0.5 * width).tolist(), width.tolist()
    quantizer = make(LINEAR_INPUT, lower, upper, bits)
    values, assigned = quantizer(x), quantizer.assign(x)
    steps = 2**bits - 1
    for image in range(2):
        for channel in range(6):
            entry = x[image, :, channel].double().numpy()
            group = int(assigned[image, 0, channel])
            distances = [
                (entry.min() - low) ** 2 + (entry.max() - high) ** 2 for low, high in zip(lower, upper, strict=True)
            ]
            assert distances[group] <= min(distances) * (1 + 1e-5) + 1e-30
            scale = max((upper[group] - lower[group]) / steps, float(np.finfo(np.float32).tiny))
            zero_point = round(-lower[group] / scale)
            for element, value in zip(entry, values[image, :, channel].double().tolist(), strict=True):
                code = min(max(round(element / scale) + zero_point, 0), steps)
                nearest = abs(value - (code - zero_point) * scale) <= scale * 0.01 + abs(value) * 0.005
                is_tie = abs(abs(element / scale - round(element / scale)) - 0.5) < 1e-4 + 1e-6 * abs(element / scale)
                assert nearest or is_tie


def test_bounds_away_from_zero_use_all_codes() -> None:
    quantizer = make(LINEAR_INPUT, [100.0], [101.0], bits=8)
    x = torch.linspace(100, 101, 256).reshape(1, 256, 1)
    assert (quantizer(x) - x).abs().max() < 0.5 / 255 + 1e-4
    assert len(quantizer.quantize(x).unique()) >= 254


def test_codes_need_their_groups() -> None:
    quantizer = make(LINEAR_INPUT, LOWER, UPPER)
    codes = quantizer.quantize(torch.randn(2, 3, 4))
    with pytest.raises(ValueError, match="pass assign"):
        quantizer.dequantize(codes)


def test_refuses_operands_without_entries_and_wrong_bounds() -> None:
    with pytest.raises(CalibrationError, match="no channels or rows"):
        make(LINEAR_WEIGHT, LOWER, UPPER)
    with pytest.raises(CalibrationError, match="above upper"):
        make(LINEAR_INPUT, [1.0], [0.0])
    qparams = {"lower": torch.zeros(2), "upper": torch.ones(2)}
    with pytest.raises(CalibrationError, match=r"shape \(3,\)"):
        create_quantizer(instance_groups(4, 3), LINEAR_INPUT, qparams)
