"""What each option of each operand costs, by the error of its site's own output: the ``aph`` proxy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from autoq.calibration.bank.bank import Bank
from autoq.calibration.bank.files import SolvedKey
from autoq.errors import CalibrationError
from autoq.graph.cuts import Call, run_stage_with
from autoq.graph.stages import State
from autoq.sensitivity.perturbation_hessian import hessian_loss


def aph_losses(
    bank: Bank,
    batches: Iterable[Tensor],
    hessians: Mapping[str, Tensor],
    options: Iterable[SolvedKey],
    progress: Callable[[int], None] | None = None,
) -> dict[SolvedKey, float]:
    """Compute ½ Σ (Ô − O)² H for every option, O its site's output, with all other operands in full precision.

    One full-precision pass over the images, in which each site repeats its own operation for each option; nothing is
    kept. LayerNorm and softmax sites are no exception: there, Ô is what the floating-point operation makes of the
    quantized input.

    Args:
        bank: gives the quantizers; its model's slots are emptied.
        batches: images of shape (N, C, H, W) on the model's device.
        hessians: by site, ``average_perturbation_hessian`` of every site in ``options``.
        options: site, operand and configuration; solved where the bank does not have them yet.
        progress: called with the number of images of each finished batch.

    Returns:
        The mean over images for each option, an estimate of its KL divergence in nats; infinite where an output is not
        finite.

    Raises:
        RecipeError: the model has no such site or operand.
        CalibrationError: there are no images, a site has no Hessian, or an option does not fit its operand.
    """
    model = bank.model
    losses = Losses(bank, options)
    for site in losses.by_site:
        if site not in hessians:
            raise CalibrationError(f"no Hessian was computed for site {site!r}")
    with torch.no_grad():
        for batch in batches:

            def weigh(keys: Sequence[SolvedKey], call: Call, images: int = len(batch)) -> Tensor:
                reference = call.run()
                for key in keys:
                    loss = hessian_loss(quantized_call(bank, call, key).run(), reference, hessians[key[0]])
                    losses.add(key, images * float(loss))
                return reference

            state: State = (batch,)
            for index in range(losses.last_stage + 1):
                hooks = {node: partial(weigh, keys) for node, keys in losses.by_node(index).items()}
                state = run_stage_with(model, index, state, hooks) if hooks else model.run_stage(index, state)
            losses.images += len(batch)
            if progress is not None:
                progress(len(batch))
    return losses.means()


def quantized_call(bank: Bank, call: Call, key: SolvedKey) -> Call:
    """Return the call of a site's node with one operand quantized."""
    edge = bank.model.traced.edges[key[:2]]
    return call.with_operand(edge, bank.module(*key)(call.operand(edge)))


class Losses:
    """The losses of options, added up over images.

    Attributes:
        totals: by option, over the images so far.
        by_site: the options, by site.
        last_stage: the last with a site among them.
        images: how many the losses so far are sums over.
    """

    def __init__(self, bank: Bank, options: Iterable[SolvedKey]) -> None:
        """Solve the options that the bank does not have yet, and empty its model's slots.

        Raises:
            RecipeError: the model has no such site or operand.
            CalibrationError: an option does not fit its operand.
        """
        self.totals: dict[SolvedKey, float] = dict.fromkeys(options, 0.0)
        self._stages = bank.model.stages
        bank.model.check_keys(key[:2] for key in self.totals)
        bank.solve_all(self.totals)
        bank.model.remove_()
        self.by_site: dict[str, list[SolvedKey]] = {}
        for key in self.totals:
            self.by_site.setdefault(key[0], []).append(key)
        self.last_stage = max((index for index in range(len(self._stages)) if self.by_node(index)), default=-1)
        self.images = 0

    def by_node(self, stage: int) -> dict[str, list[SolvedKey]]:
        """Return the options of a stage, by the node of their site."""
        nodes = self._stages[stage].site_nodes
        return {node: self.by_site[site] for node, site in nodes.items() if site in self.by_site}

    def add(self, key: SolvedKey, loss: float) -> None:
        """Add the sum over some images."""
        self.totals[key] += loss

    def means(self) -> dict[SolvedKey, float]:
        """Return the means over images; infinite in place of NaN.

        Raises:
            CalibrationError: there were none.
        """
        return mean_losses([(self.totals, self.images)])


def add_up_parts(parts: Iterable[tuple[Mapping[SolvedKey, float], int]]) -> tuple[dict[SolvedKey, float], int]:
    """Return the sums of losses that were added up in parts, each over some images, and the number of all images."""
    parts = list(parts)
    totals = {key: math.fsum(part[key] for part, _ in parts) for key in parts[0][0]} if parts else {}
    return totals, sum(count for _, count in parts)


def mean_losses(parts: Iterable[tuple[Mapping[SolvedKey, float], int]]) -> dict[SolvedKey, float]:
    """Return the means of losses that were added up in parts, each over some images; infinite in place of NaN.

    Raises:
        CalibrationError: there were no images.
    """
    totals, images = add_up_parts(parts)
    if not images:
        raise CalibrationError("there are no calibration images")
    return {key: total / images if math.isfinite(total) else math.inf for key, total in totals.items()}
