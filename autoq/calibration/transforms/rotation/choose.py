"""Choose for each space, on calibration images, the rotation after which a few bits lose least, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from autoq.calibration.capture import run_observed
from autoq.calibration.transforms.rewriting import ParameterRewriter
from autoq.calibration.transforms.rotation.find import find_spaces
from autoq.calibration.transforms.rotation.rotate import affine_of, fold_, matrix_of
from autoq.calibration.transforms.rotation.spaces import LayerChannels, RotatableSpace
from autoq.calibration.transforms.sampled_errors import (
    TokenSample,
    WindowSample,
    output_gram,
    quantized_to_4_bits,
    relative_error,
    relative_score_error,
)
from autoq.graph.insert import OperandKey, QuantizedModel
from autoq.graph.trace import TracedModel

SEEDS = tuple(range(8))
"""Seeds that are tried for each space."""
_IMAGES = 16


@dataclass(frozen=True)
class RotationErrors:
    """Relative squared errors of what a space feeds, its channels quantized to 4 bits.

    Attributes:
        unrotated: as the model is.
        rotated: with the matrix of each seed of :data:`SEEDS`.
    """

    unrotated: float
    rotated: tuple[float, ...]

    @property
    def best(self) -> int | None:
        """The seed of least error; None if the channels are better left as they are."""
        error, seed = min(zip(self.rotated, SEEDS, strict=True))
        return seed if error < self.unrotated else None


def choose_rotations(
    model: QuantizedModel, batches: Iterable[Tensor], progress: Callable[[int], None] | None = None
) -> dict[str, int]:
    """Choose the seeds of the rotations that help; see :func:`rotation_errors`.

    Returns:
        Seeds by name of space, as ``rotate`` takes them; spaces that are better left alone are not in it.

    Raises:
        CalibrationError: there is no image, or a space has NaN or infinite values.
    """
    errors = rotation_errors(model, batches, progress)
    return {name: found.best for name, found in errors.items() if found.best is not None}


def rotation_errors(
    model: QuantizedModel, batches: Iterable[Tensor], progress: Callable[[int], None] | None = None
) -> dict[str, RotationErrors]:
    """Measure what each space loses to 4-bit uniform quantization, as it is and rotated, one space at a time.

    Of streams, the error of the outputs of the layers that read them; of queries and keys, that of their product, but
    for what is the same along a row, which a softmax does not see; of values, that of the product plus that of
    quantizing the product. Ranges have least squared error, one for a tensor or one
    for each head. One full-precision pass over the first 16 images.

    Args:
        model: its slots are emptied.
        batches: images of shape (N, C, H, W) on the model's device.
        progress: called with the number of images of each finished batch.

    Returns:
        Errors by name of space.

    Raises:
        CalibrationError: there is no image, or a space has NaN or infinite values.
    """
    traced = model.traced
    spaces = find_spaces(traced).rotatable
    if not spaces:
        return {}
    rewriter = ParameterRewriter(traced)
    for space in spaces.values():
        fold_(rewriter, space)
    folded = rewriter.result()
    sites = {edge.node: site for (site, _), edge in traced.edges.items()}
    samples: dict[OperandKey, TokenSample | WindowSample] = {}
    for space in spaces.values():
        if space.kind == "heads":
            samples |= {(space.name, operand): WindowSample() for operand in ("lhs", "rhs")}
            continue
        for site in (sites[layer.node] for layer in space.readers):
            samples[site, "input"] = TokenSample(traced.weight(site).ndim)
    run_observed(QuantizedModel(folded), samples, _first(batches, _IMAGES), progress)
    kept = {key: sample.values(key) for key, sample in samples.items()}
    errors = {}
    for name, space in spaces.items():
        if space.kind == "heads":
            errors[name] = _head_errors(space, traced, kept)
        else:
            errors[name] = _stream_errors(space, sites, (traced, folded), kept)
    return errors


def _first(batches: Iterable[Tensor], count: int) -> Iterator[Tensor]:
    for batch in batches:
        if count <= 0:
            return
        yield batch[:count]
        count -= len(batch)


def _stream_errors(
    space: RotatableSpace,
    sites: dict[str, str],
    models: tuple[TracedModel, TracedModel],
    kept: dict[OperandKey, Tensor],
) -> RotationErrors:
    """Add up the relative errors of the layers that read a stream."""
    matrices = [matrix_of(space, seed) for seed in SEEDS]
    unrotated, rotated = 0.0, [0.0] * len(SEEDS)
    rewriter = ParameterRewriter(models[0])
    for layer in space.readers:
        site = sites[layer.node]
        tokens = kept[site, "input"]  # (tokens, copies · width), LayerNorms without scale and shift
        own, folded = (output_gram(model.weight(site)) for model in models)
        power = float((tokens @ folded * tokens).sum())
        if power == 0:
            continue
        original = _with_norms(tokens, rewriter, layer)
        unrotated += _weighted_error(original, own) / power
        vectors = tokens.view(len(tokens), -1, space.width)
        for index, matrix in enumerate(matrices):
            turned = matrix.to(tokens)
            error = quantized_to_4_bits(vectors @ turned.T, ()) - vectors @ turned.T
            back = (error @ turned).flatten(1)
            rotated[index] += float((back @ folded * back).sum()) / power
    return RotationErrors(unrotated, tuple(rotated))


def _with_norms(tokens: Tensor, rewriter: ParameterRewriter, layer: LayerChannels) -> Tensor:
    """Apply the scale and shift that were folded into a layer."""
    if not layer.norms:
        return tokens
    scale, shift = affine_of(rewriter, layer.norms)
    return tokens * scale.to(tokens) + shift.to(tokens)


def _weighted_error(x: Tensor, gram: Tensor) -> float:
    error = quantized_to_4_bits(x, ()) - x
    return float((error @ gram * error).sum())


def _head_errors(space: RotatableSpace, traced: TracedModel, kept: dict[OperandKey, Tensor]) -> RotationErrors:
    """Measure the relative error of a product whose operands' channels are rotated."""
    operands = {name: kept[space.name, name] for name in ("lhs", "rhs")}
    windows = min(map(len, operands.values()))
    operands = {name: value[:windows] for name, value in operands.items()}
    site = traced.sites_by_name[space.name]
    axes = dict(space.operands)
    layouts = {name: site.operand(name).layout for name in axes}
    heads = {name: () if layout.head_axis is None else (layout.head_axis,) for name, layout in layouts.items()}

    def error(matrix: Tensor | None) -> float:
        turned = {name: _turned(value, matrix, axes.get(name)) for name, value in operands.items()}
        exact = turned["lhs"] @ turned["rhs"]
        rounded = {
            name: quantized_to_4_bits(value, heads[name]) if name in axes else value for name, value in turned.items()
        }
        product = rounded["lhs"] @ rounded["rhs"]
        if not space.readers:
            return relative_score_error(product, exact)
        return relative_error(product, exact) + relative_error(quantized_to_4_bits(exact, ()), exact)

    return RotationErrors(error(None), tuple(error(matrix_of(space, seed)) for seed in SEEDS))


def _turned(value: Tensor, matrix: Tensor | None, axis: int | None) -> Tensor:
    if matrix is None or axis is None:
        return value
    return (value.movedim(axis, -1) @ matrix.to(value).T).movedim(-1, axis)
