"""Products in integers."""

from __future__ import annotations

import pytest
import torch

from autoq.scoring.integer_products import IntegerProduct, verify_products
from autoq.scoring.quantized_module import QuantizedWeight, path_of
from tests.api.models import IMAGES
from tests.exporters.sources import source_of
from tests.exporters.upsampling import IMAGES as UPSAMPLED
from tests.exporters.upsampling import quantized

PRODUCTS = ["embed", "qkv", "qk", "av", "proj", "fc1", "fc2", "head"]


@pytest.mark.parametrize("case", ["w8a8", "w4a4", "symmetric", "fpga"])
def test_products_of_uniform_operands_are_those_of_codes(case: str) -> None:
    found = verify_products(source_of(case).module, IMAGES[:6])
    assert [product.site for product in found.products] == PRODUCTS
    assert found.others == {}
    for product in found.products:
        assert product.difference < 1e-6
        assert product.is_equal
        assert product.seen_bits <= product.safe_bits


def test_what_multiplies_no_integers_is_told() -> None:
    found = verify_products(source_of("mixed").module, IMAGES[:6])
    assert [product.site for product in found.products] == ["embed", "qkv", "qk", "fc2"], "transformed inputs, too"
    assert found.others == {
        "av": "codes of scheme adalog are no multiples of one step",
        "proj": "scales vary along the channels that are summed",
        "fc1": "codes of scheme instance_groups are no multiples of one step",
    }
    published = verify_products(source_of("published").module, IMAGES[:6])
    assert published.others["norm1"] == "it does not multiply two quantized operands"


def test_accumulators_are_as_wide_as_the_sums_of_codes() -> None:
    module = source_of("w8a8").module
    found = {product.site: product for product in verify_products(module, IMAGES[:6]).products}
    codes, quantizer = module.codes["fc1", "weight"].long(), module.quantizers["fc1", "weight"]
    weights = codes - quantizer.qparams()["zero_point"].long()
    zero_point = int(module.quantizers["fc1", "input"].qparams()["zero_point"])
    greatest = int(weights.abs().sum(1).max()) * max(zero_point, 255 - zero_point)
    assert 2 ** (found["fc1"].safe_bits - 2) <= greatest < 2 ** (found["fc1"].safe_bits - 1)
    assert greatest.bit_length() + 1 == found["fc1"].safe_bits


def test_overflow_and_differences() -> None:
    found = verify_products(source_of("w8a8").module, IMAGES[:2])
    assert found.overflowing(16) == [product.site for product in found.products if product.safe_bits > 16]
    assert "head" in found.overflowing(16)
    assert found.overflowing(32) == []
    assert not IntegerProduct("site", 0.001, 8, 9).is_equal


def test_a_wrong_simulation_is_found() -> None:
    module = source_of("w4a4").module
    weight = module.model.get_submodule(path_of(("fc1", "weight")))
    assert isinstance(weight, QuantizedWeight)
    with torch.no_grad():
        weight.value *= 1.01  # what is multiplied is no longer what the codes stand for
    wrong = [product.site for product in verify_products(module, IMAGES[:6]).products if not product.is_equal]
    assert wrong == ["fc1"]


def test_transposed_convolutions_are_products_of_codes() -> None:
    found = verify_products(quantized(4), UPSAMPLED)
    assert [product.site for product in found.products] == ["stem", "up", "overlapping"]
    for product in found.products:
        assert product.is_equal
        assert product.seen_bits <= product.safe_bits
