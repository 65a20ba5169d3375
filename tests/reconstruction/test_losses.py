from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from autoq.reconstruction.losses import PerImageSquaredError, PredictionDivergence, WeightedSquaredError
from autoq.reconstruction.states import Entry, StateStore
from autoq.tasks import CLASSIFICATION

TWO_WINDOWS = Entry("images", 2, shape=(2, 3, 4))
"""Two windows of three tokens of four channels an image."""
LAYOUT = (Entry("size", 2), TWO_WINDOWS)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_squared_errors_are_weighted_element_by_element() -> None:
    output, target, weights = random(6, 3, 4), random(6, 3, 4, seed=1), random(2, 3, 4, seed=2)
    total = 0.0
    for image in range(3):
        for window in range(2):
            for token in range(3):
                for channel in range(4):
                    error = float(
                        output[2 * image + window, token, channel] - target[2 * image + window, token, channel]
                    )
                    total += error**2 * float(weights[window, token, channel]) / float(weights.mean())
    loss = WeightedSquaredError(LAYOUT, (None, weights))
    assert float(loss((6, output), (6, target), slice(0, 3))) == pytest.approx(total / 72, rel=1e-5)


def test_without_weights_it_is_the_mean_squared_error() -> None:
    output, target = random(6, 3, 4), random(6, 3, 4, seed=1)
    plain = WeightedSquaredError(LAYOUT)((6, output), (6, target), slice(0, 3))
    assert float(plain) == pytest.approx(float((output - target).square().mean()))


def test_weights_that_are_all_zero_are_as_good_as_none() -> None:
    output, target = random(6, 3, 4), random(6, 3, 4, seed=1)
    loss = WeightedSquaredError(LAYOUT, (None, torch.zeros(2, 3, 4)))
    assert float(loss((6, output), (6, target), slice(0, 3))) == pytest.approx(float((output - target).square().mean()))


def test_several_entries_share_one_mean() -> None:
    layout = (Entry("images", 1, shape=(1, 2)), Entry("images", 1, shape=(1, 3)), Entry("constant"))
    first, second = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0, 5.0]])
    loss = WeightedSquaredError(layout, (torch.tensor([[2.0, 2.0]]), torch.tensor([[2.0, 2.0, 7.0]]), None))
    zero = (torch.zeros(1, 2), torch.zeros(1, 3), None)
    expected = (1 * 2 + 4 * 2 + 9 * 2 + 16 * 2 + 25 * 7) / 3 / 5  # the mean of the weights is 3
    assert float(loss((first, second, None), zero, slice(0, 1))) == pytest.approx(expected)


def test_each_image_has_its_own_weights() -> None:
    output, target, weights = random(8, 3, 4), random(8, 3, 4, seed=1), random(8, 3, 4, seed=2)
    store = StateStore(LAYOUT, 4)
    store.put_(0, (8, weights))
    chosen = torch.tensor([3, 1])
    rows = torch.tensor([6, 7, 2, 3])
    found = PerImageSquaredError(LAYOUT, store)((4, output[rows]), (4, target[rows]), chosen)
    assert float(found) == pytest.approx(float(((output - target).square() * weights)[rows].mean()), rel=1e-5)


def test_the_last_blocks_loss_is_the_divergence_of_the_predictions() -> None:
    output, target = 3 * random(5, 4), 3 * random(5, 4, seed=1)
    total = 0.0
    for image in range(5):
        p, q = ([math.exp(float(z)) for z in logits[image]] for logits in (target, output))
        total += sum(a / sum(p) * (math.log(a / sum(p)) - math.log(b / sum(q))) for a, b in zip(p, q, strict=True))
    assert float(PredictionDivergence(CLASSIFICATION)((output,), (target,), slice(0, 5))) == pytest.approx(
        total / 5, rel=1e-5
    )
