"""Running a traced model once on an image of zeros, to learn where values go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from autoq.graph.nodes import op_name

_READS_SHAPE = {
    *("sym_size", "sym_numel", "sym_stride", "new_empty", "new_zeros", "new_ones", "new_full"),
    *("empty_like", "zeros_like", "ones_like", "full_like"),
}
"""Operators to which the values of their arguments do not matter."""
_READS_SHAPE_OF_SECOND = {"view_as", "reshape_as", "expand_as", "type_as"}


class BaseProbe(fx.Interpreter):
    """Runs a graph node by node; subclasses keep notes beside the values.

    Numbers of elements are sent along moves, which are run on them as on the values: so views, permutes and windows
    need no case analysis, and axes of the same length are told apart.
    """

    def run_on_zeros(self) -> None:
        """Run the model on one image of zeros."""
        inputs = [node.meta["val"] for node in self.module.graph.nodes if node.op == "placeholder"]  # type: ignore[union-attr]
        images = [torch.zeros(value.shape, dtype=value.dtype, device=value.device) for value in inputs]
        with torch.no_grad():
            self.run(*images)

    def move(self, n: fx.Node, numbers: Any) -> Any:
        """Run a move on the numbers of elements in place of its first argument."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return n.target(numbers, *args[1:], **kwargs)  # type: ignore[operator]


def reads_shape(user: fx.Node, index: int) -> bool:
    """Tell whether ``user`` reads no more than the shape of its argument number ``index``."""
    return op_name(user) in _READS_SHAPE or (op_name(user) in _READS_SHAPE_OF_SECOND and index == 1)


def argument_places(user: fx.Node, node: fx.Node) -> Iterator[tuple[int, int | None]]:
    """List where ``node`` stands among the arguments of ``user``: index, and item of a list."""
    for index, argument in enumerate([*user.args, *user.kwargs.values()]):
        if argument is node:
            yield index, None
        elif isinstance(argument, list | tuple):
            yield from ((index, item) for item, part in enumerate(argument) if part is node)


def numbered_like(x: Tensor, numbers: Tensor) -> Tensor:
    """Return integers of the shape of ``x``, laid out in memory as ``x`` is, so that they can be viewed as it is.

    Args:
        x: any tensor.
        numbers: what to fill in, broadcast to the shape of ``x``.
    """
    return torch.empty_like(x, dtype=torch.int64).copy_(numbers)
