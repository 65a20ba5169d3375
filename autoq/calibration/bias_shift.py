"""AdaLog's bias reparameterization: what a logarithmic quantizer is shifted by, taken off in the next layer's bias."""

from __future__ import annotations

import torch
from torch import Tensor


def shifted_bias(weight_hat: Tensor, bias: Tensor | None, shift: float) -> Tensor:
    """The bias b' = b − shift · Ŵ · 1 with which linear(x̂ + shift, Ŵ, b') = linear(x̂, Ŵ, b).

    With it the values x̂ + shift of a shifted logarithmic quantizer, never negative, enter the product as their codes
    stand for them, and nothing is subtracted at run time (Wu et al., "AdaLog: Post-Training Quantization for Vision
    Transformers with Adaptive Logarithm Quantizer", ECCV 2024, section 3.2).

    Args:
        weight_hat: quantized weight Ŵ, of shape (O, I).
        bias: b, of shape (O,); None for zeros.
        shift: what the quantizer adds before it takes the logarithm.

    Returns:
        b', of shape (O,), of the weight's type.
    """
    # Summed in double precision, so that it is rounded once; on the CPU, as not every device has it.
    taken_off = weight_hat.to("cpu", torch.float64).sum(1) * shift
    shifted = -taken_off if bias is None else bias.to("cpu", torch.float64) - taken_off
    return shifted.to(weight_hat)
