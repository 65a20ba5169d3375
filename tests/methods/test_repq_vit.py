"""RepQ-ViT."""

from __future__ import annotations

from autoq.methods import create_method
from autoq.recipe import OperandConfig
from tests.methods.configured import WIDTHS, by_kind, traced_model, uniform


def test_configurations() -> None:
    assert by_kind(create_method("repq-vit")) == {
        "image": uniform(8),
        "weight": uniform(3, granularity="channel"),
        "layer input": uniform(5),
        "query": uniform(5),
        "key": uniform(5),
        "value": uniform(5),
        "attention map": OperandConfig(scheme="log_sqrt2", bits=4),
        "gelu output": uniform(5),
    }


def test_protocol() -> None:
    method = create_method("repq-vit")
    assert (method.images, method.settings(3).observer, method.settings(3).seed) == (32, "best_percentile", 3)


def test_norms_before_linear_layers_are_rescaled() -> None:
    """Both of every block, and the last one, which the head alone reads."""
    norms = create_method("repq-vit").reparameterized(traced_model(), WIDTHS)
    names = {site.name for site in traced_model().sites if site.op == "layer_norm"}
    assert {name for name in names if name.startswith("blocks.")} <= norms.keys() <= names
    assert set(norms.values()) == {5}
