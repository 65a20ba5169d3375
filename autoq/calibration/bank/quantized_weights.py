"""Quantized weights, kept as codes: they take a quarter of the memory of floats, and there is one for every option."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from autoq.quantizers import BaseQuantizer

_BYTE_BITS = 8


class QuantizedWeights:
    """The codes of the weights that were asked for last, so that rounding is done once an option."""

    def __init__(self, most_bytes: int) -> None:
        """Start empty; ``most_bytes`` of codes are kept, those of one weight at least."""
        self._codes: OrderedDict[object, Tensor] = OrderedDict()
        self._bytes_left = most_bytes

    def __contains__(self, key: object) -> bool:
        """Tell whether the codes of a weight are kept."""
        return key in self._codes

    def get(
        self, key: object, quantizer: BaseQuantizer, weight: Tensor, codes: Callable[[], Tensor] | None = None
    ) -> Tensor:
        """Return the values that ``weight`` is quantized to, of its shape and type.

        Args:
            key: what the codes are kept under.
            quantizer: of the weight.
            weight: the full-precision weight.
            codes: gives them, of the weight's shape, if they are not kept; None: the weight is rounded to nearest.
        """
        if key in self._codes:
            self._codes.move_to_end(key)
        else:
            made, config = quantizer.quantize(weight) if codes is None else codes(), quantizer.config
            fits = config.bits + (config.overflow == "extra_zero") <= _BYTE_BITS
            self._codes[key] = made.to(torch.uint8) if fits else made
            self._bytes_left -= self._codes[key].nbytes
            while self._bytes_left < 0 and len(self._codes) > 1:
                _, oldest = self._codes.popitem(last=False)
                self._bytes_left += oldest.nbytes
        return quantizer.dequantize(self._codes[key]).to(weight.dtype)
