"""Discrepancy against its closed form, written out in NumPy."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from autoq.scoring import Discrepancy, Score

Array = npt.NDArray[np.float64]


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    result: Array = powers / powers.sum(-1, keepdims=True)
    return result


def closed_form(reference: Array, quantized: Array) -> tuple[float, float, float]:
    """Mean KL in nats, agreement in percent, SQNR in dB."""
    p, q = softmax(reference), softmax(quantized)
    kl = (p * (np.log(p) - np.log(q))).sum(-1).mean()
    agreement = 100 * (reference.argmax(-1) == quantized.argmax(-1)).mean()
    sqnr = 10 * math.log10((reference**2).sum() / ((reference - quantized) ** 2).sum())
    return float(kl), float(agreement), sqnr


def measure(reference: Array, quantized: Array, *splits: int) -> Score:
    discrepancy = Discrepancy()
    parts = (np.split(logits.astype(np.float32), splits) for logits in (reference, quantized))
    for expected, found in zip(*parts, strict=True):
        discrepancy.add((torch.from_numpy(expected),), (torch.from_numpy(found),))
    return discrepancy.score()


def logits(*shape: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    reference = rng.normal(0, 3, shape).astype(np.float32)
    return reference.astype(float), (reference + rng.normal(0, 1, shape).astype(np.float32)).astype(float)


@pytest.mark.parametrize("shape", [(12, 10), (7, 5, 3), (1, 2)])
def test_closed_form(shape: tuple[int, ...]) -> None:
    reference, quantized = logits(*shape)
    score = measure(reference, quantized)
    kl, agreement, sqnr = closed_form(reference, quantized)
    assert score.kl_nats == pytest.approx(kl, rel=1e-9)
    assert score.agreement_percent == pytest.approx(agreement)
    assert score.sqnr_db == pytest.approx(sqnr, rel=1e-9)
    assert score.images == shape[0]


def test_by_hand() -> None:
    """Two images, two classes: p = (1/2, 1/2) against q = (1/5, 4/5), and equal logits."""
    reference = np.array([[0.0, 0.0], [1.0, -1.0]])
    quantized = np.array([[0.0, math.log(4)], [1.0, -1.0]])
    score = measure(reference, quantized)
    assert score.kl_nats == pytest.approx((0.5 * math.log(2.5) + 0.5 * math.log(0.625)) / 2, rel=1e-6)
    assert score.agreement_percent == 50
    assert score.sqnr_db == pytest.approx(10 * math.log10(2 / math.log(4) ** 2), rel=1e-6)


def test_kl_is_of_full_precision_from_quantized() -> None:
    reference, quantized = logits(4, 3)
    assert measure(reference, quantized).kl_nats != pytest.approx(measure(quantized, reference).kl_nats, rel=1e-3)


def test_several_batches_are_one() -> None:
    reference, quantized = logits(13, 10)
    whole, parts = measure(reference, quantized), measure(reference, quantized, 1, 6, 12)
    assert parts.kl_nats == pytest.approx(whole.kl_nats, rel=1e-12)
    assert parts.sqnr_db == pytest.approx(whole.sqnr_db, rel=1e-12)
    assert (parts.agreement_percent, parts.images) == (whole.agreement_percent, 13)


def test_equal_logits() -> None:
    reference, _ = logits(5, 10)
    assert measure(reference, reference) == Score(0.0, 100.0, math.inf, 0.0, 5)


def test_logits_far_apart_stay_finite() -> None:
    score = measure(np.array([[1e30, -1e30]]), np.array([[-1e30, 1e30]]))
    assert math.isfinite(score.kl_nats)
    assert score.kl_nats == pytest.approx(2e30)
    assert math.isfinite(measure(np.zeros((1, 2)), np.ones((1, 2))).sqnr_db)


def test_bfloat16_is_compared_in_double_precision() -> None:
    reference, quantized = (torch.from_numpy(part).bfloat16() for part in logits(6, 10))
    discrepancy = Discrepancy()
    discrepancy.add((reference,), (quantized,))
    kl, _, sqnr = closed_form(*(part.double().numpy() for part in (reference, quantized)))
    assert discrepancy.score().kl_nats == pytest.approx(kl, rel=1e-9)
    assert discrepancy.score().sqnr_db == pytest.approx(sqnr, rel=1e-9)


def test_nothing_to_score() -> None:
    with pytest.raises(ValueError, match="no images"):
        Discrepancy().score()
