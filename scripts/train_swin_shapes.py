#!/usr/bin/env python
"""Train the bundled detector, swin_shapes, from scratch on shapes/train and write its weights.

It takes about an hour on one CPU core. shapes/calib and shapes/val are not looked at: the last weights (their moving
average) are kept, whatever they reach. Every few hundred steps a checkpoint is written, from which the same command
goes on.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from timm.layers import set_fused_attn
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert, box_iou, generalized_box_iou_loss

from autoq.data.shapes import SPLITS, draw_shapes
from autoq.models.swin_shapes import MEAN, STD, WEIGHTS, build_swin_shapes

SEED = 0
STEPS = 4500
BATCH = 32
LEARNING_RATE = 1.5e-3
WEIGHT_DECAY = 0.05
WARMUP_STEPS = 300
AVERAGE_DECAY = 0.998
CANDIDATES = 6
MASKED_POSITIVES = 160
CHECKPOINT_EVERY = 250


def training_set(images: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Draw images (N, 3, H, W) of 8 bits, the labels of their objects and masks (objects, H, W)."""
    drawn = [draw_shapes("train", index) for index in range(images)]
    pixels = torch.from_numpy(np.stack([each.pixels for each in drawn])).permute(0, 3, 1, 2).contiguous()
    return pixels, [torch.tensor(each.labels) for each in drawn], [torch.from_numpy(each.masks) for each in drawn]


def flipped(pixels: Tensor, masks: list[Tensor], generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
    """Turn each image by one of the square's eight symmetries, and its masks with it."""
    images = []
    for index, code in enumerate(torch.randint(8, (len(pixels),), generator=generator).tolist()):
        axes = [axis for bit, axis in ((1, -1), (2, -2)) if code & bit]
        image, mask = pixels[index].flip(axes), masks[index].flip(axes)
        images.append(image.transpose(-1, -2) if code & 4 else image)
        masks[index] = mask.transpose(-1, -2) if code & 4 else mask
    return torch.stack(images), masks


def boxes_of(masks: Tensor) -> Tensor:
    """Return the boxes of masks (objects, H, W): left, top, right, bottom in shares of the image, (objects, 4)."""
    columns, rows = masks.any(1).float(), masks.any(2).float()
    width, height = columns.shape[1], rows.shape[1]
    left, top = columns.argmax(1) / width, rows.argmax(1) / height
    right, bottom = 1 - columns.flip(1).argmax(1) / width, 1 - rows.flip(1).argmax(1) / height
    return torch.stack([left, top, right, bottom], 1)


@torch.no_grad()
def assign(scores: Tensor, boxes: Tensor, centres: Tensor, labels: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Assign objects to locations by how well both class and box fit (task-aligned, Feng et al., ICCV 2021).

    Args:
        scores: of shape (locations, classes).
        boxes: of shape (locations, 4), corners.
        centres: of the locations, (locations, 2).
        labels: of the objects.
        truth: boxes of the objects, (objects, 4).

    Returns:
        For each location the number of its object, or -1, and how good it should say that it is, 0 to 1.
    """
    iou = box_iou(truth, boxes)  # (objects, locations)
    alignment = scores[:, labels].T.sqrt() * iou**4
    inside = ((centres[None] > truth[:, None, :2]) & (centres[None] < truth[:, None, 2:])).all(2)
    distance = (centres[None] - box_convert(truth, "xyxy", "cxcywh")[:, None, :2]).norm(dim=2)
    inside |= distance == distance.min(1, keepdim=True).values  # an object so small that no centre lies in it
    alignment = torch.where(inside, alignment + 1e-9 / (1 + distance), alignment.new_tensor(-1.0))
    best = alignment.topk(CANDIDATES, 1).indices
    chosen = torch.zeros_like(inside).scatter_(1, best, True) & inside
    masked = torch.where(chosen, alignment, alignment.new_tensor(-1.0))
    value, owner = masked.max(0)
    owner = torch.where(value >= 0, owner, -1)
    # The best location of an object should say its best IoU, the others less in proportion.
    peak = masked.max(1).values.clamp_min(1e-9)
    best_iou = torch.where(chosen, iou, iou.new_tensor(0.0)).max(1).values
    quality = value * (best_iou / peak)[owner.clamp_min(0)]
    return owner, torch.where(owner >= 0, quality.clamp(0, 1), quality.new_tensor(0.0))


def loss_of(outputs: dict[str, Tensor], centres: Tensor, labels: list[Tensor], masks: list[Tensor]) -> Tensor:
    """Return the loss of a batch: classes (varifocal, Zhang et al., CVPR 2021), boxes (GIoU, L1), masks (BCE, dice)."""
    corners = box_convert(outputs["pred_boxes"], "cxcywh", "xyxy")
    scores = outputs["logits"].detach().sigmoid()
    targets = torch.zeros_like(scores)
    found: list[tuple[Tensor, ...]] = []
    for image, (own_labels, own_masks) in enumerate(zip(labels, masks, strict=True)):
        if not len(own_labels):
            continue
        truth = boxes_of(own_masks)
        owner, quality = assign(scores[image], corners[image].detach(), centres, own_labels, truth)
        at = (owner >= 0).nonzero().squeeze(1)
        owner = owner[at]
        targets[image, at, own_labels[owner]] = quality[at]
        found.append(
            (corners[image, at], truth[owner], quality[at], outputs["pred_masks"][image, at], own_masks[owner])
        )
    weight = torch.where(targets > 0, targets, 0.75 * scores**2)
    classes = functional.binary_cross_entropy_with_logits(outputs["logits"], targets, weight, reduction="sum")
    predicted, truth, quality, mask_logits, true_masks = (torch.cat(each) for each in zip(*found, strict=True))
    total = quality.sum().clamp_min(1.0)
    boxes = 2 * generalized_box_iou_loss(predicted, truth, reduction="none") + 5 * (predicted - truth).abs().sum(1)
    some = torch.randperm(len(quality))[:MASKED_POSITIVES]
    wanted = functional.avg_pool2d(true_masks[some].float().unsqueeze(1), 2).squeeze(1).flatten(1)
    logits = mask_logits[some].flatten(1)
    area = (truth[some, 2:] - truth[some, :2]).prod(1) * logits.shape[1]
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1) / area
    p = logits.sigmoid()
    dice = 1 - (2 * (p * wanted).sum(1) + 1) / ((p**2).sum(1) + (wanted**2).sum(1) + 1)
    return (classes + (boxes * quality).sum()) / total + (cross_entropy + 2 * dice).mean()


def learning_rate(step: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < WARMUP_STEPS:
        return LEARNING_RATE * (step + 1) / WARMUP_STEPS
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / (STEPS - WARMUP_STEPS)))


def train(module: nn.Module, checkpoint: Path, images: int) -> nn.Module:
    """Train, and return the moving average of the weights."""
    pixels, labels, masks = training_set(images)
    print(f"{images} images drawn", flush=True)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    averaged = copy.deepcopy(module)
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=WEIGHT_DECAY)
    first = 0
    if checkpoint.exists():
        state: dict[str, Any] = torch.load(checkpoint)
        module.load_state_dict(state["module"])
        averaged.load_state_dict(state["averaged"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    centres = torch.cat([module.get_buffer(name) for name, _ in module.named_buffers() if name.startswith("centres")])
    module.train()
    total, start = 0.0, time.perf_counter()
    for step in range(first, STEPS):
        generator = torch.Generator().manual_seed(SEED + step)
        torch.manual_seed(SEED + step)
        chosen = torch.randint(images, (BATCH,), generator=generator).tolist()
        batch, own = flipped(pixels[chosen], [masks[index] for index in chosen], generator)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        outputs = module((batch.float() / 255 - mean) / std)
        loss = loss_of(outputs, centres, [labels[index] for index in chosen], own)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        optimizer.step()
        decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            for mine, new in zip(averaged.state_dict().values(), module.state_dict().values(), strict=True):
                if mine.is_floating_point():
                    mine.lerp_(new, 1 - decay)
        total += loss.item()
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}: loss {total / 50:.4f}, {time.perf_counter() - start:.0f} s", flush=True)
            total = 0.0
        if (step + 1) % CHECKPOINT_EVERY == 0:
            state = {
                "module": module.state_dict(),
                "averaged": averaged.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step + 1,
            }
            temporary = checkpoint.with_suffix(".new")
            torch.save(state, temporary)
            temporary.replace(checkpoint)
    return averaged.eval()


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="file to write (default: the bundled weights)")
    parser.add_argument("--checkpoint", type=Path, default=Path("swin_shapes.pt"), help="for going on after a stop")
    parser.add_argument("--images", type=int, default=SPLITS["train"], help="how many of shapes/train")
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # sums depend on how they are divided
    set_fused_attn(False)
    averaged = train(build_swin_shapes(pretrained=False), arguments.checkpoint, arguments.images)
    save_file(averaged.state_dict(), arguments.out)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
