from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from autoq.errors import NonFiniteError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.scoring.outputs import finite_outputs, first_non_finite_site, fitted_task, predict
from autoq.tasks import CLASSIFICATION, ClassificationTask, DenseTask


class Heads(nn.Module):
    """A finite output, and one that is not where an image is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.first(x)
        return y, self.second(1 / x)


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    return QuantizedModel(trace(Heads().eval(), torch.randn(2, 4)))


def test_outputs_are_those_of_the_task(model: QuantizedModel) -> None:
    x = torch.randn(3, 4)
    first, second = model.run(x)
    assert torch.equal(predict(model, x)[0], first)
    assert torch.equal(predict(model, x, ClassificationTask(output="1"))[0], second)


def test_only_what_is_compared_has_to_be_finite(model: QuantizedModel) -> None:
    zero = torch.zeros(2, 4)
    assert finite_outputs(model, zero)[0].shape == (2, 4)
    with pytest.raises(NonFiniteError, match="first at site 'second'") as caught:
        finite_outputs(model, zero, DenseTask(output="1"))
    assert caught.value.site == "second"
    assert first_non_finite_site(model, torch.ones(2, 4)) is None


def test_a_task_is_fitted_in_full_precision(model: QuantizedModel) -> None:
    batches = [torch.randn(3, 4), torch.randn(2, 4)]
    model.insert_({("first", "input"): nn.Sigmoid()})
    task = fitted_task(DenseTask(), model, iter(batches))
    assert isinstance(task, DenseTask)
    with torch.no_grad():
        outputs = torch.cat([model.run(batch)[0] for batch in batches])  # fitting has emptied the slots
    assert task.variance == pytest.approx(float(outputs.double().var(correction=0)), rel=1e-9)

    def unreadable() -> Iterator[Tensor]:
        yield batches[0]
        raise AssertionError

    assert fitted_task(CLASSIFICATION, model, unreadable()) is CLASSIFICATION
    assert fitted_task(task, model, unreadable()) == task
