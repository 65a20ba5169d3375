#!/usr/bin/env python
"""Train the bundled model, vit_digits, from scratch on digits/train and write it in timm's hub format.

It takes a few minutes on two CPU cores, and gives the same weights every time on one machine. digits/calib is not
looked at; digits/val only at the end, for the figure that is printed: the last weights are kept, whatever they reach.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.layers import set_fused_attn
from torch import Tensor, nn
from torch.nn import functional

from autoq.data import ImageSource, load_images, open_source
from autoq.models import load_model, save_model

BUNDLED_FOLDER = Path(__file__).parents[1] / "autoq" / "models" / "vit_digits"
MODEL_ARGS = {
    "img_size": 8,
    "patch_size": 2,
    "in_chans": 1,
    "num_classes": 10,
    "embed_dim": 64,
    "depth": 4,
    "num_heads": 4,
}
MEAN, STD = 0.305, 0.376
"""Of the ink in digits/train, between 0 (none) and 1."""

SEED = 0
EPOCHS = 400
BATCH = 128
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
WARMUP_STEPS = 100
LABEL_SMOOTHING = 0.1
MAX_ROTATION_DEGREES = 15.0
MAX_SHEAR = 0.15
MAX_SCALE = 0.15
MAX_SHIFT_PIXELS = 1.0
NOISE_STD = 0.05


def tensors_of(source: ImageSource) -> tuple[Tensor, Tensor]:
    """Ink ``(N, 1, 8, 8)`` between 0 and 1, and labels ``(N,)``."""

    def to_ink(image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image, dtype=np.float32) / 255)[None]

    indices = range(len(source))
    labels = torch.tensor([source.label(index) for index in indices])
    return load_images(source, indices, to_ink), labels


def augment(ink: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, shear, scale and shift each image a little on empty ground, and add noise."""
    images, _, side, _ = ink.shape

    def between(limit: float) -> Tensor:
        return (torch.rand(images, generator=generator) * 2 - 1) * limit

    angle = between(math.radians(MAX_ROTATION_DEGREES))
    turn = torch.stack([torch.cos(angle), -torch.sin(angle), torch.sin(angle), torch.cos(angle)], 1).view(-1, 2, 2)
    stretch = torch.stack([1 + between(MAX_SCALE), between(MAX_SHEAR), between(MAX_SHEAR), 1 + between(MAX_SCALE)], 1)
    shift = torch.stack([between(MAX_SHIFT_PIXELS), between(MAX_SHIFT_PIXELS)], 1)[:, :, None] * 2 / side
    grid = functional.affine_grid(
        torch.cat([turn @ stretch.view(-1, 2, 2), shift], 2), list(ink.shape), align_corners=False
    )
    moved = functional.grid_sample(ink, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (moved + NOISE_STD * torch.randn(ink.shape, generator=generator)).clamp(0, 1)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < WARMUP_STEPS:
        return LEARNING_RATE * (step + 1) / WARMUP_STEPS
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / (steps - WARMUP_STEPS)))


def train(module: nn.Module, ink: Tensor, labels: Tensor) -> None:
    """Train in place; whole batches only, in a new order each epoch."""
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=WEIGHT_DECAY)
    batches = len(ink) // BATCH
    module.train()
    for epoch in range(EPOCHS):
        order = torch.randperm(len(ink), generator=generator)
        total = 0.0
        for batch, indices in enumerate(order[: batches * BATCH].split(BATCH)):
            rate = learning_rate(epoch * batches + batch, EPOCHS * batches)
            for group in optimizer.param_groups:
                group["lr"] = rate
            logits = module((augment(ink[indices], generator) - MEAN) / STD)
            loss = functional.cross_entropy(logits, labels[indices], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        if (epoch + 1) % 50 == 0:
            print(f"epoch {epoch + 1:4d}: training loss {total / batches:.4f}", flush=True)
    module.eval()


@torch.no_grad()
def top1_percent(name: str, split: str) -> float:
    """Accuracy of a saved model, loaded as a user would load it."""
    model, source = load_model(name), open_source(split, "evaluation")
    images = load_images(source, range(len(source)), model.transform)
    labels = torch.tensor([source.label(index) for index in range(len(source))])
    return (model.module(images).argmax(1) == labels).double().mean().item() * 100


def main() -> None:
    """Train, save, and say what the result reaches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BUNDLED_FOLDER, help="folder to write (default: the bundled model)")
    out: Path = parser.parse_args().out
    torch.manual_seed(SEED)
    torch.set_num_threads(2)  # sums depend on how they are divided
    torch.use_deterministic_algorithms(True)
    set_fused_attn(False)
    start = time.perf_counter()
    module = timm.create_model("vit_tiny_patch16_224", pretrained=False, **MODEL_ARGS)
    train(module, *tensors_of(open_source("digits/train", "calibration")))
    data_config = {
        "input_size": (MODEL_ARGS["in_chans"], MODEL_ARGS["img_size"], MODEL_ARGS["img_size"]),
        "mean": (MEAN,),
        "std": (STD,),
        "crop_pct": 1.0,
    }
    save_model(module, out, model_args=MODEL_ARGS, data_config=data_config, label_names=list("0123456789"))
    print(f"trained in {time.perf_counter() - start:.0f} s; written to {out}")
    name = f"local-dir:{out}"
    print(f"weights_sha256 {load_model(name).weights_sha256}")
    for split in ("digits/train", "digits/val"):
        print(f"top-1 on {split}: {top1_percent(name, split):.2f} %")


if __name__ == "__main__":
    main()
