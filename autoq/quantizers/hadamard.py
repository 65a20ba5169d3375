"""Uniform quantization after a block Hadamard transform, which spreads outliers over the channels of a block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from autoq.quantizers._base import usable_out, working_dtype
from autoq.quantizers._block_transform import block_rotation, rotate_blocks
from autoq.quantizers._label import SchemeLabel
from autoq.quantizers.granularity import OperandLayout
from autoq.quantizers.uniform import UniformQuantizer
from autoq.recipe import OperandConfig


class HadamardQuantizer(UniformQuantizer):
    """Quantizes x B uniformly, and transforms back: x̂ = Q(x B) Bᵀ.

    B is block diagonal along the channels that the site sums over: of ``hadamard_block`` channels each, fixed signs
    followed by a normalised Hadamard matrix. In integer arithmetic the codes of x B meet those of W B, as
    (x B)(W B)ᵀ = x Wᵀ: the weight of a site whose input has this scheme has it too (see :meth:`in_basis`), and is
    transformed ahead. The input is transformed at run time, as QuaRot does it before the second layer of an MLP
    (Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", NeurIPS 2024, §4), here in blocks.

    Scale, zero point, granularity and ranges are those of x B, and what is clipped there has no gradient; x̂ itself can
    have more than 2^bits distinct values. Infinite values count as huge ones; an entry that is not a number is
    transformed as zero.

    >>> import torch
    >>> config = OperandConfig(scheme="hadamard", bits=8, hadamard_block=4)
    >>> layout = OperandLayout(ndim=2, channel_axis=-1, summed_axis=-1)
    >>> quantizer = HadamardQuantizer.from_range(config, layout, torch.tensor([[-5.0]]), torch.tensor([[5.0]]))
    >>> quantizer.to_basis(torch.tensor([[10.0, 0.0, 0.0, 2.0]])).tolist()
    [[4.0, 6.0, 6.0, 4.0]]
    """

    scheme: ClassVar[str] = "hadamard"
    config_fields: ClassVar[tuple[str, ...]] = (*UniformQuantizer.config_fields, "hadamard_block")
    is_affine: ClassVar[bool] = False
    rotation: Tensor

    @classmethod
    def basis_block(cls, config: OperandConfig, channels: int) -> int:
        """Return the block: the greatest power of two that divides the channels, ``hadamard_block`` at most."""
        return min(channels & -channels, config.hadamard_block)

    @classmethod
    def canonical_config(cls, config: OperandConfig, layout: OperandLayout, shape: Sequence[int]) -> OperandConfig:
        """Return ``uniform`` where no channels can be mixed, else the block that divides the operand's channels."""
        axis = layout.summed_axis
        block = 1 if axis is None else cls.basis_block(config, shape[axis])
        plain = UniformQuantizer.canonical_config(config, layout, shape)
        return cls.in_basis(plain, block)

    @classmethod
    def in_basis(cls, config: OperandConfig, block: int) -> OperandConfig:
        """Return the uniform configuration with another block, by the scheme ``uniform`` for one channel."""
        scheme = UniformQuantizer.scheme if block == 1 else cls.scheme
        return config.model_copy(update={"scheme": scheme, "hadamard_block": block})

    @classmethod
    def label(cls, config: OperandConfig) -> SchemeLabel:
        """Mark the block: ``h128``."""
        return SchemeLabel(f"h{config.hadamard_block}", "h128: uniform after a Hadamard transform of 128 channels.")

    def affine_qparams(self) -> None:
        """Return None: values are multiples of a scale only in the basis of the codes, see :meth:`code_grid`."""

    def code_grid(self) -> tuple[Tensor, Tensor]:
        """Return scale and zero point of x B."""
        return self.scale.detach(), self.zero_point.detach()

    def to_basis(self, x: Tensor) -> Tensor:
        """Return x B, in the working type of ``x``."""
        limit = torch.finfo(torch.float32).max / self.config.hadamard_block  # of which sums do not overflow
        finite = x.to(working_dtype(x.dtype)).nan_to_num(0.0, torch.inf, -torch.inf).clamp_(-limit, limit)
        return self._rotate(finite, inverse=False)

    def from_basis(self, y: Tensor) -> Tensor:
        """Return y Bᵀ, in the shape and type of ``y``."""
        return self._rotate(y, inverse=True)

    def quantize(self, x: Tensor, groups: Tensor | None = None) -> Tensor:
        """Quantize x B to integer codes 0..2^bits − 1."""
        return super().quantize(self.to_basis(x), groups)

    def dequantize(self, codes: Tensor, groups: Tensor | None = None) -> Tensor:
        """Return (code − zero_point) · scale, transformed back."""
        return self.from_basis(super().dequantize(codes, groups))

    def fake_quantize(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Transform, quantize and transform back."""
        y = self.to_basis(x)
        y = self.from_basis(super().fake_quantize(y, y))
        y = y.masked_fill_(x.isnan(), torch.nan).to(x.dtype)
        target = usable_out(x, out)
        return y if target is None else target.copy_(y)

    def _fake_quantize_with_gradient(self, x: Tensor) -> Tensor:
        y = self.from_basis(super()._fake_quantize_with_gradient(self.to_basis(x)))
        return torch.where(x.isnan(), x.to(y.dtype), y).to(x.dtype)

    def _rotate(self, x: Tensor, *, inverse: bool) -> Tensor:
        axis = self.layout.summed_axis
        assert axis is not None  # noqa: S101 - checked when it was made
        block = self.basis_block(self.config, x.shape[axis])
        return rotate_blocks(x, self.rotation, block, axis, inverse=inverse)

    def _prepare(self) -> None:
        super()._prepare()
        is_possible = self.layout.summed_axis is not None
        self._require(is_possible, "the operand has no channels that every output sums over; use uniform")
        rotation = block_rotation(self.config.hadamard_block).to(self.scale.device)
        self.register_buffer("rotation", rotation, persistent=False)
