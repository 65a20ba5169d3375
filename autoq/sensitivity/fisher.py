"""What each option of each operand costs, by random projections of the KL divergence's Hessian: the ``fisher`` proxy.

To second order, an error e of a site's output O changes an image's predictions by ½ eᵀ Jᵀ F J e nats, where J = dz/dO
for the model's output z, and F is the Fisher information of the distribution that z stands for (``autoq.tasks``; for
logits of classes diag(p) − p pᵀ with p = softmax(z)): the Gauss-Newton matrix (Martens, "New Insights and Perspectives
on the Natural Gradient Method", JMLR 2020). It is never formed. The task draws F^½ ξ for random ξ with E ξ ξᵀ = I;
then g = Jᵀ F^½ ξ has E g gᵀ = Jᵀ F J (as in Hutchinson's estimator), so that ½ (g · e)² has the expectation wanted, and
g is one backward pass for all sites together.

Products are linear in an operand, so that g · e is the gradient with respect to the operand times the operand's own
error: for activations, nothing is multiplied again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from autoq.calibration.bank.bank import Bank
from autoq.calibration.bank.files import SolvedKey
from autoq.errors import CalibrationError
from autoq.graph.cuts import Call, run_stage_with
from autoq.graph.gradients import Gradients
from autoq.graph.insert import QuantizedModel
from autoq.graph.stages import State
from autoq.sensitivity.option_gradients import OptionGradients
from autoq.sensitivity.perturbation_hessian import images_at_once
from autoq.sensitivity.weighted_errors import Losses
from autoq.tasks import CLASSIFICATION, BaseTask

_OPTIONS_AT_ONCE = 8
"""Errors that are multiplied with gradients together: gradients are read from memory once for all of them."""


@dataclass(frozen=True)
class FisherSettings:
    """How the Hessian is probed.

    Attributes:
        probes: K, backward passes for each image.
        seed: of the random signs.
        first: number of the first image, where others are measured elsewhere: those have other signs.

    Raises:
        CalibrationError: there is no probe.
    """

    probes: int = 8
    seed: int = 0
    first: int = 0

    def __post_init__(self) -> None:
        """Check the number of probes."""
        if self.probes < 1:
            raise CalibrationError(f"{self.probes} probes measure nothing: give 1 or more")


def fisher_losses(
    bank: Bank,
    batches: Iterable[Tensor],
    options: Iterable[SolvedKey],
    settings: FisherSettings = FisherSettings(),
    progress: Callable[[int], None] | None = None,
    *,
    task: BaseTask = CLASSIFICATION,
) -> dict[SolvedKey, float]:
    """Compute ½ E (g · e)² for every option; e is the error of its site's output, other operands in full precision.

    Costs two forward and K backward passes, besides quantizing each operand with each of its options (weights and the
    operands of LayerNorms, softmaxes and sums: running their site once more). Memory holds the states between stages
    for a few images, and the activations and gradients of one stage.

    Args:
        bank: gives the quantizers; its model's slots are emptied.
        batches: images of shape (N, C, H, W) on the model's device. How they are divided into batches makes no
            difference beyond rounding.
        options: site, operand and configuration; solved where the bank does not have them yet.
        settings: number of probes and seed.
        progress: called with the number of images after each few of them.
        task: says what the model's output means; fitted.

    Returns:
        The mean over images for each option, an estimate of its KL divergence in nats; infinite where an error is not
        finite.

    Raises:
        RecipeError: the model has no such site or operand.
        TaskError: the model has no such output, or the task is not fitted.
        CalibrationError: there are no images, an option does not fit its operand, or full precision or its derivatives
            are not finite.
    """
    return add_up_losses(bank, batches, options, settings, progress, task=task).means()


def add_up_losses(
    bank: Bank,
    batches: Iterable[Tensor],
    options: Iterable[SolvedKey],
    settings: FisherSettings = FisherSettings(),
    progress: Callable[[int], None] | None = None,
    *,
    task: BaseTask = CLASSIFICATION,
) -> Losses:
    """Return the sums over images of which :func:`fisher_losses` returns the means; arguments and errors as there."""
    model = bank.model
    losses = Losses(bank, options)
    noise = task.probes(settings.probes, settings.seed, settings.first)
    in_order: set[str] | None = None
    memory = _Memory()
    # Whatever mode the caller is in: images made in inference mode cannot be differentiated, copies can.
    with torch.inference_mode(False), torch.no_grad():
        for batch in batches:
            for part in torch.split(batch, images_at_once(model)) if len(batch) else ():
                images = part.clone()
                if in_order is None:
                    in_order = _sites_in_image_order(model, images[:1], losses.by_site)
                states = _states(model, images)
                selected = task.select(states[-1], model.output_names)
                outputs = task.outputs_of(states[-1], model.output_names)
                if not all(bool(torch.isfinite(leaf).all()) for leaf in outputs):
                    raise CalibrationError(
                        f"{task.element}s have NaN or infinite values in full precision: check the weights"
                    )
                probes = dict(zip(selected, noise.draw(outputs), strict=True))  # (K, N, ...) by leaf
                _add_(losses, bank, states, probes, in_order, memory)
                losses.images += len(images)
                if rest := losses.by_site.keys() - in_order:
                    for image in range(len(images)):
                        alone = _states(model, images[image : image + 1])
                        own = {leaf: drawn[:, image : image + 1] for leaf, drawn in probes.items()}  # (K, 1, ...)
                        _add_(losses, bank, alone, own, rest, memory)
                if progress is not None:
                    progress(len(images))
    return losses


def _states(model: QuantizedModel, images: Tensor) -> list[State]:
    """Return the state before the first stage, (images,), and after each stage."""
    states: list[State] = [(images,)]
    for index in range(len(model.stages)):
        states.append(model.run_stage(index, states[-1]))
    return states


class _Memory:
    """Memory that is used again: the system hands large tensors out afresh, page by page, each time they are made."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def tensor(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return a tensor of the type and on the device of another; its values are what was there before."""
        count, held = math.prod(shape), self._held.get(name)
        if held is None or held.numel() < count or held.dtype != like.dtype:
            held = self._held[name] = like.new_empty(count)
        return held[:count].view(*shape)


def _add_(
    losses: Losses,
    bank: Bank,
    states: Sequence[State],
    probes: Mapping[int, Tensor],
    sites: Iterable[str],
    memory: _Memory,
) -> None:
    """Add the losses of some images, from the last stage to the first, so that one stage's gradients are alive.

    Args:
        losses: added to.
        bank: gives the quantizers.
        states: before the first stage and after each, without gradients.
        probes: gradients with respect to the compared leaves of the output, by position, each of shape (K, N, ...).
        sites: whose options; images lie one after the other in their operands and outputs.
        memory: for gradients and errors.
    """
    count, images = next(iter(probes.values())).shape[:2]
    stages, chosen = bank.model.stages, set(sites)
    wanted = [
        [key for keys in losses.by_node(index).values() for key in keys if key[0] in chosen]
        for index in range(len(stages))
    ]
    first = next((index for index, keys in enumerate(wanted) if keys), len(stages))
    upstream: list[Gradients] = [
        [probes[leaf][probe] if leaf in probes else None for leaf in range(len(states[-1]))] for probe in range(count)
    ]
    for index in range(len(stages) - 1, first - 1, -1):
        stage = OptionGradients(bank, index, states[index], wanted[index], has_earlier=index > first)
        gradients, upstream = stage.differentiate(upstream)
        for point, of_probes in gradients.items():
            found_here = [each for each in of_probes if each is not None]
            if not found_here:  # the output does not depend on it
                continue
            gradient = memory.tensor(
                "gradients", (images, len(found_here), found_here[0].numel() // images), found_here[0]
            )
            for probe, each in enumerate(found_here):
                gradient[:, probe] = each.reshape(images, -1)
            keys = [key for key in wanted[index] if stage.point_of(key) == point]
            for some in (keys[start : start + _OPTIONS_AT_ONCE] for start in range(0, len(keys), _OPTIONS_AT_ONCE)):
                errors = memory.tensor("errors", (images, len(some), gradient.shape[2]), gradient)
                for number, key in enumerate(some):
                    stage.error_(errors[:, number], key)
                changes = torch.bmm(gradient, errors.mT).double()  # (N, K, options)
                found = (changes.square().sum((0, 1)) / (2 * count)).tolist()
                if not all(map(math.isfinite, found)) and not bool(torch.isfinite(gradient).all()):
                    raise CalibrationError(
                        f"derivatives at {point[0]!r} have NaN or infinite values in full precision: check the weights"
                    )
                for key, loss in zip(some, found, strict=True):
                    losses.add(key, loss)


def _sites_in_image_order(model: QuantizedModel, image: Tensor, sites: Iterable[str]) -> set[str]:
    """Find the sites whose operands and output have one image after the other along the leading axis."""
    wanted, ordered = set(sites), set[str]()
    two: State = (torch.cat([image, image]),)

    def look(site: str, call: Call) -> Tensor:
        described = model.traced.sites_by_name[site]
        varying = [operand for operand in described.operands if not operand.is_weight]
        mixes = described.op == "einsum" and len(varying) < len(described.operands)  # the images may go anywhere
        fits = (
            call.operand(model.traced.edges[site, operand.name]).shape[0]
            == 2 * operand.shape[0]
            == 2 * operand.layout.instances_per_image
            for operand in varying
        )
        if not mixes and all(fits):
            ordered.add(site)
        return call.run()

    for index, stage in enumerate(model.stages):
        hooks = {node: partial(look, site) for node, site in stage.site_nodes.items() if site in wanted}
        two = run_stage_with(model, index, two, hooks)
    return ordered
