"""Prediction discrepancy: what a search minimises, without labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autoq.tasks import CLASSIFICATION, BaseTask, Outputs


@dataclass(frozen=True)
class Score:
    """How far predictions are from full precision, over ``images`` images.

    Attributes:
        kl_nats: mean divergence of an image's prediction from full precision, in nats, by the task's distribution.
        agreement_percent: images on which both say the same; None for tasks in which predictions are near or far.
        sqnr_db: 10 log10 of the output's power over its squared error, in dB; infinite when outputs are equal.
        output_mse: mean squared error of an element of the output (of a logit), in its squared unit.
        images: number of images.
    """

    kl_nats: float
    agreement_percent: float | None
    sqnr_db: float
    output_mse: float
    images: int


class Discrepancy:
    """Adds up the comparison of outputs, batch by batch, in double precision.

    >>> import torch
    >>> discrepancy = Discrepancy()
    >>> discrepancy.add((torch.tensor([[2.0, 0.0]]),), (torch.tensor([[1.0, 0.0]]),))
    >>> score = discrepancy.score()
    >>> score.agreement_percent, score.output_mse, score.images
    (100.0, 0.5, 1)
    """

    def __init__(self, task: BaseTask = CLASSIFICATION) -> None:
        """Start with no image; ``task`` says what outputs mean, and is fitted."""
        self._task = task
        self._kl = self._same = self._signal = self._noise = 0.0
        self._images = self._elements = 0

    def add(self, reference: Outputs, quantized: Outputs) -> None:
        """Compare one batch.

        Args:
            reference: compared outputs in full precision, each of shape (N, ...).
            quantized: of the same shapes.
        """
        expected, found = (tuple(leaf.detach().double() for leaf in outputs) for outputs in (reference, quantized))
        # Rounding may leave a few 1e-17 below zero.
        self._kl += float(self._task.divergence(expected, found).clamp(min=0).sum())
        if (agreement := self._task.agreement(expected, found)) is not None:
            self._same += float(agreement.sum())
        for one, other in zip(expected, found, strict=True):
            self._signal += float(one.square().sum())
            self._noise += float((one - other).square().sum())
            self._elements += one.numel()
        self._images += expected[0].shape[0]

    def score(self) -> Score:
        """Return the score over all batches so far.

        Raises:
            ValueError: no batch was added.
        """
        if not self._images:
            raise ValueError("no images were compared")
        sqnr = math.inf if self._noise == 0 else 10 * math.log10(max(self._signal, 1e-300) / self._noise)
        return Score(
            kl_nats=self._kl / self._images,
            agreement_percent=100 * self._same / self._images if self._task.has_agreement else None,
            sqnr_db=sqnr,
            output_mse=self._noise / self._elements,
            images=self._images,
        )
