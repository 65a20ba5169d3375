"""Which operand gets which quantizer, for every method, on models of several kinds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from autoq.calibration.transforms.reparameterization import rewritable_norms
from autoq.cost import model_cost, uniform_bops
from autoq.errors import MethodError
from autoq.graph.trace import TracedModel
from autoq.methods import METHODS, BaseMethod, BitWidths, MethodOptions, create_method
from autoq.recipe import OperandConfig
from tests.runs.small_run import small_session

WIDTHS = BitWidths(3, 5, 4)


@pytest.fixture(scope="module")
def traced() -> TracedModel:
    return small_session().traced


def configs(traced: TracedModel, method: BaseMethod) -> Iterator[tuple[str, str, str, OperandConfig]]:
    """Site, operand, producer and configuration of everything that a method quantizes."""
    sites = method.sites(traced, WIDTHS)
    for site, operand in traced.operands():
        if operand.name in sites.get(site.name, {}):
            yield site.name, operand.name, operand.producer, sites[site.name][operand.name]


@pytest.mark.parametrize("name", METHODS)
def test_every_product_is_quantized_at_the_widths_asked_for(name: str, traced: TracedModel) -> None:
    sites = create_method(name).sites(traced, WIDTHS)
    for site, operand in traced.operands():
        if not site.macs:
            continue
        config = sites[site.name][operand.name]
        expected = 3 if operand.is_weight else 4 if operand.producer == "softmax" else 5
        if site.name == "patch_embed.proj" and operand.name == "input":
            expected = 8
        assert config.bits == expected, (site.name, operand.name)
        assert config.overflow == "zero_code"
    cost = model_cost(traced.sites, sites)
    assert cost.bops - cost.group_bops >= uniform_bops(traced.sites, 3, 4)


def test_schemes_are_those_of_the_papers(traced: TracedModel) -> None:
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
        for site, operand, producer, config in configs(traced, create_method(name)):
            if operand in ("input", "lhs") and not site.startswith("head"):
                found.setdefault(producer, set()).add(config.scheme)
        assert found["layer_norm"] == {after_norm}, name
        assert found["gelu"] == {after_gelu}, name
        assert found["softmax"] == {after_softmax}, name


@pytest.mark.parametrize("name", METHODS)
def test_layer_norms_and_scores_are_quantized_by_fq_vit_alone(name: str, traced: TracedModel) -> None:
    without_macs = {site.name for site in traced.sites if not site.macs}
    configured = without_macs & create_method(name).sites(traced, WIDTHS).keys()
    assert configured == (without_macs if name == "fq-vit" else set())


def test_switches_of_fq_vit(traced: TracedModel) -> None:
    for ptf in (True, False, None):
        for lis in (True, False, None):
            method = create_method("fq-vit", MethodOptions(ptf=ptf, lis=lis, observer="omse"))
            schemes = {
                (producer, operand): config.scheme
                for site, operand, producer, config in configs(traced, method)
                if "norm" in site or producer == "softmax"
            }
            assert schemes["other", "input"] == ("uniform" if ptf is False else "power_of_two_factor")
            assert schemes["softmax", "lhs"] == ("uniform" if lis is False else "log_int_softmax")
            assert method.settings(7).observer == "omse"
            assert method.settings(7).seed == 7


def test_groups_of_igq_vit(traced: TracedModel) -> None:
    def groups(chosen: int | None) -> set[int]:
        method = create_method("igq-vit", MethodOptions(groups=chosen))
        return {config.groups for *_, config in configs(traced, method) if config.scheme == "instance_groups"}

    assert groups(None) == {8}
    assert groups(3) == {3}
    assert groups(1) == set()  # one group is a plain range


def test_reparameterization_is_of_repq_vit_and_its_followers(traced: TracedModel) -> None:
    followers = ("repq-vit", "adalog", "aphq-vit")
    for name in METHODS:
        norms = create_method(name).reparameterized(traced, WIDTHS)
        assert norms == (dict.fromkeys(rewritable_norms(traced), 5) if name in followers else {})
    assert rewritable_norms(traced)


def test_options_that_a_method_does_not_have() -> None:
    with pytest.raises(MethodError, match=r"repq-vit has no option --ptf; it has none"):
        create_method("repq-vit", MethodOptions(ptf=True))
    with pytest.raises(MethodError, match=r"igq-vit has no option --lis; it has --groups, --observer"):
        create_method("igq-vit", MethodOptions(lis=False))
    with pytest.raises(MethodError, match="fq-vit: observer 'mse' is not one of min_max, ema, percentile, omse"):
        create_method("fq-vit", MethodOptions(observer="mse"))
    with pytest.raises(MethodError, match=r"unknown method 'adalogg'; there are .* Did you mean 'adalog'"):
        create_method("adalogg")
