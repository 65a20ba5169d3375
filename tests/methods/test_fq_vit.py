"""FQ-ViT."""

from __future__ import annotations

from autoq.methods import MethodOptions, create_method
from autoq.recipe import OperandConfig
from tests.methods.configured import by_kind, configs, uniform


def test_configurations() -> None:
    log = OperandConfig(scheme="log_int_softmax", bits=4)
    assert by_kind(create_method("fq-vit")) == {
        "image": uniform(8),
        "weight": uniform(3, granularity="channel", symmetric=True),
        "norm input": OperandConfig(scheme="power_of_two_factor", bits=5),
        "layer input": uniform(5),
        "query": uniform(5),
        "key": uniform(5),
        "value": uniform(5),
        "softmax input": uniform(5),
        "attention map": log,
        "gelu output": uniform(5),
    }


def test_protocol() -> None:
    method = create_method("fq-vit")
    assert (method.images, method.settings(3).observer, method.settings(3).seed) == (1000, "min_max", 3)


def test_switches_of_fq_vit() -> None:
    for ptf in (True, False, None):
        for lis in (True, False, None):
            method = create_method("fq-vit", MethodOptions(ptf=ptf, lis=lis, observer="omse"))
            schemes = {
                (producer, operand): config.scheme
                for site, operand, producer, config in configs(method)
                if "norm" in site or producer == "softmax"
            }
            assert schemes["other", "input"] == ("uniform" if ptf is False else "power_of_two_factor")
            assert schemes["softmax", "lhs"] == ("uniform" if lis is False else "log_int_softmax")
            assert method.settings(7).observer == "omse"
            assert method.settings(7).seed == 7


def test_published() -> None:
    """The observer is that of activations: weights and power-of-two ranges keep their least and greatest values."""
    method = create_method("fq-vit", MethodOptions(protocol="published", observer="percentile"))
    settings = method.settings(0)
    assert (settings.observer, settings.percentile) == ("percentile", 99.999)
    assert (settings.weight_observer, settings.factor_observer) == ("min_max", "min_max")
    assert by_kind(method)["attention map"].overflow == "extra_zero"
