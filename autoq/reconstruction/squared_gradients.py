"""BRECQ's weights of squared errors: how the divergence of each image's predictions changes with a block's output."""

from __future__ import annotations

import torch
from torch import Tensor

from autoq.graph.blocks import Block
from autoq.graph.insert import QuantizedModel
from autoq.reconstruction.losses import PredictionDivergence
from autoq.reconstruction.states import StateStore
from autoq.sensitivity.perturbation_hessian import images_at_once
from autoq.tasks import CLASSIFICATION, BaseTask


def squared_gradients(
    model: QuantizedModel, block: Block, quantized: StateStore, target: StateStore, task: BaseTask = CLASSIFICATION
) -> StateStore:
    """Compute g² of each image's output of a block, divided by its mean (BRECQ; Li et al., ICLR 2021, equation 10).

    g is the gradient of KL(full precision ‖ model with the blocks up to this one quantized), as in the authors' code:
    there are no labels, and the gradient at full precision is zero.

    Args:
        model: this block's slots filled, those of all blocks after it empty.
        block: which.
        quantized: its input from the quantized blocks before it.
        target: its output in full precision.
        task: says what the model's output means; fitted.

    Returns:
        g², a tensor for each entry of a state after the block, of the shapes of ``target``.
    """
    weights = StateStore(target.layout, target.images)
    divergence_of = PredictionDivergence(task, model.output_names)
    device = next(model.parameters()).device
    size = images_at_once(model)
    after = range(block.last + 1, len(model.stages))
    for start in range(0, target.images, size):
        images = slice(start, min(start + size, target.images))
        with torch.no_grad():
            reference = model.run_stages(after, target.get(images, device))
            output = model.run_stages(block.stages, quantized.get(images, device))
        learned = [leaf for leaf, entry in enumerate(target.layout) if entry.is_learned_from]
        state = tuple(
            value.detach().requires_grad_() if leaf in learned and isinstance(value, Tensor) else value
            for leaf, value in enumerate(output)
        )
        with torch.enable_grad():
            divergence = divergence_of(model.run_stages(after, state), reference, images)
            # The mean over images has each image's gradient divided by their number, which the last line undoes.
            gradients = torch.autograd.grad(divergence, [state[leaf] for leaf in learned], allow_unused=True)  # type: ignore[arg-type]
        found = dict(zip(learned, gradients, strict=True))
        weights.put_(start, tuple(_squared(found.get(leaf), value) for leaf, value in enumerate(output)))
    mean = weights.mean()
    if mean > 0:
        weights.scale_(1 / mean)
    return weights


def _squared(gradient: Tensor | None, value: object) -> object:
    if gradient is not None:
        return gradient.square()
    return torch.zeros_like(value) if isinstance(value, Tensor) else value
