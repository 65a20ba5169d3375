"""What full precision says of the calibration images, looked at once: whether there is anything to lose."""

from __future__ import annotations

import logging

import torch

from autoq.errors import TaskError
from autoq.runs.images import CalibrationImages
from autoq.runs.session import Session
from autoq.scoring.evaluator import choose_batch_size
from autoq.scoring.outputs import finite_outputs

_logger = logging.getLogger(__name__)
_SAME = 1e-5
"""Difference of two outputs, relative to the largest element, that rounding alone may cause."""
_LITTLE_NATS = 1e-3
"""Mean divergence of the predictions of two images below which full precision hardly tells them apart."""


def check_reference(session: Session, images: CalibrationImages) -> None:
    """Refuse a model whose output does not depend on the image: every recipe would be perfect, the cheapest the best.

    Where the output hardly depends on it, or the weights are random, a warning says so.

    Args:
        session: the model, its task fitted; its slots are emptied.
        images: at least one; with a single one there is nothing to compare.

    Raises:
        TaskError: there is one class, or the output is the same for every image; says which.
        NonFiniteError: the output has NaN or infinity.
    """
    if not session.pretrained:
        _logger.warning("the weights are random: figures hold for no trained model")
    session.model.remove_()
    with torch.inference_mode():
        batches = torch.split(images.tensor, choose_batch_size(session.traced))
        found = [finite_outputs(session.model, batch, session.task) for batch in batches]
        outputs = tuple(torch.cat(leaves).double() for leaves in zip(*found, strict=True))
        if session.task.has_one_class(outputs):
            raise TaskError(
                "the model has one output, and the probability of one class is always 1, whatever the recipe: use "
                "--task dense, which compares the output itself"
            )
        if len(images.tensor) < 2:
            return
        spread = max(float((leaf - leaf[:1]).abs().max() / leaf.abs().max().clamp(min=1e-30)) for leaf in outputs)
        if spread <= _SAME:
            raise TaskError(f"full precision gives the same output for every image: {_reason(images)}")
        neighbours = tuple(leaf.roll(1, 0) for leaf in outputs)
        nats = float(session.task.divergence(outputs, neighbours).mean())
    if nats < _LITTLE_NATS:
        _logger.warning(
            "full precision hardly tells images apart: the predictions of two differ by %.1g nats; "
            "check the weights, the images and how they are normalised",
            nats,
        )


def _reason(images: CalibrationImages) -> str:
    """Say what the images have to do with it."""
    if bool((images.tensor == images.tensor[:1]).all()):
        return f"all {len(images.tensor)} images are the same as the model receives them; check {images.data!r}"
    return "check the weights (a head that was never trained?) and how images are normalised"
