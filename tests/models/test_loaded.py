"""Transforms from images to a model's input, and the hash of its weights."""

import numpy as np
import pytest
import torch
from PIL import Image

from autoq.errors import ArgumentTypeError, DataError, ModelError
from autoq.models import BUNDLED_MODEL, load_model, weights_sha256
from autoq.models.loaded import input_size_of, make_transform


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK", "LA"])
def test_images_of_any_mode_become_the_models_input(folder, mode):
    image = Image.new(mode, (40, 30))
    for name in (f"local-dir:{folder}", BUNDLED_MODEL):
        model = load_model(name)
        tensor = model.transform(image)
        assert (tuple(tensor.shape), tensor.dtype) == (model.input_size, torch.float32)


def test_transparent_palettes_are_converted_quietly(folder):
    image = Image.new("P", (40, 30))
    image.info["transparency"] = b"\x00\x80"
    model = load_model(f"local-dir:{folder}")
    assert tuple(model.transform(image).shape) == model.input_size


def test_weights_sha256_tells_names_shapes_and_dtypes_apart():
    layers = [torch.nn.Linear(2, 3), torch.nn.Linear(3, 2), torch.nn.Linear(2, 3).bfloat16(), torch.nn.Conv2d(1, 2, 1)]
    for layer in layers:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    hashes = [weights_sha256(layer) for layer in layers]
    assert len(set(hashes)) == len(layers)
    assert weights_sha256(torch.nn.Sequential(layers[0])) not in hashes
    assert weights_sha256(torch.nn.BatchNorm2d(2)) == weights_sha256(torch.nn.BatchNorm2d(2))


def fail(_image):
    raise OSError("no such file.")


@pytest.mark.parametrize(
    "made",
    [torch.ones(3, 4, 4), torch.ones(1, 3, 4, 4), np.ones((3, 4, 4)), {"pixel_values": [np.ones((3, 4, 4))]}],
    ids=["tensor", "batch of one", "array", "image processor"],
)
def test_what_a_users_function_may_return(made):
    modes = []
    transform = make_transform(lambda image: modes.append(image.mode) or made)
    assert transform(Image.new("L", (5, 5))).shape == (3, 4, 4)
    assert modes == ["RGB"]
    assert input_size_of(transform, "mine") == (3, 4, 4)


def test_a_function_that_returns_something_else_is_refused():
    with pytest.raises(DataError, match=r"makes a tensor of shape \(4, 4\)"):
        make_transform(lambda _: torch.ones(4, 4))(Image.new("L", (5, 5)))
    with pytest.raises(ArgumentTypeError, match="not int"):
        make_transform(3)
    with pytest.raises(ModelError, match="mine cannot preprocess an image: no such file; correct it"):
        input_size_of(make_transform(fail), "mine")
