"""What products of a quantized model are in integers: the same values, and how wide their sums get."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx

from autoq.graph.insert import OperandKey
from autoq.graph.nodes import op_name
from autoq.quantizers import BaseQuantizer
from autoq.scoring.quantized_module import QuantizedModule, path_of

_ROUNDING = 1e-4
"""Difference, relative to the greatest magnitude of a product, that sums in float32 explain."""


@dataclass(frozen=True)
class IntegerProduct:
    """A site whose product was computed on codes.

    Attributes:
        site: its name.
        difference: greatest absolute difference from the product of fake-quantized operands, relative to the greatest
            magnitude of the latter.
        seen_bits: width of a signed accumulator that held every sum on these images.
        safe_bits: width that holds every sum, whatever the images.
    """

    site: str
    difference: float
    seen_bits: int
    safe_bits: int

    @property
    def is_equal(self) -> bool:
        """Whether the difference is one of rounding."""
        return self.difference <= _ROUNDING


@dataclass(frozen=True)
class IntegerTruth:
    """What was found of every site with a quantized operand.

    Attributes:
        products: sites that multiply integers, in execution order.
        others: sites that do not, and why.
    """

    products: tuple[IntegerProduct, ...]
    others: Mapping[str, str]

    def overflowing(self, bits: int) -> list[str]:
        """Name the sites whose sums may need a wider signed accumulator than this."""
        return [product.site for product in self.products if product.safe_bits > bits]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        products = [asdict(product) | {"is_equal": product.is_equal} for product in self.products]
        return {"products": products, "others": dict(self.others)}


@torch.no_grad()
def verify_products(module: QuantizedModule, images: Tensor) -> IntegerTruth:
    """Compute every product of codes in integers, beside the product of fake-quantized operands.

    With codes c and d, zero points z and w and scales s and t, Σ s (c − z) · t (d − w) = s t Σ (c − z)(d − w). The sum
    is of whole numbers, here in float64, which is exact below 2^53, as int64 is.

    Args:
        module: a quantized model.
        images: of shape (N, ...).
    """
    interpreter = _Products(module)
    interpreter.run(images)
    quantized = dict.fromkeys(site for site, _ in module.quantizers)
    others = {site: interpreter.others.get(site, "it does not multiply two quantized operands") for site in quantized}
    found = {product.site for product in interpreter.products}
    others = {site: reason for site, reason in others.items() if site not in found}
    return IntegerTruth(tuple(interpreter.products), others)


class _Products(fx.Interpreter):
    """Runs a quantized model and looks at every node that multiplies two quantized operands."""

    def __init__(self, module: QuantizedModule) -> None:
        super().__init__(module.model, garbage_collect_values=False)  # inputs of quantizers are read again
        self._quantizers, self._codes = module.quantizers, module.codes
        self._key_of = {path_of(key): key for key in module.quantizers}
        self.products: list[IntegerProduct] = []
        self.others: dict[str, str] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        keys = [self._key_of[arg.target] for arg in n.args if isinstance(arg, fx.Node) and arg.target in self._key_of]
        if n.op == "call_function" and op_name(n) != "add" and len(keys) == 2:
            self._look(n, keys, result)
        return result

    def _look(self, node: fx.Node, keys: list[OperandKey], result: Tensor) -> None:
        """Compute a product in integers, or note why it is none."""
        site = keys[0][0]
        if (reason := next(filter(None, (_objection(self._quantizers[key]) for key in keys)), None)) is not None:
            self.others[site] = reason
            return
        (left, left_scale), (right, right_scale) = (
            self._whole_numbers(key, node.args[place]) for place, key in enumerate(keys)
        )
        rest, bias = list(node.args[2:]), None
        if rest and isinstance(rest[0], fx.Node):
            bias, rest[0] = self.env[rest[0]], None
        sums = node.target(left, right, *rest)  # type: ignore[operator]
        channels = sums.ndim - 3 if op_name(node) in ("conv2d", "conv_transpose2d") else sums.ndim - 1
        if keys[1][1] == "weight":
            right_scale = _along(right_scale.flatten(), sums.ndim, channels)
        value = sums * left_scale.double() * right_scale.double()
        if bias is not None:
            value += _along(bias, sums.ndim, channels)
        difference = float((value - result).abs().max() / result.abs().max().clamp_min(1e-30))
        safe = self._greatest_sum(keys, left, right)
        self.products.append(IntegerProduct(site, difference, _width(float(sums.abs().max())), _width(safe)))

    def _whole_numbers(self, key: OperandKey, operand: Any) -> tuple[Tensor, Tensor]:
        """Return codes less their zero points, in float64, and the scale."""
        quantizer = self._quantizers[key]
        codes = self._codes.get(key)
        if codes is None:
            codes = quantizer.quantize(self.env[operand.args[0]])
        grid = quantizer.code_grid()
        assert grid is not None  # noqa: S101 - without objection
        return codes.double() - grid[1].double(), grid[0]

    def _greatest_sum(self, keys: list[OperandKey], left: Tensor, right: Tensor) -> float:
        """Return the greatest magnitude that a sum can have: of given weights, or of any two activations."""
        reach = _reach(self._quantizers[keys[0]])
        if keys[1][1] == "weight":
            axis = self._quantizers[keys[1]].layout.channel_axis
            return reach * float(right.abs().movedim(axis, 0).flatten(1).sum(1).max())
        return reach * _reach(self._quantizers[keys[1]]) * left.shape[-1]


def _objection(quantizer: BaseQuantizer) -> str | None:
    """Say why codes cannot be multiplied as they are."""
    if quantizer.code_grid() is None:
        return f"codes of scheme {quantizer.config.scheme} are no multiples of one step"
    axis = quantizer.layout.summed_axis
    if axis is None and not quantizer.layout.is_weight:
        axis = quantizer.layout.group_axis
    scale = quantizer.qparams()["scale"]
    if axis is not None and scale.shape[axis] > 1:
        return "scales vary along the channels that are summed"
    return None


def _reach(quantizer: BaseQuantizer) -> float:
    """Return the greatest magnitude of a code less its zero point."""
    zero_point = quantizer.qparams()["zero_point"]
    return float(torch.maximum(zero_point.abs(), (2**quantizer.config.bits - 1 - zero_point).abs()).max())


def _along(vector: Tensor, ndim: int, axis: int) -> Tensor:
    """Shape a vector (or one number) so that it lies along an axis."""
    return vector.double().reshape([-1 if each == axis else 1 for each in range(ndim)])


def _width(magnitude: float) -> int:
    """Return the bits of a signed integer that holds ± a magnitude."""
    return math.ceil(math.log2(magnitude + 1)) + 1 if magnitude else 1
