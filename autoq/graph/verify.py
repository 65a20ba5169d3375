"""Compare a traced model with the module that it was traced from, on a batch of another size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoq.errors import TraceError
from autoq.graph.explain import first_line
from autoq.graph.outputs import leaf_names

_REMEDY = "what forward takes from anything but its input, parameters and buffers may have been fixed while tracing"


def verify(module: nn.Module, batch: Tensor, output: object) -> None:
    """Run the original module and refuse a traced model that returned something else.

    Floating leaves may differ by rounding, since fused attention is written out: by √ε times the leaf's largest value,
    where ε is the coarsest machine epsilon among the leaf's dtype, the batch's and the parameters' (3.5e-4 in float32,
    0.09 in bfloat16). Equal infinities are equal, and so are NaNs. Integers, booleans and leaves that are no tensors
    must be equal, unless a floating leaf was rounded differently: a class or an index may follow from it.

    Args:
        module: the original; its buffers are as before afterwards.
        batch: shape (N, ...), of another size than the one traced.
        output: what the traced model returned for ``batch``, with :func:`seeded`.

    Raises:
        TraceError: they differ; the message names the output and the largest difference.
    """
    name = type(module).__name__
    reference = _run(module, batch)
    expected, structure = pytree.tree_flatten(reference)
    actual, traced_structure = pytree.tree_flatten(output)
    if structure != traced_structure:
        raise TraceError(
            f"cannot trace {name}: it returns {len(expected)} values for {len(batch)} images and returned "
            f"{len(actual)} while traced; return tensors that hold all images of the batch"
        )
    epsilon = _epsilon(chain([batch], module.parameters()))
    differences = [_difference(a, b) for a, b in zip(actual, expected, strict=True)]
    rounded = any(differences[i] for i, leaf in enumerate(expected) if _is_floating(leaf))
    for leaf_name, leaf, difference in zip(leaf_names(reference), expected, differences, strict=True):
        allowed = 0.0
        if _is_floating(leaf):
            allowed = max(epsilon, _epsilon([leaf])) ** 0.5 * _largest(leaf)
        elif rounded:
            continue
        if difference > allowed:
            raise TraceError(
                f"cannot trace {name}: {f'its output {leaf_name!r}' if leaf_name else 'its output'} differs from the "
                f"traced model's by {difference:.3g} (largest value {_largest(leaf):.3g}) on {len(batch)} images; "
                f"{_REMEDY}"
            )


def _run(module: nn.Module, batch: Tensor) -> object:
    """Run the original module and leave it as it was.

    Raises:
        TraceError: it does not run.
    """
    try:
        with _buffers_kept(module), torch.no_grad(), seeded(batch.device):
            return module(batch.clone())
    except Exception as error:  # whatever the model raises
        raise TraceError(
            f"{type(module).__name__} does not run on {len(batch)} random images of shape {list(batch.shape[1:])} "
            f"between {batch.min():.3g} and {batch.max():.3g}: {first_line(error)}; give an example like real images"
        ) from error


@contextlib.contextmanager
def seeded(device: torch.device) -> Iterator[None]:
    """Draw the same random numbers each time, and leave the state of the generators as it was."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


@contextlib.contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Give every buffer the values back that it had, whether it is overwritten or replaced."""
    kept = [
        (part, name, buffer, buffer.clone())
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for part, name, buffer, value in kept:
                part._buffers[name] = buffer
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def _is_floating(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def _epsilon(tensors: chain[Tensor] | list[Tensor]) -> float:
    """Find the coarsest machine epsilon among floating tensors; 0 if there are none."""
    return max((torch.finfo(dtype).eps for dtype in {t.dtype for t in tensors if _is_floating(t)}), default=0.0)


def _difference(actual: object, expected: object) -> float:
    """Find the largest difference between the entries of two leaves; infinite where they cannot be compared."""
    if not (isinstance(actual, Tensor) and isinstance(expected, Tensor)):
        return 0.0 if type(actual) is type(expected) and actual == expected else float("inf")
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return float("inf")
    if torch.equal(actual, expected) or not actual.numel():
        return 0.0
    a, b = _wide(actual), _wide(expected)
    apart = (a - b).abs().nan_to_num(nan=float("inf"))
    return float(apart.masked_fill((a == b) | (a.isnan() & b.isnan()), 0).max())


def _largest(leaf: object) -> float:
    """Find the largest finite magnitude in a tensor; 0 if there is none."""
    if not isinstance(leaf, Tensor) or not leaf.numel():
        return 0.0
    magnitude = _wide(leaf).abs()
    return float(magnitude.masked_fill(~magnitude.isfinite(), 0).max())


def _wide(x: Tensor) -> Tensor:
    """Convert to a type in which differences and magnitudes are exact enough."""
    return x.to(torch.promote_types(x.dtype, torch.float32)) if _is_floating(x) else x.cpu().to(torch.float64)
