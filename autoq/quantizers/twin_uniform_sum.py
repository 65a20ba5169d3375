"""PTQ4ViT's twin uniform quantization as its authors' code computes it: the sum of a fine and a coarse part."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from autoq.quantizers.twin_uniform import TwinUniformQuantizer


class TwinUniformSumQuantizer(TwinUniformQuantizer):
    """PTQ4ViT's quantizer by its code (github.com/hahnyuan/PTQ4ViT, ``quant_layers``); the paper's is its base class.

    Both ranges clamp every value, and what they make of it is added up. With K = 2^(bits − 1), Δ and δ = Δ / 2^m, and
    s = (K − 1) δ, which splits softmax outputs::

        softmax outputs: value = Δ · clamp(round(max(x, s) / Δ), 0, K − 1) + δ · clamp(round(min(x, s) / δ), 0, K − 1)
        GELU outputs:    value = Δ · clamp(round(x / Δ), 0, K − 1) + δ · clamp(round(x / δ), −K, 0)

    So a softmax output above the split is s larger than its own coarse level, and where s rounds to c > 0 coarse steps
    (2^m < 2 K − 2), every value below it is c Δ larger than its fine level. After GELU the fine range has one level
    more than the paper's, −K δ.

    Codes are those of the base class, but that of the second zero, K, is s after softmax (as K − 1 is, for c = 0) and
    −K δ after GELU. One bit leaves no fine range: nothing is added.
    """

    scheme: ClassVar[str] = "twin_uniform_sum"
    ranges_add: ClassVar[bool] = True

    @classmethod
    def _least_shift_bits(cls, bits: int) -> int:
        """Return the least m with which the split rounds to no coarse step."""
        return bits

    def _levels_(self, y: Tensor) -> Tensor:
        is_coarse = y >= self._split
        return self._raise_(super()._levels_(y), is_coarse)

    def _raise_(self, levels: Tensor, is_coarse: Tensor) -> Tensor:
        if self._shares_zero:
            return levels
        return levels.add_(torch.where(is_coarse, self._split, float(round(self._split))))

    def _prepare(self) -> None:
        super()._prepare()
        if self.config.bits == 1:
            return
        if self._sign < 0:
            self._least -= 1
            self._coarse_from += 1
        else:
            self._split = self._greatest / self._ratio
            self._shares_zero = False
