"""Codes of quantized weights by the squared error of their layer's output."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autoq.calibration.second_order.code_grid import CodeGrid
from autoq.calibration.second_order.descent import descend, refit_group_scales, refit_scale, scales_of_groups
from autoq.calibration.second_order.rounding import InverseFactor, round_to_grid
from autoq.graph.bases import has_grid
from autoq.quantizers import BaseFloatQuantizer, BaseQuantizer, UniformQuantizer, create_quantizer, quantizer_class
from autoq.quantizers.granularity import expand_groups, group_ids
from autoq.recipe import OperandConfig

_MOST_BITS = 8
"""Wider codes are rounded to nearest: there is nothing to gain."""
_MOST_REFINED_BITS = 4
"""Above, what refining gains does not show in a model's predictions."""
_REFINEMENTS = 2
"""Turns of scales and codes."""
_STARTS = (0.6, 0.7, 0.8, 0.9, 1.1, 1.2, 1.3, 1.4)
"""Scales to start from, in parts of the given one, which has least error when all codes are the nearest ones."""


def is_rounded(config: OperandConfig) -> bool:
    """Tell whether weights at an option are rounded here: uniform or floating-point ones, of at most 8 bits."""
    is_float = issubclass(quantizer_class(config.scheme), BaseFloatQuantizer)
    return (is_float or has_grid(config)) and config.bits <= _MOST_BITS


@dataclass(frozen=True)
class RoundedWeight:
    """A weight whose codes are not the nearest ones.

    Attributes:
        quantizer: that was given, or one with better scales.
        codes: uint8, of the weight's shape.
    """

    quantizer: BaseQuantizer
    codes: Tensor


@dataclass(frozen=True)
class _Inputs:
    """What rounding has to know of a layer in one basis: weight (outputs, channels), Gram matrix, its factor."""

    weight: Tensor
    gram: Tensor
    factor: InverseFactor


class LayerRounding:
    """Rounds a layer's weight on many grids, which share what depends on its inputs alone."""

    def __init__(self, weight: Tensor, gram: Tensor) -> None:
        """Round nothing yet.

        Args:
            weight: of shape (outputs, inputs, ...), a linear layer's or a convolution's; of a transposed one
                (inputs, outputs, ...).
            gram: XᵀX of the layer's inputs, of shape (channels, channels), where channels are all elements of the
                weight that belong to one output.
        """
        self._weight, self._gram = weight, gram
        self._inputs: dict[int, _Inputs] = {}

    @torch.no_grad()
    def round(self, quantizer: BaseQuantizer) -> RoundedWeight | None:
        """Round the weight on the grid of its quantizer, by tr((W − Ŵ) XᵀX (W − Ŵ)ᵀ).

        A weight that is quantized in another basis is rounded there: W B, by the Gram matrix of X B.

        Each output channel starts from the codes that lose less, those of this rounding or the nearest. With up to 4
        bits and a uniform grid, several scales are tried, and the best one's codes and scales improved in turns. No
        output channel loses more than by rounding to nearest; with one scale in all, the layer does not.

        Returns:
            None where rounding to nearest is as good, and for options that :func:`is_rounded` denies.
        """
        if not is_rounded(quantizer.config) or (grid := self._grid_of(quantizer)) is None:
            return None
        inputs = self._inputs_for(quantizer)
        codes = round_to_grid(inputs.weight, grid, inputs.factor)
        layout = quantizer.layout
        nearest = layout.rows(quantizer.quantize(self._weight)).float()
        codes = _better(inputs, grid, codes, nearest)
        if quantizer.config.bits > _MOST_REFINED_BITS and torch.equal(codes, nearest):
            return None
        if quantizer.config.bits <= _MOST_REFINED_BITS:
            if isinstance(quantizer, UniformQuantizer):
                groups = self._groups_of(quantizer)
                step, codes = _refine(inputs, grid, codes, groups)
                scale = step if groups is None else scales_of_groups(step, groups)
                scale = layout.by_output(scale.view_as(layout.by_output(quantizer.scale)))
                quantizer = create_quantizer(quantizer.config, layout, quantizer.qparams() | {"scale": scale})
            else:
                codes = descend(inputs.weight, codes, grid, inputs.gram)
        codes = layout.by_output(codes.reshape(layout.by_output(self._weight).shape))
        return RoundedWeight(quantizer, codes.to(torch.uint8).contiguous())

    def _grid_of(self, quantizer: BaseQuantizer) -> CodeGrid | None:
        """Return the values of the weight's codes, in their basis; None for schemes without such."""
        if isinstance(quantizer, BaseFloatQuantizer):
            return CodeGrid.of_levels(quantizer.layout.rows(quantizer.steps(self._weight)), quantizer.levels)
        if (affine := quantizer.code_grid()) is None:
            return None
        scale, zero_point = (self._rows(each, quantizer) for each in affine)
        most = torch.full((1, 1), 2.0**quantizer.config.bits - 1, device=scale.device)
        return CodeGrid(scale, zero_point, most)

    def _groups_of(self, quantizer: BaseQuantizer) -> Tensor | None:
        """Return the number of each channel's group, of shape (channels,); None where an output has one scale."""
        weight, count = quantizer.layout.by_output(self._weight), quantizer.config.groups
        axis = quantizer.layout.group_axis
        if quantizer.config.granularity != "group" or axis is None:
            return None
        ids = group_ids(weight.shape[1], count, weight.device).view(1, -1, *[1] * (weight.ndim - 2))
        return ids.expand(1, *weight.shape[1:]).flatten()

    def _inputs_for(self, quantizer: BaseQuantizer) -> _Inputs:
        """Return weight and Gram matrix in the basis of the quantizer's codes: W B, and Bᵀ XᵀX B."""
        axis = quantizer.layout.summed_axis
        block = 1 if axis is None else quantizer.basis_block(quantizer.config, self._weight.shape[axis])
        if block not in self._inputs:
            gram = self._gram
            layout = quantizer.layout
            for _ in range(2 if block > 1 else 0):  # G B, then (G B)ᵀ B = Bᵀ G B
                rows = gram.reshape(-1, *layout.by_output(self._weight).shape[1:])
                gram = layout.rows(quantizer.to_basis(layout.by_output(rows))).t()
            weight = layout.rows(quantizer.to_basis(self._weight.float()))
            self._inputs[block] = _Inputs(weight, gram, InverseFactor.of_gram(gram))
        return self._inputs[block]

    def _rows(self, parameter: Tensor, quantizer: BaseQuantizer) -> Tensor:
        """Bring a parameter of the grid to shape (outputs or 1, channels), or to one channel where all share it."""
        weight, parameter = (quantizer.layout.by_output(each) for each in (self._weight, parameter))
        if parameter[0].numel() == 1:
            return parameter.flatten(1)
        return expand_groups(parameter, weight.shape[1], 1).expand_as(weight).flatten(1)


def _refine(inputs: _Inputs, grid: CodeGrid, codes: Tensor, groups: Tensor | None) -> tuple[Tensor, Tensor]:
    """Improve scales and codes in turns, from the start that loses least.

    Args:
        inputs: of the layer.
        grid: with scales of shape (outputs, 1) or (1, 1), or spread over the channels of groups.
        codes: to start from.
        groups: number of each channel's group, or None.

    Returns:
        Scales of the same shape, and codes.
    """
    weight, gram = inputs.weight, inputs.gram

    def refitted(codes: Tensor, grid: CodeGrid) -> CodeGrid:
        if groups is None:
            return replace(grid, step=refit_scale(weight, codes, grid, gram))
        return replace(grid, step=refit_group_scales(weight, codes, grid, gram, groups))

    least = _errors(inputs, grid, codes)
    scale = grid.step
    for factor in _STARTS:
        tried = replace(grid, step=factor * grid.step)
        other = round_to_grid(weight, tried, inputs.factor)
        tried = refitted(other, tried)
        error = _errors(inputs, tried, other)
        scale = torch.where(error < least, tried.step, scale)
        codes = torch.where(error < least, other, codes)
        least = torch.minimum(error, least)
    grid = replace(grid, step=scale)
    codes = descend(weight, codes, grid, gram)
    for _ in range(_REFINEMENTS):
        grid = refitted(codes, grid)
        codes = descend(weight, codes, grid, gram)
    return grid.step, codes


def _errors(inputs: _Inputs, grid: CodeGrid, codes: Tensor) -> Tensor:
    """Return the error of what shares a scale: of each row, of shape (outputs, 1), or of all, of shape (1, 1)."""
    change = grid.values(codes) - inputs.weight
    errors = ((change @ inputs.gram) * change).sum(1, keepdim=True)
    return errors if len(grid.step) > 1 else errors.sum(0, keepdim=True)


def _better(inputs: _Inputs, grid: CodeGrid, codes: Tensor, nearest: Tensor) -> Tensor:
    """Choose for each row the codes with less error, the nearest if it is the same."""
    value, other = (grid.values(each) for each in (codes, nearest))
    # The difference of the two errors, as (a − b) G (a + b)ᵀ = aGaᵀ − bGbᵀ for symmetric G.
    change = (((value - other) @ inputs.gram) * (value + other - 2 * inputs.weight)).sum(1, keepdim=True)
    return torch.where(change < 0, codes, nearest)
