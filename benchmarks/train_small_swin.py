"""Train a reduced Swin from scratch, a hierarchical model small enough for every benchmark on a CPU.

    python -m benchmarks.train_small_swin OUT [--data digits] [--eval-data FOLDER] [--epochs 150] [--photos]

timm's ``swin_tiny_patch4_window7_224`` with 32×32 images, patches of 4, windows of 4, width 48 and two blocks in each
of three stages: 8×8, 4×4 and 2×2 tokens, with shifted windows in the first stage, 1.3 M parameters. ``OUT`` gets it in
timm's hub format, for ``--model local-dir:OUT``. ``digits`` trains on ``digits/train`` alone and is evaluated on
``digits/val``; a labelled image folder is trained on as a whole, and evaluated on ``--eval-data`` if that is given.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.layers import set_fused_attn
from torch import Tensor, nn
from torch.nn import functional

from autoq.data import ImageSource, class_indices, load_images, open_source
from autoq.models import load_model, save_model

ARCHITECTURE = "swin_tiny_patch4_window7_224"
SIDE = 32
MODEL_ARGS: dict[str, Any] = {
    "img_size": SIDE,
    "patch_size": 4,
    "window_size": 4,
    "embed_dim": 48,
    "depths": [2, 2, 2],
    "num_heads": [3, 6, 12],
}
BATCH = 128
LEARNING_RATE = 1.5e-3
WEIGHT_DECAY = 0.05
WARMUP_STEPS = 100
LABEL_SMOOTHING = 0.1
MAX_ROTATION_DEGREES = 15.0
MAX_SHEAR = 0.15
MAX_SCALE = 0.15
MAX_SHIFT = 0.125
"""Of the side of an image."""
NOISE_STD = 0.05


def pixels_of(source: ImageSource, mode: str) -> Tensor:
    """Images between 0 and 1, of shape (N, C, 32, 32); the shorter side is scaled to fit, the rest cut off."""

    def to_pixels(image: Image.Image) -> Tensor:
        scale = SIDE / min(image.size)
        width, height = (max(SIDE, round(side * scale)) for side in image.size)
        left, top = (width - SIDE) // 2, (height - SIDE) // 2
        resized = image.convert(mode).resize((width, height), Image.Resampling.BICUBIC)
        values = np.array(resized.crop((left, top, left + SIDE, top + SIDE)), dtype=np.float32) / 255
        return torch.from_numpy(values.reshape(SIDE, SIDE, -1)).movedim(-1, 0)

    return load_images(source, range(len(source)), to_pixels)


def labels_of(source: ImageSource) -> Tensor:
    """Class of each image, of shape (N,)."""
    return torch.tensor([source.label(index) for index in range(len(source))])


def augment(pixels: Tensor, photos: bool, generator: torch.Generator) -> Tensor:
    """Turn, shear, scale and shift each image a little, and add noise; photos are mirrored and their light changes."""
    images = len(pixels)

    def between(limit: float) -> Tensor:
        return (torch.rand(images, generator=generator) * 2 - 1) * limit

    angle = between(math.radians(MAX_ROTATION_DEGREES))
    turn = torch.stack([torch.cos(angle), -torch.sin(angle), torch.sin(angle), torch.cos(angle)], 1).view(-1, 2, 2)
    stretch = torch.stack([1 + between(MAX_SCALE), between(MAX_SHEAR), between(MAX_SHEAR), 1 + between(MAX_SCALE)], 1)
    matrix = turn @ stretch.view(-1, 2, 2)
    if photos:
        matrix = matrix * torch.stack([between(1).sign(), torch.ones(images)], 1)[:, None]
    shift = 2 * torch.stack([between(MAX_SHIFT), between(MAX_SHIFT)], 1)[:, :, None]
    grid = functional.affine_grid(torch.cat([matrix, shift], 2), list(pixels.shape), align_corners=False)
    padding = "reflection" if photos else "zeros"
    moved = functional.grid_sample(pixels, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    if photos:
        contrast, light = (between(0.3).view(-1, 1, 1, 1) for _ in range(2))
        moved = (moved - 0.5) * (1 + contrast) + 0.5 + light
    return (moved + NOISE_STD * torch.randn(moved.shape, generator=generator)).clamp(0, 1)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < WARMUP_STEPS:
        return LEARNING_RATE * (step + 1) / WARMUP_STEPS
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / max(steps - WARMUP_STEPS, 1)))


def train_(module: nn.Module, pixels: Tensor, labels: Tensor, epochs: int, photos: bool, seed: int) -> None:
    """Train in place; whole batches only, in a new order each epoch."""
    generator = torch.Generator().manual_seed(seed)
    mean, std = channel_statistics(pixels)
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=WEIGHT_DECAY)
    size = min(BATCH, len(pixels))
    batches = len(pixels) // size
    module.train()
    for epoch in range(epochs):
        order = torch.randperm(len(pixels), generator=generator)
        total = 0.0
        for batch, indices in enumerate(order[: batches * size].split(size)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch * batches + batch, epochs * batches)
            logits = module((augment(pixels[indices], photos, generator) - mean) / std)
            loss = functional.cross_entropy(logits, labels[indices], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        if (epoch + 1) % 10 == 0:
            print(f"epoch {epoch + 1:4d}: training loss {total / batches:.4f}", flush=True)
    module.eval()


def channel_statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, of shape (C, 1, 1), to three digits."""
    mean, std = (value.mul(1000).round() / 1000 for value in (pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))))
    return mean.view(-1, 1, 1), std.view(-1, 1, 1)


@torch.no_grad()
def top1_percent(name: str, source: ImageSource) -> float:
    """Accuracy of a saved model, loaded as a user would load it."""
    model = load_model(name)
    images = load_images(source, range(len(source)), model.transform)
    outputs = torch.tensor(class_indices(source.class_names or (), model.label_names, model.num_classes))
    predicted = torch.cat([model.module(part).argmax(1) for part in images.split(BATCH)])
    return (predicted == outputs[labels_of(source)]).double().mean().item() * 100


def main() -> None:
    """Train, save, and say what the result reaches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--eval-data")
    parser.add_argument("--photos", action="store_true", help="mirror images and vary their light")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    digits = arguments.data == "digits"
    source = open_source("digits/train" if digits else arguments.data, "calibration")
    if source.class_names is None:
        parser.error(f"images in {arguments.data!r} have no labels")
    evaluated = arguments.eval_data or ("digits" if digits else None)
    mode = "L" if source.load(0).mode in ("1", "L") else "RGB"

    torch.manual_seed(arguments.seed)
    torch.use_deterministic_algorithms(True)
    set_fused_attn(False)
    start = time.perf_counter()
    model_args = MODEL_ARGS | {"in_chans": len(mode), "num_classes": len(source.class_names)}
    module = timm.create_model(ARCHITECTURE, pretrained=False, **model_args)
    pixels = pixels_of(source, mode)
    train_(module, pixels, labels_of(source), arguments.epochs, arguments.photos, arguments.seed)
    mean, std = ([round(value, 3) for value in each.flatten().tolist()] for each in channel_statistics(pixels))
    data_config = {"input_size": (len(mode), SIDE, SIDE), "mean": mean, "std": std, "crop_pct": 1.0}
    save_model(
        module, arguments.out, model_args=model_args, data_config=data_config, label_names=list(source.class_names)
    )
    parameters = sum(parameter.numel() for parameter in module.parameters())
    seconds = time.perf_counter() - start
    print(f"{parameters:,} parameters, {len(source)} images, {seconds:.0f} s; written to {arguments.out}")
    name = f"local-dir:{arguments.out}"
    print(f"top-1 on what it was trained on: {top1_percent(name, source):.2f} %")
    if evaluated is not None:
        print(f"top-1 on {evaluated}: {top1_percent(name, open_source(evaluated, 'evaluation')):.2f} %")


if __name__ == "__main__":
    main()
