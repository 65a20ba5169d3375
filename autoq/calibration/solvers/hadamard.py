"""Hadamard quantizers: solved like uniform ones, on transformed values."""

from __future__ import annotations

from typing import ClassVar

from autoq.calibration.recording import OperandSample
from autoq.calibration.solvers._base import BaseSolver, OperandData
from autoq.calibration.solvers.uniform import UniformSolver
from autoq.errors import CalibrationError
from autoq.quantizers import BaseQuantizer, HadamardQuantizer
from autoq.quantizers._block_transform import block_rotation, rotate_blocks
from autoq.recipe import OperandConfig


class HadamardSolver(BaseSolver):
    """Solves ``hadamard``. The transform being orthogonal, its squared error is the same in both bases.

    Ranges are those of the transformed sample, whatever the observer saw of all images before the transform.
    """

    quantizer: ClassVar[type] = HadamardQuantizer

    def solve(self, config: OperandConfig) -> BaseQuantizer:
        """Solve the uniform quantizer of the transformed values, and put the transform around it."""
        layout, shape = self.data.operand.layout, self.data.sample.values.shape
        axis = layout.summed_axis
        if axis is None:
            raise CalibrationError("hadamard needs an operand with channels that every output sums over; use uniform")
        block = HadamardQuantizer.basis_block(config, shape[axis])
        data = self.data.cached(("transformed", block), lambda: _transformed(self.data, block, axis))
        plain = HadamardQuantizer.in_basis(config, 1)
        return HadamardQuantizer(config, layout, UniformSolver(data).solve(plain).qparams())


def _transformed(data: OperandData, block: int, axis: int) -> OperandData:
    values = rotate_blocks(data.sample.values, block_rotation(block).to(data.sample.values.device), block, axis)
    kept = {data.operand.layout.channel_axis % values.ndim}
    if data.operand.layout.head_axis is not None:
        kept.add(data.operand.layout.head_axis % values.ndim)
    others = [each for each in range(values.ndim) if each not in kept]
    lower, upper = values.amin(others, keepdim=True), values.amax(others, keepdim=True)
    return OperandData(data.operand, OperandSample(values, lower, upper, None), data.settings)
