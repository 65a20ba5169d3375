"""Mask R-CNN of torchvision on a backbone of timm, with the regions of interest as an input of the model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autoq.models.input_layout import InputLayout
from autoq.models.roi_align import PyramidRoIAlign
from autoq.models.square_transform import SquareTransform
from autoq.models.timm_models import import_timm

if TYPE_CHECKING:
    from PIL import Image

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PROPOSAL, _BOX, _CLASS = slice(0, 4), slice(4, 8), 8
_ROI_SIZE = 9


class MaskRcnn(nn.Module):
    """Classes, boxes and masks of given regions of interest (He et al., ICCV 2017).

    A region is a proposal of the full-precision model, with the box and the class that full precision makes of it:
    :meth:`regions` finds them, once an image. Given the same regions, a quantized model answers region by region what
    full precision answers. Classes and boxes are those of the proposal, masks those of the box, as torchvision computes
    them; box and mask are of the region's class. Parameters are named as in torchvision's ``MaskRCNN``.

    Its one input holds the image and its regions, laid out as :attr:`layout` says.

    >>> small = {"window_size": 2, "embed_dim": 12, "depths": (1,) * 4, "num_heads": (1,) * 4}
    >>> detector, _ = build_mask_rcnn(3, (64, 64), regions=10, channels=16, **small)
    >>> images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    >>> with torch.no_grad():
    ...     outputs = detector(detector.layout.pack(images, detector.regions(images)))
    >>> {name: tuple(output.shape) for name, output in outputs.items()}
    {'logits': (2, 10, 4), 'pred_boxes': (2, 10, 4), 'pred_box_masks': (2, 10, 28, 28)}

    Attributes:
        layout: of an image and its regions.
        num_classes: of objects.
        image_size: height and width of an input in pixels.
    """

    def __init__(self, detector: Any, image_size: tuple[int, int], regions: int, strides: Sequence[int]) -> None:
        """Take a detector apart.

        Args:
            detector: a ``torchvision.models.detection.MaskRCNN`` whose backbone returns a pyramid.
            image_size: height and width of an input in pixels.
            regions: of interest on each image.
            strides: of the levels that regions are pooled from.
        """
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = detector.backbone, detector.rpn, detector.roi_heads
        heads = self.roi_heads
        self.box_pool = PyramidRoIAlign(heads.box_roi_pool.output_size[0], strides)
        self.mask_pool = PyramidRoIAlign(heads.mask_roi_pool.output_size[0], strides)
        self.image_size = image_size
        self.num_classes = int(heads.box_predictor.cls_score.out_features) - 1
        self.layout = InputLayout(((3, *image_size), (regions, _ROI_SIZE)))
        self._levels = list(heads.box_roi_pool.featmap_names)

    def forward(self, packed: Tensor) -> dict[str, Tensor]:
        """Predict.

        Args:
            packed: images, normalised, and their regions, of shape (N, layout.size).

        Returns:
            ``logits`` of shape (N, regions, classes + 1), the last being that there is no object; ``pred_boxes``
            (N, regions, 4): centre, width and height in shares of the image; ``pred_box_masks`` (N, regions, 28, 28):
            logits within the box.
        """
        images, regions = self.layout.unpack(packed)
        pyramid = self.backbone(images)
        label = regions[..., _CLASS].round().clamp(0, self.num_classes - 1).long() + 1  # 0 is the background
        logits, boxes = self._boxes(pyramid, regions[..., _PROPOSAL], label)
        shares = boxes / boxes.new_tensor(self.image_size).flip(0).repeat(2)
        left_top, right_bottom = torch.split(shares, 2, 2)
        return {
            "logits": torch.cat([logits[..., 1:], logits[..., :1]], 2),
            "pred_boxes": torch.cat([(left_top + right_bottom) / 2, right_bottom - left_top], 2),
            "pred_box_masks": self._masks(pyramid, regions[..., _BOX], label),
        }

    @torch.no_grad()
    def regions(self, images: Tensor) -> Tensor:
        """Find the regions of interest of images (N, 3, height, width), normalised.

        Where the proposal network finds fewer than there have to be, they are repeated.

        Returns:
            Proposal, box (left, top, right, bottom in pixels) and class of each, of shape (N, regions, 9).
        """
        from torchvision.models.detection.image_list import ImageList

        pyramid = self.backbone(images)
        proposals, _ = self.rpn(ImageList(images, [self.image_size] * len(images)), pyramid)
        count = self.layout.shapes[1][0]
        filled = torch.stack([_repeated(each, count, self.image_size) for each in proposals])
        logits, _ = self._boxes(pyramid, filled, torch.ones_like(filled[..., 0], dtype=torch.long))
        label = logits[..., 1:].argmax(-1)
        _, boxes = self._boxes(pyramid, filled, label + 1)
        return torch.cat([filled, boxes, label.unsqueeze(-1).to(boxes)], -1)

    def _boxes(self, pyramid: dict[str, Tensor], proposals: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, regions, 1 + classes) of proposals, and the box of one class each, in pixels."""
        heads = self.roi_heads
        features = self.box_pool([pyramid[level] for level in self._levels], proposals)
        logits, codes = heads.box_predictor(heads.box_head(features))
        codes = _of_class(codes.view(*label.shape, -1, 4), label)
        boxes = heads.box_coder.decode_single(codes.reshape(-1, 4), proposals.reshape(-1, 4)).view(proposals.shape)
        height, width = self.image_size
        return logits.view(*label.shape, -1), boxes.clamp(boxes.new_zeros(4), boxes.new_tensor([width, height] * 2))

    def _masks(self, pyramid: dict[str, Tensor], boxes: Tensor, label: Tensor) -> Tensor:
        """Return the mask logits of one class each, of shape (N, regions, h, w)."""
        heads = self.roi_heads
        features = self.mask_pool([pyramid[level] for level in self._levels], boxes)
        masks = heads.mask_predictor(heads.mask_head(features))
        return _of_class(masks.view(*label.shape, *masks.shape[1:]), label)


@dataclass(frozen=True)
class RegionTransform:
    """Make an image, and the regions of interest that full precision finds on it, the input of a detector.

    Attributes:
        detector: in full precision.
        transform: makes its image.
    """

    detector: MaskRcnn
    transform: Callable[[Image.Image], Tensor]

    def to_dict(self) -> dict[str, Any]:
        """Describe how the image is made, and how many regions go with it."""
        described = getattr(self.transform, "description", None) or {}
        return {**described, "image_size": list(self.detector.image_size), "regions": self.detector.layout.shapes[1][0]}

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform one image to a tensor of shape (layout.size,)."""
        pixels = self.transform(image).unsqueeze(0).to(next(self.detector.parameters()))
        return self.detector.layout.pack(pixels, self.detector.regions(pixels))[0].cpu()


class _Pyramid(nn.Module):
    """A backbone of timm with torchvision's feature pyramid."""

    def __init__(self, body: Any, out_channels: int) -> None:
        from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

        super().__init__()
        self.body = body
        self.channels_last = "NHWC" in str(getattr(body, "output_fmt", "NCHW"))
        self.fpn = FeaturePyramidNetwork(body.feature_info.channels(), out_channels, LastLevelMaxPool())
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.body(images)
        if self.channels_last:
            features = [each.permute(0, 3, 1, 2) for each in features]
        pyramid: dict[str, Tensor] = self.fpn(OrderedDict((str(level), each) for level, each in enumerate(features)))
        return pyramid


def build_mask_rcnn(
    num_classes: int = 80,
    image_size: tuple[int, int] = (800, 1280),
    regions: int = 100,
    backbone: str = "swin_tiny_patch4_window7_224",
    channels: int = 256,
    seed: int = 0,
    **settings: Any,
) -> tuple[MaskRcnn, RegionTransform]:
    """Build a Mask R-CNN with random weights, in evaluation mode, and what makes its input of an image.

    Both together are what ``--model python:autoq.models.mask_rcnn:build_mask_rcnn`` takes.

    Args:
        num_classes: of objects.
        image_size: height and width to which every image is resized.
        regions: of interest on each image.
        backbone: of timm, with four levels of strides 4 to 32.
        channels: of the pyramid.
        seed: of the weights.
        settings: further ones of the backbone.
    """
    from torchvision.models.detection import MaskRCNN

    timm = import_timm()
    timm.layers.set_fused_attn(False)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        sized = {"img_size": image_size} if "swin" in backbone or "vit" in backbone else {}
        body = timm.create_model(backbone, features_only=True, **sized, **settings)
        detector = MaskRCNN(
            _Pyramid(body, channels),
            num_classes + 1,
            rpn_pre_nms_top_n_test=max(1000, regions),
            rpn_post_nms_top_n_test=regions,
        )
    made = MaskRcnn(detector, image_size, regions, body.feature_info.reduction()).eval()
    return made, RegionTransform(made, SquareTransform(image_size, _MEAN, _STD))


def _of_class(values: Tensor, label: Tensor) -> Tensor:
    """Take one class each of values (N, regions, classes, ...): shape (N, regions, ...)."""
    index = label.reshape(*label.shape, *(1 for _ in values.shape[2:])).expand(*label.shape, 1, *values.shape[3:])
    return values.gather(2, index).squeeze(2)


def _repeated(boxes: Tensor, count: int, image_size: tuple[int, int]) -> Tensor:
    """Repeat boxes until there are ``count``; without any, take the whole image."""
    if not len(boxes):
        boxes = boxes.new_tensor([[0.0, 0.0, image_size[1], image_size[0]]])
    return boxes[torch.arange(count, device=boxes.device) % len(boxes)]
