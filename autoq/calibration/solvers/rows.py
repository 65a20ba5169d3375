"""Rows of an operand's numbers, one for each set of quantizer parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autoq.calibration.observers import OBSERVERS
from autoq.calibration.recording import OperandSample
from autoq.calibration.settings import CalibrationSettings
from autoq.graph.sites import Operand
from autoq.quantizers.granularity import group_ids
from autoq.recipe import OperandConfig


@dataclass(frozen=True)
class Rows:
    """An operand in rows that have parameters of their own, and the way back.

    Attributes:
        values: of shape (rows, n).
        lower: the observer's bounds (the observed range, for those that choose later), of shape (rows,).
        upper: likewise.
        shape: of the parameters.
    """

    values: Tensor
    lower: Tensor
    upper: Tensor
    shape: tuple[int, ...]


def operand_rows(operand: Operand, config: OperandConfig, sample: OperandSample, settings: CalibrationSettings) -> Rows:
    """Bring the axes along which parameters vary to the front; bounds are the observer's.

    What was not observed at this granularity (weights, static groups) is taken for one batch.

    Args:
        operand: the operand.
        config: its granularity decides which values share parameters.
        sample: of the operand's values.
        settings: which observer, and what it needs.

    Raises:
        CalibrationError: the granularity does not fit the operand.
    """
    rows = _rows_of_sample(operand, config, sample)
    if config.granularity in sample.observed:
        lower, upper = (bound.flatten() for bound in sample.observed[config.granularity])
        return replace(rows, lower=lower, upper=upper)
    cls = OBSERVERS.lookup(settings.observer)
    if not cls.needs_each_granularity:
        return rows
    observer = cls.from_settings((0,), settings)
    observer.update(rows.values)
    lower, upper = (bound.flatten() for bound in observer.bounds())
    return replace(rows, lower=lower, upper=upper)


def _rows_of_sample(operand: Operand, config: OperandConfig, sample: OperandSample) -> Rows:
    layout, values = operand.layout, sample.values
    kept = tuple(axis % layout.ndim for axis in layout.kept_axes(config))
    shape = layout.parameter_shape(values.shape, config)
    if config.granularity == "group" and layout.group_axis is not None:
        return _grouped_rows(operand, sample, shape)
    order = [*kept, *(axis for axis in range(layout.ndim) if axis not in kept)]
    count = math.prod(values.shape[axis] for axis in kept)
    others = [axis for axis in range(layout.ndim) if axis not in kept]
    lower, upper = sample.lower.amin(others), sample.upper.amax(others)
    return Rows(values.permute(order).reshape(count, -1), lower.reshape(count), upper.reshape(count), shape)


def _grouped_rows(operand: Operand, sample: OperandSample, shape: tuple[int, ...]) -> Rows:
    """Put consecutive channels, a static group, side by side; pad shorter groups with their own values."""
    layout, values = operand.layout, sample.values
    assert layout.group_axis is not None  # noqa: S101 - checked by the caller
    axis = layout.group_axis % layout.ndim
    groups = shape[axis]
    ids = group_ids(values.shape[axis], groups, values.device)
    length = int(torch.bincount(ids).max())
    members = torch.stack([_padded((ids == group).nonzero().flatten(), length) for group in range(groups)])
    gathered = values.index_select(axis, members.flatten())
    gathered = gathered.reshape(*gathered.shape[:axis], groups, length, *gathered.shape[axis + 1 :])
    outer = layout.channel_axis % layout.ndim
    first = [outer + (outer > axis)] if operand.is_weight else []
    order = [*first, axis, *(a for a in range(gathered.ndim) if a not in (*first, axis))]
    rows = gathered.permute(order).reshape(-1, gathered.numel() // (groups * (values.shape[outer] if first else 1)))
    return Rows(rows, rows.amin(1), rows.amax(1), shape)


def _padded(index: Tensor, length: int) -> Tensor:
    return torch.cat([index, index[-1:].expand(length - len(index))])
