"""What tests of both twin uniform schemes share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from autoq.quantizers import BaseQuantizer, OperandLayout, create_quantizer
from autoq.recipe import OperandConfig
from tests.contracts.quantizers import ATTENTION_MAP, Case

VECTOR = OperandLayout(ndim=1, channel_axis=-1)


def twin_parameters() -> st.SearchStrategy[tuple[float, int, int]]:
    """Draw a coarse scale relative to a tensor's largest value, the fine range's shift and its sign."""
    return st.tuples(st.sampled_from([0.3, 0.011, 1.0, 3e-3]), st.integers(0, 12), st.sampled_from([1, -1]))


@dataclass(frozen=True)
class Twin:
    """One of the schemes.

    Attributes:
        scheme: its name.
    """

    scheme: str

    def config(self, bits: int, **options: object) -> OperandConfig:
        """Make a configuration."""
        return OperandConfig.model_validate({"scheme": self.scheme, "bits": bits} | options)

    def make(self, bits: int, scale: float, shift_bits: float, fine_sign: float) -> BaseQuantizer:
        """Make a quantizer of vectors."""
        qparams = {"scale": [scale], "shift_bits": [shift_bits], "fine_sign": [fine_sign]}
        return create_quantizer(
            self.config(bits), VECTOR, {name: torch.tensor(value) for name, value in qparams.items()}
        )

    def softmax_cases(self) -> list[Case]:
        """List cases of the contract, of values after softmax."""
        vectors = [Case(self.config(bits), lower=0.0, upper=1.0) for bits in (1, 2, 8)]
        in_map = (self.config(4), self.config(5, granularity="head"))
        return vectors + [Case(config, ATTENTION_MAP, (4, 3, 5, 6), lower=0.0, upper=1.0) for config in in_map]

    def gelu_cases(self) -> list[Case]:
        """List cases of the contract, of values after GELU."""
        configs = [self.config(bits) for bits in (1, 2, 4)] + [self.config(6, granularity="channel")]
        in_groups = self.config(8, granularity="group", groups=5)
        return [*(Case(config, lower=-0.17, upper=2.0) for config in configs), Case(in_groups, lower=-0.17, upper=40.0)]


def scale_for(x: torch.Tensor, relative: float) -> float:
    """Return a coarse scale relative to a tensor's largest value, as float32 holds it."""
    return torch.tensor(float(x.float().abs().max()) * relative).clamp(1e-30, 1e30).item()
