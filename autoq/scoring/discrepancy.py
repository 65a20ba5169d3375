"""Prediction discrepancy: what the search minimises, without labels (DESIGN.md §5)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Score:
    """How far predictions are from full precision, over ``images`` images.

    Attributes:
        kl_nats: mean of KL(softmax(full precision) ‖ softmax(quantized)), in nats.
        agreement_percent: images whose most likely class is the same.
        sqnr_db: 10 log10 of logit power over squared logit error, in dB; infinite when they are equal.
        logit_mse: mean squared error of a logit.
        images: number of images.
    """

    kl_nats: float
    agreement_percent: float
    sqnr_db: float
    logit_mse: float
    images: int


class Discrepancy:
    """Adds up the comparison of logits, batch by batch, in double precision.

    Logits have shape (N, ..., classes); what lies between (the queries of a detector) is averaged like images.
    """

    def __init__(self) -> None:
        """Start with no image."""
        self._kl = self._same = self._signal = self._noise = 0.0
        self._rows = self._images = self._logits = 0

    def add(self, reference: Tensor, quantized: Tensor) -> None:
        """Compare one batch.

        Args:
            reference: full-precision logits, of shape (N, ..., classes).
            quantized: logits of the same shape.
        """
        expected, found = (logits.detach().flatten(0, -2).double() for logits in (reference, quantized))
        log_p, log_q = torch.log_softmax(expected, -1), torch.log_softmax(found, -1)
        divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
        # Rounding may leave a few 1e-17 below zero.
        self._kl += float(divergence.clamp(min=0).sum())
        self._same += float((expected.argmax(-1) == found.argmax(-1)).sum())
        self._signal += float(expected.square().sum())
        self._noise += float((expected - found).square().sum())
        self._rows += expected.shape[0]
        self._logits += expected.numel()
        self._images += reference.shape[0]

    def score(self) -> Score:
        """The score over all batches so far.

        Raises:
            ValueError: no batch was added.
        """
        if not self._rows:
            raise ValueError("no images were compared")
        sqnr = math.inf if self._noise == 0 else 10 * math.log10(max(self._signal, 1e-300) / self._noise)
        return Score(
            kl_nats=self._kl / self._rows,
            agreement_percent=100 * self._same / self._rows,
            sqnr_db=sqnr,
            logit_mse=self._noise / self._logits,
            images=self._images,
        )
