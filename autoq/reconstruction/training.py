"""Train the rounding and the scales of one block."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoq.graph.blocks import Block
from autoq.graph.insert import OperandKey, QuantizedModel
from autoq.graph.stages import State
from autoq.quantizers import BaseQuantizer, UniformQuantizer
from autoq.reconstruction.losses import BlockLoss
from autoq.reconstruction.rounding import DroppedQuantizer, LearnedRounding, drop
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.reconstruction.states import Entry, StateStore
from autoq.scoring.solved_operands import SolvedOperands

_LEAST_SCALE = 0.1
"""A learned scale stays above this share of the calibrated one: steps never vanish."""


@dataclass(frozen=True)
class BlockData:
    """Inputs and target of a block that is trained, for all images.

    Attributes:
        full: its input in full precision.
        quantized: its input from the quantized blocks before it.
        target: its output in full precision.
    """

    full: StateStore
    quantized: StateStore
    target: StateStore


@dataclass(frozen=True)
class Trained:
    """Result of training a block.

    Attributes:
        codes: of weights, by operand, int32 from 0, of the shape of the weight.
        quantizers: of activations whose scales were learned, by operand.
    """

    codes: dict[OperandKey, Tensor]
    quantizers: dict[OperandKey, BaseQuantizer]


def train_block(
    model: QuantizedModel,
    block: Block,
    calibrated: SolvedOperands,
    data: BlockData,
    loss: BlockLoss,
    calibrated_loss: float,
    settings: ReconstructionSettings,
    learn_scales: bool,
    progress: Callable[[int, float], None],
) -> Trained:
    """Learn how to round a block's weights, and the scales of its activations.

    Minimises loss / calibrated loss + λ Σ (1 − |2 h(V) − 1|^β), the sum divided by the number of weights, so that
    λ means the same for every model; β falls from ``exponent_start`` to ``exponent_end`` after the warm-up (AdaRound,
    equations 24 and 25). As published neither is divided so. Batches are inputs whose elements come from full
    precision with the probability of a drop, else from the quantized blocks before (QDrop). Operands without anything
    to learn are quantized as calibrated.

    Args:
        model: the block's slots are filled by this.
        block: which.
        calibrated: the block's operands.
        data: input and target.
        loss: of the block's output.
        calibrated_loss: the loss before training, over all images.
        settings: iterations, batch, rates, drop and regularization.
        learn_scales: whether to learn scales of activations.
        progress: called after each iteration with how many are done and the loss of its batch, relative.
    """
    unit = loss.published_factor if settings.is_published else 1 / calibrated_loss
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(zlib.crc32(f"{settings.seed} {block.name}".encode()))
    order = torch.Generator().manual_seed(zlib.crc32(f"{settings.seed} {block.name} batches".encode()))
    operands = _TrainedOperands(clamps_rounded=settings.is_published)
    for key, quantizer in calibrated.quantizers.items():
        if model.traced.sites_by_name[key[0]].operand(key[1]).is_weight:
            operands.add_weight(key, quantizer, model.traced.weight(*key), calibrated.codes.get(key))
        else:
            operands.add_activation(key, quantizer, learn_scales, settings.drop, generator)
    model.insert_(operands.modules)
    steps = _Steps(operands.roundings, operands.scales(), settings)
    for done in range(settings.iterations):
        chosen = _batch(data.target.images, settings, order)  # (batch,), numbers of images
        state = _mixed(data, chosen, settings.drop, generator, device)
        with torch.enable_grad():
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.bfloat16):
                output = model.run_stages(block.stages, state)
            found = loss(output, data.target.get(chosen, device), chosen)
            steps.take_(found * unit, done)
        progress(done + 1, float(found.detach()) / calibrated_loss)
    return operands.trained()


def _batch(images: int, settings: ReconstructionSettings, generator: torch.Generator) -> Tensor:
    """Draw the numbers of a batch's images; as published no image twice."""
    size = min(settings.batch, images)
    if settings.is_published:
        return torch.randperm(images, generator=generator)[:size]
    return torch.randint(images, (size,), generator=generator)


class _TrainedOperands:
    """A block's operands while it is trained.

    Attributes:
        roundings: of weights whose rounding is learned.
        activations: quantizers of activations whose scales are learned.
        modules: what is inserted into the model; a weight without an entry keeps the quantizer in its slot.
    """

    def __init__(self, *, clamps_rounded: bool) -> None:
        self._clamps_rounded = clamps_rounded
        self.roundings: dict[OperandKey, LearnedRounding] = {}
        self.activations: dict[OperandKey, BaseQuantizer] = {}
        self.modules: dict[OperandKey, nn.Module] = {}

    def add_weight(self, key: OperandKey, quantizer: BaseQuantizer, weight: Tensor, codes: Tensor | None) -> None:
        """Learn the rounding of a weight, if it is quantized uniformly to two bits or more."""
        if isinstance(quantizer, UniformQuantizer) and not quantizer.is_binary:
            self.roundings[key] = self.modules[key] = LearnedRounding(weight, quantizer, codes)

    def add_activation(
        self, key: OperandKey, quantizer: BaseQuantizer, learn_scales: bool, drop: float, generator: torch.Generator
    ) -> None:
        """Quantize an activation with drops, and learn its scales where that is wanted and possible."""
        if learn_scales and quantizer.learnable:
            quantizer = self.activations[key] = _learnable_copy(quantizer)
            if isinstance(quantizer, UniformQuantizer):
                quantizer.clamps_rounded = self._clamps_rounded
        self.modules[key] = DroppedQuantizer(quantizer, drop, generator)

    def scales(self) -> list[Tensor]:
        """Return all tensors of activations that are learned."""
        return [getattr(quantizer, name) for quantizer in self.activations.values() for name in quantizer.learnable]

    def trained(self) -> Trained:
        """Return the codes and quantizers as learned so far."""
        return Trained(
            {key: rounding.codes() for key, rounding in self.roundings.items()},
            {key: quantizer.learned() for key, quantizer in self.activations.items()},
        )


class _Steps:
    """The optimizer, its schedules and the regulariser."""

    def __init__(
        self,
        roundings: Mapping[OperandKey, LearnedRounding],
        scales: list[Tensor],
        settings: ReconstructionSettings,
    ) -> None:
        self._roundings, self._scales, self._settings = list(roundings.values()), scales, settings
        self._least = [_LEAST_SCALE * scale.detach().clone() for scale in scales]
        weights = sum(rounding.direction.numel() for rounding in self._roundings)
        self._regularization = settings.regularization / (1 if settings.is_published else max(1, weights))
        groups = [{"params": [each.direction], "lr": settings.rounding_rate} for each in self._roundings]
        # Relative to each operand's own scale: one rate cannot suit inputs of 10 and attention of 0.01.
        rates = [settings.rate_of(float(scale.detach().mean())) for scale in scales]
        groups += [{"params": [scale], "lr": rate} for scale, rate in zip(scales, rates, strict=True)]
        self._rates = rates
        self._optimizer = torch.optim.Adam(groups) if groups else None

    def take_(self, loss: Tensor, done: int) -> None:
        """Take one step down the gradient of the loss and the regulariser."""
        if self._optimizer is None or not loss.requires_grad:
            return
        settings = self._settings
        objective = loss
        start = settings.warm_up * settings.iterations
        if done >= start and self._roundings:
            share = (done - start) / (settings.iterations - start)
            exponent = settings.exponent_end + (settings.exponent_start - settings.exponent_end) * (1 - share)
            undecided = [each.undecided(exponent) * each.direction.numel() for each in self._roundings]
            objective = objective + self._regularization * torch.stack(undecided).sum()
        annealed = (1 + math.cos(math.pi * done / settings.iterations)) / 2
        for group, rate in zip(self._optimizer.param_groups[len(self._roundings) :], self._rates, strict=True):
            group["lr"] = rate * annealed
        self._optimizer.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        with torch.no_grad():
            for scale, least in zip(self._scales, self._least, strict=True):
                scale.copy_(torch.maximum(scale, least))


def _learnable_copy(quantizer: BaseQuantizer) -> BaseQuantizer:
    copy = deepcopy(quantizer)
    for name in copy.learnable:
        getattr(copy, name).requires_grad_()
    return copy


def _mixed(
    data: BlockData, chosen: Tensor, probability: float, generator: torch.Generator, device: torch.device
) -> State:
    """Return a block's input for the chosen images, elements taken from full precision with some probability."""
    quantized = data.quantized.get(chosen, device)
    if data.full is data.quantized or probability == 0:
        return quantized
    full = data.full.get(chosen, device)
    return tuple(
        _mix(here, there, entry, probability, generator)
        for here, there, entry in zip(quantized, full, data.full.layout, strict=True)
    )


def _mix(quantized: object, full: object, entry: Entry, probability: float, generator: torch.Generator) -> object:
    if entry.is_learned_from and isinstance(quantized, Tensor) and isinstance(full, Tensor):
        return drop(quantized, full, probability, generator)
    return quantized
