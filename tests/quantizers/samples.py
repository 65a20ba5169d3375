"""Tensors that quantizers find hard, for property tests."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

KINDS = (
    "normal",
    "heavy",
    "unit",
    "constant",
    "outlier",
    "mixed_magnitudes",
    "integers",
    "ties",
    "ones",
    "zeros",
    "subnormal",
    "one_sided",
    "constant_minimum",
)

_LARGEST = 3e38


@st.composite
def tensors(draw: st.DrawFn, elements: int = 48, non_negative: bool = False) -> torch.Tensor:
    """A float32 vector of a random kind; finite."""
    kind = draw(st.sampled_from(KINDS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    normal = torch.randn(elements, generator=generator)
    uniform = torch.rand(elements, generator=generator)
    if kind in ("ties", "ones", "subnormal"):  # exact: their values are what is hard
        return _exact(kind, normal, uniform, non_negative)
    x = {
        "normal": normal,
        "heavy": normal / uniform.clamp(min=1e-6) ** 2,
        "unit": uniform,
        "constant": torch.full((elements,), float(normal[0])),
        "outlier": torch.where(torch.arange(elements) == 3, normal * 1e6, normal * 1e-3),
        "mixed_magnitudes": normal * torch.exp2(uniform * 140 - 70),
        "integers": (normal * 8).round() / 2,
        "zeros": torch.zeros(elements),
        "one_sided": 3 + uniform,
        "constant_minimum": normal.clamp(min=-0.17),
    }[kind]
    x = (x * draw(st.sampled_from([1.0, 1e-30, 1e-3, 1e4, 1e20]))).clamp(-_LARGEST, _LARGEST)
    return x.abs() if non_negative else x


def _exact(kind: str, normal: torch.Tensor, uniform: torch.Tensor, non_negative: bool) -> torch.Tensor:
    """Halfway between powers of two and between whole numbers; exact ones; below the least normal number."""
    x = {
        "ties": torch.where(uniform < 0.5, 3 * torch.exp2((normal * 3).round()), (normal * 4).round() + 0.5),
        "ones": torch.where(uniform < 0.3, torch.ones_like(normal), (uniform < 0.6).float() * uniform),
        "subnormal": torch.where(uniform < 0.5, normal * 1e-40, normal),
    }[kind]
    return x.abs() if non_negative else x
