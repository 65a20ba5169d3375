from __future__ import annotations

import torch
from PIL import Image

from autoq.models.square_transform import SquareTransform


def test_the_whole_image_becomes_the_input() -> None:
    transform = SquareTransform((4, 6), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    image = Image.new("RGB", (6, 4), (255, 0, 0))
    made = transform(image)
    assert made.shape == (3, 4, 6)
    assert made.unique().tolist() == [-2, 2]
    wide = Image.new("L", (60, 8), 255)
    wide.paste(0, (0, 0, 30, 8))
    left, right = transform(wide)[:, :, :2], transform(wide)[:, :, 4:]
    assert torch.equal(left, torch.full_like(left, -2))
    assert torch.equal(right, torch.full_like(right, 2))
    assert transform.description["resize"] == "square"
