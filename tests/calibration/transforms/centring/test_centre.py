"""Models with centred keys compute what they did; keys that cannot be moved are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor, nn

from autoq.calibration.transforms.centring.centre import centre_keys, find_keys
from autoq.errors import CalibrationError
from autoq.graph.trace import TracedModel
from tests.calibration.transforms.centring.models import Attention, recorded
from tests.calibration.transforms.rotation.models import HEADS, QK, WIDTH, Encoder, assert_exact, batch, traced
from tests.graph.zoo import in_double

Heads = tuple[Tensor, Tensor, Tensor]
CASES: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Heads], tuple[str, ...]]] = {
    "attention": (lambda q, k, v: (q, k, v), (QK,)),
    "scaled by numbers": (lambda q, k, v: (q, k / 3, 2 * v), (QK,)),
    "cosine attention": (lambda q, k, v: (F.normalize(q, dim=-1), F.normalize(k, dim=-1), v), ()),
    "normalized queries": (lambda q, k, v: (F.normalize(q, dim=-1), k, v), (QK,)),
    "a factor for each token of keys": (lambda q, k, v: (q, k * torch.linspace(1, 2, 9).to(q)[:, None], v), ()),
    "heads that share keys": (lambda q, k, v: (q, k[:, :1], v), (QK,)),
    "keys that are values too": (lambda q, k, v: (q, k, v + k), ()),
}


def drawn(model: TracedModel) -> dict[str, Tensor]:
    """Draw centres for all keys that can be moved."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: 3 * torch.randn(layer.numbers.shape, generator=generator, dtype=torch.float64)
        for name, layer in find_keys(model).items()
    }


@pytest.mark.parametrize("name", CASES)
def test_keys_that_can_be_moved(name: str) -> None:
    attended, expected = CASES[name]
    assert tuple(find_keys(traced(Encoder(attended=attended)))) == expected


def test_keys_that_no_softmax_compares_stay() -> None:
    model = traced(Attention(torch.relu))
    assert find_keys(model) == {}
    with pytest.raises(CalibrationError, match="keys of 'qk' cannot be centred: leave it out"):
        centre_keys(model, {QK: torch.ones(HEADS, WIDTH // HEADS)})


def test_a_model_without_attention() -> None:
    assert find_keys(traced(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)))) == {}


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"attended": lambda q, k, v: (q * 2, k[:, :1] / 5, v)}])
def test_full_precision_stays_and_keys_move(options: dict[str, Any]) -> None:
    model = traced(Encoder(**options))
    changed = centre_keys(model, drawn(model))
    assert changed.sites == model.sites
    assert_exact(changed, model)
    assert not torch.allclose(recorded(changed, (QK, "rhs"), batch()), recorded(model, (QK, "rhs"), batch()))


def test_each_head_has_its_own_centre() -> None:
    model = traced(Encoder())
    centres = drawn(model)
    changed = centre_keys(model, centres)
    expected = recorded(model, (QK, "rhs"), batch()) - centres[QK].unsqueeze(-1)  # (N, heads, width, tokens)
    assert torch.allclose(recorded(changed, (QK, "rhs"), batch()), expected)
    for key in ((QK, "lhs"), ("av", "rhs")):
        assert torch.equal(recorded(changed, key, batch()), recorded(model, key, batch()))


KEYS = {"deit": 2, "vit": 2, "swin": 4, "swinv2": 0, "cait": 2, "torchvision_swin": 3, "transformers_dinov2": 2}


@pytest.mark.parametrize("name", [n if n == "vit" else pytest.param(n, marks=pytest.mark.slow) for n in KEYS])
def test_architectures(name: str) -> None:
    model, x = in_double(name)
    assert len(find_keys(model)) == KEYS[name]
    assert_exact(centre_keys(model, drawn(model)), model, x)


@pytest.mark.parametrize(
    ("centres", "message"),
    [
        ({"qq": torch.zeros(2, 6)}, r"keys of 'qq' cannot be centred: leave it out. Did you mean 'qk'\?"),
        ({QK: torch.zeros(6, 2)}, r"keys of 'qk' are \(2, 6\) channels, but centres \(6, 2\)"),
        ({QK: torch.full((2, 6), float("nan"))}, "centres of 'qk' have NaN or infinite entries"),
    ],
)
def test_what_does_not_fit(centres: dict[str, Tensor], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        centre_keys(traced(Encoder()), centres)
