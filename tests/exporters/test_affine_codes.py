"""Codes in containers of 8 bits."""

from __future__ import annotations

import pytest
import torch

from autoq.exporters.affine_codes import AffineCodes, affine_codes, centred_codes
from autoq.quantizers import UniformQuantizer
from autoq.recipe import OperandConfig
from autoq.scoring.quantized_module import path_of
from tests.exporters.sources import source_of

KEY = ("fc1", "input")
WEIGHT = ("fc1", "weight")


def changed(bits: int, scale: float, zero_point: float) -> AffineCodes | str:
    """The input of fc1 with other parameters."""
    module = source_of("w8a8").module
    layout = module.quantizers[KEY].layout
    values = {"scale": torch.full((1, 1, 1), scale), "zero_point": torch.full((1, 1, 1), zero_point)}
    quantizer = UniformQuantizer(OperandConfig(scheme="uniform", bits=bits), layout, values)
    module.model.set_submodule(path_of(KEY), quantizer)
    return affine_codes(module, KEY)


@pytest.mark.parametrize("case", ["w8a8", "w4a4", "symmetric"])
def test_values_are_those_of_the_quantizer(case: str) -> None:
    module = source_of(case).module
    for key, quantizer in module.quantizers.items():
        found = affine_codes(module, key)
        assert isinstance(found, AffineCodes)
        assert found.greatest - found.least == 2**quantizer.config.bits - 1
        if found.codes is None:
            assert found.container == "uint8"
            continue
        shape = (-1, *[1] * (found.codes.ndim - 1))
        values = (found.codes.float() - found.zero_point.float().reshape(shape)) * found.scale.reshape(shape)
        expected = module.model.get_submodule(path_of(key)).value  # type: ignore[union-attr]
        assert torch.equal(values, expected)
        assert found.codes.min() >= found.least
        assert found.codes.max() <= found.greatest


def test_a_zero_point_outside_the_codes_moves_them() -> None:
    inside, below, above = changed(4, 0.1, 3.0), changed(4, 0.1, -20.0), changed(4, 0.1, 250.0)
    assert isinstance(inside, AffineCodes)
    assert isinstance(below, AffineCodes)
    assert isinstance(above, AffineCodes)
    assert (inside.least, inside.greatest, int(inside.zero_point)) == (0, 15, 3)
    assert (below.least, below.greatest, int(below.zero_point)) == (20, 35, 0)
    assert (above.least, above.greatest, int(above.zero_point)) == (0, 15, 250)
    assert changed(8, 0.1, -20.0) == "its zero point is too far from its codes"
    assert changed(4, 0.1, 300.0) == "its zero point is too far from its codes"


def test_what_has_no_such_codes() -> None:
    module = source_of("mixed").module
    reasons = {key: affine_codes(module, key) for key in module.quantizers}
    assert reasons["fc1", "input"] == "scheme instance_groups"
    assert reasons["qk", "lhs"] == "one scale a head"
    assert reasons["proj", "input"] == "one scale a group"
    assert changed(9, 0.1, 3.0) == "9 bits"


@pytest.mark.parametrize("case", ["w8a8", "w4a4", "symmetric"])
def test_centred_codes_have_the_same_values(case: str) -> None:
    module = source_of(case).module
    for key in module.quantizers:
        found = centred_codes(module, key)
        assert isinstance(found, AffineCodes)
        bits = module.quantizers[key].config.bits
        assert (found.bits, found.least, found.greatest) == (bits, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        assert found.has_zero
        if found.codes is not None:
            shape = (-1, *[1] * (found.codes.ndim - 1))
            values = (found.codes.float() - found.zero_point.float().reshape(shape)) * found.scale.reshape(shape)
            assert torch.equal(values, module.model.get_submodule(path_of(key)).value)  # type: ignore[union-attr]
        if module.quantizers[key].config.symmetric:
            assert not found.zero_point.any()


def test_what_has_no_centred_codes_is_told() -> None:
    module = source_of("mixed").module
    assert centred_codes(module, ("av", "lhs")) == "scheme adalog"
    assert centred_codes(module, ("fc2", "input")) == "its codes are of its product with a Hadamard matrix"
    assert centred_codes(module, ("qk", "lhs")) == "one scale a head"
