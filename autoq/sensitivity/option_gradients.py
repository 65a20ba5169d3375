"""Gradients of one stage where options have their errors, and these errors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autoq.calibration.bank.bank import Bank
from autoq.calibration.bank.files import SolvedKey
from autoq.graph.gradients import Point, StageGradients
from autoq.graph.stages import State
from autoq.sensitivity.weighted_errors import quantized_call


class OptionGradients(StageGradients):
    """A stage, run with what it takes to differentiate it and to repeat its sites."""

    def __init__(self, bank: Bank, index: int, state: State, keys: Sequence[SolvedKey], *, has_earlier: bool) -> None:
        """Run the stage; derivatives by ``state`` are needed if options of earlier stages are measured."""
        self._bank = bank
        points = [self.point_of(key) for key in keys]
        super().__init__(bank.model, index, state, points, has_earlier=has_earlier)

    def point_of(self, key: SolvedKey) -> Point:
        """Return where an option's error is taken: at the operand if the output is linear in it, else at the output."""
        site = self._bank.model.traced.sites_by_name[key[0]]
        # Not so for weights: a gradient with respect to one adds up all images.
        return (key[0], key[1] if site.macs and not site.operand(key[1]).is_weight else None)

    def error_(self, error: Tensor, key: SolvedKey) -> None:
        """Write the error of an option at its point to a tensor of shape (N, elements of an image)."""
        call, point = self._calls[key[0]], self._points[self.point_of(key)].detach()
        is_output = self.point_of(key)[1] is None
        quantized = quantized_call(self._bank, call, key).run() if is_output else self._bank.module(*key)(point)
        torch.sub(quantized.reshape(error.shape), point.reshape(error.shape), out=error)
