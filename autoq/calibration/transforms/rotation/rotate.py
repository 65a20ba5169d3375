"""Fold rotations into a model's weights: full precision stays what it was, what is quantized changes.

Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", arXiv 2404.00456, and "SliceGPT: Compress Large
Language Models by Deleting Rows and Columns", arXiv 2401.15024, section 3. There the LayerNorms are first turned into
RMSNorms; here the matrices leave the mean over channels alone, so that LayerNorms stay.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoq.calibration.transforms.rewriting import BETA, BIAS, GAMMA, WEIGHT, ParameterRewriter
from autoq.calibration.transforms.rotation.find import find_spaces
from autoq.calibration.transforms.rotation.matrices import head_matrix, stream_matrix
from autoq.calibration.transforms.rotation.spaces import FoundSpaces, LayerChannels, LayerScale, RotatableSpace
from autoq.errors import CalibrationError
from autoq.graph.trace import TracedModel
from autoq.validation import did_you_mean


def rotate(traced: TracedModel, rotated: Mapping[str, int]) -> TracedModel:
    """Rotate channel spaces of a model by matrices that are folded into the layers around them.

    A layer that writes x writes Q x: W' = Q W, b' = Q b; one that reads it undoes that: W' = W Qᵀ. LayerNorms on a
    stream lose their scale and shift to the layers after them, and layers take over multiplications channel by channel.

    Args:
        traced: left as it is; the new model shares all parameters that do not change.
        rotated: the seed of the matrix of each space; see :func:`find_spaces` and :mod:`.matrices`.

    Returns:
        A model with the same sites and operands, whose output differs by rounding.

    Raises:
        CalibrationError: names a space that the model does not have or that cannot be rotated.

    >>> from torch import nn
    >>> from autoq.graph.trace import trace
    >>> stream = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)).double().eval()
    >>> x = torch.randn(2, 4, dtype=torch.float64)
    >>> torch.allclose(rotate(trace(stream, x), {"0": 7}).graph_module(x), stream(x), rtol=1e-10)
    True
    """
    found = find_spaces(traced)
    rewriter = ParameterRewriter(traced)
    for space, seed in checked(found, rotated):
        fold_(rewriter, space)
        rotate_(rewriter, space, seed)
    return rewriter.result()


def checked(found: FoundSpaces, rotated: Mapping[str, int]) -> list[tuple[RotatableSpace, int]]:
    """Look up spaces by name; return them with their seeds.

    Raises:
        CalibrationError: there is no such space, or it cannot be rotated.
    """
    for name in rotated:
        if name in found.refused:
            raise CalibrationError(f"{name!r} cannot be rotated: {found.refused[name]}; leave it out")
        if name not in found.rotatable:
            hint = did_you_mean(name, found.rotatable)
            raise CalibrationError(f"the model has no channels {name!r} to rotate.{hint}")
    return [(found.rotatable[name], seed) for name, seed in rotated.items()]


def matrix_of(space: RotatableSpace, seed: int) -> Tensor:
    """Make the matrix that a space is rotated by, of shape (width, width) in double precision."""
    return (stream_matrix if space.kind == "stream" else head_matrix)(space.width, seed)


def fold_(rewriter: ParameterRewriter, space: RotatableSpace) -> None:
    """Let the layers of a space take over what does not commute with a rotation."""
    for scale in space.scales:
        _fold_scale_(rewriter, scale)
    for layer in space.readers:
        _fold_norms_(rewriter, layer)
    for norm in dict.fromkeys(norm for layer in space.readers for norm in layer.norms):
        channels = affine_of(rewriter, (norm,))[0]
        rewriter.write_(norm, GAMMA, torch.ones_like(channels))
        rewriter.write_(norm, BETA, torch.zeros_like(channels))


def affine_of(rewriter: ParameterRewriter, norms: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return scale and shift of LayerNorms, one after the other, of shape (channels,) each."""
    scales, shifts = [], []
    for norm in norms:
        gamma, beta = rewriter.value(norm, GAMMA), rewriter.value(norm, BETA)
        like = gamma if gamma is not None else beta
        assert like is not None  # noqa: S101 - LayerNorms without either are not folded
        scales.append(torch.ones_like(like) if gamma is None else gamma)
        shifts.append(torch.zeros_like(like) if beta is None else beta)
    return torch.cat(scales), torch.cat(shifts)


def _fold_scale_(rewriter: ParameterRewriter, scale: LayerScale) -> None:
    factors = rewriter.constant(scale.constant).flatten()[scale.numbers]  # (outputs,)
    weight, bias = _parameters(rewriter, scale.layer)
    rewriter.write_(scale.layer, WEIGHT, weight * factors.view(-1, *(1,) * (weight.ndim - 1)))
    if bias is not None:
        rewriter.write_(scale.layer, BIAS, bias * factors)
    rewriter.bypass_(scale.node, scale.argument)


def _fold_norms_(rewriter: ParameterRewriter, layer: LayerChannels) -> None:
    """W' = W diag(γ), b' = b + W β; of a convolution, β is added at each place of its kernel."""
    if not layer.norms:
        return
    scale, shift = affine_of(rewriter, layer.norms)
    weight, bias = _parameters(rewriter, layer.node)
    wide = (-1, *(1,) * (weight.ndim - 2))
    moved = (weight * shift.view(wide)).flatten(1).sum(1)
    rewriter.write_(layer.node, WEIGHT, weight * scale.view(wide))
    rewriter.write_(layer.node, BIAS, moved if bias is None else bias + moved)


def rotate_(rewriter: ParameterRewriter, space: RotatableSpace, seed: int) -> None:
    """Multiply what writes a space by its matrix, and what reads it by the inverse."""
    matrix = matrix_of(space, seed)
    for layer in space.writers:
        weight, bias = _parameters(rewriter, layer.node)
        rewriter.write_(layer.node, WEIGHT, _times(weight, 0, layer.numbers, matrix))
        if bias is not None:
            rewriter.write_(layer.node, BIAS, _times(bias, 0, layer.numbers, matrix))
    for layer in space.readers:
        weight, _ = _parameters(rewriter, layer.node)
        rewriter.write_(layer.node, WEIGHT, _times(weight, 1, layer.numbers, matrix))
    for constant in space.constants:
        value = rewriter.constant(constant.node)
        numbers = torch.arange(value.shape[constant.axis]).view(-1, space.width)
        rewriter.write_constant_(constant.node, _times(value, constant.axis, numbers, matrix))


def _times(value: Tensor, axis: int, numbers: Tensor, matrix: Tensor) -> Tensor:
    """Multiply vectors along an axis by a matrix: columns of W by Qᵀ from the right is Q w for each row w."""
    moved = value.movedim(axis, -1)
    vectors = moved.index_select(-1, numbers.flatten()).view(*moved.shape[:-1], *numbers.shape)
    turned = (vectors @ matrix.T).flatten(-2)  # (..., vectors · width)
    return moved.clone().index_copy_(-1, numbers.flatten(), turned).movedim(-1, axis).contiguous()


def _parameters(rewriter: ParameterRewriter, layer: str) -> tuple[Tensor, Tensor | None]:
    weight = rewriter.value(layer, WEIGHT)
    assert weight is not None  # noqa: S101 - of every layer that was found
    return weight, rewriter.value(layer, BIAS)
