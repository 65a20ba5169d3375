"""Block-scaled formats: a weight's blocks have the scales of least squared error."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from autoq.calibration.solvers._base import BaseSolver
from autoq.quantizers import BaseBlockScaledQuantizer, BaseQuantizer, create_quantizer, quantizer_class
from autoq.recipe import OperandConfig

_FACTORS = (0.5, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.1, 1.25, 1.5, 2.0)
"""Parts of a block's greatest magnitude that its scale is also made for: below 1 that magnitude saturates, at 1.5 it
becomes 4 instead of 6 in E2M1, and under powers of two other parts than 0.5 and 2 matter at their limits only."""


class BlockScaledSolver(BaseSolver):
    """Solves the scales of a weight's blocks; those of activations follow from their values."""

    quantizer: ClassVar[type] = BaseBlockScaledQuantizer

    def solve(self, config: OperandConfig) -> BaseQuantizer:
        """Take the scales of the specification, or, where the observer searches, the best of several a block."""
        operand, values = self.data.operand, self.data.sample.values
        cls = quantizer_class(config.scheme)
        assert issubclass(cls, BaseBlockScaledQuantizer)  # noqa: S101 - only these are solved here
        if not operand.is_weight:
            whole = self.data.rows(config.model_copy(update={"granularity": "tensor"}))
            lower, upper = (bound.view((1,) * values.ndim) for bound in (whole.lower, whole.upper))
            return cls.from_range(config, operand.layout, lower, upper)
        reach = cls.reaches(values, operand.layout)
        solved = cls.from_range(config, operand.layout, -reach, reach)
        searches = self.data.observer.searches or self.data.observer.shrinks
        return _search(solved, values, reach) if searches else solved


def _search(solved: BaseBlockScaledQuantizer, values: Tensor, reach: Tensor) -> BaseQuantizer:
    """Replace each block's scale by the one of least squared error."""
    whole = {name: value for name, value in solved.qparams().items() if name != "scale"}
    scale = solved.qparams()["scale"]
    least = _errors(solved, values)
    for factor in _FACTORS:
        other = solved.block_scales(factor * reach, *whole.values())
        tried = create_quantizer(solved.config, solved.layout, {"scale": other, **whole})
        error = _errors(tried, values)
        scale = torch.where(error < least, other, scale)
        least = torch.minimum(error, least)
    return create_quantizer(solved.config, solved.layout, {"scale": scale, **whole})


def _errors(quantizer: BaseQuantizer, values: Tensor) -> Tensor:
    """Return the squared error of each block, of the shape of the scales."""
    assert isinstance(quantizer, BaseBlockScaledQuantizer)  # noqa: S101
    return quantizer.in_blocks(quantizer.fake_quantize(values).sub_(values).square_(), quantizer.layout).sum(-1)
