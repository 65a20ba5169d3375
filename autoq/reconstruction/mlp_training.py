"""Train one MLP with ReLU to do what it did with GELU (APHQ-ViT, Wu et al., CVPR 2025, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, fx

from autoq.errors import CalibrationError
from autoq.graph.insert import QuantizedModel
from autoq.graph.stages import State
from autoq.reconstruction.mlp_graph import Mlp
from autoq.reconstruction.states import StateStore
from autoq.sensitivity.perturbation_hessian import PerturbationSettings, hessian_loss

_QUANTILE_VALUES = 1 << 17
"""About how many values a quantile is estimated on: of more, every n-th."""
_REPORT_EVERY = 10
"""Iterations between two reports."""

Hessians = Mapping[int, Tensor]
"""H of the entries of a state that have one, by position."""


@dataclass(frozen=True)
class MlpSettings:
    """How MLPs are trained.

    Published are 20,000 iterations at a rate of 4e-5 on inputs of the original model, on GPUs. A few hundred
    iterations, which a CPU can afford, need a higher rate. On a ViT of 6 blocks trained on CIFAR-10 (1,024 images, 200
    iterations), the KL divergence from full precision in nats was 0.0090 at 4e-5, 0.0042 at 2e-4 and 0.0020 at 1e-3
    with reconstructed inputs, 0.0026 at 1e-3 with original ones, and 0.044 before training.

    Attributes:
        iterations: of each MLP.
        batch_size: images a batch.
        learning_rate: of Adam at the start; it falls to zero along a cosine.
        clamp_quantile: p; fc2's input is clamped at the p-quantile of its positive values in the batch (in the authors'
            code, of the original model's on all images).
        clamp_weight: how much the loss with the clamp counts beside the one without.
        inputs: what an MLP is trained on: states of the ``original`` model, as published, or of the one whose earlier
            MLPs are ``reconstructed``, so that later MLPs make up for the errors of earlier ones.
        train_norm: whether the LayerNorm before an MLP is trained too.
        perturbation: how the importance H of errors is found.
        seed: of the order of the images.

    Raises:
        CalibrationError: a number makes no sense.
    """

    iterations: int = 500
    batch_size: int = 32
    learning_rate: float = 1e-3
    clamp_quantile: float = 0.99
    clamp_weight: float = 2.0
    inputs: Literal["original", "reconstructed"] = "reconstructed"
    train_norm: bool = True
    perturbation: PerturbationSettings = field(default_factory=PerturbationSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("iterations", "batch_size"):
            if getattr(self, name) < 1:
                raise CalibrationError(f"{name} {getattr(self, name)} is too small: give 1 or more")
        if not 0 < self.learning_rate < math.inf:
            raise CalibrationError(f"learning rate {self.learning_rate} is no rate: give a number above 0")
        if not 0 < self.clamp_quantile <= 1:
            raise CalibrationError(f"clamp quantile {self.clamp_quantile} is none: give a number above 0, at most 1")
        if not 0 <= self.clamp_weight < math.inf:
            raise CalibrationError(f"clamp weight {self.clamp_weight} is none: give 0 or more")
        if self.inputs not in ("original", "reconstructed"):
            raise CalibrationError(f"unknown inputs {self.inputs!r}: give original or reconstructed")


@dataclass(frozen=True)
class MlpSpan:
    """The stages that hold an MLP.

    Attributes:
        first: index of the first; it has the norm, or fc1.
        last: index of the last; it has fc2.
    """

    first: int
    last: int


def span_of(model: QuantizedModel, mlp: Mlp) -> MlpSpan:
    """Return the stages over which the MLP is trained: from its first layer to where its errors are weighted."""
    first = model.stage_of[mlp.fc1, "input"] if mlp.norm is None else model.stage_of[mlp.norm, "input"]
    return MlpSpan(first, model.stage_of[mlp.fc2, "input"])


def positive_quantile(x: Tensor, p: float) -> Tensor:
    """Return the p-quantile of the positive values of ``x``, a scalar; infinity if there are none.

    Of p · n values the ⌈p · n⌉-th smallest; estimated on every n-th value where there are many.
    """
    step = max(1, x.numel() // _QUANTILE_VALUES)
    while math.gcd(step, x.shape[-1]) > 1:  # else some channels would never be looked at
        step += 1
    values = x.detach().flatten()[::step].float()
    positive = values[values > 0]  # (positive values,)
    if not positive.numel():
        return torch.full((), math.inf, dtype=x.dtype, device=x.device)
    return positive.kthvalue(max(1, math.ceil(p * positive.numel()))).values.to(x.dtype)


def forward_twice(model: QuantizedModel, span: MlpSpan, mlp: Mlp, state: State, p: float) -> tuple[State, State]:
    """Return the state after the MLP's stages, and the same with fc2's input clamped from above at its p-quantile.

    What comes before fc2 is computed once.
    """
    state = model.run_stages(range(span.first, span.last), state)
    stage = model.stages[span.last]
    nodes: list[fx.Node] = list(stage.graph_module.graph.nodes)
    fc2 = next(node for node in nodes if stage.site_nodes.get(node.name) == mlp.fc2)
    clamped = model.traced.edges[mlp.fc2, "input"].of(fc2)
    run = fx.Interpreter(stage.graph_module, garbage_collect_values=False)
    plain = run.run(*state)
    after = {clamped}
    for node in nodes:
        if node.op == "output" or not after.isdisjoint(node.all_input_nodes):
            after.add(node)
    known: dict[fx.Node, Any] = {node: value for node, value in run.env.items() if node not in after}
    value = run.env[clamped]
    known[clamped] = torch.minimum(value, positive_quantile(value, p))
    again = fx.Interpreter(stage.graph_module, garbage_collect_values=False).run(*state, initial_env=known)
    return _as_state(plain), _as_state(again)


def mlp_loss(output: State, clamped: State, target: State, hessians: Hessians, clamp_weight: float) -> Tensor:
    """Return ½ Σ (Ô − O)² H + ½ λ Σ (Ô' − O)² H, the mean over images; Ô' is the output with the clamp."""
    return weighted_error(output, target, hessians) + clamp_weight * weighted_error(clamped, target, hessians)


def weighted_error(output: State, target: State, hessians: Hessians) -> Tensor:
    """Return ½ Σ (Ô − O)² H over the entries of a state, the mean over images."""
    losses = [hessian_loss(_tensor(output[leaf]), _tensor(target[leaf]), each) for leaf, each in hessians.items()]
    return torch.stack(losses).sum()


def train_mlp_(
    model: QuantizedModel,
    mlp: Mlp,
    parameters: Sequence[torch.nn.Parameter],
    inputs: StateStore,
    targets: StateStore,
    hessians: Hessians,
    settings: MlpSettings,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> None:
    """Train an MLP's parameters in place.

    Args:
        model: with ReLU in this MLP, its slots empty.
        mlp: which.
        parameters: of this MLP in this model.
        inputs: states of all images before its first stage.
        targets: states of all images after its last stage, in full precision.
        hessians: importance of the errors of those, of mean one.
        settings: iterations, batch size, learning rate, clamp.
        seed: of the order of the images.
        progress: called every few iterations with the number of finished iterations and the last loss.

    Raises:
        CalibrationError: the loss is not finite.
    """
    span, device = span_of(model, mlp), parameters[0].device
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate)
    with torch.inference_mode(False), torch.enable_grad():
        for parameter in parameters:
            parameter.requires_grad_(True)
        for iteration in range(settings.iterations):
            for group in optimizer.param_groups:
                cosine = math.cos(math.pi * iteration / settings.iterations)
                group["lr"] = settings.learning_rate * (1 + cosine) / 2
            chosen = torch.randperm(inputs.images, generator=generator)[: settings.batch_size]  # (batch,)
            state, target = inputs.get(chosen, device), targets.get(chosen, device)
            output, clamped = forward_twice(model, span, mlp, state, settings.clamp_quantile)
            loss = mlp_loss(output, clamped, target, hessians, settings.clamp_weight)
            # Not backward(), which would leave gradients in parameters that are shared with the original model.
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, list(parameters)), strict=True):
                parameter.grad = gradient
            optimizer.step()
            done = iteration + 1
            if done % _REPORT_EVERY == 0 or done == settings.iterations:
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise CalibrationError(
                        f"training {mlp.name!r} gave the loss {value} at iteration {done}: "
                        f"use a learning rate below {settings.learning_rate:g}"
                    )
                if progress is not None:
                    progress(done, value)


def measure_error(
    model: QuantizedModel, span: MlpSpan, inputs: StateStore, targets: StateStore, hessians: Hessians, batch_size: int
) -> float:
    """Return ½ Σ (Ô − O)² H without the clamp, the mean over all images."""
    device = next(iter(hessians.values())).device
    total = 0.0
    with torch.no_grad():
        for start in range(0, inputs.images, batch_size):
            chosen = slice(start, min(start + batch_size, inputs.images))
            state, target = inputs.get(chosen, device), targets.get(chosen, device)
            state = model.run_stages(range(span.first, span.last + 1), state)
            total += float(weighted_error(state, target, hessians)) * (chosen.stop - chosen.start)
    return total / inputs.images


def _as_state(result: object) -> State:
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def _tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor)  # noqa: S101 - entries with a Hessian are
    return value
