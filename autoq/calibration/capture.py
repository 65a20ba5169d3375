"""One full-precision pass that keeps a bounded sample of every activation operand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from autoq.calibration.recording import OperandRecorder, OperandSample
from autoq.calibration.settings import CalibrationSettings
from autoq.calibration.shared_ranges import shared_recorders
from autoq.errors import CalibrationError
from autoq.graph.insert import OperandKey, QuantizedModel
from autoq.graph.sites import Operand


def capture(
    model: QuantizedModel,
    batches: Iterable[Tensor],
    settings: CalibrationSettings,
    progress: Callable[[int], None] | None = None,
    operands: Collection[OperandKey] | None = None,
    *,
    keeps_values: bool = True,
) -> dict[OperandKey, OperandSample]:
    """Run full precision over the calibration images and keep a sample of activation operands.

    What is kept does not grow with the images. The averages of some observers depend on how images are batched.

    Args:
        model: its slots are emptied.
        batches: images of shape (N, C, H, W) on the model's device.
        settings: how much is kept, and by which observer.
        progress: called with the number of images of each finished batch.
        operands: activations to record, those of LayerNorm and softmax sites among them if named; None: all operands
            of sites that have MACs.
        keeps_values: whether samples have values, or ranges alone.

    Raises:
        RecipeError: the model has no such operand.
        CalibrationError: there is no image, an operand is a weight, or has NaN or infinite values in full precision.
    """
    recorders = {
        (site, operand.name): OperandRecorder(operand, settings, f"{site}:{operand.name}", keeps_values=keeps_values)
        for site, operand in _chosen(model, operands)
    }
    shared = shared_recorders(model.traced, settings, recorders, keeps_values=keeps_values)
    run_observed(model, recorders | {key: each.slot(key) for key, each in shared.items()}, batches, progress)
    samples = {}
    for key, recorder in recorders.items():
        sample = shared[key].sample(key) if key in shared else recorder.sample()
        samples[key] = check_finite(sample, key, "in full precision: check the weights")
    return samples


def check_finite(sample: OperandSample, key: OperandKey, hint: str) -> OperandSample:
    """Return what a recorder has kept, if it can be calibrated on.

    Raises:
        CalibrationError: there are NaN or infinite values; the message ends with ``hint``.
    """
    if not (torch.isfinite(sample.lower).all() and torch.isfinite(sample.upper).all()):
        raise CalibrationError(f"{key[0]}:{key[1]} has NaN or infinite values {hint}")
    return sample


def run_observed(
    model: QuantizedModel,
    observers: Mapping[OperandKey, nn.Module],
    batches: Iterable[Tensor],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Run one full-precision pass with modules in some slots that pass their input on.

    Args:
        model: its slots are emptied before and after.
        observers: by site and operand.
        batches: images of shape (N, C, H, W) on the model's device.
        progress: called with the number of images of each finished batch.
    """
    model.remove_()
    model.insert_(observers)
    try:
        with torch.no_grad():
            for batch in batches:
                model.run(batch)
                if progress is not None:
                    progress(batch.shape[0])
    finally:
        model.remove_()


def _chosen(model: QuantizedModel, operands: Collection[OperandKey] | None) -> list[tuple[str, Operand]]:
    """Return names of sites and the operands to record there."""
    if operands is None:
        return [(site.name, each) for site, each in model.traced.operands() if site.macs and not each.is_weight]
    model.check_keys(operands)
    chosen = [(site, model.traced.sites_by_name[site].operand(name)) for site, name in operands]
    for site, operand in chosen:
        if operand.is_weight:
            raise CalibrationError(f"{site}:{operand.name} is a weight: it is calibrated on itself, not on images")
    return chosen
