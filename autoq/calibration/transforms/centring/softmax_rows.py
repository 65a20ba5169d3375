"""Products whose rows a softmax normalizes whole, so that what is added to all of a row changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from autoq.calibration.transforms.rotation.numbering import find_order, number_along
from autoq.graph.nodes import SOFTMAXES, is_cast, is_move, op_name
from autoq.graph.probing import BaseProbe, numbered_like, reads_shape


@dataclass(frozen=True, eq=False)
class _Rows:
    """A product's entries, moved: each of its rows has ``width`` numbers that follow one another."""

    product: str
    numbers: Tensor
    width: int


class SoftmaxRowProbe(BaseProbe):
    """Follows the results of products to softmaxes while it runs on zeros.

    Attributes:
        normalized: names of products whose rows go, added to or multiplied by a number, to softmaxes along whole rows.
        refused: names of products that anything else reads too.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        """Start with no products."""
        super().__init__(graph_module)
        self.normalized: set[str] = set()
        self.refused: set[str] = set()
        self._rows: dict[fx.Node, _Rows] = {}

    @property
    def invariant(self) -> set[str]:
        """Names of products to all of whose rows a number can be added."""
        return self.normalized - self.refused

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and see what it does with rows."""
        args, _ = self.fetch_args_kwargs_from_env(n)
        result = super().run_node(n)
        sources = [node for node in n.all_input_nodes if node in self._rows]
        if op_name(n) in ("matmul", "bmm"):
            self._rows[n] = _Rows(n.name, number_along(result, -1), result.shape[-1])
        passed = self._pass_on(n, args, result) if len(sources) == 1 else None
        for source in sources:
            places = [index for index, argument in enumerate(n.args) if argument is source]
            if source is not passed and not all(reads_shape(n, index) for index in places or [-1]):
                self.refused.add(self._rows[source].product)
        return result

    def _pass_on(self, n: fx.Node, args: Any, result: Any) -> fx.Node | None:
        """Note where rows are after a node that leaves them whole; return the argument that was understood."""
        source = next((node for node in n.args if isinstance(node, fx.Node) and node in self._rows), None)
        if source is None:
            return None
        rows, first, name = self._rows[source], source is n.args[0], op_name(n)
        numbers = rows.numbers
        if name in SOFTMAXES and first:
            order = find_order(numbers, rows.width)
            if order != (args[1] % numbers.ndim - numbers.ndim, 1):
                return None
            self.normalized.add(rows.product)
            return source
        if is_move(n) and first and isinstance(result, Tensor):
            moved = numbers if is_cast(n) else self.move(n, numbers)
        elif self._is_affine(n, args, first) and result.shape == numbers.shape:
            moved = numbered_like(result, numbers)
        else:
            return None
        self._rows[n] = _Rows(rows.product, moved, rows.width)
        return source

    def _is_affine(self, n: fx.Node, args: Any, first: bool) -> bool:
        """Tell whether a node adds something to its argument, or multiplies it by a number."""
        name = op_name(n)
        if name == "add" or (name == "sub" and first):
            return not n.kwargs
        factor = args[1 if first else 0] if name in ("mul", "div") else None
        is_number = isinstance(factor, int | float) or (isinstance(factor, Tensor) and factor.numel() == 1)
        return is_number and (name == "mul" or (first and not n.kwargs))
