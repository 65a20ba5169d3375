from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.ops import box_convert

import autoq
from autoq.graph.trace import TracedModel
from autoq.models import describe_module
from autoq.models.mask_rcnn import MaskRcnn, RegionTransform, build_mask_rcnn
from autoq.runs.session import Session
from autoq.tasks import DetectionTask
from tests.known_traces import trace_known

HEIGHT, WIDTH, CLASSES, REGIONS, CHANNELS = 64, 96, 3, 5, 16
SMALL: dict[str, Any] = {"window_size": 2, "embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}


@pytest.fixture(scope="module")
def built() -> tuple[MaskRcnn, RegionTransform]:
    return build_mask_rcnn(CLASSES, (HEIGHT, WIDTH), REGIONS, channels=CHANNELS, **SMALL)


@pytest.fixture(scope="module")
def packed(built: tuple[MaskRcnn, RegionTransform]) -> Tensor:
    images = torch.rand(3, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    return built[0].layout.pack(images, built[0].regions(images))


@pytest.fixture(scope="module")
def traced(built: tuple[MaskRcnn, RegionTransform], packed: Tensor) -> TracedModel:
    return trace_known(built[0], packed[:2])


def test_the_traced_model_equals_the_eager_one_on_its_regions(
    built: tuple[MaskRcnn, RegionTransform], packed: Tensor, traced: TracedModel
) -> None:
    with torch.no_grad():
        eager, found = built[0](packed), traced.graph_module(packed)
    for name, leaf in eager.items():
        assert torch.equal(found[name], leaf), name


def test_macs_of_the_heads_are_those_of_all_regions(traced: TracedModel) -> None:
    macs = {name: site.macs for name, site in traced.sites_by_name.items() if name.startswith("roi_heads.")}
    assert macs == {
        "roi_heads.box_head.fc6": REGIONS * 49 * CHANNELS * 1024,
        "roi_heads.box_head.fc7": REGIONS * 1024 * 1024,
        "roi_heads.box_predictor.cls_score": REGIONS * 1024 * (CLASSES + 1),
        "roi_heads.box_predictor.bbox_pred": REGIONS * 1024 * 4 * (CLASSES + 1),
        "roi_heads.mask_head.0.0": REGIONS * 14 * 14 * 9 * CHANNELS * 256,
        **{f"roi_heads.mask_head.{layer}.0": REGIONS * 14 * 14 * 9 * 256 * 256 for layer in (1, 2, 3)},
        "roi_heads.mask_predictor.conv5_mask": REGIONS * 28 * 28 * 256 * 256,
        "roi_heads.mask_predictor.mask_fcn_logits": REGIONS * 28 * 28 * 256 * (CLASSES + 1),
    }
    assert traced.uncounted == ()


def test_full_precision_answers_what_its_regions_say(built: tuple[MaskRcnn, RegionTransform], packed: Tensor) -> None:
    detector, _ = built
    _, regions = detector.layout.unpack(packed)
    with torch.no_grad():
        outputs = detector(packed)
    assert torch.equal(outputs["logits"][..., :-1].argmax(-1), regions[..., 8].long())
    boxes = box_convert(outputs["pred_boxes"], "cxcywh", "xyxy") * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    assert torch.allclose(boxes, regions[..., 4:8], atol=1e-3)


def test_boxes_and_masks_are_those_of_torchvision(built: tuple[MaskRcnn, RegionTransform], packed: Tensor) -> None:
    """Torchvision's own heads, on the same proposals, without leaving out or sorting any."""
    detector, _ = built
    images, regions = detector.layout.unpack(packed)
    reference = MaskRCNN(detector.backbone, CLASSES + 1).eval()
    reference.roi_heads.load_state_dict(detector.roi_heads.state_dict())
    heads, sizes = reference.roi_heads, [(HEIGHT, WIDTH)] * len(images)
    proposals, boxes = ([*each] for each in torch.split(regions[..., :8], 4, 2))
    with torch.no_grad():
        outputs, pyramid = detector(packed), detector.backbone(images)
        logits, codes = heads.box_predictor(heads.box_head(heads.box_roi_pool(pyramid, proposals, sizes)))
        masks = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(pyramid, boxes, sizes)))
    label = regions[..., 8].long().flatten() + 1
    each = torch.arange(len(label))
    expected = heads.box_coder.decode(codes, proposals)[each, label]
    expected = torch.stack([expected[:, 0::2].clamp(0, WIDTH), expected[:, 1::2].clamp(0, HEIGHT)], 2).flatten(1)
    found = box_convert(outputs["pred_boxes"], "cxcywh", "xyxy").flatten(0, 1)
    assert torch.allclose(found * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]), expected, atol=1e-3)
    assert torch.equal(outputs["logits"].flatten(0, 1).roll(1, 1), logits)
    assert torch.equal(outputs["pred_box_masks"].flatten(0, 1), masks[each, label])


def test_missing_regions_are_filled_up(
    built: tuple[MaskRcnn, RegionTransform], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, _ = built
    found = [torch.tensor([[1.0, 2, 30, 40], [5, 6, 50, 60]]), torch.zeros(0, 4)]
    monkeypatch.setattr(detector.rpn, "forward", lambda *_: (found, {}))
    regions = detector.regions(torch.rand(2, 3, HEIGHT, WIDTH))
    assert torch.equal(regions[0, :, :4], found[0][[0, 1, 0, 1, 0]])
    assert (regions[1, :, :4] == torch.tensor([0.0, 0, WIDTH, HEIGHT])).all()


def test_an_image_becomes_the_input_with_its_regions(built: tuple[MaskRcnn, RegionTransform]) -> None:
    detector, transform = built
    loaded = describe_module(detector, preprocess=transform)
    assert (loaded.input_size, loaded.num_classes) == ((detector.layout.size,), CLASSES)
    assert loaded.preprocessing is not None
    assert loaded.preprocessing["regions"] == REGIONS
    assert loaded.transform is not None
    images, regions = detector.layout.unpack(loaded.transform(Image.new("RGB", (50, 70), (255, 0, 0))).unsqueeze(0))
    assert torch.equal(regions, detector.regions(images))


@pytest.mark.slow
def test_a_search_ends_with_recipes_that_differ_from_full_precision(
    built: tuple[MaskRcnn, RegionTransform], packed: Tensor
) -> None:
    detector, _ = built
    options = {"space": "deployable_4-8", "trials": 2, "calib_images": 3, "fast": True}
    result = autoq.search(detector, packed, "60%", task="detection", **options)
    assert result.best.score is not None
    assert 0 < result.best.score.kl_nats < float("inf")
    session = Session.of(describe_module(detector, example_input=packed[:1]), task=DetectionTask())
    assert session.adapted().task == DetectionTask(scores="softmax", mask_frame="box")
