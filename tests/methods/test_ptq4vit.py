"""PTQ4ViT."""

from __future__ import annotations

from autoq.methods import create_method
from autoq.recipe import OperandConfig
from tests.methods.configured import by_kind, uniform


def test_configurations() -> None:
    symmetric = uniform(5, symmetric=True)
    assert by_kind(create_method("ptq4vit")) == {
        "image": uniform(8),
        "weight": uniform(3, symmetric=True),
        "layer input": symmetric,
        "query": symmetric,
        "key": symmetric,
        "value": symmetric,
        "attention map": OperandConfig(scheme="twin_uniform", bits=4),
        "gelu output": OperandConfig(scheme="twin_uniform", bits=5),
    }


def test_scales_are_chosen_by_the_output_of_layers() -> None:
    method = create_method("ptq4vit")
    assert (method.images, method.settings(3).observer, method.settings(3).seed) == (32, "fpcs", 3)
