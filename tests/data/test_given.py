from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from autoq.data import GivenImages
from autoq.data.loading import random_indices
from autoq.errors import ArgumentTypeError, DataError

IMAGES = torch.arange(10 * 3 * 4 * 4, dtype=torch.float32).reshape(10, 3, 4, 4)
LABELS = torch.arange(10)


class Pairs(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return IMAGES[index], int(LABELS[index])


def dictionaries() -> Iterator[dict[str, Tensor]]:
    for start in range(0, 10, 4):
        yield {"pixel_values": IMAGES[start : start + 4], "labels": LABELS[start : start + 4]}


class Again:
    """Can be gone through again, but not indexed."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([(IMAGES[:7], LABELS[:7]), (IMAGES[7:], LABELS[7:])])


FORMS: dict[str, Any] = {
    "pair": lambda: (IMAGES, LABELS),
    "arrays": lambda: (IMAGES.numpy(), LABELS.numpy()),
    "data set": Pairs,
    "tensor data set": lambda: TensorDataset(IMAGES, LABELS),
    "loader": lambda: DataLoader(Pairs(), batch_size=3),
    "generator of dictionaries": dictionaries,
    "iterable": Again,
    "list of batches": lambda: [(IMAGES[:4], LABELS[:4]), (IMAGES[4:], LABELS[4:])],
    "list of pairs": lambda: [(image, int(label)) for image, label in zip(IMAGES, LABELS, strict=True)],
    "list of dictionaries": lambda: [{"image": image, "label": label} for image, label in zip(IMAGES, LABELS)],  # noqa: B905
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 4, 100])
def test_every_form_gives_the_same_images_and_labels_in_batches(form: str, size: int) -> None:
    batches = list(GivenImages(FORMS[form]()).batches(size))
    assert all(len(images) <= size for images, _ in batches)
    assert torch.equal(torch.cat([images for images, _ in batches]), IMAGES)
    assert torch.equal(torch.cat([labels for _, labels in batches if labels is not None]), LABELS)


@pytest.mark.parametrize("form", [name for name in FORMS if name != "generator of dictionaries"])
def test_images_are_counted(form: str) -> None:
    assert GivenImages(FORMS[form]()).count() == 10


@pytest.mark.parametrize("form", ["pair", "data set", "tensor data set", "list of pairs", "list of dictionaries"])
def test_of_what_can_be_chosen_from_a_seeded_subset_is_taken(form: str) -> None:
    sample = GivenImages(FORMS[form]()).sample(4, seed=3)
    assert torch.equal(sample, IMAGES[list(random_indices(10, 4, 3))])
    assert not torch.equal(sample, GivenImages(FORMS[form]()).sample(4, seed=4))


@pytest.mark.parametrize("form", ["loader", "generator of dictionaries", "iterable", "list of batches"])
def test_of_batches_the_first_images_are_taken(form: str) -> None:
    assert torch.equal(GivenImages(FORMS[form]()).sample(6, seed=3), IMAGES[:6])


def test_a_generator_is_not_read_further_than_needed() -> None:
    read = []

    def batches() -> Iterator[Tensor]:
        for start in range(0, 10, 2):
            read.append(start)
            yield IMAGES[start : start + 2]

    given = GivenImages(batches())
    assert not given.can_be_read_again()
    kept = given.kept(3)
    assert read == [0, 2]
    assert kept.can_be_read_again()
    for _ in range(2):
        assert torch.equal(kept.sample(3, 0), IMAGES[:3])


def test_pictures_go_through_the_transform() -> None:
    pictures = [Image.new("RGB", (4, 4), (index, 0, 0)) for index in range(3)]
    given = GivenImages(pictures, lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1) / 1.0)
    assert given.example() is None
    assert [float(image[0, 0, 0]) for image in given.sample(3, 0)] == [float(i) for i in random_indices(3, 3, 0)]
    with pytest.raises(DataError, match="give preprocess"):
        GivenImages(pictures).sample(3, 0)


def test_the_example_is_the_first_image_of_any_form() -> None:
    for form, make in FORMS.items():
        example = GivenImages(make()).example()
        assert example is not None, form
        assert torch.equal(example, IMAGES[:1]), form


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "is empty"),
        (iter([]), "is empty"),
        (torch.zeros(0, 3, 4, 4), r"have shape \(0, 3, 4, 4\)"),
        (torch.zeros(3), r"have shape \(3,\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "of type uint8: give floating-point tensors"),
        ([torch.zeros(3, 4, 4), torch.zeros(3, 5, 5)], "have shapes"),
        ([{"picture": torch.zeros(3, 4, 4)}], "has the keys 'picture': name the images 'pixel_values'"),
        ([object()], "object of class 'object'"),
        ([()], "empty sequence"),
        ([(torch.zeros(2, 3, 4, 4), torch.zeros(3))], "2 images have labels of shape"),
        ([(torch.zeros(1, 3, 4, 4), torch.zeros(1)), torch.zeros(1, 3, 4, 4)], "some images have labels"),
    ],
)
def test_wrong_images_are_refused(images: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(GivenImages(images).batches(8))


@pytest.mark.parametrize("images", [None, 3, {"a": 1}, b"bytes"])
def test_what_holds_no_images_is_a_type_error(images: object) -> None:
    with pytest.raises(TypeError, match="images are a tensor, a data set, an iterable of batches or a name"):
        GivenImages(images)
    with pytest.raises(ArgumentTypeError):
        GivenImages(images)


def test_labels_are_none_where_there_are_none() -> None:
    assert [labels for _, labels in GivenImages(IMAGES).batches(4)] == [None, None, None]
