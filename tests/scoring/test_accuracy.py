from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoq.calibration import Bank, CalibrationSettings
from autoq.errors import TaskError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.methods import BitWidths, create_method
from autoq.scoring import Evaluator, measure_accuracy
from autoq.scoring.accuracy import FullPrecision, measure_beside_full_precision
from autoq.tasks import ClassificationTask, DenseTask
from tests.runs.small_run import small_session


class TwoOutputs(nn.Module):
    """Eight logits that do not depend on the image, and a map that is the image's first channel, doubled."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 8)
        nn.init.zeros_(self.head.weight)
        self.head.bias = nn.Parameter(torch.arange(8.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(x[:, 0, 0]), 2 * x[:, 0]


def model() -> QuantizedModel:
    return QuantizedModel(trace(TwoOutputs().eval(), torch.randn(2, 1, 4, 4)))


def test_classes_by_hand() -> None:
    seen: list[int] = []
    batches = [(torch.zeros(3, 1, 4, 4), torch.tensor([7, 6, 2])), (torch.zeros(1, 1, 4, 4), torch.tensor([3]))]
    accuracy = measure_accuracy(model(), batches, seen.append)
    assert accuracy.metrics == {"top1_percent": 25.0, "top5_percent": 75.0}
    assert accuracy.images == 4
    assert seen == [3, 1]
    with pytest.raises(ValueError, match="no images"):
        measure_accuracy(model(), [])


def test_maps_by_hand() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    task = DenseTask(output="1")
    accuracy = measure_accuracy(model(), [(image, 2 * image[:, 0]), (image, 2 * image[:, 0] + 3)], task=task)
    assert accuracy.metrics == pytest.approx({"rmse": 4.5**0.5, "mae": 1.5})
    with pytest.raises(TaskError, match="labels have shape"):
        measure_accuracy(model(), [(image, image)], task=task)
    with pytest.raises(TaskError, match="no output '2' to compare, there is '0', '1'"):
        measure_accuracy(model(), [(image, image)], task=ClassificationTask(output="2"))


def test_accuracy_counts_the_labelled() -> None:
    """Top-5 contains top-1; labels that are all wrong are not hit."""
    session = small_session()
    labelled = session.labelled_images("digits/calib")
    assert labelled is not None
    session.model.remove_()
    right = measure_accuracy(session.model, labelled.batches())
    top1, top5 = right.metrics["top1_percent"], right.metrics["top5_percent"]
    assert right.images == labelled.count == 256
    assert 95 < top1 <= top5 <= 100
    assert top1 == 100 * round(2.56 * top1) / 256
    wrong = measure_accuracy(session.model, ((x, (y + 1) % 10) for x, y in labelled.batches()))
    assert wrong.metrics["top1_percent"] < 5


class Counted(QuantizedModel):
    """Counts what it runs, by whether anything is in its slots."""

    def __init__(self) -> None:
        super().__init__(small_session().traced)
        self.runs = {"full": 0, "quantized": 0}

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        self.runs["quantized" if self.configuration() else "full"] += 1
        return super().run(*inputs)


@pytest.mark.parametrize(("most_bytes", "runs"), [(1 << 20, 3), (2 * 8 * 10 * 4, 2 + 3), (0, 9)])
def test_full_precision_runs_once_over_what_is_kept(
    most_bytes: int, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three recipes on three batches of eight images with ten outputs; what is not kept is computed for each."""
    monkeypatch.setattr("autoq.scoring.accuracy._MOST_BYTES", most_bytes)
    counted, full_runs = Counted(), 0
    images = small_session().calibration_images("digits", 24, 0).tensor
    bank = Bank(counted, images, CalibrationSettings(observer="min_max"), {})
    batches = [(batch, torch.zeros(8, dtype=torch.long)) for batch in torch.split(images, 8)]
    full_precision = FullPrecision(counted)
    for bits in ("w8a8", "w4a4", "w3a3"):
        sites = create_method("rtn").sites(counted.traced, BitWidths.parse(bits))
        expected = Evaluator(counted, bank, images, batch_size=8).evaluate(sites)
        counted.runs = {"full": 0, "quantized": 0}
        full, found, score = measure_beside_full_precision(counted, bank, sites, batches, full_precision=full_precision)
        assert counted.runs["quantized"] == 3
        full_runs += counted.runs["full"]
        assert score.kl_nats == expected.kl_nats
        assert found.images == full.images == 24
        counted.remove_()
        assert full == measure_accuracy(counted, batches)
    assert full_runs == runs
