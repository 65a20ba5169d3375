"""FQ-ViT."""

from __future__ import annotations

from dataclasses import replace

import torch

from autoq.calibration import Bank
from autoq.methods import BitWidths, MethodOptions, create_method
from autoq.recipe import OperandConfig
from tests.methods.configured import by_kind, configs, uniform
from tests.runs.small_run import small_session


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
    assert (settings.batch_images, settings.sample_last_batch, settings.shares_ranges) == (100, True, True)


def test_published_sums() -> None:
    """What a LayerNorm reads has power-of-two factors where it is added to, too; branches and embeddings do not."""
    published = create_method("fq-vit", MethodOptions(protocol="published"))
    sums = {(site, operand): config for site, operand, _, config in configs(published) if ".add" in f".{site}"}
    factors = OperandConfig(scheme="power_of_two_factor", bits=5)
    depth = len({site for site, _ in sums}) // 2
    assert depth == 4
    assert sums == {("add", "lhs"): uniform(5), ("add", "rhs"): uniform(5)} | {
        (f"blocks.{block}.{name}", operand): factors if operand == "lhs" else uniform(5)
        for block in range(depth)
        for name in ("add", "add@2")
        for operand in ("lhs", "rhs")
    }
    plain = create_method("fq-vit", MethodOptions(protocol="published", ptf=False))
    assert {config for site, _, _, config in configs(plain) if ".add" in f".{site}"} == {uniform(5)}
    assert not [site for site, _, _, _ in configs(create_method("fq-vit")) if ".add" in f".{site}"]


def test_published_output() -> None:
    """The classifier's output has activations' bits, and as published alone."""
    for options, expected in ((MethodOptions(), []), (MethodOptions(protocol="published"), [uniform(5)])):
        assert [
            found for site, _, _, found in configs(create_method("fq-vit", options)) if site == "output"
        ] == expected


def test_the_residual_stream_has_one_quantizer_in_sum_and_norm() -> None:
    """A LayerNorm and the sum that read one tensor round it alike, as where it is rounded once."""
    session = small_session()
    method = create_method("fq-vit", MethodOptions(protocol="published"))
    sites = method.sites(session.traced, BitWidths(8, 8, 4))
    images = torch.rand(7, *session.loaded.input_size, generator=torch.Generator().manual_seed(0))
    bank = Bank(session.model, images, replace(method.settings(0), batch_images=3), {})
    solved = {
        key: bank.quantizer(*key, sites[key[0]][key[1]]).qparams()
        for key in (("blocks.0.norm1", "input"), ("blocks.0.add", "lhs"), ("blocks.0.norm2", "input"))
    }
    first, again, second = solved.values()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], second[name]) for name in first)
