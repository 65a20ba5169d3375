"""Site after site, each on inputs that went through the quantizers of those before it.

RepQ-ViT's code calibrates so (Li et al., ICCV 2023): in one pass over the images, a quantizer is made when its operand
first comes by, and is at work from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from autoq.calibration.capture import check_finite
from autoq.calibration.recording import OperandRecorder, OperandSample
from autoq.calibration.settings import CalibrationSettings
from autoq.calibration.shared_ranges import SharedRecorder, shared_recorders
from autoq.calibration.solvers import solve
from autoq.errors import CalibrationError
from autoq.graph.insert import OperandKey, QuantizedModel
from autoq.graph.sites import Operand, Site
from autoq.graph.stages import State
from autoq.quantizers import BaseQuantizer
from autoq.recipe import SiteConfig


def solve_in_order(
    model: QuantizedModel,
    batches: Sequence[Tensor],
    sites: Mapping[str, SiteConfig],
    settings: CalibrationSettings,
    known: Mapping[OperandKey, BaseQuantizer] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[str, dict[str, BaseQuantizer]]]:
    """Solve a recipe's operands by their own values, in the order in which sites run.

    Args:
        model: its slots are emptied before and after.
        batches: images of shape (N, C, H, W) on the model's device.
        sites: the recipe.
        settings: how parameters are chosen.
        known: quantizers that are put to work as they are.
        progress: called with the number of images of each batch that went through the whole model.

    Yields:
        Site, and quantizers by operand.

    Raises:
        RecipeError: the model has no such site or operand.
        CalibrationError: there is no image, an operand has NaN or infinite values, or an option does not fit it.
    """
    model.check_keys((site, operand) for site, configs in sites.items() for operand in configs)
    if not batches:
        raise CalibrationError("there are no calibration images")
    given = known or {}
    wanted_keys = [(site, operand) for site, configs in sites.items() for operand in configs]
    shared = shared_recorders(model.traced, settings, wanted_keys)
    states: list[State] = [(batch,) for batch in batches]
    model.remove_()
    try:
        for index, stage in enumerate(model.stages):
            for name in (name for name in stage.sites if name in sites):
                site, wanted = model.traced.sites_by_name[name], sites[name]
                solved = {operand: given[name, operand] for operand in wanted if (name, operand) in given}
                rest = [site.operand(operand) for operand in wanted if operand not in solved]
                data = _observe(model, index, states, site, rest, settings, shared)
                solved |= {each.name: solve(each, wanted[each.name], data[each.name], settings) for each in rest}
                model.insert_({(name, operand): quantizer for operand, quantizer in solved.items()})
                yield name, {operand: solved[operand] for operand in wanted}
            with torch.no_grad():
                states = [model.run_stage(index, state) for state in states]
        for batch in batches:
            if progress is not None:
                progress(len(batch))
    finally:
        model.remove_()


@torch.no_grad()
def _observe(
    model: QuantizedModel,
    index: int,
    states: Sequence[State],
    site: Site,
    operands: Sequence[Operand],
    settings: CalibrationSettings,
    shared: Mapping[OperandKey, SharedRecorder],
) -> dict[str, OperandSample | Tensor]:
    """Return a site's weights, and samples of its activations as they come out of what is before it in the stage.

    Those that are parts of one layer's output have the range of all of it, whatever site the other parts belong to.
    """
    found: dict[str, OperandSample | Tensor] = {
        each.name: model.traced.weight(site.name, each.name) for each in operands if each.is_weight
    }
    recorders = {
        each.name: OperandRecorder(each, settings, f"{site.name}:{each.name}")
        for each in operands
        if not each.is_weight and (site.name, each.name) not in shared
    }
    parts = {each.name: shared[site.name, each.name] for each in operands if (site.name, each.name) in shared}
    slots: dict[OperandKey, nn.Module] = {(site.name, operand): recorder for operand, recorder in recorders.items()}
    for part in parts.values():
        if part.is_empty:
            slots |= {key: part.slot(key) for key in part.members}
    if slots:
        model.insert_(slots)
        last = max(model.stage_of[key] for key in slots)
        for state in states:
            model.run_stages(range(index, last + 1), state)
        model.remove_(slots)
    samples = {operand: recorder.sample() for operand, recorder in recorders.items()}
    samples |= {operand: part.sample((site.name, operand)) for operand, part in parts.items()}
    for operand, sample in samples.items():
        found[operand] = check_finite(sample, (site.name, operand), "behind quantized sites: use more bits")
    return found
