"""Solvers: the quantizer parameters of one operand, one scheme a file.

Every scheme can be solved by its range (:class:`RangeSolver`). To add a solver for one that needs more, write a
subclass of :class:`BaseSolver` in a file of its own and add it to ``SOLVERS`` below.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autoq.calibration.recording import OperandSample
from autoq.calibration.settings import CalibrationSettings
from autoq.calibration.solvers._base import BaseSolver, OperandData
from autoq.calibration.solvers.block_scaled import BlockScaledSolver
from autoq.calibration.solvers.by_range import RangeSolver
from autoq.calibration.solvers.hadamard import HadamardSolver
from autoq.calibration.solvers.instance_groups import InstanceGroupSolver
from autoq.calibration.solvers.log_int_softmax import LogIntSoftmaxSolver
from autoq.calibration.solvers.logarithmic import LogarithmicSolver
from autoq.calibration.solvers.power_of_two_factor import PowerOfTwoFactorSolver
from autoq.calibration.solvers.twin_uniform import TwinUniformSolver
from autoq.calibration.solvers.uniform import UniformSolver
from autoq.graph.sites import Operand
from autoq.quantizers import BaseQuantizer, quantizer_class
from autoq.recipe import OperandConfig

SOLVERS: dict[type, type[BaseSolver]] = {
    cls.quantizer: cls
    for cls in (
        RangeSolver,
        UniformSolver,
        HadamardSolver,
        LogarithmicSolver,
        InstanceGroupSolver,
        TwinUniformSolver,
        PowerOfTwoFactorSolver,
        LogIntSoftmaxSolver,
        BlockScaledSolver,
    )
}
"""Solver classes by quantizer class; a subclass of a quantizer is solved like it unless it has a solver of its own."""


def solver_class(scheme: str) -> type[BaseSolver]:
    """Return the solver of a scheme: its own, or that of the nearest base class that has one.

    >>> solver_class("log2").__name__, solver_class("log_int_softmax").__name__
    ('LogarithmicSolver', 'LogIntSoftmaxSolver')

    Raises:
        RecipeError: there is no such scheme.
    """
    return next(SOLVERS[cls] for cls in quantizer_class(scheme).__mro__ if cls in SOLVERS)


class OperandSolver:
    """Solves one operand at many options, which share what depends on the values alone."""

    def __init__(self, operand: Operand, data: OperandSample | Tensor, settings: CalibrationSettings) -> None:
        """Compute nothing yet; for arguments see :func:`solve`."""
        self._data = OperandData(operand, data, settings)

    def solve(self, config: OperandConfig) -> BaseQuantizer:
        """Return the quantizer at one option; errors as in :func:`solve`."""
        solver = solver_class(config.scheme)(self._data)
        with torch.no_grad():
            return solver.solve(config)


def solve(
    operand: Operand, config: OperandConfig, data: OperandSample | Tensor, settings: CalibrationSettings
) -> BaseQuantizer:
    """Solve one operand at one option.

    Args:
        operand: the operand.
        config: the option.
        data: the weight, or a sample of the activation.
        settings: how parameters are chosen.

    Raises:
        RecipeError: there is no such scheme.
        CalibrationError: the option does not fit the operand.
    """
    return OperandSolver(operand, data, settings).solve(config)


__all__ = ["SOLVERS", "BaseSolver", "OperandData", "OperandSolver", "RangeSolver", "solve", "solver_class"]
