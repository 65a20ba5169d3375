"""Binned quadratic forms against the forms that they stand for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoq.calibration.fpcs import binned_error
from autoq.calibration.fpcs.binned_error import BinnedError
from autoq.calibration.fpcs.layer_error import QuadraticError
from autoq.calibration.fpcs.scaled_loss import log_unit, scaled_loss, screening_losses, twin_unit
from autoq.recipe import OperandConfig
from tests.calibration.output_samples import generator

CPU = torch.device("cpu")
LENGTH = 256
NUMBERS = torch.tensor([[10.0, 37.0, 90.0, 137.0]])
STEPS = torch.tensor([[1.0, 0.8, 0.6, 0.9]])
ADALOG = OperandConfig(scheme="adalog", bits=4)


def after_gelu(vectors: int = 40, seed: int = 0) -> Tensor:
    return torch.nn.functional.gelu(2 * torch.randn(vectors, LENGTH, generator=generator(seed)))


def screened(values: Tensor, *, has_linear: bool) -> QuadraticError:
    """Leading directions and the diagonal of the rest, as screening leaves them."""
    length = values.shape[-1]
    return QuadraticError(
        values[None, None],
        factor=torch.randn(1, 1, length, 9, generator=generator(1)),
        diagonal=torch.rand(1, 1, 1, length, generator=generator(2)),
        linear=0.1 * torch.randn(1, 1, *values.shape, generator=generator(3)) if has_linear else None,
    )


def on_bins(values: Tensor) -> Tensor:
    """Values that are alone in their bins: these have no more bits than bins keep."""
    return (values.contiguous().view(torch.int32) >> 15 << 15).view(torch.float32)


@pytest.mark.parametrize("has_linear", [False, True])
@pytest.mark.parametrize("config", [ADALOG, OperandConfig(scheme="twin_uniform", bits=4)])
def test_equals_the_form_where_bins_hold_equal_values(config: OperandConfig, has_linear: bool) -> None:
    form = screened(on_bins(after_gelu() + (0.17 if config.scheme == "adalog" else 0)), has_linear=has_linear)
    unit = log_unit(config, CPU) if config.scheme == "adalog" else twin_unit(config, -1, CPU)
    numbers = NUMBERS if config.scheme == "adalog" else torch.tensor([[0.0, 2.0, 3.0, 5.0]])
    binned = BinnedError.of(form)
    assert binned is not None
    scale = torch.tensor([[float(form.values.max()) / (1 if config.scheme == "adalog" else 8)]])
    expected, found = (scaled_loss(each, unit, scale)(numbers, STEPS) for each in (form, binned))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_without_directions_it_is_the_diagonal() -> None:
    form = screened(on_bins(after_gelu() + 0.17), has_linear=True)
    assert form.factor is not None
    assert form.diagonal is not None
    whole = replace(form, factor=None, diagonal=form.diagonal + form.factor.square().sum(3).unsqueeze(2))
    binned = BinnedError.of(form)
    assert binned is not None
    unit, scale = log_unit(ADALOG, CPU), form.values.amax().view(1, 1)
    diagonal = binned.of_diagonal()
    expected, found = (scaled_loss(each, unit, scale)(NUMBERS, STEPS) for each in (whole, diagonal))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    assert diagonal.of_diagonal() is diagonal


def test_values_of_a_bin_are_nearly_equal_so_that_errors_are() -> None:
    form = screened(after_gelu(200) + 0.17, has_linear=True)
    binned = BinnedError.of(form)
    assert binned is not None
    assert len(binned.centres) < form.values.numel() / 10
    unit, scale = log_unit(ADALOG, CPU), form.values.amax().view(1, 1)
    expected, found = (scaled_loss(each, unit, scale)(NUMBERS, STEPS) for each in (form, binned))
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)


@given(
    values=st.lists(st.floats(0, 2.0**127, width=32), min_size=1, max_size=30),
    step=st.floats(2.0**-100, 2.0**100, width=32),
)
@settings(max_examples=100, deadline=None)
def test_any_values(values: list[float], step: float) -> None:
    """Zero, subnormal and huge values: every one is in the bin of its leading bits."""
    x = torch.tensor([values])
    factor, diagonal = torch.zeros(1, 1, len(values), 1), torch.ones(1, 1, 1, len(values))
    binned = BinnedError.of(QuadraticError(x[None, None], factor=factor, diagonal=diagonal))
    assert binned is not None
    centres = binned.centres[binned.places.long()]
    assert ((centres - x).abs() <= x.abs() / 256 + 1e-38).all()
    assert torch.isfinite(binned.evaluate_scaled([torch.zeros_like], torch.tensor([[step]]))).all()


def test_memory_is_bounded_and_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    binned = BinnedError.of(screened(after_gelu() + 0.17, has_linear=True))
    assert binned is not None
    unit, scale = log_unit(ADALOG, CPU), torch.tensor([[2.0]])
    whole = scaled_loss(binned, unit, scale)(NUMBERS, STEPS)
    monkeypatch.setattr(binned_error, "ELEMENTS_AT_ONCE", 3 * LENGTH)
    monkeypatch.setattr(binned_error, "_ROUNDED_AT_ONCE", len(binned.centres))
    torch.testing.assert_close(scaled_loss(binned, unit, scale)(NUMBERS, STEPS), whole, rtol=1e-5, atol=0)


def test_only_of_one_row_with_one_factor_and_every_value_quantized() -> None:
    form = screened(after_gelu(), has_linear=False)
    assert BinnedError.of(replace(form, mask=torch.ones_like(form.values))) is None
    assert BinnedError.of(replace(form, factor=None)) is None
    rows = replace(form, values=form.values.view(2, 1, -1, LENGTH))
    assert BinnedError.of(rows) is None
    blocks = replace(form, values=form.values.view(1, 2, -1, LENGTH), factor=torch.ones(1, 2, LENGTH, 3))
    assert BinnedError.of(blocks) is None


def test_screening_without_bins_ranks_by_the_leading_directions_alone() -> None:
    values = after_gelu()[None, None] + 0.17
    form = QuadraticError(values, factor=torch.randn(1, 1, LENGTH, LENGTH, generator=generator(1)))
    unit, scale = log_unit(ADALOG, CPU), values.amax().view(1, 1)
    assert screening_losses(form, unit, scale, 0, 0) == (None, None)
    screen, coarse = screening_losses(replace(form, mask=torch.ones_like(values)), unit, scale, 8, 0)
    assert screen is not None
    assert coarse is None
    binned, diagonal = screening_losses(form, unit, scale, 8, 0)
    assert binned is not None
    assert diagonal is not None
    torch.testing.assert_close(binned(NUMBERS, STEPS), screen(NUMBERS, STEPS), rtol=0.03, atol=0)
