"""autoq.verify."""

from __future__ import annotations

import autoq
from tests.api.models import IMAGES, make


def test_modules_are_verified_on_their_images() -> None:
    quantized = autoq.quantize(make(), "rtn", IMAGES, bits="w8a8", calib_images=8)
    found = autoq.verify(quantized, images=IMAGES, count=4)
    assert all(product.is_equal for product in found.products)
    assert {product.site for product in found.products} >= {"qkv", "qk", "fc1"}
