"""Detectors and segmenters of transformers, of reduced size: their outputs are found, compared and quantized."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from autoq.models import describe_module
from autoq.runs.session import Session
from autoq.tasks import DetectionTask, make_task

transformers = pytest.importorskip("transformers", reason="the extra transformers is not installed")

HEIGHT, WIDTH, QUERIES = 64, 96, 6
DETR = {
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "backbone": None,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": QUERIES,
    "num_labels": 3,
    "attn_implementation": "eager",
}
YOLOS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": [HEIGHT, WIDTH],
    "num_detection_tokens": QUERIES,
    "num_labels": 3,
    "attn_implementation": "eager",
}
RT_DETR = {
    "encoder_in_channels": [16, 16, 32],
    "encoder_hidden_dim": 16,
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "d_model": 16,
    "decoder_in_channels": [16, 16, 16],
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "num_queries": QUERIES,
    "num_labels": 3,
    "attn_implementation": "eager",
}
SEGFORMER = {
    "hidden_sizes": [8, 16, 16, 32],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
    "num_labels": 4,
    "attn_implementation": "eager",
}


MASK2FORMER = {
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "dim_feedforward": 32,
    "num_queries": QUERIES,
    "num_labels": 3,
    "attn_implementation": "eager",
}
MASKFORMER = {"fpn_feature_size": 32, "mask_feature_size": 32, "num_labels": 3, "attn_implementation": "eager"}


def swin() -> Any:
    return transformers.SwinConfig(
        image_size=HEIGHT,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def resnet(*stages: str) -> Any:
    return transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic", out_features=[*stages]
    )


def make(name: str, settings: dict[str, Any], *stages: str) -> nn.Module:
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    backbone = {"backbone_config": resnet(*stages)} if stages else {}
    module: nn.Module = kind(kind.config_class(**settings, **backbone)).eval()
    return module


@pytest.mark.parametrize(
    ("name", "settings", "stages", "scores"),
    [
        ("YolosForObjectDetection", YOLOS, (), "softmax"),
        pytest.param("DetrForObjectDetection", DETR, ("stage4",), "softmax", marks=pytest.mark.slow),
        pytest.param("ConditionalDetrForObjectDetection", DETR, ("stage4",), "sigmoid", marks=pytest.mark.slow),
        pytest.param(
            "DeformableDetrForObjectDetection", DETR, ("stage2", "stage3", "stage4"), "sigmoid", marks=pytest.mark.slow
        ),
        ("RTDetrForObjectDetection", RT_DETR, ("stage2", "stage3", "stage4"), "sigmoid"),
        pytest.param(
            "RTDetrV2ForObjectDetection", RT_DETR, ("stage2", "stage3", "stage4"), "sigmoid", marks=pytest.mark.slow
        ),
        pytest.param(
            "DFineForObjectDetection", RT_DETR, ("stage2", "stage3", "stage4"), "sigmoid", marks=pytest.mark.slow
        ),
    ],
)
def test_a_detector(name: str, settings: dict[str, Any], stages: tuple[str, ...], scores: str) -> None:
    module = make(name, settings, *stages)
    session = Session.of(describe_module(module, example_input=torch.zeros(1, 3, HEIGHT, WIDTH)), task=DetectionTask())
    task = session.adapted().task
    assert isinstance(task, DetectionTask)
    assert task.scores == scores
    assert task.nms_iou == 1, "queries of a decoder were matched with objects one to one"
    images = torch.randn(3, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        outputs = task.outputs_of(session.model.run(images), session.model.output_names)
        eager = module(images)
    assert torch.equal(outputs[0], eager.logits)
    assert torch.equal(outputs[1], eager.pred_boxes)
    worse = tuple(leaf + 0.01 for leaf in outputs)
    assert (task.divergence(outputs, worse) > 0).all()
    assert [len(each.scores) <= 100 for each in task.detections(outputs)] == [True] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [("Mask2FormerForUniversalSegmentation", MASK2FORMER), ("MaskFormerForInstanceSegmentation", MASKFORMER)],
)
def test_a_model_of_masks_alone(name: str, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    if kind.config_class is transformers.MaskFormerConfig:
        decoder = {key: value for key, value in DETR.items() if key != "num_labels"}
        settings = {**settings, "decoder_config": transformers.DetrConfig(**decoder, backbone_config=None)}
    module = kind(kind.config_class(backbone_config=swin(), **settings)).eval()
    example = torch.zeros(1, 3, HEIGHT, WIDTH)
    session = Session.of(describe_module(module, example_input=example), task=make_task("instance-segmentation"))
    task = session.adapted().task
    assert isinstance(task, DetectionTask)
    assert task.scores == "softmax"
    images = torch.randn(3, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits, masks = task.outputs_of(session.model.run(images), session.model.output_names)
        eager = module(images)
    torch.testing.assert_close(logits, eager.class_queries_logits)
    torch.testing.assert_close(masks, eager.masks_queries_logits)
    check_semantic_segmentation(session, images, eager)
    found = list(task.detections((logits, masks)))
    assert [each.boxes for each in found] == [None] * 3
    assert all(each.mask_logits is not None and len(each.mask_logits) == len(each.scores) > 0 for each in found)


def check_semantic_segmentation(session: Session, images: torch.Tensor, eager: Any) -> None:
    """Compare with what transformers makes of random outputs, 384 pixels high and wide."""
    segmenting = replace(session, task=make_task("semantic-segmentation")).adapted()
    task = segmenting.task
    outputs = task.outputs_of(session.model.run(images), session.model.output_names)
    assert task.num_classes(outputs) == segmenting.num_classes == 3
    generator = torch.Generator().manual_seed(2)
    surer = tuple(torch.randn(leaf.shape, generator=generator) * 4 for leaf in outputs)
    eager.class_queries_logits, eager.masks_queries_logits = surer
    maps = torch.stack(transformers.Mask2FormerImageProcessor().post_process_semantic_segmentation(eager))
    assert len(maps.unique()) == 3
    meter = task.meter()
    meter.add(surer, maps)
    assert meter.metrics()["pixel_accuracy_percent"] > 99.9


def test_a_segmenter() -> None:
    module = make("SegformerForSemanticSegmentation", SEGFORMER)
    example = torch.zeros(1, 3, HEIGHT, WIDTH)
    session = Session.of(describe_module(module, example_input=example), task=make_task("semantic-segmentation"))
    task = session.adapted().task
    images = torch.randn(3, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        outputs = task.outputs_of(session.model.run(images), session.model.output_names)
    assert outputs[0].shape == (3, 4, HEIGHT // 4, WIDTH // 4)
    meter = task.meter()
    full_size = nn.functional.interpolate(outputs[0], size=(HEIGHT, WIDTH), mode="bilinear").argmax(1)
    meter.add(outputs, full_size)
    assert meter.metrics() == {"miou_percent": 100.0, "pixel_accuracy_percent": 100.0}
