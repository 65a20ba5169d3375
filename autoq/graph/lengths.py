"""Let ``len(x)`` of a batch stay free while a model is exported.

``torch.export`` follows ``x.shape[0]``; Python's ``len`` returns a plain number, which fixes the batch size. RT-DETR
and D-FINE in transformers take it so.
"""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

_NAME = "len"


@contextlib.contextmanager
def free_lengths(module: nn.Module) -> Iterator[None]:
    """Let ``len`` of a tensor be its ``shape[0]`` in the source files of a module's classes, inside the block.

    Files that have a ``len`` of their own, and torch's, are left alone.
    """
    names = {cls.__module__ for part in module.modules() for cls in type(part).__mro__}
    sources = [vars(sys.modules[name]) for name in names if name in sys.modules and not _is_foreign(name)]
    changed = [source for source in sources if _NAME not in source]
    for source in changed:
        source[_NAME] = _length
    try:
        yield
    finally:
        for source in changed:
            source.pop(_NAME, None)


def _is_foreign(name: str) -> bool:
    return name.partition(".")[0] in ("torch", "builtins")


def _length(value: Any) -> Any:
    """Return the length of anything, as a symbol where it is one."""
    return value.shape[0] if isinstance(value, Tensor) and value.ndim else builtins.len(value)
