"""Tensors that quantizers find hard, for property tests."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

KINDS = ("normal", "heavy", "unit", "constant", "outlier", "mixed_magnitudes", "integers")


@st.composite
def tensors(draw: st.DrawFn, elements: int = 48, non_negative: bool = False) -> torch.Tensor:
    """A float32 vector of a random kind; finite."""
    kind = draw(st.sampled_from(KINDS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    normal = torch.randn(elements, generator=generator)
    uniform = torch.rand(elements, generator=generator)
    x = {
        "normal": normal,
        "heavy": normal / uniform.clamp(min=1e-6) ** 2,
        "unit": uniform,
        "constant": torch.full((elements,), float(normal[0])),
        "outlier": torch.where(torch.arange(elements) == 3, normal * 1e6, normal * 1e-3),
        "mixed_magnitudes": normal * torch.exp2(uniform * 140 - 70),
        "integers": (normal * 8).round() / 2,
    }[kind]
    x = x * draw(st.sampled_from([1.0, 1e-30, 1e-3, 1e4, 1e20]))
    return x.abs() if non_negative else x
