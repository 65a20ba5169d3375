"""Log-Int-Softmax: nothing is solved."""

from __future__ import annotations

from typing import ClassVar

from autoq.calibration.solvers._base import BaseSolver
from autoq.quantizers import BaseQuantizer, LogIntSoftmaxQuantizer
from autoq.recipe import OperandConfig


class LogIntSoftmaxSolver(BaseSolver):
    """Solves ``log_int_softmax``, of which no parameter depends on the values."""

    quantizer: ClassVar[type] = LogIntSoftmaxQuantizer

    def solve(self, config: OperandConfig) -> BaseQuantizer:
        """Return the quantizer of a softmax output, which lies in 0..1."""
        bound = self.data.sample.values.new_zeros(())
        return LogIntSoftmaxQuantizer.from_range(config, self.data.operand.layout, bound, bound)
