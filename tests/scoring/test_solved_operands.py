from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from autoq.calibration import Bank, CalibrationSettings
from autoq.calibration.transforms.folded import FoldedTransforms
from autoq.calibration.transforms.reparameterization import ChannelFactors
from autoq.errors import RecipeError
from autoq.graph.insert import FixedTensor, QuantizedModel
from autoq.recipe import OperandConfig
from autoq.scoring.solved_operands import SolvedOperands, read_operands, write_operands
from tests.reconstruction.small_model import A6, W2, calibrated, images, sites_of, tiny_model

WEIGHT = ("blocks.0.fc1", "weight")


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    return tiny_model()


@pytest.fixture(scope="module")
def operands(model: QuantizedModel) -> SolvedOperands:
    sites = sites_of(model, W2, A6)
    sites["blocks.1.fc1"]["weight"] = OperandConfig(scheme="uniform", bits=10, granularity="channel")
    start = calibrated(model, sites, images(8))
    codes = {}
    for key in (WEIGHT, ("blocks.1.fc1", "weight")):
        quantizer = start.quantizers[key]
        most = 2**quantizer.config.bits - 1
        codes[key] = (quantizer.quantize(model.traced.weight(*key)) + 1).clamp(max=most)
    return SolvedOperands(start.quantizers, codes)


def test_a_banks_codes_are_taken_over(model: QuantizedModel) -> None:
    """What it puts into the slots is what the bank puts there."""
    bank = Bank(model, images(8), CalibrationSettings(second_order=True), {})
    sites = sites_of(model, W2, A6)
    operands = SolvedOperands.from_bank(bank, sites)
    assert operands.sites == sites
    assert operands.codes.keys() == {key for key in operands.quantizers if key[1] == "weight"}
    outputs = []
    for apply_ in (lambda: bank.apply_(sites), lambda: operands.apply_(model)):
        apply_()
        with torch.no_grad():
            outputs.append(model.run(images(4, seed=1))[0])
    model.remove_()
    assert torch.equal(*outputs)
    nearest = SolvedOperands(operands.quantizers)
    nearest.apply_(model)
    with torch.no_grad():
        assert not torch.equal(model.run(images(4, seed=1))[0], outputs[0])
    model.remove_()


def test_what_is_written_is_read_again(model: QuantizedModel, operands: SolvedOperands, tmp_path: Path) -> None:
    folded = FoldedTransforms(
        {"norm": ChannelFactors(torch.rand(8), torch.randn(8), *torch.rand(2))},
        {"qk": torch.rand(2, 4)},
    )
    write_operands(tmp_path / "recipe.safetensors", operands, folded, {"images": 3})
    found = read_operands(tmp_path / "recipe.safetensors", model)
    assert found.operands.sites == operands.sites
    assert found.description == {"images": 3}
    assert found.folded.document() == folded.document()
    assert all(torch.equal(value, folded.tensors()[name]) for name, value in found.folded.tensors().items())
    data = images(4, seed=1)
    outputs = []
    for each in (operands, found.operands):
        each.apply_(model)
        with torch.no_grad():
            outputs.append(model.run(data)[0])
    model.remove_()
    assert torch.equal(*outputs)


def test_codes_take_a_byte_up_to_eight_bits(model: QuantizedModel, operands: SolvedOperands, tmp_path: Path) -> None:
    write_operands(tmp_path / "some.safetensors", operands)
    tensors = load_file(tmp_path / "some.safetensors")
    assert tensors["blocks.0.fc1:weight.codes"].dtype == torch.uint8
    assert tensors["blocks.1.fc1:weight.codes"].dtype == torch.int32
    assert int(tensors["blocks.1.fc1:weight.codes"].max()) > 255
    assert [path.name for path in tmp_path.iterdir()] == ["some.safetensors"]
    del model


def test_weights_stand_in_their_slots_as_their_codes_say(model: QuantizedModel, operands: SolvedOperands) -> None:
    operands.apply_(model)
    fixed = model.slots[WEIGHT].quantizer
    assert isinstance(fixed, FixedTensor)
    assert torch.equal(fixed.value, operands.quantizers[WEIGHT].dequantize(operands.codes[WEIGHT]))
    assert model.configuration() == operands.sites
    model.remove_()


def test_of_two_the_second_wins(operands: SolvedOperands) -> None:
    codes = {WEIGHT: operands.codes[WEIGHT] * 0}
    both = operands | SolvedOperands({}, codes)
    assert torch.equal(both.codes[WEIGHT], codes[WEIGHT])
    assert both.quantizers.keys() == operands.quantizers.keys()


def test_files_that_are_missing_or_damaged_are_named(
    model: QuantizedModel, operands: SolvedOperands, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.safetensors"
    with pytest.raises(RecipeError, match=r"cannot read .*recipe.safetensors.*missing"):
        read_operands(path, model)
    write_operands(path, operands)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecipeError, match=r"does not hold reconstructed weights.*reconstruct the recipe again"):
        read_operands(path, model)
    save_file({"x": torch.zeros(3)}, path)
    with pytest.raises(RecipeError, match="does not hold reconstructed weights"):
        read_operands(path, model)


def test_operands_of_another_model_are_refused(model: QuantizedModel, operands: SolvedOperands, tmp_path: Path) -> None:
    path = tmp_path / "recipe.safetensors"
    renamed = {(site.replace("blocks.0", "blocks.7"), name): each for (site, name), each in operands.quantizers.items()}
    write_operands(path, SolvedOperands(renamed))
    with pytest.raises(RecipeError, match=r"no site 'blocks.7"):
        read_operands(path, model)
