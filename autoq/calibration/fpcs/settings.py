"""Settings of the search by layer-output error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autoq.errors import CalibrationError


@dataclass(frozen=True)
class FpcsSettings:
    """Settings of the progressive search and of the layer-output error that it minimises.

    The defaults are the paper's where it has them; the authors' code takes 6 ``steps``.

    Attributes:
        candidates: n, combinations evaluated in a step.
        kept: k, combinations whose neighbours are evaluated in the next step.
        steps: p, steps of evaluation.
        rounds: alternations between the two operands of a site; 0: each is searched with the other in full precision,
            so that it does not depend on the other's option.
        quantile: the least scale of the first grid spans this quantile (and its mirror image), the greatest all values.
        spans: shares of the whole span that the first grid's least and greatest scale span; None: by ``quantile``, and
            all. PTQ4ViT takes 0.01 and 1.2.
        start: ``weights``: weights are searched on full-precision inputs, then each round searches activations given
            quantized weights, and weights given quantized activations. ``operands``: as in AdaLog's code, weights and
            inputs of linear layers are searched for their own error first, and weights come first in each round.
            ``observed``: as in PTQ4ViT's code, with both quantized in their observed ranges, weights first, and the
            left operand of a product of activations.
        tied_rows: whether the output channels of a weight with a scale each share those of the part of the layer's
            output that they belong to, where products take several equal parts of it: queries, keys and values
            (PTQ4ViT).
        zero_point_window: first zero points lie around the middle code (``centre``, as published) or around the zero
            point of the observed range (``observed``), which suits skewed operands.
        log_bases: bases in the first grid of base and scale (after GELU): all 128, each at four scales, or the best so
            many at the scale that the search starts from (the authors' code takes 8 at 16 scales). At 3 bits on a
            ViT's MLPs, these 8 gave up to 1.17 times the error of the best of all bases at 16 scales, all gave 1.01.
        log_kept: combinations of base and scale that are kept.
        twin_scales: scales of twin uniform quantizers are ``searched`` with their distance, or as ``published`` by
            PTQ4ViT's code: 1 is what the coarse range reaches after softmax, 0.17 what the fine one does after GELU,
            where the coarse step may be any multiple of the fine one, and after softmax the other operand is in full
            precision.
        output_weights: squared errors of a layer's output count alike (``none``), or as much as they cost the
            predictions, by squared ``gradients`` (PTQ4ViT; see :mod:`autoq.calibration.fpcs.output_weights`), but for
            transposed convolutions. These take as many products as a layer has outputs for each candidate, and memory
            for two numbers an output.
        result: the ``best`` combination of all steps, which the operand's last one (at first its observed range) has to
            be beaten by, or, as in AdaLog's code, the best of the ``last_step``, whatever was better before.
        tokens: vectors (token rows of an input; rows or columns of an attention head's matrix) on which candidates for
            activations are compared.
        images: calibration images used.
        screening: rank candidates by the leading directions of the quadratic form and evaluate only the best in full;
            1 / ``screening`` of the directions are used, 0: all.
    """

    candidates: int = 128
    kept: int = 16
    steps: int = 4
    rounds: int = 3
    quantile: float = 0.9
    spans: tuple[float, float] | None = None
    start: Literal["weights", "operands", "observed"] = "weights"
    tied_rows: bool = False
    zero_point_window: Literal["centre", "observed"] = "centre"
    log_bases: int = 128
    log_kept: int = 32
    twin_scales: Literal["searched", "published"] = "searched"
    output_weights: Literal["none", "gradients"] = "none"
    result: Literal["best", "last_step"] = "best"
    tokens: int = 512
    images: int = 32
    screening: int = 8

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing would be searched.

        Raises:
            CalibrationError: names the setting.
        """
        for name in ("candidates", "kept", "steps", "log_bases", "log_kept", "tokens", "images"):
            if getattr(self, name) < 1:
                raise CalibrationError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.rounds < 0:
            raise CalibrationError(f"rounds must be 0 or more, got {self.rounds}")
        if not 0.5 <= self.quantile <= 1:
            raise CalibrationError(f"quantile must be between 0.5 and 1, got {self.quantile}")
