"""Operands of a site in one basis: what follows, what is listed, what is refused."""

from __future__ import annotations

import pytest

from autoq.errors import RecipeError
from autoq.graph.bases import basis_block, check_codes, in_basis_of, options_in_all_bases, share_basis
from autoq.graph.sites import Site
from autoq.recipe import OperandConfig
from tests.graph.zoo import example
from tests.optimization.synthetic_sites import conv, linear, product

FC = linear("fc", 5, 24, 8)
MX_AND_NVIDIA = ("mxfp4", "mxint8", "nvfp4")


def config(scheme: str = "uniform", bits: int = 4, **fields: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": scheme, "bits": bits} | fields)


H8 = config("hadamard", hadamard_block=8)
CHANNELS = config(bits=3, granularity="channel")
CHANNELS_8 = config("hadamard", bits=3, granularity="channel", hadamard_block=8)


def test_a_weight_follows_its_input() -> None:
    assert share_basis(FC.operands, {"input": H8, "weight": CHANNELS}) == {"input": H8, "weight": CHANNELS_8}
    assert share_basis(FC.operands, {"input": config(), "weight": CHANNELS_8})["weight"] == CHANNELS
    wide = config("hadamard", hadamard_block=512)
    assert share_basis(FC.operands, {"input": wide, "weight": CHANNELS})["weight"] == CHANNELS_8
    for alone in ({"input": H8}, {"weight": CHANNELS_8}, {}):
        assert share_basis(FC.operands, alone) == alone
    assert in_basis_of(FC.operands, {"input": H8}, "input", config()) == config()


def test_a_weight_without_codes_in_that_basis_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"a weight of scheme log2 has no codes beside an input .* blocks of 8"):
        share_basis(FC.operands, {"input": H8, "weight": config("log2")})


def test_a_weight_has_its_options_in_every_basis_of_the_input() -> None:
    h4 = config("hadamard", bits=8, hadamard_block=4)
    found = options_in_all_bases(FC.operands, {"input": [config(), H8, h4], "weight": [CHANNELS, config(bits=2)]})
    assert found["input"] == (config(), H8, h4)
    assert found["weight"] == (
        *(CHANNELS, config(bits=2)),
        *(CHANNELS_8, config("hadamard", bits=2, hadamard_block=8)),
        *(CHANNELS_8.model_copy(update={"hadamard_block": 4}), config("hadamard", bits=2, hadamard_block=4)),
    )


def test_other_operands_are_offered_no_basis_of_their_own() -> None:
    with pytest.raises(RecipeError, match="weight cannot be offered scheme hadamard: only inputs of layers can"):
        options_in_all_bases(FC.operands, {"input": [config()], "weight": [CHANNELS_8]})
    site = product("qk", (1, 2, 5, 4), (1, 2, 4, 5))
    with pytest.raises(RecipeError, match="lhs cannot be offered scheme hadamard"):
        options_in_all_bases(site.operands, {"lhs": [H8], "rhs": [config()]})


def test_recipes_in_two_bases_are_refused() -> None:
    product_site = product("qk", (1, 2, 5, 8), (1, 2, 8, 5))
    sites = {site.name: site for site in (FC, product_site)}
    for good in (
        {"fc": {"input": H8, "weight": CHANNELS_8}, "qk": {"lhs": config(), "rhs": config()}},
        {"fc": {"input": H8}, "qk": {"lhs": H8, "rhs": H8}},
        {"fc": {"weight": CHANNELS_8}, "qk": {"lhs": H8}},
        # 24 channels have no larger blocks than 8.
        {"fc": {"input": H8.model_copy(update={"hadamard_block": 16}), "weight": CHANNELS_8}},
    ):
        check_codes(sites, good)
    for bad in (
        {"fc": {"input": H8, "weight": CHANNELS}},
        {"fc": {"input": config(), "weight": CHANNELS_8}},
        {"fc": {"input": H8.model_copy(update={"hadamard_block": 4}), "weight": CHANNELS_8}},
        {"qk": {"lhs": H8, "rhs": config()}},
    ):
        with pytest.raises(RecipeError, match=f"the operands of {next(iter(bad))} are quantized in different bases"):
            check_codes(sites, bad)


def test_recipes_in_two_number_formats_are_refused() -> None:
    sites = {"fc": FC}
    mxfp4, mxint8, nvfp4 = (OperandConfig(scheme=name, bits=8 if "8" in name else 4) for name in MX_AND_NVIDIA)
    for good in ({"input": mxfp4, "weight": mxint8}, {"weight": nvfp4}, {"input": nvfp4, "weight": nvfp4}):
        check_codes(sites, {"fc": good})
    for other in (nvfp4, config()):
        with pytest.raises(RecipeError, match=f"different number formats .input is mxfp4, weight is {other.scheme}."):
            check_codes(sites, {"fc": {"input": mxfp4, "weight": other}})


def test_blocks_of_convolutions_divide_their_channels() -> None:
    site = conv("conv", 12, 8, 3, 4)
    assert [basis_block(operand, H8) for operand in site.operands] == [4, 4]
    assert basis_block(site.operands[0], config()) == 1


def test_both_operands_of_every_product_have_the_same_channels_to_mix() -> None:
    """In traced models: linear layers, convolutions, attention; none in depthwise convolutions."""
    seen = set()
    for name in ("vit", "pvt_v2"):
        for site in example(name).traced.sites:
            if site.is_optional:
                assert {operand.layout.summed_axis for operand in site.operands} == {None}
            elif len(site.operands) == 2:
                seen.add(_check_summed(site))
    assert seen == {"linear", "conv2d", "depthwise", "matmul"}


def _check_summed(site: Site) -> str:
    axes = [operand.layout.summed_axis for operand in site.operands]
    if None in axes:
        assert axes == [None, None]
        assert site.operand("weight").shape[1] < site.operand("input").shape[-3]
        return "depthwise"
    first, second = (operand.shape[axis] for operand, axis in zip(site.operands, axes, strict=True) if axis is not None)
    assert first == second
    return site.op
