"""The bundled detector: what it finds, how it is traced."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from autoq.data import AnnotatedSource, load_images, open_source
from autoq.graph.trace import trace
from autoq.models import LoadedModel, load_model
from autoq.models.swin_shapes import LABEL_NAMES, WEIGHTS
from autoq.tasks import DetectionTask


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model("swin_shapes")


def test_its_classes_are_those_of_the_shapes(loaded: LoadedModel) -> None:
    assert open_source("shapes", "evaluation").class_names == LABEL_NAMES == loaded.label_names
    assert WEIGHTS.stat().st_size < 3e6


def test_it_finds_shapes(loaded: LoadedModel) -> None:
    source = open_source("shapes/val", "evaluation")
    assert isinstance(source, AnnotatedSource)
    assert loaded.transform is not None
    indices: Sequence[int] = range(48)
    images = load_images(source, indices, loaded.transform)
    task = DetectionTask(scores="sigmoid")
    with torch.inference_mode():
        outputs = loaded.module(images)
    meter = task.meter()
    meter.add(tuple(outputs.values()), [source.objects(index) for index in indices])
    metrics = meter.metrics()
    assert metrics["box_ap50_percent"] > 55
    assert metrics["mask_ap50_percent"] > 50


def test_random_weights_follow_from_the_seed() -> None:
    first, again, other = (load_model("swin_shapes", pretrained=False, seed=seed) for seed in (1, 1, 2))
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256


def test_shared_towers_are_sites_of_each_level(loaded: LoadedModel) -> None:
    traced = trace(loaded.module, torch.zeros(2, *loaded.input_size))
    names = [site.name for site in traced.sites]
    assert {"class_head", "class_head@2", "box_tower.3", "lateral.0", "backbone.layers_2.blocks.1.attn.qk"} <= {*names}
