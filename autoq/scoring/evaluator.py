"""Score whole recipes against full precision on the calibration images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from autoq.calibration import Bank
from autoq.errors import NonFiniteError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import TracedModel
from autoq.recipe import SiteConfig
from autoq.scoring.discrepancy import Discrepancy, Score

_OPERAND_BYTES = 24 << 20
"""Most bytes of one activation in a batch: the C library hands out larger blocks afresh, at ten times the cost."""
_MOST_IMAGES = 128


class Evaluator:
    """Joint discrepancy of recipes on one set of images.

    Attributes:
        model: its slots are changed by every evaluation.
        images: how many images a score is the mean over.
    """

    def __init__(self, model: QuantizedModel, bank: Bank, images: Tensor, batch_size: int | None = None) -> None:
        """Run full precision once, to compare with.

        Args:
            model: the model, on the device of ``images``.
            bank: where quantizers come from.
            images: of shape (N, C, H, W).
            batch_size: images evaluated at a time; None: as many as run fast.

        Raises:
            NonFiniteError: full precision itself produces NaN or infinity.
        """
        self.model = model
        self.images = len(images)
        self._bank = bank
        self._batches = torch.split(images, batch_size or choose_batch_size(model.traced))
        model.remove_()
        with torch.inference_mode():
            self._reference = [finite_logits(model, batch) for batch in self._batches]

    def evaluate(self, sites: Mapping[str, SiteConfig]) -> Score:
        """Discrepancy of a recipe from full precision over all images.

        Raises:
            RecipeError: the model has no such site or operand.
            CalibrationError: an option does not fit its operand.
            NonFiniteError: a logit is NaN or infinite; names the first site that produced one.
        """
        self.apply(sites)
        discrepancy = Discrepancy()
        with torch.inference_mode():
            for batch, reference in zip(self._batches, self._reference, strict=True):
                discrepancy.add(reference, finite_logits(self.model, batch))
        return discrepancy.score()

    def apply(self, sites: Mapping[str, SiteConfig]) -> None:
        """Put a recipe's quantizers into the model's slots and empty all others."""
        self._bank.apply_(sites)


def finite_logits(model: QuantizedModel, batch: Tensor) -> Tensor:
    """The logits of one batch.

    Raises:
        NonFiniteError: one of them is NaN or infinite; names the first site that produced one.
    """
    logits = model.run(batch)[0]
    if not bool(torch.isfinite(logits).all()):
        site = first_non_finite_site(model, batch)
        where = f"first at site {site!r}" if site else "at no site in particular"
        raise NonFiniteError(f"the model's output is not finite; NaN or infinity arises {where}", site)
    return logits


def choose_batch_size(traced: TracedModel) -> int:
    """Images per batch such that no activation needs more than 24 MiB; a power of two, at most 128."""
    largest = max((math.prod(operand.shape) for _, operand in traced.operands() if not operand.is_weight), default=1)
    fitting = max(1, _OPERAND_BYTES // (4 * largest))
    return int(min(_MOST_IMAGES, 1 << (fitting.bit_length() - 1)))


def first_non_finite_site(model: QuantizedModel, batch: Tensor) -> str | None:
    """Run node by node and name the first site whose output has NaN or infinity, or None."""
    state: tuple[Any, ...] = (batch,)
    for stage in model.stages:
        watch = _Watch(stage.graph_module, stage.site_nodes)
        try:
            result = watch.run(*state)
        except _Found as found:
            return found.site
        state = tuple(result) if isinstance(result, tuple | list) else (result,)
    return None


class _Found(Exception):  # noqa: N818 - a signal, not an error
    def __init__(self, site: str) -> None:
        super().__init__(site)
        self.site = site


class _Watch(fx.Interpreter):
    """Interprets a stage and stops at the first site with a non-finite output."""

    def __init__(self, graph_module: fx.GraphModule, site_nodes: Mapping[str, str]) -> None:
        super().__init__(graph_module)
        self._site_nodes = site_nodes

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        site = self._site_nodes.get(n.name)
        if site is not None and isinstance(result, Tensor) and not bool(torch.isfinite(result).all()):
            raise _Found(site)
        return result
