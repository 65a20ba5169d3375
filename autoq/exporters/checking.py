"""How far an exported file is from the quantized model that it was made from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoq.exporters._base import Runner
from autoq.graph.outputs import tensor_names
from autoq.scoring.quantized_module import QuantizedModule
from autoq.tasks import task_from_record

_AT_ONCE = 32
"""Images that run at a time."""


@dataclass(frozen=True)
class Agreement:
    """What an exported file answers, compared with autoq on the same images.

    Attributes:
        agreement_percent: images on which both say the same; None for tasks in which predictions are near or far.
        mean_difference: mean absolute difference of an element of the compared outputs (of a logit), in its unit.
        mean_magnitude: mean absolute value of such an element, to hold the difference against.
        images: that were compared.
    """

    agreement_percent: float | None
    mean_difference: float
    mean_magnitude: float
    images: int


@torch.inference_mode()
def compare(module: QuantizedModule, images: Tensor, run: Runner) -> Agreement:
    """Compare a quantized model with what was written of it.

    Args:
        module: the model.
        images: of shape (N, ...).
        run: runs what was written.

    Raises:
        ValueError: it returns another number of tensors than the model.
    """
    task = task_from_record(module.recipe.task)
    same = difference = magnitude = 0.0
    elements = 0
    for batch in torch.split(images, _AT_ONCE):
        output = module(batch)
        names = tensor_names(output)
        expected = task.outputs_of(pytree.tree_leaves(output), names)
        found = task.outputs_of(run(batch), names)
        if task.has_agreement:
            agreement = task.agreement(expected, found)
            same += 0.0 if agreement is None else float(agreement.sum())
        for one, other in zip(expected, found, strict=True):
            difference += float((one.double() - other.double()).abs().sum())
            magnitude += float(one.double().abs().sum())
            elements += one.numel()
    return Agreement(
        agreement_percent=100 * same / len(images) if task.has_agreement else None,
        mean_difference=difference / elements,
        mean_magnitude=magnitude / elements,
        images=len(images),
    )
