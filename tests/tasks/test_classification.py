from __future__ import annotations

import math

import pytest
import torch

from autoq.errors import TaskError
from autoq.tasks import CLASSIFICATION, ClassificationTask
from tests.contracts.tasks import TaskContract


class TestClassification(TaskContract):
    task = CLASSIFICATION
    shapes = [((5,),), ((8,),), ((3, 4),), ((2, 2, 3),)]  # noqa: RUF012
    labels = {0: torch.tensor([0, 1, 4, 2]), 1: torch.tensor([7, 7, 0, 1])}  # noqa: RUF012


def test_maps_are_not_taken_for_classes() -> None:
    maps = torch.zeros(1, 3, 8, 8)
    with pytest.raises(TaskError, match=r"maps of shape \(1, 3, 8, 8\).*semantic-segmentation"):
        CLASSIFICATION.select((maps,))
    assert ClassificationTask(output="0").select((maps,)) == (0,), "unless it is named"
    assert CLASSIFICATION.select((torch.zeros(1, 3, 8),)) == (0,)


def test_divergence_by_hand() -> None:
    """Two positions: p = (1/2, 1/2) against q = (1/5, 4/5), and equal logits."""
    reference = torch.tensor([[[0.0, 0.0], [1.0, -1.0]]], dtype=torch.float64)
    quantized = torch.tensor([[[0.0, math.log(4)], [1.0, -1.0]]], dtype=torch.float64)
    expected = (0.5 * math.log(2.5) + 0.5 * math.log(0.625)) / 2
    assert float(CLASSIFICATION.divergence((reference,), (quantized,))) == pytest.approx(expected, rel=1e-12)
    assert float(CLASSIFICATION.agreement((reference,), (quantized,))) == 0.5


def test_fisher_product_by_hand() -> None:
    """At T the Hessian for z / T, times T²: diag(p) − p pᵀ of the flatter p."""
    logits = torch.tensor([[0.0, math.log(9)]], dtype=torch.float64)
    change = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for temperature, p in ((1.0, 0.1), (2.0, 0.25)):
        (found,) = CLASSIFICATION.fisher_product((logits,), (change,), temperature)
        assert found[0].tolist() == pytest.approx([p * (1 - p), -p * (1 - p)])


@pytest.mark.parametrize(("count", "classes"), [(8, 8), (16, 8), (8, 5), (4, 3), (1, 1)])
def test_probes_of_all_classes_are_exact(count: int, classes: int) -> None:
    logits = torch.randn(3, 2, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = logits.softmax(-1)
    (drawn,) = CLASSIFICATION.probes(count, 0).draw((logits,))
    assert drawn.shape == (count, *logits.shape)
    found = torch.einsum("knqi,knqj->nqij", drawn, drawn) / count
    expected = (p.diag_embed() - p.unsqueeze(-1) * p.unsqueeze(-2)) / 2  # two positions share an image
    torch.testing.assert_close(found, expected)


def test_probes_are_unbiased_and_exact_for_the_likeliest() -> None:
    logits = torch.tensor([[0.0, -1.0, 3.0, -30.0, 2.0, 1.0]], dtype=torch.float64)
    p = logits.softmax(-1)[0]
    expected = p.diag() - p.outer(p)
    logits = logits.expand(4000, -1)
    for count in (1, 3, 4):
        (drawn,) = CLASSIFICATION.probes(count, 1).draw((logits,))
        squares = torch.einsum("kni,knj->nij", drawn, drawn) / count
        torch.testing.assert_close(squares.mean(0), expected, atol=0.02, rtol=0)
        # Among four classes, four probes leave no noise; the fifth and sixth are too unlikely to add much.
        assert (squares.std(0).max() < 0.05) == (count == 4)


def test_top_classes_by_hand() -> None:
    logits = torch.arange(8.0).repeat(4, 1)  # the likeliest are 7, 6, 5, 4, 3
    meter = CLASSIFICATION.meter()
    meter.add((logits[:3],), torch.tensor([7, 6, 2]))
    meter.add((logits[3:],), torch.tensor([3]))
    accuracy = meter.accuracy()
    assert accuracy.metrics == {"top1_percent": 25.0, "top5_percent": 75.0}
    assert accuracy.images == 4


def test_correct_is_the_likeliest_class_of_finite_logits() -> None:
    logits = torch.tensor([[1.0, 2.0], [2.0, 1.0], [math.nan, 1.0], [math.inf, 1.0]])
    assert CLASSIFICATION.correct((logits,), torch.tensor([1, 1, 0, 0])).tolist() == [True, False, False, False]


def test_logits_are_preferred_to_what_comes_first() -> None:
    features, logits = torch.zeros(2, 4), torch.ones(2, 5)
    leaves = (None, torch.zeros(2, 3, dtype=torch.int64), features, logits)
    names = ("ids", "features", "logits")
    assert CLASSIFICATION.select(leaves, names) == (3,)
    assert CLASSIFICATION.select(leaves) == (2,)
    assert ClassificationTask(output="features").outputs_of(leaves, names)[0] is features
    assert ClassificationTask(output="2").select(leaves) == (3,)  # the third tensor
