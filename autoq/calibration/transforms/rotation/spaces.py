"""Channel spaces that a rotation can be folded into: what to change for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

SpaceKind = Literal["stream", "heads"]
"""Channels of a residual stream, or of the heads of a product of two activations."""


@dataclass(frozen=True, eq=False)
class LayerChannels:
    """Outputs (rows of the weight, entries of the bias) or inputs (columns) of a layer that belong to a space.

    Attributes:
        node: name of the linear layer or convolution in the traced graph.
        numbers: shape (vectors, width); the channels of each vector that is rotated, in the space's order.
        norms: names of the LayerNorm nodes whose scale and shift are folded into these columns; one after the other
            they cover all of them.
        is_scaled: whether vectors are divided by their norms, or multiplied by more than a number, on their way.
    """

    node: str
    numbers: Tensor
    norms: tuple[str, ...] = ()
    is_scaled: bool = False


@dataclass(frozen=True)
class StreamConstant:
    """A parameter that is added to a stream or stands in it as a token.

    Attributes:
        node: name of the node that reads it.
        axis: its channels' axis; one or several whole copies of the space.
    """

    node: str
    axis: int


@dataclass(frozen=True, eq=False)
class LayerScale:
    """A multiplication channel by channel right after a layer, which is folded into the layer.

    Attributes:
        node: name of the multiplication.
        argument: which of its arguments comes from the layer.
        layer: name of the layer's node.
        constant: name of the node that reads the factors.
        numbers: shape (width,), places of the factors in the flattened constant, in the order of the layer's outputs.
    """

    node: str
    argument: int
    layer: str
    constant: str
    numbers: Tensor


@dataclass(frozen=True)
class RotatableSpace:
    """A space of channels that is written and read by layers alone, so that Q x may take the place of x.

    Attributes:
        name: the site of its first writer for streams, the product's for heads.
        kind: of space; the matrix of a ``stream`` must leave the vector of ones alone.
        width: channels.
        writers: what is multiplied by Q from the left.
        readers: what is multiplied by Qᵀ from the right.
        constants: what is multiplied by Q along an axis.
        scales: multiplications that are folded into writers.
        operands: operands of the product of ``heads`` whose channels are rotated, and the axes that these lie on.
    """

    name: str
    kind: SpaceKind
    width: int
    writers: tuple[LayerChannels, ...]
    readers: tuple[LayerChannels, ...]
    constants: tuple[StreamConstant, ...] = ()
    scales: tuple[LayerScale, ...] = ()
    operands: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class FoundSpaces:
    """The spaces of a model.

    Attributes:
        rotatable: by name.
        refused: why the others cannot be rotated, by name.
    """

    rotatable: dict[str, RotatableSpace]
    refused: dict[str, str]
