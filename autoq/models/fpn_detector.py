"""A one-stage detector with masks on a backbone of timm: feature pyramid, anchor-free heads, mask prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_GROUPS = 8


class FpnDetector(nn.Module):
    """Predict an object at each location of some levels of a feature pyramid.

    The pyramid is that of Lin et al. (CVPR 2017); classes, and distances to the four sides of the box, come from towers
    that the levels share, as in FCOS (Tian et al., ICCV 2019). Masks are combinations of prototypes, as in YOLACT
    (Bolya et al., ICCV 2019); outside of an object's own box their logits fall with the distance from it, so that they
    need not be cropped. Outputs are named and scaled as those of detectors in transformers.

    >>> import timm
    >>> backbone = timm.create_model(
    ...     "swin_tiny_patch4_window7_224", features_only=True, img_size=64, window_size=4, embed_dim=8,
    ...     depths=(1, 1, 1), num_heads=(1, 1, 1), out_indices=(0, 1, 2),
    ... )
    >>> detector = FpnDetector(backbone, num_classes=4, image_size=(64, 64), channels=16, prototypes=4).eval()
    >>> {name: tuple(output.shape) for name, output in detector(torch.zeros(2, 3, 64, 64)).items()}
    {'logits': (2, 80, 4), 'pred_boxes': (2, 80, 4), 'pred_masks': (2, 80, 32, 32)}
    """

    def __init__(
        self,
        backbone: Any,
        num_classes: int,
        image_size: tuple[int, int],
        channels: int = 256,
        prototypes: int = 32,
        tower_depth: int = 2,
        finest_level: int = 1,
    ) -> None:
        """Build the detector with random weights.

        Args:
            backbone: of timm, made with ``features_only=True``.
            num_classes: of objects.
            image_size: height and width of an input in pixels, multiples of the backbone's coarsest stride.
            channels: of the pyramid and the towers, a multiple of 8.
            prototypes: of masks; 0: the detector has no masks.
            tower_depth: convolutions of each tower.
            finest_level: the first level of the pyramid at which objects are predicted.
        """
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.image_size = image_size
        self.channels_last = "NHWC" in str(getattr(backbone, "output_fmt", "NCHW"))
        self.strides: list[int] = list(backbone.feature_info.reduction())
        self.finest_level = finest_level
        widths = backbone.feature_info.channels()
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in widths)
        self.class_tower, self.box_tower = (_tower(channels, tower_depth) for _ in range(2))
        self.class_head = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.box_head = nn.Conv2d(channels, 4, 3, padding=1)
        self.mask_head = nn.Conv2d(channels, prototypes, 3, padding=1) if prototypes else None
        self.prototypes = _prototypes(channels, prototypes) if prototypes else None
        nn.init.constant_(_bias(self.class_head), -4.0)  # objects are rare (Lin et al., ICCV 2017)
        for level, centres in enumerate(self._centres()):
            self.register_buffer(f"centres{level}", centres, persistent=False)
        if prototypes:
            height, width = (2 * side // self.strides[0] for side in image_size)
            self.register_buffer("rows", (torch.arange(height) + 0.5) / height, persistent=False)
            self.register_buffer("columns", (torch.arange(width) + 0.5) / width, persistent=False)

    def _centres(self) -> list[Tensor]:
        """Return for each level that predicts (x, y) of its locations in shares of the image, (locations, 2)."""
        made = []
        for stride in self.strides[self.finest_level :]:
            height, width = (side // stride for side in self.image_size)
            y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
            made.append(torch.cartesian_prod(y, x).flip(1))
        return made

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Predict.

        Args:
            images: of shape (N, channels, height, width), normalised.

        Returns:
            ``logits`` of shape (N, locations, classes), of independent classes; ``pred_boxes`` (N, locations, 4):
            centre, width and height in shares of the image; with prototypes ``pred_masks``
            (N, locations, mask height, mask width), logits.
        """
        pyramid = self._pyramid(self.backbone(images))
        logits, boxes, weights = [], [], []
        for level, features in enumerate(pyramid[self.finest_level :]):
            class_features, box_features = self.class_tower(features), self.box_tower(features)
            logits.append(_rows(self.class_head(class_features)))
            boxes.append(self._boxes(_rows(self.box_head(box_features)), level))
            if self.mask_head is not None:
                weights.append(_rows(self.mask_head(box_features)))
        outputs = {"logits": torch.cat(logits, 1), "pred_boxes": torch.cat(boxes, 1)}
        if self.prototypes is not None:
            maps = self.prototypes(pyramid[0])  # (N, prototypes, h, w)
            masks = (torch.cat(weights, 1) @ maps.flatten(2)).unflatten(2, maps.shape[2:])
            outputs["pred_masks"] = masks - self._distance(outputs["pred_boxes"])
        return outputs

    def _pyramid(self, features: Sequence[Tensor]) -> list[Tensor]:
        if self.channels_last:
            features = [each.permute(0, 3, 1, 2) for each in features]
        merged = [lateral(each) for lateral, each in zip(self.lateral, features, strict=True)]
        for level in range(len(merged) - 2, -1, -1):
            merged[level] = merged[level] + functional.interpolate(merged[level + 1], size=merged[level].shape[2:])
        return [smooth(each) for smooth, each in zip(self.smooth, merged, strict=True)]

    def _boxes(self, sides: Tensor, level: int) -> Tensor:
        """Return boxes (N, locations, 4) of raw distances to left, top, right and bottom."""
        stride = self.strides[self.finest_level + level]
        height, width = self.image_size
        scale = sides.new_tensor([stride / width, stride / height, stride / width, stride / height])
        left_top, right_bottom = torch.split(functional.softplus(sides) * scale, 2, 2)
        centres = getattr(self, f"centres{level}") + (right_bottom - left_top) / 2
        return torch.cat([centres, left_top + right_bottom], 2)

    def _distance(self, boxes: Tensor) -> Tensor:
        """Return how far pixels lie outside of boxes a tenth wider, in 16ths of half a side, (N, locations, h, w)."""
        centres, sides = torch.split(boxes.detach(), 2, 2)
        x, y = (
            torch.relu(16 * (2 * (at - centre).abs() / side.clamp_min(1e-3) - 1.1))
            for at, centre, side in zip(
                (self.get_buffer("columns"), self.get_buffer("rows")),
                torch.split(centres, 1, 2),
                torch.split(sides, 1, 2),
                strict=True,
            )
        )  # (N, locations, w), (N, locations, h)
        distance: Tensor = x.unsqueeze(2) + y.unsqueeze(3)
        return distance


def _tower(channels: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.GroupNorm(_GROUPS, channels), nn.ReLU()]
    return nn.Sequential(*layers)


def _prototypes(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, channels),
        nn.ReLU(),
        nn.ConvTranspose2d(channels, channels, 2, stride=2),
        nn.ReLU(),
        nn.Conv2d(channels, count, 1),
    )


def _rows(maps: Tensor) -> Tensor:
    """Return maps (N, channels, h, w) as rows (N, h w, channels)."""
    return maps.flatten(2).transpose(1, 2)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None  # noqa: S101 - made with one
    return layer.bias
