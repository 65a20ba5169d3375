"""AdaLog."""

from __future__ import annotations

from autoq.methods import BitWidths, MethodOptions, create_method
from autoq.recipe import OperandConfig
from tests.methods.configured import WIDTHS, by_kind, traced_model, uniform


def test_configurations() -> None:
    assert by_kind(create_method("adalog")) == {
        "image": uniform(8),
        "weight": uniform(3, granularity="channel"),
        "layer input": uniform(5),
        "query": uniform(5, granularity="head"),
        "key": uniform(5, granularity="head"),
        "value": uniform(5, granularity="head"),
        "attention map": OperandConfig(scheme="adalog", bits=4),
        "gelu output": OperandConfig(scheme="adalog", bits=5),
    }


def test_protocol() -> None:
    method = create_method("adalog")
    assert (method.images, method.settings(3).observer, method.settings(3).seed) == (32, "fpcs", 3)
    norms = create_method("repq-vit").reparameterized(traced_model(), WIDTHS)
    assert method.reparameterized(traced_model(), WIDTHS) == norms


def test_published() -> None:
    """The image in floating point, a level more, 6 steps on all vectors, LayerNorms only at equal widths."""
    method = create_method("adalog", MethodOptions(protocol="published"))
    kinds = by_kind(method)
    assert "image" not in kinds
    assert {kinds[kind].overflow for kind in ("attention map", "gelu output")} == {"extra_zero"}
    fpcs = method.settings(0).fpcs
    assert (fpcs.steps, fpcs.log_bases, fpcs.start, fpcs.screening) == (6, 8, "operands", 0)
    assert fpcs.result == "last_step"
    assert method.reparameterized(traced_model(), WIDTHS) == {}
    assert method.reparameterized(traced_model(), BitWidths(4, 4, 4)).keys() == {
        f"blocks.{block}.norm{norm}" for block in range(4) for norm in (1, 2)
    }
