"""Sites: the matmul-like nodes of a traced model, and their operands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from autoq.quantizers.granularity import OperandLayout

SiteOp = Literal[
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose2d",
    "matmul",
    "bmm",
    "einsum",
    "layer_norm",
    "softmax",
    "add",
    "output",
]
NO_PRODUCTS: tuple[SiteOp, ...] = ("layer_norm", "softmax", "add", "output")
"""Kinds of site that multiply nothing: only methods and search spaces that name them quantize them."""
Producer = Literal["layer_norm", "softmax", "gelu", "relu", "other", "parameter"]


@dataclass(frozen=True)
class GroupGeometry:
    """The sizes, per image, that the cost of groups depends on; see ``autoq.cost.bops.group_overhead``.

    Attributes:
        copies: independent products per image that share the geometry (attention heads × windows), 1 for linear.
        tokens: T, rows of the input that are rescaled.
        channels: C, entries that are assigned to groups (token rows for a softmax attention map).
        outputs: N, features that each input row feeds.
    """

    copies: int
    tokens: int
    channels: int
    outputs: int


@dataclass(frozen=True)
class Operand:
    """A tensor of a site that can be quantized.

    Attributes:
        name: ``input``, ``weight``, ``lhs`` or ``rhs``.
        shape: shape at batch size one; for weights, the weight's own.
        producer: what computed it; ``parameter`` for weights.
        layout: where its channels, heads and images lie.
        group_geometry: what groups cost here; None where an operand cannot be grouped.
    """

    name: str
    shape: tuple[int, ...]
    producer: Producer
    layout: OperandLayout
    group_geometry: GroupGeometry | None = None

    @property
    def is_weight(self) -> bool:
        """Whether the operand is a parameter, the same for every image."""
        return self.producer == "parameter"


@dataclass(frozen=True)
class Site:
    """One node of the traced graph whose operands can be quantized.

    Attributes:
        name: module path (``blocks.3.attn.qkv``), or what the node does (``blocks.3.attn.qk``); unique and stable.
        op: kind of node.
        macs: multiply-accumulates per image; 0 for ``layer_norm``, ``softmax``, ``add`` and ``output``.
        operands: in the order in which the node takes them.
    """

    name: str
    op: SiteOp
    macs: int
    operands: tuple[Operand, ...] = field(default=())

    @property
    def is_optional(self) -> bool:
        """Whether it is a residual sum or an output of the model: counted and quantized only where it is named."""
        return self.op in ("add", "output")

    def operand(self, name: str) -> Operand:
        """Get the operand called ``name``.

        Raises:
            KeyError: this site has no such operand.
        """
        for operand in self.operands:
            if operand.name == name:
                return operand
        raise KeyError(f"{self.name} has no operand {name!r}; it has {[o.name for o in self.operands]}")


@dataclass(frozen=True)
class UncountedOp:
    """A matmul-like node that is no site."""

    name: str
    op: str
    reason: str
