"""What the reconstruction tests share: a tiny transformer with calibrated quantizers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from autoq.calibration import Bank, CalibrationSettings
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.recipe import OperandConfig, SiteConfig
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.scoring.solved_operands import SolvedOperands
from tests.calibration.samples import CHANNELS, TOKENS, Block, images

QUICK = ReconstructionSettings(iterations=60, batch=8, weight_rate=0.1, scale_rate=0.005)


class Tiny(nn.Module):
    """Two blocks with attention and GELU, a norm, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(CHANNELS, CHANNELS)
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(CHANNELS)
        self.head = nn.Linear(CHANNELS, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x))).mean(1))


def tiny_model() -> QuantizedModel:
    """Traced, with seeded weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Tiny().eval()
    return QuantizedModel(trace(module, images(2)))


def sites_of(model: QuantizedModel, weights: OperandConfig, activations: OperandConfig) -> dict[str, SiteConfig]:
    """One configuration for all weights and one for all activations of products."""
    return {
        site.name: {each.name: weights if each.is_weight else activations for each in site.operands}
        for site in model.traced.sites
        if site.macs
    }


def calibrated(model: QuantizedModel, sites: dict[str, SiteConfig], data: Tensor) -> SolvedOperands:
    """Quantizers of a recipe, as a bank solves them."""
    bank = Bank(model, data, CalibrationSettings(observer="mse"), {})
    return SolvedOperands.from_bank(bank, sites)


W2 = OperandConfig(scheme="uniform", bits=2, granularity="channel")
A6 = OperandConfig(scheme="uniform", bits=6)
__all__ = ["A6", "CHANNELS", "QUICK", "TOKENS", "W2", "calibrated", "images", "sites_of", "tiny_model"]
