"""PTQ4ViT's published search of weights and inputs, against its rounds written out candidate by candidate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoq.calibration import Bank
from autoq.calibration.shared_ranges import equal_parts
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.methods import MethodOptions, create_method
from autoq.recipe import OperandConfig, SiteConfig

BITS = 3
SHARES = [0.01 + 1.19 * i / 100 for i in range(100)]
INPUT = OperandConfig(scheme="uniform", bits=BITS, symmetric=True)


class Attention(nn.Module):
    """Queries, keys and values of one layer, of very different sizes."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        for layer in (self.qkv, self.proj):
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator)
            layer.bias.data.zero_()
        self.qkv.weight.data *= torch.tensor([1.0, 5.0, 0.2]).repeat_interleave(8)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(x.shape[0], 6, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(mixed.transpose(1, 2).flatten(2)).mean(1)  # type: ignore[no-any-return]


def quantized(x: Tensor, scale: Tensor) -> Tensor:
    half = 2 ** (BITS - 1)
    return (x / scale).round().clamp(-half, half - 1) * scale


def squared_gradients(module: nn.Module, images: Tensor, site: str) -> Tensor:
    """Of the loss by a layer's output, with labels as the model predicts: Σ p (∂ log p / ∂O)² over classes."""
    kept: list[Tensor] = []
    hook = getattr(module, site).register_forward_hook(lambda _, __, output: kept.append(output))
    log_p = module(images).log_softmax(-1)
    hook.remove()
    total = torch.zeros_like(kept[0])
    for label in range(log_p.shape[1]):
        (gradient,) = torch.autograd.grad(log_p[:, label].sum(), kept[0], retain_graph=True)
        total += log_p[:, label].exp().detach().view(-1, 1, 1) * gradient.square()
    return total.flatten(0, 1)


def rounds(x: Tensor, weight: Tensor, cost: Tensor, parts: int, count: int = 3) -> tuple[list[float], float]:
    """Scales of the parts of a weight, and of its input: in turn the best candidates for the output, weights first."""
    half = 2 ** (BITS - 1) - 0.5
    weights, output = weight.chunk(parts), x @ weight.T
    greatest, spread = [part.abs().max() / half for part in weights], x.abs().max() / half
    scales, scale = list(greatest), spread
    for _ in range(count):
        inputs = quantized(x, scale)
        targets, costs = output.chunk(parts, -1), cost.chunk(parts, -1)
        for index, (part, of_part, its_cost) in enumerate(zip(weights, targets, costs, strict=True)):

            def weight_error(
                step: Tensor,
                part: Tensor = part,
                target: Tensor = of_part,
                cost: Tensor = its_cost,
                inputs: Tensor = inputs,
            ) -> float:
                return float(((inputs @ quantized(part, step).T - target).square() * cost).sum())

            scales[index] = min((share * greatest[index] for share in SHARES), key=weight_error)
        rows = torch.cat([quantized(part, step) for part, step in zip(weights, scales, strict=True)])

        def input_error(step: Tensor, rows: Tensor = rows) -> float:
            return float(((quantized(x, step) @ rows.T - output).square() * cost).sum())

        scale = min((share * spread for share in SHARES), key=input_error)
    return [float(step) for step in scales], float(scale)


@pytest.mark.parametrize("outlier", [False, True])
def test_scales_are_those_of_the_written_out_rounds(outlier: bool) -> None:
    """A scale for each of Q, K and V, one for other layers; one huge outlier in the input makes no difference."""
    module = Attention().eval()
    images = torch.randn(9, 6, 8, generator=torch.Generator().manual_seed(1))
    if outlier:
        images[3, 2, 1] = 80.0
    model = QuantizedModel(trace(module, images[:2]))
    settings = create_method("ptq4vit", MethodOptions(protocol="published")).settings(0)
    assert equal_parts(model.traced) == {"qkv": 3}
    recipe: dict[str, SiteConfig] = {
        "qkv": {"input": INPUT, "weight": INPUT.model_copy(update={"granularity": "channel"})},
        "proj": {"input": INPUT, "weight": INPUT},
    }
    bank = Bank(model, images, settings, {}, recipe_sites=recipe)
    bank.solve_all([(site, name, config) for site, configs in recipe.items() for name, config in configs.items()])
    seen: list[Tensor] = []
    hook = module.proj.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        module(images)
    hook.remove()
    for site, x, parts in (("qkv", images, 3), ("proj", seen[0], 1)):
        layer = getattr(module, site)
        cost = squared_gradients(module, images, site).double()
        scales, scale = rounds(x.double().flatten(0, 1), layer.weight.detach().double(), cost, parts)
        found = {name: bank.quantizer(site, name, config).qparams() for name, config in recipe[site].items()}
        expected = torch.tensor(scales).repeat_interleave(len(layer.weight) // parts if parts > 1 else 1)
        torch.testing.assert_close(found["weight"]["scale"].flatten(), expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(found["input"]["scale"].flatten(), torch.tensor([scale]), rtol=1e-5, atol=0)
