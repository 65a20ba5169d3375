"""Finish a recipe in closed form: weights solved again, layer by layer, on the recipe's own quantized inputs.

A layer's weights W are quantized for its inputs X in full precision, but what reaches them is X̃, which carries the
errors of all layers before it. Least squares on X̃ with the outputs XWᵀ as target (ridge regression, as in ERQ; Zhong
et al., "ERQ: Error Reduction for Post-Training Quantization of Vision Transformers", ICML 2024, arXiv:2407.06794,
equation 9) gives the weights that make up for most of that; they are rounded with second-order information of X̃. This
is the objective of asymmetric calibration (Li et al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric
Calibration", ICML 2025, arXiv:2504.02692, equation 2). Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoq.calibration import CalibrationSettings, solve
from autoq.calibration.second_order.gram import LayerInput, add_product_
from autoq.calibration.second_order.weights import LayerRounding
from autoq.errors import CalibrationError
from autoq.graph.insert import OperandKey, QuantizedModel
from autoq.graph.stages import Stage, State
from autoq.scoring.solved_operands import SolvedOperands


@dataclass(frozen=True)
class FinishingSettings:
    """Settings of closed-form finishing.

    Attributes:
        ridge: λ of the regression that replaces a weight before it is rounded, as a share of the mean diagonal of X̃ᵀX̃;
            larger ones stay nearer to the weight in full precision, and fit the images less.

    Raises:
        CalibrationError: a value is out of its range.
    """

    ridge: float = 0.3

    def __post_init__(self) -> None:
        """Check the value."""
        if not 0 < self.ridge < float("inf"):
            raise CalibrationError(f"ridge of finishing is {self.ridge!r}: it must be positive")


@dataclass(frozen=True)
class LayerReport:
    """What finishing did to a layer.

    Attributes:
        site: the layer.
        before: squared error of its output on quantized inputs, relative to the output's energy; as calibrated.
        after: the same, finished; equal where the calibrated weight was kept.
    """

    site: str
    before: float
    after: float


def finish(
    model: QuantizedModel,
    calibrated: SolvedOperands,
    images: Tensor,
    settings: FinishingSettings | None = None,
    *,
    batch_size: int = 32,
    operations: Mapping[str, nn.Module] | None = None,
    on_layer: Callable[[LayerReport], None] | None = None,
) -> SolvedOperands:
    """Solve the weights of a quantized model again, on its own quantized inputs against outputs in full precision.

    Layers are taken in the order in which they run, each on what the finished layers before it make of the images.
    Linear layers and convolutions in one group are finished; a weight is kept as calibrated where that loses less. The
    model runs once in full precision and about three times quantized. Memory holds the activations of all images
    between two stages, twice, and the inputs of one stage's layers.

    Args:
        model: in full precision where its slots are empty; they are emptied.
        calibrated: quantizers of all operands that are quantized.
        images: of shape (N, C, H, W), on the model's device.
        settings: None: the defaults.
        batch_size: images that run at a time.
        operations: integer LayerNorms and softmaxes of the quantized model, by site.
        on_layer: called after each layer.

    Returns:
        All operands, with the codes of finished weights.

    Raises:
        CalibrationError: there are no images, or the quantized model gives NaN or infinite values.
    """
    if not len(images):
        raise CalibrationError("there are no calibration images to finish on")
    run = _Run(model, calibrated, settings or FinishingSettings(), operations or {})
    model.remove_()
    full: list[State] = [(batch,) for batch in torch.split(images, batch_size)]
    quantized = full
    try:
        with torch.no_grad():
            for index in range(len(model.stages)):
                full, quantized = run.finish_stage_(index, full, quantized, on_layer or (lambda _: None))
    finally:
        model.remove_()
    return run.operands


class _Run:
    """The operands, finished up to some stage.

    Attributes:
        operands: all of them.
    """

    def __init__(
        self,
        model: QuantizedModel,
        calibrated: SolvedOperands,
        settings: FinishingSettings,
        operations: Mapping[str, nn.Module],
    ) -> None:
        self.operands = calibrated
        self._model, self._settings, self._operations = model, settings, operations

    def finish_stage_(
        self, index: int, full: list[State], quantized: list[State], on_layer: Callable[[LayerReport], None]
    ) -> tuple[list[State], list[State]]:
        """Finish the layers of a stage, and return the states after it, in full precision and quantized."""
        layers = list(_layers(self._model, self.operands, self._model.stages[index]))
        recorders = {sites[0]: _Recorder() for _, sites in layers}
        self._model.remove_()
        self._model.insert_({(site, "input"): recorder for site, recorder in recorders.items()})
        after = [self._model.run_stage(index, state) for state in full]
        for layer_input, sites in layers:
            moments = self._moments(index, quantized, layer_input, sites, recorders.pop(sites[0]).batches)
            for site in sites:
                on_layer(self._finish_layer_(site, moments))
        self._enter(index)
        return after, [self._model.run_stage(index, state) for state in quantized]

    def _moments(
        self, index: int, states: Sequence[State], layer_input: LayerInput, sites: Sequence[str], full: list[Tensor]
    ) -> _Moments:
        """Run a quantized stage and gather what its layers have to know of their input."""
        layouts = {site: self._model.traced.sites_by_name[site].operand("weight").layout for site in sites}
        weights = {site: layout.rows(self._model.traced.weight(site).float()) for site, layout in layouts.items()}
        moments = _Moments(layer_input, weights, full)
        self._enter(index)
        quantizer = self._model.slots[sites[0], "input"].quantizer
        self._model.insert_({(sites[0], "input"): nn.Sequential(quantizer or nn.Identity(), moments)})
        for state in states:
            self._model.run_stage(index, state)
        if not bool(torch.isfinite(moments.gram).all()):
            raise CalibrationError(f"{sites[0]}:input has NaN or infinite values: check the recipe and the weights")
        return moments

    def _finish_layer_(self, site: str, moments: _Moments) -> LayerReport:
        """Solve one weight again; it is kept if that does not lower the error of the layer's output."""
        key: OperandKey = (site, "weight")
        quantizer, weight = self.operands.quantizers[key], self._model.traced.weight(*key)
        operand = self._model.traced.sites_by_name[site].operand("weight")
        layout = operand.layout
        before = moments.error(site, layout.rows(self.operands.quantized_weight(key, weight)))
        target = moments.regress(site, self._settings.ridge)
        target = layout.by_output(target.view(layout.by_output(weight).shape)).contiguous()
        # The range of the weight in full precision may be too narrow for the one that makes up for errors.
        solved = solve(operand, quantizer.config, target, CalibrationSettings()).to(weight.device)
        rounded = LayerRounding(target, moments.gram).round(solved)
        codes = solved.quantize(target) if rounded is None else rounded.codes
        solved = solved if rounded is None else rounded.quantizer
        finished = SolvedOperands({key: solved}, {key: codes})
        after = moments.error(site, layout.rows(finished.quantized_weight(key, weight)))
        if after < before:
            self.operands = self.operands | finished
        return LayerReport(site, before, min(before, after))

    def _enter(self, index: int) -> None:
        """Fill a stage's slots with what its operands are by now; all others are empty."""
        self._model.remove_()
        sites = set(self._model.stages[index].sites)
        self.operands.of_sites(sites).insert_(self._model)
        self._model.replace_({site: each for site, each in self._operations.items() if site in sites})


def _layers(model: QuantizedModel, operands: SolvedOperands, stage: Stage) -> Iterator[tuple[LayerInput, list[str]]]:
    """Yield the layers of a stage that can be finished, together where they share an input, which is quantized once."""
    shared: dict[tuple[LayerInput, object], list[str]] = {}
    for site in stage.sites:
        layer_input = LayerInput.of_site(model, site)
        if layer_input is not None and (site, "weight") in operands.quantizers:
            given = operands.quantizers.get((site, "input"))
            shared.setdefault((layer_input, None if given is None else given.config), []).append(site)
    for (layer_input, _), sites in shared.items():
        yield layer_input, sites


class _Recorder(nn.Module):
    """Sits in a slot, passes its input on and keeps it, batch by batch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(x)
        return x


class _Moments(nn.Module):
    """Stands behind an input's quantizer, passes X̃ on and sums what layers have to know of it and of X.

    Attributes:
        gram: X̃ᵀX̃, of shape (channels, channels).
        cross: X̃ᵀ(X − X̃), likewise.
    """

    def __init__(self, layer_input: LayerInput, weights: Mapping[str, Tensor], full: list[Tensor]) -> None:
        super().__init__()
        self._input, self._weights, self._full = layer_input, weights, full
        device = full[0].device
        self.gram, self.cross = (
            torch.zeros(layer_input.channels, layer_input.channels, device=device) for _ in range(2)
        )
        self._missed = dict.fromkeys(weights, 0.0)
        self._energy = dict.fromkeys(weights, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        full = self._full.pop(0)
        for (elements, quantized), (_, wanted) in zip(self._input.vectors(x), self._input.vectors(full), strict=True):
            error = wanted - quantized  # (tokens, elements)
            add_product_(self.gram, elements, quantized, quantized)
            add_product_(self.cross, elements, quantized, error)
            for site, whole in self._weights.items():
                weight = whole if elements is None else whole[:, elements]
                self._missed[site] += float((error @ weight.t()).square().sum())
                self._energy[site] += float((wanted @ weight.t()).square().sum())
        return x

    def regress(self, site: str, ridge: float) -> Tensor:
        """Return W + W (X − X̃)ᵀX̃ (X̃ᵀX̃ + λI)⁻¹, which minimises ‖XWᵀ − X̃W*ᵀ‖² + λ‖W − W*‖²; (outputs, channels)."""
        weight = self._weights[site]
        diagonal = self.gram.diagonal()
        penalty = torch.diag((ridge * diagonal.mean()).clamp(min=torch.finfo(torch.float32).tiny).expand_as(diagonal))
        wanted = (self.cross @ weight.t()).double()  # (channels, outputs)
        correction: Tensor = torch.linalg.solve((self.gram + penalty).double(), wanted)
        return weight + correction.t().float()

    def error(self, site: str, value: Tensor) -> float:
        """Return ‖XWᵀ − X̃Ŵᵀ‖² / ‖XWᵀ‖² for a quantized weight, of shape (outputs, channels)."""
        change = value.float() - self._weights[site]
        # ‖(X − X̃)Wᵀ − X̃(Ŵ − W)ᵀ‖², multiplied out.
        explained = 2 * (change * (self.cross @ self._weights[site].t()).t()).sum(dtype=torch.float64)
        squared = ((change @ self.gram) * change).sum(dtype=torch.float64)
        return max(0.0, float(self._missed[site] - explained + squared)) / (self._energy[site] or 1.0)
