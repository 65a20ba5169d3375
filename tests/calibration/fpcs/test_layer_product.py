"""Operands as vectors: geometry, samples and factors of Gram matrices."""

from __future__ import annotations

import pytest
import torch

from autoq.calibration.fpcs.layer_error import affine_loss
from autoq.calibration.fpcs.layer_product import Sample, gram_factor
from tests.calibration.output_samples import (
    convolution,
    from_range,
    generator,
    solver_of,
    uniform,
)


def test_grams_keep_what_a_large_mean_would_hide() -> None:
    vectors = 1000 + torch.randn(200, 4, generator=generator(0))
    difference = torch.tensor([1.0, -1.0, 0.0, 0.0])
    expected = (vectors.double() @ difference.double()).square().sum()
    found = (difference @ gram_factor(vectors)).square().sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("rank", [0, 1, 3, 8])
def test_factors_of_rank_deficient_grams(rank: int) -> None:
    vectors = torch.randn(64, rank, generator=generator(0)) @ torch.randn(rank, 8, generator=generator(1))
    factor = gram_factor(vectors)
    expected = vectors.double().T @ vectors.double()
    torch.testing.assert_close(factor.double() @ factor.double().T, expected, rtol=1e-5, atol=1e-4)


def test_a_sample_takes_whole_vectors() -> None:
    x = torch.arange(4 * 2 * 6 * 3.0).view(4, 2, 6, 3)
    for tokens, count in ((8, 2), (2, 1), (100, 6)):
        sample = Sample.choose(x.shape, tokens, "head", 4, generator(0))
        chosen = sample.of(x)
        assert chosen.shape == (min(4, tokens), 2, count, 3)
        assert chosen.shape[0] == sample.of_outer(x).shape[0]
        assert set(map(tuple, chosen.reshape(-1, 3).tolist())) <= set(map(tuple, x.reshape(-1, 3).tolist()))
        assert len(chosen.reshape(-1, 3).unique(dim=0)) == chosen[..., 0].numel()


@pytest.mark.parametrize(("tokens", "images", "positions"), [(12, 6, 2), (6, 6, 1), (3, 3, 1), (30, 6, 5), (99, 6, 5)])
def test_a_sample_takes_every_position_equally_often(tokens: int, images: int, positions: int) -> None:
    """Of images of five tokens; a class token must not be there by chance."""
    x = torch.arange(30.0).view(1, 1, 30, 1)
    chosen = Sample.choose(x.shape, tokens, "tensor", 6, generator(0)).of(x).flatten().long()
    image, position = chosen // 5, chosen % 5
    assert len(chosen.unique()) == len(chosen) == images * positions
    assert (image.bincount(minlength=6)[image.unique()] == positions).all()
    assert len(image.unique()) == images
    counts = position.bincount(minlength=5)
    assert counts.max() - counts.min() <= 1


def test_a_large_convolution_is_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoq.calibration.fpcs.layer_product._MOST_POSITIONS", 10)
    sample = convolution()
    solver = solver_of(sample)
    form = solver.error("input", uniform(), "weight", None)
    assert form.values.shape[2] == 10
    assert form.mask is not None
    assert form.mask.shape == form.values.shape
    weights = solver.error("weight", uniform(3, "channel"), "input", from_range(sample, "input", uniform()))
    assert torch.isfinite(affine_loss(weights, 3)(torch.ones(6, 2), torch.full((6, 2), 4.0))).all()
