"""What every head says of its leaf of the output."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from autoq.tasks._orthogonal_signs import OrthogonalSigns


@dataclass(frozen=True)
class BaseHead(ABC):
    """The distribution of which one leaf of a model's output gives the parameters, at each position of an image.

    A leaf has the shape (N, ...); a subclass says which of the axes number positions (tokens, pixels, queries) and
    which hold the parameters at one position. The divergence of an image is ``weight`` times the mean over positions of
    the importance times KL(reference ‖ quantized): where a distribution only applies with some probability, such as
    that of a box if there is an object, that probability is its importance, and the sum over heads is the divergence of
    the joint distribution (the chain rule of relative entropy: Cover and Thomas, 2006, theorem 2.5.3).

    Attributes:
        leaves: names of the leaf that it describes, best first.
        weight: factor of its divergence.
        optional: whether models without such a leaf are served.
        kind: name of the distribution.
    """

    leaves: tuple[str, ...] = ()
    weight: float = 1.0
    optional: bool = False

    kind: ClassVar[str]

    @abstractmethod
    def position_divergence(self, reference: Tensor, quantized: Tensor) -> Tensor:
        """Return KL(reference ‖ quantized) at each position in nats, of shape (N, *positions). Differentiable.

        Args:
            reference: the leaf in full precision, of shape (N, ...).
            quantized: of the same shape.
        """

    @abstractmethod
    def position_fisher_product(self, leaf: Tensor, change: Tensor, temperature: float) -> Tensor:
        """Return F Δ, F the Hessian of the divergence of each position at the leaf, of the leaf's shape.

        Args:
            leaf: in full precision, of shape (N, ...).
            change: Δ, of the same shape.
            temperature: see ``BaseTask.fisher_product``.
        """

    @abstractmethod
    def fisher_root(self, leaf: Tensor, signs: OrthogonalSigns) -> Tensor:
        """Return F^½ ξ for K vectors ξ of signs, of shape (K, N, ...), F as in :meth:`position_fisher_product`."""

    @abstractmethod
    def positions(self, leaf: Tensor) -> int:
        """Return how many positions an image has."""

    def spread(self, importance: Tensor) -> Tensor:
        """Return the importance of positions, (N, *positions), with an axis for each that is none of positions."""
        return importance

    def divergence(self, reference: Tensor, quantized: Tensor, importance: Tensor | None = None) -> Tensor:
        """Return the divergence of each image in nats, of shape (N,).

        Args:
            reference: the leaf in full precision, of shape (N, ...).
            quantized: of the same shape.
            importance: of shape (N, *positions); None: 1.
        """
        values = self.position_divergence(reference, quantized)
        if importance is not None:
            values = importance * values
        return self.weight * values.reshape(values.shape[0], -1).mean(1)

    def fisher_product(
        self, leaf: Tensor, change: Tensor, temperature: float = 1.0, importance: Tensor | None = None
    ) -> Tensor:
        """Return F Δ of each image, F the Hessian of :meth:`divergence` at the leaf, of the leaf's shape and type."""
        product = self.position_fisher_product(leaf, change, temperature) / self.positions(leaf)
        if importance is not None:
            product = product * self.spread(importance)
        return (product * self.weight).to(leaf)


class HeadProbes:
    """Draws vectors whose outer products have the Fisher information of one leaf as their mean."""

    def __init__(self, head: BaseHead, count: int, seed: int, first: int = 0) -> None:
        """Draw ``count`` vectors for each image, the first of which has the number ``first``."""
        self._head, self._signs = head, OrthogonalSigns(count, seed, first)

    def draw(self, leaf: Tensor, importance: Tensor | None = None) -> Tensor:
        """Draw K vectors for each image, of shape (K, N, ...); see ``Probes.draw``."""
        root = self._head.fisher_root(leaf, self._signs) / math.sqrt(self._head.positions(leaf))
        if importance is not None:
            root = root * self._head.spread(importance).sqrt()
        return (root * math.sqrt(self._head.weight)).to(leaf.dtype)


def numbered(leaf: Tensor, axes: int) -> Tensor:
    """Number the elements of the last axes of a leaf (N, ...), flattened into one: (N, *positions, elements)."""
    elements = leaf.shape[leaf.ndim - axes :].numel()
    return torch.arange(elements, device=leaf.device).expand(*leaf.shape[: leaf.ndim - axes], elements)
