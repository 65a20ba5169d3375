import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from autoq.data import fingerprint, load_images, open_source, subset
from autoq.errors import DataError


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image, dtype=np.float64) / 255)[None]


def test_a_subset_begins_a_larger_one():
    source = open_source("digits", "calibration")
    large = subset(source, 100, seed=3)
    assert len(set(large)) == 100
    assert all(subset(source, count, seed=3) == large[:count] for count in (1, 7, 99))
    assert subset(source, 100, seed=4) != large
    assert max(large) < len(source)


def test_a_subset_of_too_few_is_all_of_them():
    source = open_source("digits", "calibration")
    assert sorted(subset(source, 10_000, seed=0)) == list(range(256))


@pytest.mark.parametrize("count", [0, -1])
def test_a_subset_has_at_least_one_image(count):
    with pytest.raises(DataError, match=str(count)):
        subset(open_source("digits", "calibration"), count, seed=0)


def test_images_come_in_the_order_asked_for():
    source = open_source("digits", "calibration")
    indices = subset(source, 40, seed=0)
    images = load_images(source, indices, to_tensor)
    assert (tuple(images.shape), images.dtype) == ((40, 1, 8, 8), torch.float32)
    for place, index in enumerate(indices):
        assert torch.equal(images[place], to_tensor(source.load(index)).float())


def test_a_corrupt_image_among_many_is_named(tmp_path):
    for number in range(20):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number:02}.png")
    (tmp_path / "07.png").write_bytes(b"damaged")
    source = open_source(str(tmp_path), "calibration")
    with pytest.raises(DataError, match=r"07\.png"):
        load_images(source, range(20), to_tensor)


def test_images_of_different_sizes_are_refused(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    Image.new("L", (9, 8)).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"\(1, 8, 8\), \(1, 8, 9\)"):
        load_images(open_source(str(tmp_path), "calibration"), [0, 1], to_tensor)


def test_no_images_asked_for():
    with pytest.raises(DataError, match="'digits'"):
        load_images(open_source("digits", "calibration"), [], to_tensor)


def test_fingerprints_tell_values_shapes_and_dtypes_apart():
    tensor = torch.arange(6.0)
    variants = [tensor, tensor + 1, tensor.view(2, 3), tensor.view(3, 2), tensor.bfloat16(), tensor[0], tensor.bool()]
    assert len({fingerprint(variant) for variant in variants}) == len(variants)
    assert fingerprint(tensor.view(2, 3).T) == fingerprint(tensor.view(2, 3).T.contiguous())
    assert fingerprint(torch.zeros(2)) == "2b6922d7d2a10c229ed2b30c26ae7b73aa5b34e14f39355c0ff16e8ae796eb53"


def test_importing_the_package_is_cheap():
    code = "import sys, autoq.data; print({'torch', 'PIL', 'sklearn', 'timm', 'datasets'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "set()"


def test_digits_do_not_import_scikit_learn():
    code = "import sys, autoq.data; autoq.data.open_source('digits', 'calibration'); print('sklearn' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "False"
