from pathlib import Path

import torch

import autoq.models
from autoq.data import class_indices, load_images, open_source
from autoq.models import BUNDLED_MODEL, load_model

FOLDER = Path(autoq.models.__file__).parent / BUNDLED_MODEL
WEIGHTS_SHA256 = "d0652f4eb4b8ecad87541792af1b746cf80f9d77d4e8c040616cc78fb73ebc3d"


@torch.no_grad()
def test_accuracy_on_images_it_never_saw():
    model, source = load_model(BUNDLED_MODEL), open_source("digits", "evaluation")
    outputs = class_indices(source.class_names, model.label_names, model.num_classes).indices
    labels = torch.tensor([outputs[source.label(index)] for index in range(len(source))])
    images = load_images(source, range(len(source)), model.transform)
    assert len(source) >= 500
    assert (model.module(images).argmax(1) == labels).float().mean() >= 0.97


def test_what_it_is():
    model = load_model(BUNDLED_MODEL)
    assert (model.name, model.input_size, model.num_classes) == ("vit_digits", (1, 8, 8), 10)
    assert model.label_names == tuple("0123456789")
    assert model.weights_sha256 == WEIGHTS_SHA256
    assert len(model.module.blocks) == 4


def test_the_transform_only_normalises():
    model, source = load_model(BUNDLED_MODEL), open_source("digits", "evaluation")
    image = source.load(0)
    ink = torch.tensor(list(image.tobytes()), dtype=torch.float32).view(1, 8, 8) / 255
    torch.testing.assert_close(model.transform(image), (ink - 0.305) / 0.376)


def test_the_files_are_small():
    assert {path.name for path in FOLDER.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert (FOLDER / "model.safetensors").stat().st_size < 1_000_000
