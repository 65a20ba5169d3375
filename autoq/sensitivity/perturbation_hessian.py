"""How much an error of a layer's or stage's output matters to the predictions: the average perturbation Hessian.

APHQ-ViT (Wu et al., CVPR 2025) weighs squared errors of an output O by H = E |g(O + δ) − g(O − δ)|, where g is the
gradient with respect to O of KL(softmax(z / T) ‖ softmax(ẑ / T)) for logits z, and δ = 1e-6 for every element of O.
What is computed here differs in four ways, each for a reason.

- **The limit δ → 0, by differentiating twice.** g is zero at the full-precision output, so that the KL's
  Hessian there is exactly Jᵀ F J, with J = dz/dO, F = (diag(p) − p pᵀ) / T² and p = softmax(z / T). The difference
  divided by 2 δ tends to Jᵀ F J s for a perturbation in direction s. In single precision δ = 1e-6 is of the size of the
  rounding errors of O and z: on the bundled model the published difference is off by 5 to 75 % where it should not be
  zero, the limit by 1e-6.
- **Random signs s in place of ones.** One number added to every element of O often changes nothing at all. A LayerNorm
  takes it away after whatever goes into the residual stream (outputs of blocks, ``attn.proj``, ``mlp.fc2``,
  ``patch_embed.proj``), softmax takes it away after ``attn.qk`` and after the logits. There, H is zero for s = 1, and
  the published difference is rounding error divided by δ.
- **Any task's output.** J and F are those of its distribution (``autoq.tasks``); the temperature is one of classes.
- **Times T²**, which undoes the flattening of the logits, so that ½ Σ (Ô − O)² H is in nats, like the KL. It is larger
  than the KL that independent errors cause: an element of |H s| has the influence of all elements in it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal

import torch
from torch import Tensor

from autoq.errors import CalibrationError
from autoq.graph.cuts import Call, Cut, cut_of_site, cuts_of_stages, run_stage_with
from autoq.graph.insert import QuantizedModel
from autoq.graph.stages import State
from autoq.tasks import CLASSIFICATION, BaseTask

_NOT_TWICE = ("double backward", "differentiate twice", "derivative for")
"""What PyTorch and its extensions say of operations that have no second derivative."""
_ACTIVATION_BYTES = 4 << 20
"""Most bytes of one activation while all are kept for a backward pass, about two hundred in a model."""


@dataclass(frozen=True)
class PerturbationSettings:
    """How outputs are perturbed.

    Attributes:
        temperature: T, by which logits are divided. A large one lets classes count that are unlikely in full precision.
        direction: ``signs``, random ones for each image; or ``ones``, as published, for which H is zero before a
            LayerNorm or softmax.
        seed: of the signs.

    Raises:
        CalibrationError: the temperature is not positive.
    """

    temperature: float = 20.0
    direction: Literal["signs", "ones"] = "signs"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the temperature."""
        if not self.temperature > 0:
            raise CalibrationError(f"temperature {self.temperature} cannot divide logits: give a number above 0")


def average_perturbation_hessian(
    model: QuantizedModel,
    batches: Iterable[Tensor],
    sites: Iterable[str],
    settings: PerturbationSettings = PerturbationSettings(),
    progress: Callable[[int], None] | None = None,
    *,
    task: BaseTask = CLASSIFICATION,
) -> dict[str, Tensor]:
    """Compute the weights H of the squared errors of sites' outputs, from full precision.

    Costs two passes from each site to the output, forward and back, and two over the whole model. Memory holds what a
    backward pass over a few images needs, however many there are.

    Args:
        model: its slots are emptied.
        batches: images of shape (N, C, H, W) on the model's device. How they are divided into batches makes no
            difference beyond rounding.
        sites: LayerNorms and softmaxes among them if wanted.
        settings: direction, temperature and seed.
        progress: called with the number of images after each few of them.
        task: says what the model's output means; fitted.

    Returns:
        By site, H in nats per squared unit of O: float32, of the shape of the site's output for one image (where
        windows are in the batch axis, the leading axis has the windows of an image).

    Raises:
        RecipeError: there is no such site.
        CalibrationError: there is no image, an output has not its images along the leading axis, or full precision or
            its derivatives are not finite.
    """
    cuts = [cut_of_site(model, site) for site in dict.fromkeys(sites)]
    return _hessians(model, batches, cuts, settings, progress, task)


def stage_hessians(
    model: QuantizedModel,
    batches: Iterable[Tensor],
    stages: Sequence[int],
    settings: PerturbationSettings = PerturbationSettings(),
    progress: Callable[[int], None] | None = None,
    *,
    task: BaseTask = CLASSIFICATION,
) -> dict[int, tuple[Tensor | None, ...]]:
    """Compute H, as ``average_perturbation_hessian`` does, of the states that ``model.run_stage`` returns.

    Args:
        model: its slots are emptied.
        batches: images of shape (N, C, H, W) on the model's device, iterated over once.
        stages: indices of ``model.stages``.
        settings: direction, temperature and seed.
        progress: called with the number of images after each few of them.
        task: says what the model's output means; fitted.

    Returns:
        By stage, H of each entry of its state, of shape (instances, ...); entries are perturbed one at a time. None for
        sizes, integers and tensors that are the same for every image.

    Raises:
        CalibrationError: there is no image, an output has not its images along the leading axis, or full precision or
            its derivatives are not finite.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None or not len(first):
        raise CalibrationError("there are no calibration images")
    model.remove_()
    cuts = cuts_of_stages(model, first[:1], stages)
    perturbed = [cut for entries in cuts.values() for cut in entries if cut is not None]
    found = _hessians(model, chain([first], batches), perturbed, settings, progress, task)
    return {index: tuple(None if cut is None else found[cut.name] for cut in cuts[index]) for index in stages}


def hessian_loss(output: Tensor, reference: Tensor, hessian: Tensor) -> Tensor:
    """Return ½ Σ (Ô − O)² H, the mean over images: an estimate of the KL divergence in nats. Differentiable.

    Args:
        output: Ô, of shape (N · instances, ...).
        reference: O in full precision, of the same shape.
        hessian: H, of shape (instances, ...); for most outputs there is one instance an image.
    """
    squared = (output - reference).square().reshape(-1, *hessian.shape)  # (N, instances, ...)
    return (squared * hessian).sum() / (2 * squared.shape[0])


def _hessians(
    model: QuantizedModel,
    batches: Iterable[Tensor],
    cuts: Sequence[Cut],
    settings: PerturbationSettings,
    progress: Callable[[int], None] | None,
    task: BaseTask,
) -> dict[str, Tensor]:
    model.remove_()
    if not cuts:
        return {}
    directions = {cut.name: _Directions(settings, cut.name) for cut in cuts}
    totals: dict[str, Tensor] = {}
    images = 0
    for batch in batches:
        for part in torch.split(batch, images_at_once(model)) if len(batch) else ():
            # Whatever mode the caller is in: images made in inference mode cannot be differentiated, copies can.
            with torch.inference_mode(False), _second_derivatives():
                for name, total in _of_images(model, part.clone(), cuts, settings, directions, task):
                    totals[name] = totals[name] + total if name in totals else total
            images += len(part)
            if progress is not None:
                progress(len(part))
    if not images:
        raise CalibrationError("there are no calibration images")
    for name, total in totals.items():
        if not bool(torch.isfinite(total).all()):
            raise CalibrationError(
                f"the Hessian of {name!r} has NaN or infinite values in full precision: check the weights"
            )
    return {name: (total / images).float() for name, total in totals.items()}


@contextmanager
def _second_derivatives() -> Iterator[None]:
    """Say in a ``CalibrationError`` if an operation of the model has none."""
    try:
        yield
    except RuntimeError as error:
        told = next(iter(str(error).splitlines()), "")
        if not any(each in told.lower() for each in _NOT_TWICE):
            raise
        raise CalibrationError(
            f"the model has an operation that cannot be differentiated twice ({told}): measure by fisher or kl, and "
            "finish recipes in place of reconstructing them"
        ) from error


def _of_images(
    model: QuantizedModel,
    images: Tensor,
    cuts: Sequence[Cut],
    settings: PerturbationSettings,
    directions: Mapping[str, _Directions],
    task: BaseTask,
) -> Iterator[tuple[str, Tensor]]:
    """Yield the name of each cut and its sum over the images, float64, of shape (instances, ...)."""
    outputs: dict[str, Tensor] = {}
    state: State = (images.requires_grad_(),)
    with torch.enable_grad():
        for index in range(len(model.stages)):
            here = [cut for cut in cuts if cut.stage == index]
            keepers = {cut.node: partial(_keep_, outputs, cut.name) for cut in here if cut.node is not None}
            state = run_stage_with(model, index, state, keepers)
            for cut in here:
                if cut.node is None:
                    value = state[cut.leaf]
                    assert isinstance(value, Tensor)  # noqa: S101 - only such entries are cut
                    outputs[cut.name] = value
        results = task.outputs_of(state, model.output_names)
        # Backward passes are linear, so that differentiating one with respect to what it starts from runs it forward:
        # J s = d⟨Jᵀ v, s⟩ / dv, whatever v is.
        starts = [torch.zeros_like(result).requires_grad_() for result in results]
        tensors = [outputs[cut.name] for cut in cuts]
        gradients = torch.autograd.grad(results, tensors, starts, create_graph=True, allow_unused=True)
    for cut, output, gradient in zip(cuts, tensors, gradients, strict=True):
        if not output.ndim or output.shape[0] % len(images):
            raise CalibrationError(
                f"the output of {cut.name!r} has shape {tuple(output.shape)} for {len(images)} images: "
                "leave it out, its leading axis does not hold one image after the other"
            )
        product = torch.zeros_like(output)  # (N · instances, ...)
        if gradient is not None:  # the results depend on it
            signs = directions[cut.name].draw(output, len(images))
            change = torch.autograd.grad(gradient, starts, signs, retain_graph=True, materialize_grads=True)
            detached = tuple(result.detach() for result in results)
            upstream = task.fisher_product(detached, change, settings.temperature)
            (product,) = torch.autograd.grad(results, output, upstream, retain_graph=True)
        yield cut.name, product.detach().double().abs().reshape(len(images), -1, *output.shape[1:]).sum(0)


def _keep_(outputs: dict[str, Tensor], name: str, call: Call) -> Tensor:
    result = call.run()
    # Queries of a decoder depend on no image, but predictions depend on them.
    outputs[name] = result if result.requires_grad else result.detach().requires_grad_()
    return outputs[name]


class _Directions:
    """Draws the perturbations of one cut, image after image."""

    def __init__(self, settings: PerturbationSettings, name: str) -> None:
        self._generator = torch.Generator().manual_seed(zlib.crc32(f"{settings.seed} {name}".encode()))
        self._ones = settings.direction == "ones"

    def draw(self, output: Tensor, images: int) -> Tensor:
        if self._ones:
            return torch.ones_like(output)
        shape = (output.shape[0] // images, *output.shape[1:])  # (instances, ...)
        # Image by image, so that it does not matter how they are divided into batches.
        drawn = [torch.randint(0, 2, shape, generator=self._generator, dtype=torch.int8) for _ in range(images)]
        return torch.cat(drawn).to(output).mul_(2).sub_(1)


def images_at_once(model: QuantizedModel) -> int:
    """Return for how many images a backward pass over the whole model can keep the activations."""
    return max(1, _ACTIVATION_BYTES // (4 * model.traced.largest_activation))
