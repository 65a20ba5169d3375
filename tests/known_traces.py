"""Traces of a process of tests: a model that is made again, as it was, is not traced again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from enum import Enum
from functools import partial
from itertools import chain
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from autoq.errors import TraceError
from autoq.files import sha256_hex
from autoq.graph.saved_trace import dump_traced, load_traced
from autoq.graph.shapes import propagate
from autoq.graph.trace import TracedModel, trace
from autoq.graph.verify import verify
from autoq.identity import tensor_chunks

_MOST = 32
_known: OrderedDict[Hashable, bytes] = OrderedDict()
_SIMPLE = (
    *(type(None), bool, int, float, complex, str, bytes, FunctionType, BuiltinFunctionType),
    *(torch.dtype, torch.device, torch.Size),
)
_OWN = frozenset(vars(nn.Module()))
_HOOKS = tuple(sorted(name for name in _OWN if name.endswith("_hooks")))


class _UnknownStateError(Exception):
    """Something that may decide what a model computes cannot be compared."""


def trace_known(module: nn.Module, example: Tensor) -> TracedModel:
    """Trace a module as :func:`autoq.graph.trace.trace` does, or take over the trace of an equal one in this process.

    Equal are modules of the same classes, with the same methods, attributes, parameters and buffers. A trace that is
    taken over is compared with the module on three images like a new one. What a model reads from global variables is
    not compared: this is for tests, and autoq itself traces what it is given.

    Args:
        module: as for ``trace``.
        example: as for ``trace``.

    Raises:
        TraceError: as ``trace`` does.

    Example:
        >>> def model():
        ...     return nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval().requires_grad_(False)
        >>> first, second = model(), model()
        >>> _ = second.load_state_dict(first.state_dict())
        >>> trace_known(first, torch.zeros(2, 4)).sites == trace_known(second, torch.zeros(2, 4)).sites
        True
    """
    try:
        key = (_state(module), tuple(example.shape), example.dtype, example.device)
    except (_UnknownStateError, RecursionError):
        return trace(module, example)
    if key in _known:
        try:
            traced = load_traced(_known[key], module)
            propagation = propagate(traced.graph_module, example)
            verify(module, propagation.batch, propagation.output)
        except TraceError:
            del _known[key]
        else:
            _known.move_to_end(key)
            return traced
    traced = trace(module, example)
    try:
        _known[key] = dump_traced(traced, module)
    except TraceError:  # other processes could not read it
        return traced
    while len(_known) > _MOST:
        _known.popitem(last=False)
    return traced


def _state(module: nn.Module) -> Hashable:
    """What a module computes with, apart from global variables.

    Raises:
        _UnknownStateError: an attribute is of a type that cannot be compared, or the module has hooks.
    """
    parts = []
    for name, part in module.named_modules():
        if any(getattr(part, hooks, None) for hooks in _HOOKS):
            raise _UnknownStateError
        attributes = {key: value for key, value in vars(part).items() if key not in _OWN}
        parts.append((name, type(part), part.training, _comparable(attributes)))
    methods = {kind: _methods(kind) for kind in {type(part) for part in module.modules()}}
    return tuple(parts), frozenset(methods.items()), _tensors(module)


def _methods(kind: type) -> Hashable:
    """What a class and those that it derives from define, as it is now: notebooks replace methods."""
    own = [base for base in kind.__mro__ if issubclass(base, nn.Module) and base is not nn.Module]
    return tuple((base, tuple(v for v in vars(base).values() if isinstance(v, FunctionType))) for base in own)


def _tensors(module: nn.Module) -> str:
    """A hash of parameters and buffers, also of buffers that are not saved with the weights."""
    return sha256_hex(tensor_chunks(chain(module.named_parameters(), module.named_buffers())))


def _comparable(value: Any) -> Hashable:
    """Return what equals that of another value if and only if both decide alike what a module computes.

    Raises:
        _UnknownStateError: that is not known of values of this type.
    """
    kind = type(value)
    if kind in _SIMPLE or isinstance(value, type | Enum):
        return kind, value
    if kind is Tensor:
        return kind, str(value.device), sha256_hex(tensor_chunks([("", value)]))
    if kind is partial:
        return kind, _comparable([value.func, value.args, value.keywords])
    if isinstance(value, Mapping):
        return kind, tuple((_comparable(key), _comparable(each)) for key, each in value.items())
    if isinstance(value, list | tuple):
        return kind, tuple(map(_comparable, value))
    if isinstance(value, set | frozenset):
        return kind, frozenset(map(_comparable, value))
    if all(base is object or _keeps_all_in_dict(base) for base in kind.__mro__):
        return kind, _comparable(vars(value))
    raise _UnknownStateError


_WRITTEN_IN_PYTHON = 1 << 9
"""``Py_TPFLAGS_HEAPTYPE``."""


def _keeps_all_in_dict(kind: type) -> bool:
    return bool(kind.__flags__ & _WRITTEN_IN_PYTHON) and "__slots__" not in vars(kind)
