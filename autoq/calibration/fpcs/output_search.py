"""Quantizers by least layer-output error: AdaLog's calibration, site by site, on full-precision inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set

import torch
from torch import Tensor, nn

from autoq.calibration.convolutions import Convolution, TransposedConvolution, convolution_of
from autoq.calibration.fpcs.basis_solver import BasisSolver
from autoq.calibration.fpcs.output_weights import IMAGES_AT_ONCE, OutputWeights
from autoq.calibration.settings import CalibrationSettings
from autoq.calibration.shared_ranges import equal_parts
from autoq.errors import CalibrationError
from autoq.graph.insert import OperandKey, QuantizedModel
from autoq.graph.sites import Site
from autoq.graph.stages import State
from autoq.quantizers import BaseQuantizer
from autoq.recipe import SiteConfig
from autoq.tasks import CLASSIFICATION, BaseTask


def solve_site(
    site: Site,
    configs: SiteConfig,
    operands: Mapping[str, Tensor],
    settings: CalibrationSettings,
    convolution: Convolution | TransposedConvolution | None = None,
    weight_parts: int = 1,
    output_weights: Tensor | None = None,
) -> dict[str, BaseQuantizer]:
    """Solve the quantizers of a site's operands.

    Weights are searched alone on full-precision inputs; then activations given quantized weights, and weights given
    quantized activations, ``settings.fpcs.rounds`` times or until nothing changes. Attention products alternate
    likewise, the right operand in the place of the weight. What the output error is not computed for (convolutions
    in groups, einsum, parameters that vary along the summed axis) is searched by its own error;
    other schemes have their own solvers. Operands that are quantized in another basis are searched there.

    Args:
        site: the site.
        configs: by operand; an operand that is left out stays in full precision.
        operands: every operand of the site in full precision: weights, and activations of all calibration images.
        settings: of the search, and of operands that have none here.
        convolution: geometry of a convolution site; without it, its operands are searched by their own error.
        weight_parts: equal parts of the weight's output channels, which share a scale if the settings tie them.
        output_weights: of squared errors, in the shape of the site's output on all images; None: they count alike.

    Raises:
        RecipeError: the operands are to be quantized in different bases.
        CalibrationError: an option does not fit its operand.
    """
    return BasisSolver(site, operands, settings, convolution, weight_parts, output_weights).solve(configs)


def solve_jobs(
    model: QuantizedModel,
    images: Tensor,
    batch_size: int,
    jobs: Mapping[str, Sequence[SiteConfig]],
    settings: CalibrationSettings,
    task: BaseTask = CLASSIFICATION,
) -> Iterator[tuple[str, SiteConfig, dict[str, BaseQuantizer]]]:
    """Solve sites stage by stage; memory holds the operands of one at a time.

    Stages come in the order in which they run, or with ``settings.fpcs.output_weights`` from the last to the first.

    Args:
        model: its slots are emptied.
        images: of shape (N, C, H, W), on the model's device; the first ``settings.fpcs.images`` are used.
        batch_size: images run at once.
        jobs: by site, the configurations to solve it for.
        settings: as in ``solve_site``.
        task: says what the model's output means; fitted.

    Yields:
        Site, configuration, and quantizers by operand.

    Raises:
        RecipeError: there is no such site or operand.
        TaskError: outputs are weighted, and the model has no such output, or the task is not fitted.
        CalibrationError: there are no images, an operand or derivative is not finite, or an option does not fit.
    """
    model.check_keys((site, operand) for site, configs in jobs.items() for config in configs for operand in config)
    if not len(images):
        raise CalibrationError("there are no calibration images")
    left = {name for name, configs in jobs.items() if configs}
    parts = equal_parts(model.traced) if settings.fpcs.tied_rows else {}
    model.remove_()
    is_weighted = settings.fpcs.output_weights != "none"
    size = min(batch_size, IMAGES_AT_ONCE) if is_weighted else batch_size
    batches = torch.split(images[: settings.fpcs.images], size)
    weighting = OutputWeights(model, batches, task, settings.seed) if is_weighted else None
    for chosen, recorded, weights in _stages(model, batches, left, weighting):
        for site in chosen:
            operands = {each.name: recorded.pop((site.name, each.name)) for each in site.operands}
            geometry, weight_parts = convolution_of(model, site), parts.get(site.name, 1)
            solver = BasisSolver(site, operands, settings, geometry, weight_parts, weights.pop(site.name, None))
            for configs in jobs[site.name]:
                yield site.name, configs, solver.solve(configs)


def _stages(
    model: QuantizedModel, batches: Sequence[Tensor], wanted: Set[str], weighting: OutputWeights | None
) -> Iterator[tuple[list[Site], dict[OperandKey, Tensor], dict[str, Tensor]]]:
    """Yield wanted sites of a stage, their operands, and weights of their outputs by name; first stages first, or last.

    Args:
        model: its slots are empty.
        batches: images.
        wanted: names of sites.
        weighting: weights outputs, from the last stage to the first; None: there are no weights.
    """
    of_stages = [[name for name in stage.sites if name in wanted] for stage in model.stages]
    indices = [index for index, names in enumerate(of_stages) if names]
    if not indices:
        return
    states: list[State] = [(batch,) for batch in batches]
    order = range(indices[-1] + 1) if weighting is None else range(len(of_stages) - 1, indices[0] - 1, -1)
    for index in order:
        sites = [model.traced.sites_by_name[name] for name in of_stages[index]]
        if weighting is None:
            recorded, states = _run_stage(model, index, states, sites)
            weights = {}
        else:
            weights = weighting.of_stage(index, of_stages[index])
            recorded, _ = _run_stage(model, index, weighting.states_before(index), sites) if sites else ({}, [])
        yield sites, recorded, weights


@torch.no_grad()
def _run_stage(
    model: QuantizedModel, index: int, states: Sequence[State], sites: Sequence[Site]
) -> tuple[dict[OperandKey, Tensor], list[State]]:
    """Record the operands of some sites over all batches, and the states after the stage."""
    recorders: dict[OperandKey, _Keeper] = {}
    recorded: dict[OperandKey, Tensor] = {}
    for site in sites:
        for operand in site.operands:
            if operand.is_weight:
                recorded[site.name, operand.name] = model.traced.weight(site.name, operand.name)
            else:
                recorders[site.name, operand.name] = _Keeper()
    model.insert_(recorders)
    try:
        after = [model.run_stage(index, state) for state in states]
    finally:
        model.remove_(recorders)
    for key, recorder in recorders.items():
        recorded[key] = recorder.take()
        if not torch.isfinite(recorded[key]).all():
            raise CalibrationError(f"{key[0]}:{key[1]} has NaN or infinite values in full precision: check the weights")
    return recorded, after


class _Keeper(nn.Module):
    """Sits in a slot, passes its input on and keeps a copy."""

    def __init__(self) -> None:
        super().__init__()
        self._batches: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self._batches.append(x.float().clone())
        return x

    def take(self) -> Tensor:
        """Return all batches together, and keep none."""
        batches, self._batches = self._batches, []
        return torch.cat(batches) if len(batches) > 1 else batches[0]
