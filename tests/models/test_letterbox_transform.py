from __future__ import annotations

import pytest
import torch
from PIL import Image

from autoq.models import LetterboxTransform, describe_module


@pytest.mark.parametrize(
    ("size", "centred", "content"),
    [
        ((8, 16), True, (0.0, 0.25, 1.0, 0.75)),
        ((16, 8), True, (0.25, 0.0, 0.75, 1.0)),
        ((8, 16), False, (0.0, 0.0, 1.0, 0.5)),
        ((30, 30), True, (0.0, 0.0, 1.0, 1.0)),
        ((1, 1000), True, (0.0, 0.375, 1.0, 0.5)),
    ],
)
def test_what_an_image_takes_up_of_the_input(
    size: tuple[int, int], centred: bool, content: tuple[float, float, float, float]
) -> None:
    """What the metric is told is where white pixels come to lie on black."""
    letterbox = LetterboxTransform((8, 8), fill=(0, 0, 0), centred=centred)
    assert letterbox.content(size) == content
    made = letterbox(Image.new("L", size[::-1], 255))
    left, top, right, bottom = (round(8 * share) for share in content)
    expected = torch.zeros(3, 8, 8)
    expected[:, top:bottom, left:right] = 1
    assert torch.equal(made, expected)


def test_a_model_tells_what_its_images_take_up() -> None:
    letterbox = LetterboxTransform((8, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
    loaded = describe_module(torch.nn.Flatten().eval(), preprocess=letterbox)
    assert loaded.input_size == (3, 8, 16)
    assert loaded.content((16, 16)) == (0.25, 0.0, 0.75, 1.0)
    assert loaded.preprocessing is not None
    assert (loaded.preprocessing["resize"], loaded.preprocessing["fill"]) == ("letterbox", [114, 114, 114])
    whole = describe_module(torch.nn.Flatten().eval(), preprocess=lambda _: torch.zeros(3, 8, 16))
    assert whole.content((16, 16)) == (0.0, 0.0, 1.0, 1.0)
