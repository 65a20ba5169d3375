"""A site's two operands as vectors along the axis that is summed over, and the error of one given the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from autoq.calibration.convolutions import Convolution, TransposedConvolution
from autoq.calibration.fpcs.layer_error import QuadraticError
from autoq.graph.nodes import TRANSPOSED_LAYERS, WEIGHT_LAYERS
from autoq.graph.sites import Operand, Site
from autoq.recipe import OperandConfig

Sharing = Literal["tensor", "head", "vector"]
"""Which vectors share parameters: all, those of a head, or none."""
_MOST_POSITIONS = 1 << 14
"""Output positions of a convolution that are looked at; unfolded, they take kernel-size times the memory."""
_ELEMENTS_AT_ONCE = 1 << 22
_WORTH_A_GRAM = 1.25
"""A product with more vectors than this times their length is replaced by its Gram matrix."""
_JITTER = 1e-12


@dataclass(frozen=True)
class Product:
    """Brings the operands of a linear, convolution or matrix product site into vectors, of shape (outer, heads, m, I).

    Outputs are the dot products of the left vectors (rows of an input) and the right ones (rows of a weight, columns of
    a right-hand side) of the same outer entry and head. Without batch dimensions both are one.

    Attributes:
        site: the site.
        is_flat: the left operand's leading dimensions are vectors, because the right one does not have them.
        convolution: geometry, for convolutions.
        kernel: size of a convolution's kernel.
        positions: a convolution's chosen output positions, over all images; None: all.
    """

    site: Site
    is_flat: bool
    convolution: Convolution | TransposedConvolution | None = None
    kernel: tuple[int, ...] = ()
    positions: Tensor | None = None

    @classmethod
    def of(
        cls,
        site: Site,
        shapes: dict[str, torch.Size],
        convolution: Convolution | TransposedConvolution | None,
        generator: torch.Generator,
    ) -> Product | None:
        """Describe a site's product; None for others: grouped convolutions, einsum, unusual broadcasting."""
        if len(shapes) != 2:
            return None
        left, right = (shapes[operand.name] for operand in site.operands)
        if site.op == "linear":
            return cls(site, is_flat=True)
        if site.op in WEIGHT_LAYERS | TRANSPOSED_LAYERS:
            if convolution is None or convolution.groups != 1 or len(left) != len(right):
                return None
            kernel = tuple(right[2:])
            one = convolution.unfold(torch.zeros(1, 1, *left[2:]), kernel).shape[1]
            everything = one * left[0]
            chosen = None
            if everything > _MOST_POSITIONS:
                chosen = torch.randperm(everything, generator=generator)[:_MOST_POSITIONS].sort().values
            return cls(site, True, convolution, kernel, chosen)
        if site.op not in ("matmul", "bmm") or len(left) < 2 or len(right) < 2:
            return None
        is_flat = len(right) == 2
        return cls(site, is_flat) if is_flat or left[:-2] == right[:-2] else None

    def is_left(self, name: str) -> bool:
        """Tell whether it is the left operand: the input, or the left-hand side."""
        return name == self.site.operands[0].name

    def sharing(self, operand: Operand, config: OperandConfig) -> Sharing | None:
        """Return which vectors share parameters; None where parameters vary within a vector.

        Raises:
            CalibrationError: the granularity does not fit the operand.
        """
        kept = [axis % operand.layout.ndim - operand.layout.ndim for axis in operand.layout.kept_axes(config)]
        if not kept:
            return "tensor"
        vector_axis = -1 if operand.name == "rhs" else -operand.layout.ndim if operand.is_weight else None
        if operand.name == "weight":
            vector_axis = operand.layout.channel_axis
        if kept == [vector_axis]:
            return "vector"
        return "head" if kept == [-3] and config.granularity == "head" and not self.is_flat else None

    def vectors(self, name: str, x: Tensor) -> Tensor:
        """Return an operand's vectors, of shape (outer, heads, m, I)."""
        if self.convolution is not None:
            if self.is_left(name):
                return self._positions(x)
            return self.site.operand(name).layout.rows(x)[None, None]
        if name == "rhs":
            x = x.mT
        if self.is_flat:
            return x.reshape(1, 1, -1, x.shape[-1])
        heads = x.shape[-3] if x.ndim >= 4 else 1
        return x.reshape(-1, heads, *x.shape[-2:])

    def outputs(self, name: str, y: Tensor) -> Tensor | None:
        """Return what belongs to each output of the site, of its shape, as (outer, heads, m, n).

        m counts the vectors of the operand ``name``, n those of the other one. None for transposed convolutions, whose
        vectors do not lie in the order of their outputs.
        """
        if isinstance(self.convolution, TransposedConvolution):
            return None
        if self.convolution is not None:
            y = y.flatten(2).mT
            y = y.reshape(-1, y.shape[-1])
            y = (y if self.positions is None else y[self.positions.to(y.device)])[None, None]
        elif self.is_flat:
            y = y.reshape(1, 1, -1, y.shape[-1])
        else:
            y = y.reshape(-1, y.shape[-3] if y.ndim >= 4 else 1, *y.shape[-2:])
        return y if self.is_left(name) else y.mT

    def padding_mask(self, name: str, x: Tensor) -> Tensor | None:
        """Return 0 where a vector's element is padding, else 1; None where none is."""
        if self.convolution is None or not self.is_left(name) or not self.convolution.reads_zeros:
            return None
        return self._positions(torch.ones_like(x))

    def _positions(self, x: Tensor) -> Tensor:
        assert self.convolution is not None  # noqa: S101 - checked by the callers
        if self.positions is None:
            unfolded = self.convolution.unfold(x, self.kernel)
            return unfolded.reshape(1, 1, -1, unfolded.shape[-1])
        parts, start = [], 0
        for image in torch.split(x, 1):
            unfolded = self.convolution.unfold(image, self.kernel)[0]
            here = self.positions[(self.positions >= start) & (self.positions < start + len(unfolded))] - start
            parts.append(unfolded[here.to(x.device)])
            start += len(unfolded)
        return torch.cat(parts)[None, None]


@dataclass(frozen=True)
class Sample:
    """A choice of vectors.

    Attributes:
        outer: entries of the first dimension, or None for all.
        vectors: of each chosen entry, the vectors, of shape (outer, 1, t, 1); None for all.
    """

    outer: Tensor | None = None
    vectors: Tensor | None = None

    @classmethod
    def choose(
        cls, shape: Sequence[int], tokens: int, sharing: Sharing, images: int, generator: torch.Generator
    ) -> Sample:
        """Choose about ``tokens`` vectors a head, every position equally often, as some are unlike others.

        Args:
            shape: of the operand's vectors, (outer, heads, m, I).
            tokens: see above.
            sharing: where every vector has parameters of its own, none is left out of a chosen entry.
            images: that vectors without outer entries come from, in this order.
            generator: of the choice.
        """
        outer, _, m, _ = shape
        flat = outer == 1 and images > 1 and m % images == 0 and sharing != "vector"
        entries, positions = (images, m // images) if flat else (outer, m)
        chosen = torch.arange(entries)
        if entries > tokens:
            chosen = torch.randperm(entries, generator=generator)[:tokens].sort().values
        some = None if len(chosen) == entries else chosen
        count = max(1, tokens // len(chosen))
        if sharing == "vector" or (count >= positions and not flat):
            return cls(some)
        if count >= positions and some is None:
            return cls()
        count = min(count, positions)
        cycle = torch.randperm(positions, generator=generator).repeat(-(-len(chosen) * count // positions))
        order = cycle[: len(chosen) * count].view(-1, count).sort(1).values
        if flat:
            return cls(None, (chosen.unsqueeze(1) * positions + order).view(1, 1, -1, 1))
        return cls(some, order[:, None, :, None])

    def of(self, x: Tensor) -> Tensor:
        """Return the chosen vectors of (outer, heads, m, I)."""
        x = self.of_outer(x)
        if self.vectors is None:
            return x
        index = self.vectors.to(x.device).expand(-1, x.shape[1], -1, x.shape[3])
        return x.gather(2, index)

    def of_outer(self, x: Tensor) -> Tensor:
        """Return all vectors of the chosen entries."""
        return x if self.outer is None else x[self.outer.to(x.device)]


def output_error(
    values: Tensor, sharing: Sharing, factor: Tensor, given: Tensor, full: Tensor | None, mask: Tensor | None = None
) -> QuadraticError:
    """Set up the squared output error of one operand's vectors, given the other operand's.

    Args:
        values: full-precision vectors, of shape (outer, heads, m, I).
        sharing: which of them share parameters.
        factor: ``gram_factor(given)``.
        given: the other operand's vectors as they are quantized, of shape (outer, heads, n, I).
        full: the same in full precision; None: they are not quantized.
        mask: as in ``QuadraticError``, in the shape of ``values``.
    """
    linear = constant = None
    if full is not None:
        linear, constant = _from_difference(values, given, given - full)
        linear = by_row(linear, sharing)
        constant = by_row(constant.unsqueeze(3), sharing).sum((1, 2))
    factor = factor.transpose(0, 1) if sharing == "head" else factor.flatten(0, 1).unsqueeze(0)
    return QuadraticError(
        by_row(values, sharing),
        factor=factor.contiguous(),
        linear=linear,
        constant=constant,
        mask=None if mask is None else by_row(mask, sharing),
    )


def weighted_output_error(
    values: Tensor, sharing: Sharing, weights: Tensor, given: Tensor, full: Tensor | None, mask: Tensor | None = None
) -> QuadraticError:
    """Set up the weighted squared output error of one operand's vectors; see :func:`output_error`.

    Args:
        values: see there.
        sharing: see there.
        weights: of the squares, of shape (outer, heads, m, n).
        given: see there.
        full: see there.
        mask: see there.
    """
    factor = given.mT
    return QuadraticError(
        by_row(values, sharing),
        factor=(factor.transpose(0, 1) if sharing == "head" else factor.flatten(0, 1).unsqueeze(0)).contiguous(),
        mask=None if mask is None else by_row(mask, sharing),
        weights=by_row(weights, sharing),
        offset=None if full is None else by_row(values @ (given - full).mT, sharing),
    )


def by_row(x: Tensor, sharing: Sharing) -> Tensor:
    """Bring rows that have parameters of their own to the front: from (outer, heads, m, I) to (R, B, m, I)."""
    if sharing == "head":
        return x.transpose(0, 1).contiguous()
    if sharing == "vector":
        return x.permute(2, 0, 1, 3).reshape(x.shape[2], -1, 1, x.shape[3])
    return x.reshape(1, -1, *x.shape[2:])


def gram_factor(vectors: Tensor) -> Tensor:
    """Factor Σ u uᵀ over vectors u (…, n, I) into F Fᵀ, F of shape (…, I, r); r ≤ ``_WORTH_A_GRAM`` · I."""
    n, length = vectors.shape[-2:]
    if n <= _WORTH_A_GRAM * length:
        return vectors.mT.contiguous()
    # In double precision: activations have a few directions that are thousands of times larger than the others.
    gram = _sum_of_products(vectors, vectors)
    scale = gram.diagonal(dim1=-2, dim2=-1).amax(-1).clamp(min=torch.finfo(torch.float32).tiny)
    identity = torch.eye(length, dtype=gram.dtype, device=gram.device)
    for power in range(0, 6, 2):
        factor, info = torch.linalg.cholesky_ex(gram + (_JITTER * 10**power * scale)[..., None, None] * identity)
        if not info.any():
            return cast(Tensor, factor).float()
    eigenvalues, directions = torch.linalg.eigh(gram)
    return cast(Tensor, directions * eigenvalues.clamp(min=0).sqrt().unsqueeze(-2)).float()


def _from_difference(values: Tensor, given: Tensor, difference: Tensor) -> tuple[Tensor, Tensor]:
    """Compute 2 (v D) Ûᵀ and ‖v D‖² of each vector v: of shapes (…, m, I) and (…, m)."""
    m, n, length = values.shape[-2], *given.shape[-2:]
    if m > 2 * length:
        cross, own = (_sum_of_products(difference, other).float() for other in (given, difference))
        return 2 * (values @ cross), ((values @ own) * values).sum(-1).clamp(min=0)
    linear, constant = torch.empty_like(values), torch.empty(values.shape[:-1], device=values.device)
    at_once = max(1, _ELEMENTS_AT_ONCE // (n * math.prod(values.shape[:-2])))
    for start in range(0, m, at_once):
        some = slice(start, start + at_once)
        product = values[..., some, :] @ difference.mT
        linear[..., some, :] = 2 * (product @ given)
        constant[..., some] = product.square_().sum(-1)
    return linear, constant


def _sum_of_products(left: Tensor, right: Tensor) -> Tensor:
    """Compute Σ_n left_n ⊗ right_n in double precision, from (…, n, I) to (…, I, I)."""
    total = torch.zeros(*left.shape[:-2], left.shape[-1], right.shape[-1], dtype=torch.float64, device=left.device)
    at_once = max(1, _ELEMENTS_AT_ONCE // (left.shape[-1] * math.prod(left.shape[:-2])))
    for some, others in zip(torch.split(left, at_once, -2), torch.split(right, at_once, -2), strict=True):
        double = some.double()
        total += double.mT @ (double if some is others else others.double())
    return total
