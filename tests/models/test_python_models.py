"""Models that are given as objects or made by a function of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from autoq.errors import ArgumentTypeError, ModelError
from autoq.models import describe_module, dtype_of, load_model, weights_sha256


def small_timm() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224",
        pretrained_cfg_overlay={"input_size": (3, 16, 16)},
        img_size=16,
        patch_size=8,
        embed_dim=24,
        depth=1,
        num_heads=2,
        num_classes=5,
    ).eval()


def to_tensor(image: Image.Image) -> Tensor:
    return torch.full((3, 16, 16), float(image.getpixel((0, 0))[0]))


def test_a_model_of_timm_says_how_it_is_fed() -> None:
    module = small_timm()
    loaded = describe_module(module)
    assert loaded.module is module
    assert (loaded.input_size, loaded.num_classes, loaded.name) == ((3, 16, 16), 5, "memory:VisionTransformer")
    assert loaded.transform is not None
    assert loaded.transform(Image.new("L", (40, 30))).shape == (3, 16, 16)
    assert loaded.weights_sha256 == weights_sha256(module)


def test_any_module_is_fed_by_preprocess_or_like_the_example() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)).eval()
    by_function = describe_module(module, preprocess=to_tensor, label_names=["a", "b", "c", "d"])
    assert by_function.input_size == (3, 16, 16)
    assert by_function.label_names == ("a", "b", "c", "d")
    assert by_function.transform is not None
    assert float(by_function.transform(Image.new("RGB", (5, 5), (7, 0, 0)))[0, 0, 0]) == 7
    by_example = describe_module(module, example_input=torch.zeros(1, 3, 16, 16))
    assert (by_example.input_size, by_example.transform, by_example.num_classes) == ((3, 16, 16), None, None)


def test_an_image_processor_of_transformers_is_a_preprocess() -> None:
    processor = lambda image: {"pixel_values": [to_tensor(image).numpy()]}  # noqa: E731
    loaded = describe_module(nn.Identity().eval(), preprocess=processor)
    assert loaded.input_size == (3, 16, 16)


@pytest.mark.parametrize(
    ("module", "options", "error", "message"),
    [
        ("resnet18", {}, ArgumentTypeError, "not an object of class 'str'"),
        (nn.Linear(2, 2), {}, ModelError, "in training mode: call .eval"),
        (nn.Linear(2, 2).eval(), {}, ModelError, "nobody knows how Linear is fed: give preprocess"),
        (nn.Linear(2, 2).eval(), {"example_input": torch.zeros(3)}, ModelError, "give it as a batch"),
        (nn.Linear(2, 2).eval(), {"example_input": [1.0]}, ArgumentTypeError, "tensor of shape"),
        (nn.Linear(2, 2).eval(), {"preprocess": 3}, ArgumentTypeError, "preprocess is a function"),
        (nn.Linear(2, 2).eval(), {"preprocess": lambda _: torch.zeros(3, 4)}, ModelError, "let it return"),
        (nn.Linear(2, 2).eval(), {"preprocess": lambda image: image.nothing}, ModelError, "cannot preprocess an image"),
    ],
)
def test_what_cannot_be_described(module: object, options: dict, error: type[Exception], message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(error, match=message):
        describe_module(module, **options)  # type: ignore[arg-type]


def test_a_name_that_calls_a_function(tmp_path: Path) -> None:
    code = "import torch\nfrom torch import nn\n"
    code += "def make():\n    torch.manual_seed(0)\n    return nn.Linear(3, 2).eval(), torch.zeros(1, 3)\n"
    code += "def bare():\n    return nn.Linear(3, 2).eval()\n"
    code += "def number():\n    return 3\n"
    (tmp_path / "mine.py").write_text(code)
    name = f"python:{tmp_path}/mine.py:make"
    loaded = load_model(name)
    assert (loaded.name, loaded.input_size, loaded.num_classes) == (name, (3,), None)
    assert loaded.weights_sha256 == load_model(name).weights_sha256
    with pytest.raises(ModelError, match="nobody knows how"):
        load_model(f"python:{tmp_path}/mine.py:bare")
    with pytest.raises(ModelError, match=r"returned an object of class .int.: return a torch\.nn\.Module"):
        load_model(f"python:{tmp_path}/mine.py:number")
    with pytest.raises(ModelError, match="--no-pretrained does not apply"):
        load_model(name, pretrained=False)


def test_the_type_of_the_input_is_that_of_the_parameters() -> None:
    assert dtype_of(nn.Linear(2, 2).bfloat16()) == torch.bfloat16
    assert dtype_of(nn.Identity()) == torch.float32
