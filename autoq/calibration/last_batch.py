"""Values of the last batch, a stage at a time: what observers look at after ranges have been found over all images.

FQ-ViT's code (Lin et al., IJCAI 2022) solves a quantizer when the last batch comes by, and keeps no values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from autoq.calibration.recording import OperandRecorder, OperandSample
from autoq.calibration.settings import CalibrationSettings
from autoq.calibration.shared_ranges import SharedRecorder, shared_recorders
from autoq.graph.insert import OperandKey, QuantizedModel
from autoq.graph.stages import State


def samples_of_last_batch(
    model: QuantizedModel,
    batch: Tensor,
    settings: CalibrationSettings,
    ranges: Mapping[OperandKey, OperandSample],
) -> Iterator[dict[OperandKey, OperandSample]]:
    """Run the last batch stage by stage, and yield samples of the operands whose values are known by then.

    No more than the values of one stage are kept, but for those that wait for others of the same layer's output.

    Args:
        model: its slots are emptied.
        batch: images of shape (N, C, H, W) on the model's device.
        settings: how much is kept, and by which observer.
        ranges: of the operands that are wanted, over all batches; with these values they are what is yielded.
    """
    shared = shared_recorders(model.traced, settings, ranges)
    recorders: dict[OperandKey, OperandRecorder | SharedRecorder] = {
        (site.name, operand.name): OperandRecorder(operand, settings, f"{site.name}:{operand.name}")
        for site, operand in model.traced.operands()
        if (site.name, operand.name) in ranges.keys() - shared.keys()
    }
    recorders |= shared
    # An operand of a layer whose range is shared is known when the last of them is.
    ready = {
        key: max(model.stage_of[each] for each in ([key] if key not in shared else shared[key].members))
        for key in ranges
    }
    del shared  # a recorder goes when the last of its operands is taken
    state: State = (batch,)
    for index in range(len(model.stages)):
        state = _run_stage(model, index, state, recorders)
        samples = {
            key: replace(ranges[key], values=found.values, entry_bounds=found.entry_bounds)
            for key in ranges
            if ready[key] == index
            for found in [_sample(recorders.pop(key), key)]
        }
        if samples:
            yield samples


@torch.no_grad()
def _run_stage(
    model: QuantizedModel, index: int, state: State, recorders: Mapping[OperandKey, OperandRecorder | SharedRecorder]
) -> State:
    """Run a stage with recorders in its slots alone."""
    here: dict[OperandKey, nn.Module] = {
        key: each if isinstance(each, OperandRecorder) else each.slot(key)
        for key, each in recorders.items()
        if model.stage_of[key] == index
    }
    model.remove_()
    model.insert_(here)
    try:
        return model.run_stage(index, state)
    finally:
        model.remove_()


def _sample(recorder: OperandRecorder | SharedRecorder, key: OperandKey) -> OperandSample:
    return recorder.sample() if isinstance(recorder, OperandRecorder) else recorder.sample(key)
