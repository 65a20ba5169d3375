"""Which operand gets which quantizer, for every method, on models of several kinds."""

from __future__ import annotations

import pytest

from autoq.calibration.transforms.reparameterization import rewritable_norms
from autoq.cost import model_cost, uniform_bops
from autoq.errors import MethodError
from autoq.methods import METHODS, create_method
from tests.methods.configured import WIDTHS, configs, traced_model


@pytest.mark.parametrize("name", METHODS)
def test_every_product_is_quantized_at_the_widths_asked_for(name: str) -> None:
    sites = create_method(name).sites(traced_model(), WIDTHS)
    for site, operand in traced_model().operands():
        if not site.macs:
            continue
        config = sites[site.name][operand.name]
        expected = 3 if operand.is_weight else 4 if operand.producer == "softmax" else 5
        if site.name == "patch_embed.proj" and operand.name == "input":
            expected = 8
        assert config.bits == expected, (site.name, operand.name)
        assert config.overflow == "zero_code"
    cost = model_cost(traced_model().sites, sites)
    assert cost.bops - cost.group_bops >= uniform_bops(traced_model().sites, 3, 4)


def test_schemes_are_those_of_the_papers() -> None:
    expected = {
        "rtn": ("uniform", "uniform", "uniform"),
        "fq-vit": ("uniform", "uniform", "log_int_softmax"),
        "ptq4vit": ("uniform", "twin_uniform", "twin_uniform"),
        "repq-vit": ("uniform", "uniform", "log_sqrt2"),
        "igq-vit": ("instance_groups", "instance_groups", "instance_groups"),
        "adalog": ("uniform", "adalog", "adalog"),
        "aphq-vit": ("uniform", "uniform", "uniform"),
    }
    assert expected.keys() == METHODS.keys()
    for name, (after_norm, after_gelu, after_softmax) in expected.items():
        found: dict[str, set[str]] = {}
        for site, operand, producer, config in configs(create_method(name)):
            if operand in ("input", "lhs") and not site.startswith("head"):
                found.setdefault(producer, set()).add(config.scheme)
        assert found["layer_norm"] == {after_norm}, name
        assert found["gelu"] == {after_gelu}, name
        assert found["softmax"] == {after_softmax}, name


@pytest.mark.parametrize("name", METHODS)
def test_layer_norms_and_scores_are_quantized_by_fq_vit_alone(name: str) -> None:
    without_macs = {site.name: site.op for site in traced_model().sites if not site.macs}
    configured = without_macs.keys() & create_method(name).sites(traced_model(), WIDTHS).keys()
    norms_and_scores = {site for site, op in without_macs.items() if op in ("layer_norm", "softmax")}
    assert configured == (norms_and_scores if name == "fq-vit" else set()), "sums: as published alone"


def test_reparameterization_is_of_repq_vit_and_its_followers() -> None:
    followers = ("repq-vit", "adalog", "aphq-vit")
    for name in METHODS:
        norms = create_method(name).reparameterized(traced_model(), WIDTHS)
        assert norms == (dict.fromkeys(rewritable_norms(traced_model()), 5) if name in followers else {})
    assert rewritable_norms(traced_model())


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(MethodError, match=r"unknown method 'adalogg'; there are .* Did you mean 'adalog'"):
        create_method("adalogg")
