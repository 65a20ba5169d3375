from __future__ import annotations

import math

import pytest
import torch

from autoq.errors import TaskError
from autoq.tasks import DenseTask, Outputs
from tests.contracts.tasks import TaskContract


class TestDense(TaskContract):
    task = DenseTask()
    shapes = [((6,),), ((1,),), ((3, 5),), ((1, 4, 4),), ((),)]  # noqa: RUF012
    labels = {0: torch.ones(4, 6), 3: torch.zeros(4, 1, 4, 4), 4: torch.zeros(4)}  # noqa: RUF012


def maps(*shape: int) -> torch.Tensor:
    return 3 + 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_variance_is_that_of_all_elements_however_batched() -> None:
    values = maps(9, 2, 5) + 1000
    expected = float(values.double().var(correction=0))
    for sizes in ([9], [1, 8], [4, 4, 1]):
        found = DenseTask().fitted((part,) for part in torch.split(values, sizes)).variance
        assert found == pytest.approx(expected, rel=1e-10)
    assert DenseTask(variance=2.0).fitted([(values,)]).variance == 2.0


def test_divergence_and_fisher_product_by_hand() -> None:
    task = DenseTask(variance=4.0)
    reference, quantized = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[3.0, 2.0], [0.0, -4.0]])
    assert task.divergence((reference,), (quantized,)).tolist() == [4 / 8 / 2, 16 / 8 / 2]
    (product,) = task.fisher_product((reference,), (quantized,), temperature=20.0)
    assert torch.equal(product, quantized / 8)


def test_probes_are_signs() -> None:
    (drawn,) = DenseTask(variance=0.25).probes(3, 0).draw((torch.zeros(5, 4, 4),))
    assert drawn.shape == (3, 5, 4, 4)
    assert drawn.abs().unique().tolist() == pytest.approx([1 / math.sqrt(0.25 * 16)])
    assert 0.3 < float((drawn > 0).float().mean()) < 0.7


def test_as_many_probes_as_elements_are_exact() -> None:
    (drawn,) = DenseTask(variance=0.25).probes(16, 0).draw((torch.zeros(2, 4, 3, dtype=torch.float64),))
    rows = drawn.flatten(2)  # (K, N, elements)
    found = torch.einsum("kni,knj->nij", rows, rows) / 16
    torch.testing.assert_close(found, (torch.eye(12, dtype=torch.float64) / (0.25 * 12)).expand(2, 12, 12))


def test_metrics_by_hand() -> None:
    meter = DenseTask().meter()
    meter.add((torch.tensor([[0.0, 3.0]]),), torch.tensor([[0.0, 0.0]]))
    meter.add((torch.tensor([[1.0, 1.0]]),), torch.tensor([[0.0, 2.0]]))
    assert meter.accuracy().metrics == pytest.approx({"rmse": math.sqrt(11 / 4), "mae": 5 / 4})
    assert not DenseTask().main_metric.higher_is_better


def test_what_cannot_be_fitted_or_measured_is_refused() -> None:
    unfit: list[list[Outputs]] = [
        [],
        [(torch.zeros(0, 3),)],
        [(torch.ones(2, 3),)],
        [(torch.full((2, 3), math.nan),)],
    ]
    for outputs in unfit:
        with pytest.raises(TaskError, match=r"variance .* check the weights"):
            DenseTask().fitted(outputs)
    for variance in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(TaskError, match="give a number above 0"):
            DenseTask(variance=variance)
    with pytest.raises(TaskError, match="not known yet"):
        DenseTask().divergence((torch.zeros(1, 2),), (torch.zeros(1, 2),))
    with pytest.raises(TaskError, match=r"labels have shape \(2, 3\), but the output has \(2, 1, 3\)"):
        DenseTask().meter().add((torch.zeros(2, 1, 3),), torch.zeros(2, 3))
    with pytest.raises(TaskError, match="'dense' are not simply right or wrong"):
        DenseTask().correct((torch.zeros(2, 3),), torch.zeros(2, 3))


def test_depth_is_preferred_to_what_comes_first() -> None:
    leaves = (torch.zeros(2, 4), torch.ones(2, 5))
    assert DenseTask().select(leaves, ("hidden", "predicted_depth")) == (1,)
    assert DenseTask().select(leaves, ("hidden", "depth")) == (0,)
    assert DenseTask(output="depth").select(leaves, ("hidden", "depth")) == (1,)
