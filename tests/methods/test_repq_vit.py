"""RepQ-ViT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from autoq.methods import BitWidths, MethodOptions, create_method
from autoq.recipe import OperandConfig
from autoq.runs.quantize import calibrate_method
from autoq.tasks import make_task
from tests.methods.configured import WIDTHS, by_kind, traced_model, uniform
from tests.methods.repq_reference import RepqReference
from tests.runs.small_run import small_session


def test_configurations() -> None:
    assert by_kind(create_method("repq-vit")) == {
        "image": uniform(8),
        "weight": uniform(3, granularity="channel"),
        "layer input": uniform(5),
        "query": uniform(5),
        "key": uniform(5),
        "value": uniform(5),
        "attention map": OperandConfig(scheme="log_sqrt2", bits=4),
        "gelu output": uniform(5),
    }


def test_protocol() -> None:
    method = create_method("repq-vit")
    assert (method.images, method.settings(3).observer, method.settings(3).seed) == (32, "best_percentile", 3)


@pytest.mark.parametrize(
    ("protocol", "task", "images"),
    [("published", "detection", 1), ("published", "classification", 32), ("autoq", "instance-segmentation", 32)],
)
def test_images_of_the_authors_code_for_detectors(protocol: str, task: str, images: int) -> None:
    method = create_method("repq-vit", MethodOptions(protocol=protocol))
    assert method.for_task(make_task(task)).calibration_images == images


def test_norms_before_linear_layers_are_rescaled() -> None:
    """Both of every block, and the last one, which the head alone reads."""
    norms = create_method("repq-vit").reparameterized(traced_model(), WIDTHS)
    names = {site.name for site in traced_model().sites if site.op == "layer_norm"}
    assert {name for name in names if name.startswith("blocks.")} <= norms.keys() <= names
    assert set(norms.values()) == {5}


@pytest.mark.parametrize("as_here", [True, False])
def test_published_against_a_slow_reference(as_here: bool, tmp_path: Path) -> None:
    """The same outputs as a reference with our two differences, and nearly the discrepancy of one without."""
    session = small_session()
    images = session.calibration_images("digits", 32, 0)
    reference = RepqReference(session.loaded.module, 4)
    reference.calibrate(images.tensor, as_here)
    method = create_method("repq-vit", MethodOptions(protocol="published"))
    found = calibrate_method(session, method, BitWidths(4, 4, 4), images, tmp_path)
    found.operands.apply_(found.session.model)
    with torch.no_grad():
        (actual,) = found.session.model.run(images.tensor)
        expected, full = reference.run(images.tensor), session.loaded.module(images.tensor)
    if as_here:
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-3)
    else:
        own, other = (divergence(full, logits) for logits in (actual, expected))
        assert own == pytest.approx(other, rel=0.25)


def divergence(full: Tensor, logits: Tensor) -> float:
    log_p, log_q = full.log_softmax(-1), logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean().item()
