"""The model's own modules with a recipe's values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoq.calibration.transforms.rotation.find import find_spaces
from autoq.calibration.transforms.rotation.rotate import rotate
from autoq.errors import ExportError
from autoq.exporters import Architecture
from autoq.graph.trace import trace
from autoq.recipe import ModelReference, Recipe
from autoq.scoring.quantized_module import QuantizedModule
from autoq.scoring.solved_operands import SolvedOperands
from tests.api.models import IMAGES
from tests.exporters.sources import architecture, source_of
from tests.graph.zoo import ZOO, build, images


def test_the_module_computes_what_the_quantized_one_does_without_activations() -> None:
    quantized = source_of("w4a4").module
    activations = [key for key in quantized.quantizers if key not in quantized.codes]
    with torch.no_grad():
        found = architecture().with_values(quantized)(IMAGES)["logits"]
        torch.testing.assert_close(found, quantized.without(activations)(IMAGES)["logits"])
        again = architecture().with_values(quantized.without(list(quantized.quantizers)))(IMAGES)["logits"]
    assert torch.equal(found, again), "weights in floating point keep their values"


def test_owners_are_modules_and_their_parameters() -> None:
    owner = architecture().owner(("fc1", "weight"))
    assert not isinstance(owner, str)
    assert (owner.name, owner.path) == ("fc1.weight", "fc1")
    assert owner.module is architecture().module.fc1


class Shared(nn.Module):
    """One weight in two places, and one that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.fc(self.fc(x)), self.fc.weight.abs())


def test_what_is_no_weight_of_a_module_is_told() -> None:
    module = Shared().eval()
    made = Architecture(module, trace(module, torch.randn(2, 4)))
    weights = [(site.name, "weight") for site in made.traced.sites if any(each.is_weight for each in site.operands)]
    assert len(weights) >= 2
    assert {made.owner(key) for key in weights} <= {"several operations share it", "it is computed of parameters"}


def test_changes_that_modules_compute_are_refused() -> None:
    quantized = source_of("weights").module
    quantized.model.register_buffer("folded_constant", torch.ones(3))
    with quantized.model.graph.inserting_before(next(iter(quantized.model.graph.nodes))):
        quantized.model.graph.get_attr("folded_constant")
    with pytest.raises(ExportError, match="folded_constant was changed, which the model's own modules compute"):
        architecture().with_values(quantized)


@pytest.mark.parametrize("kind", ["vit", "deit3"])
def test_rotations_are_in_the_modules_own_parameters(kind: str) -> None:
    """deit3 has LayerScale, which a rotation folds into the layers before it."""
    module, x = build(kind), images(ZOO[kind], 2)
    traced = trace(module, x)
    rotated = rotate(traced, dict.fromkeys(find_spaces(traced).rotatable, 3))
    recipe = Recipe(model=ModelReference(name=kind, weights_sha256="0" * 64), sites={})
    found = Architecture(module, traced).with_values(QuantizedModule(rotated, SolvedOperands({}, {}), recipe))
    with torch.no_grad():
        torch.testing.assert_close(found(x), module(x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found.blocks[0].attn.qkv.weight, module.blocks[0].attn.qkv.weight)  # type: ignore[index, union-attr]
