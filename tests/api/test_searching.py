"""autoq.search on models and images as users have them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import autoq
from autoq.errors import BudgetError, DataError, InputError, ModelError, RunDirectoryError, TraceError
from autoq.events import PhaseStarted, TrialFinished
from autoq.runs.search.settings import FAST, SearchSettings
from tests.api.models import IMAGES, LABELS, SETTINGS, DepthLike, make


def test_the_module_and_its_images_are_left_alone() -> None:
    model, images = make(), IMAGES.clone()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    autoq.search(model, images, **SETTINGS)
    assert torch.equal(images, IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any("autoq" in name for name in vars(model))


def generator() -> Iterator[dict[str, Tensor]]:
    for start in range(0, 12, 5):
        yield {"pixel_values": IMAGES[:12][start : start + 5], "labels": LABELS[:12][start : start + 5]}


@pytest.mark.parametrize(
    "images",
    [
        IMAGES[:12].numpy(),
        DataLoader(TensorDataset(IMAGES[:12], LABELS[:12]), batch_size=5),
        [(IMAGES[:7], LABELS[:7]), (IMAGES[7:12], LABELS[7:12])],
        generator(),
    ],
    ids=["array", "loader", "list of batches", "generator"],
)
def test_the_same_images_in_any_form_give_the_same_trials(images: object) -> None:
    found = autoq.search(make(), images, **SETTINGS).trials
    assert found.kl_nats.tolist() == _divergences_of_a_tensor()


@cache
def _divergences_of_a_tensor() -> list[float]:
    return autoq.search(make(), IMAGES[:12], **SETTINGS).trials.kl_nats.tolist()


def test_a_run_directory_is_resumed_and_read_by_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "run"
    before = len(autoq.search(make(), IMAGES, out=out, **SETTINGS).trials)
    assert {"run.json", "report.html", "pareto.png"} <= {path.name for path in out.iterdir()}
    seen: list[object] = []
    again = autoq.search(make(), IMAGES, out=out, progress=seen.append, **{**SETTINGS, "trials": before + 2})
    assert len(again.trials) == before + 2
    assert sum(isinstance(event, TrialFinished) for event in seen) == 2
    with pytest.raises(RunDirectoryError, match="images_sha256"):
        autoq.search(make(), IMAGES + 1, out=out, **SETTINGS)
    assert autoq.SearchResult(out).best == again.best


def test_a_space_is_narrowed_to_a_target(tmp_path: Path) -> None:
    settings = SETTINGS | {"trials": 4, "out": tmp_path / "run"}
    result = autoq.search(make(), IMAGES, "w8a8", target="int8-int4", **settings)
    recipe = result.recipe("best", version="searched")
    assert recipe.search is not None
    assert recipe.search.target == "int8-int4"
    for operands in recipe.sites.values():
        for name, config in operands.items():
            assert config.bits in (4, 8)
            assert config.symmetric == (name == "weight")
    with pytest.raises(RunDirectoryError, match="target"):
        autoq.search(make(), IMAGES, "w8a8", target="any", **settings)


def test_a_map_is_searched_by_squared_error() -> None:
    targets = torch.zeros(24, 8, 8)
    result = autoq.search(make(DepthLike), IMAGES, task="dense", labelled=(IMAGES, targets), **SETTINGS)
    assert {"rmse", "kl_nats"} <= set(result.front.columns)
    assert result.front.kl_nats.is_monotonic_decreasing
    quantized = autoq.quantize(make(DepthLike), result.best)
    assert quantized(IMAGES[:3])["depth"].shape == (3, 8, 8)
    measured = autoq.evaluate(quantized, (IMAGES, targets), model=make(DepthLike))
    assert set(measured.metrics) == {"rmse", "mae"}
    with torch.no_grad():
        expected = quantized(IMAGES)["depth"].square().mean().sqrt()
    assert measured.metrics["rmse"] == pytest.approx(float(expected), rel=1e-5)


def test_pictures_need_preprocess_unless_the_model_says() -> None:
    pictures = [Image.effect_noise((20, 20), 90).convert("RGB") for _ in range(12)]
    with pytest.raises(ModelError, match="nobody knows how HandWritten is fed"):
        autoq.search(make(), pictures, **SETTINGS)

    def preprocess(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image.resize((16, 16)))).permute(2, 0, 1) / 255

    assert len(autoq.search(make(), pictures, preprocess=preprocess, **SETTINGS).front)
    known = timm.create_model(
        "vit_tiny_patch16_224",
        pretrained_cfg_overlay={"input_size": (3, 16, 16)},
        img_size=16,
        patch_size=8,
        embed_dim=16,
        depth=1,
        num_heads=2,
        num_classes=5,
    ).eval()
    assert len(autoq.search(known, pictures, **SETTINGS).front)


class Fixed(nn.Module):
    """Cannot be traced: the batch size is fixed."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1)


@pytest.mark.parametrize(
    ("model", "images", "options", "error", "built_in", "message"),
    [
        (3, IMAGES, {}, InputError, TypeError, "model is a torch.nn.Module or a name, not int"),
        ("nosuchmodel", IMAGES, {}, ModelError, FileNotFoundError, "unknown model 'nosuchmodel'"),
        (make().train(), IMAGES, {}, ModelError, ValueError, r"in training mode: call \.eval"),
        (Fixed().eval(), IMAGES, {}, TraceError, ValueError, "fixes the batch size|does not run|cannot trace"),
        (make(), IMAGES[:, :1], {}, TraceError, ValueError, "does not run on an input of shape"),
        ("vit_digits", IMAGES, {}, DataError, ValueError, r"images have shape \(3, 16, 16\), but 'vit_digits' takes"),
        (make(), (IMAGES * 255).to(torch.uint8), {}, DataError, ValueError, "of type uint8"),
        (make(), [], {}, DataError, ValueError, "is empty"),
        (make(), iter([]), {}, DataError, ValueError, "is empty"),
        (make(), None, {}, InputError, TypeError, "images are a tensor"),
        (make(), "no/such/folder", {"preprocess": lambda _: IMAGES[0]}, DataError, FileNotFoundError, "no/such"),
        (make(), IMAGES, {"budget_bops": "w1a1"}, BudgetError, ValueError, "costs"),
        (make(), IMAGES, {"budget_bops": "much"}, BudgetError, ValueError, "'much'"),
        (make(), IMAGES, {"trials": 0}, InputError, ValueError, "trials"),
        (make(), IMAGES, {"sampler": "progresive"}, InputError, ValueError, "progressive"),
        (make(), IMAGES, {"labelled": IMAGES}, DataError, ValueError, "have no labels"),
        (make(), IMAGES, {"labelled": (IMAGES, LABELS + 3)}, DataError, ValueError, "labels run from"),
        (make(), IMAGES, {"task": "clasification"}, InputError, ValueError, "classification"),
        (make(), IMAGES, {"device": "cuda:99"}, ModelError, ValueError, "cuda:99"),
    ],
)
def test_wrong_arguments_are_one_clear_exception(
    model: Any,
    images: Any,
    options: dict[str, Any],
    error: type[Exception],
    built_in: type[Exception],
    message: str,
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    with pytest.raises(error, match=message) as raised:
        autoq.search(model, images, **{**SETTINGS, **options}, out=out)
    assert isinstance(raised.value, built_in)
    assert "\n" not in str(raised.value)
    assert not out.exists(), "wrong input leaves nothing behind"


def test_arguments_have_the_defaults_of_the_command_line() -> None:
    parameters = inspect.signature(autoq.search).parameters
    renamed = {"data": "images", "eval_data": "labelled"}
    for name, field in SearchSettings.model_fields.items():
        default = parameters[renamed.get(name, name)].default
        told = None if name in FAST else field.get_default(call_default_factory=True)
        assert default == (None if told == {} else told), f"{name}: None where fast decides, and for no options"


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[object] = []
    autoq.search(make(), IMAGES, progress=seen.append, **SETTINGS)
    assert capfd.readouterr() == ("", "")
    phases = [event.phase for event in seen if isinstance(event, PhaseStarted)]
    assert phases.index("calibration") < phases.index("search")
    autoq.search(make(), IMAGES, progress=True, **SETTINGS)
    out, err = capfd.readouterr()
    assert out == ""
    assert "evaluating recipes" in err
