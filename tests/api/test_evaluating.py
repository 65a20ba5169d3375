"""autoq.evaluate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import autoq
from autoq.models import LetterboxTransform
from autoq.tasks import DenseTask, make_task
from tests.api.models import IMAGES, LABELS, DepthLike, make


def test_labels_of_a_module_alone() -> None:
    model = make()
    with torch.no_grad():
        right = (model(IMAGES)["logits"].argmax(1) == LABELS).double().mean()
    measured = autoq.evaluate(model, (IMAGES, LABELS))
    assert measured.metrics["top1_percent"] == pytest.approx(100 * float(right))
    assert (measured.score, measured.cost, measured.images) == (None, None, 24)
    assert measured.to_json()["bops"] is None
    with pytest.raises(TypeError, match="give data"):
        autoq.evaluate(model)


def test_images_alone_give_the_discrepancy_alone() -> None:
    quantized = autoq.quantize(make(), "rtn", IMAGES, bits="w4a4", calib_images=8)
    measured = autoq.evaluate(quantized, IMAGES, model=make())
    assert (dict(measured.metrics), measured.images) == ({}, 24)
    assert measured.score is not None
    assert measured.score.kl_nats > 0
    assert measured.cost == quantized.recipe.cost
    itself = autoq.evaluate(make(), IMAGES, model=make())
    assert itself.score is not None
    assert itself.score.kl_nats == 0


def test_batches_do_not_change_what_is_measured() -> None:
    quantized = autoq.quantize(make(), "rtn", IMAGES, bits="w4a4", calib_images=8)
    whole = autoq.evaluate(quantized, (IMAGES, LABELS), model=make())
    batches = [(IMAGES[:7], LABELS[:7]), (IMAGES[7:], LABELS[7:])]
    parts = autoq.evaluate(quantized, batches, model=make())
    assert parts.metrics == whole.metrics
    assert whole.score is not None
    assert parts.score is not None
    assert parts.score.kl_nats == pytest.approx(whole.score.kl_nats, rel=1e-5)


def test_json_has_every_name_whether_measured_or_not() -> None:
    empty = autoq.Evaluation(images=3).to_json()
    costs = {"bops", "group_bops", "weight_layers_only_bops", "weight_bytes", "activation_bytes"}
    scores = {"kl_nats", "agreement_percent", "sqnr_db"}
    measured = {"top1_percent", "top5_percent", "images", "labels_by", "full_precision", "per_class"}
    assert empty.keys() == costs | scores | measured
    assert {name for name, value in empty.items() if value is not None} == {"images"}
    dense = autoq.Evaluation(images=3, metrics={"rmse": 0.5}, task=DenseTask()).to_json()
    assert (dense["rmse"], dense["mae"]) == (0.5, None)
    assert "top1_percent" not in dense


def test_the_part_that_is_compared_can_be_chosen() -> None:
    measured = autoq.evaluate(make(DepthLike), (IMAGES, torch.zeros(24, 8, 8)), task="dense", output="depth")
    assert set(measured.metrics) == {"rmse", "mae"}
    with pytest.raises(autoq.errors.InputError, match="'dept'"):
        autoq.evaluate(make(DepthLike), IMAGES, task="dense", output="dept")


class _Brightness(nn.Module):
    """Class 0 where it is bright, else class 1."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        bright = images.mean(1, keepdim=True)
        return {"out": torch.cat([bright, 1 - bright], 1)}


def test_classes_of_pixels_are_measured_where_the_image_lies_in_the_input(tmp_path: Path) -> None:
    """Images are wider than high, and of several sizes; the grey that fills the input is no part of them."""
    for index, (height, width) in enumerate([(4, 8), (16, 32), (3, 6)]):
        dark = np.zeros((height, width), dtype=np.uint8)
        dark[:, width // 2 :] = 1
        for folder, pixels in (("images", 255 * (1 - dark)), ("labels", dark)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{index}.png")
    measured = autoq.evaluate(
        _Brightness().eval(),
        f"maps:{tmp_path / 'images'}:{tmp_path / 'labels'}",
        task="semantic-segmentation",
        preprocess=LetterboxTransform((16, 16)),
    )
    assert dict(measured.metrics) == {"miou_percent": 100.0, "pixel_accuracy_percent": 100.0}
    assert measured.per_class == {"0": {"iou_percent": 100.0}, "1": {"iou_percent": 100.0}}
    assert measured.labels_by == "index"


class _Queries(nn.Module):
    """The first query's mask is what is bright, of class 0; the second's what is dark, of class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Parameter(torch.tensor([[6.0, 0.0, 0.0], [0.0, 6.0, 0.0]]))
        self.layer = nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([20.0, -20.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1) / 3)
            self.layer.bias.copy_(torch.tensor([-10.0, 10.0]))  # type: ignore[union-attr]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        masks = self.layer(images)
        return {
            "class_queries_logits": self.classes + 0 * masks.mean((2, 3)).unsqueeze(2),
            "masks_queries_logits": masks,
        }


def test_a_model_of_masks_of_queries_segments_pixels() -> None:
    images = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = (images.mean(1) < 0.5).long()
    model, task = _Queries().eval(), "semantic-segmentation"
    alone = autoq.evaluate(model, (images, labels), task=task)
    assert alone.metrics == {"miou_percent": 100.0, "pixel_accuracy_percent": 100.0}
    other = _Queries().eval()
    with torch.no_grad():
        other.layer.weight.mul_(0.5)
    compared = autoq.evaluate(other, (images, labels), model=model, task=task)
    assert compared.score is not None
    with torch.no_grad():
        before, after = (tuple(each(images).values()) for each in (model, other))
    expected = make_task(task).adapted(before, 2).divergence(before, after)
    assert compared.score.kl_nats == pytest.approx(float(expected.mean()), rel=1e-4)
    assert compared.full_precision == alone.metrics
    assert compared.metrics["miou_percent"] < 100


def test_settings_of_the_task_are_those_that_are_given() -> None:
    half = autoq.evaluate(make(DepthLike), IMAGES, model=make(DepthLike), task="dense", task_options={"variance": 0.5})
    assert half.task == DenseTask(variance=0.5)
    with pytest.raises(autoq.errors.InputError, match="task 'dense' has no setting 'nms_iou'"):
        autoq.evaluate(make(DepthLike), IMAGES, task="dense", task_options={"nms_iou": 0.5})
