"""A bank's two files: what they hold, and what becomes of them when they are damaged."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from autoq.calibration.bank.files import SolvedKey, SolvedOption, read_bank, refuse_stale, write_bank
from autoq.calibration.transforms.folded import FoldedTransforms
from autoq.calibration.transforms.reparameterization import ChannelFactors
from autoq.errors import RunDirectoryError
from autoq.identity import fingerprint_of
from autoq.quantizers import quantizer_class
from autoq.recipe import OperandConfig
from tests.contracts.quantizers import LINEAR_INPUT

DESCRIPTION = {"weights_sha256": "abc", "images_sha256": "def"}


def options(*bits: int) -> dict[SolvedKey, SolvedOption]:
    found: dict[SolvedKey, SolvedOption] = {}
    for width in bits:
        for scheme in ("uniform", "adalog"):
            config = OperandConfig(scheme=scheme, bits=width)
            bounds = torch.full((1, 1, 1), -0.1), torch.full((1, 1, 1), float(width))
            quantizer = quantizer_class(scheme).from_range(config, LINEAR_INPUT, *bounds)
            found["fc1", "input", config] = SolvedOption(quantizer)
    return found


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    folded = FoldedTransforms(
        {"norm.1": ChannelFactors(torch.rand(8), torch.randn(8), *torch.rand(2))},
        {"0": torch.rand(2, 3)},
    )
    write_bank(tmp_path / "a" / "bank", DESCRIPTION, options(3, 4), folded)
    content = read_bank(tmp_path / "a" / "bank")
    assert content is not None
    assert (content.description, content.fingerprint) == (DESCRIPTION, fingerprint_of(DESCRIPTION))
    assert content.options.keys() == options(3, 4).keys()
    for key, solved in options(3, 4).items():
        expected = solved.quantizer.qparams()
        found = content.options[key]
        assert found.codes is None
        assert found.qparams.keys() == expected.keys()
        assert all(torch.equal(found.qparams[name], expected[name]) for name in expected)
    assert content.folded.document() == folded.document()
    assert all(torch.equal(value, folded.tensors()[name]) for name, value in content.folded.tensors().items())


def test_codes_are_kept_apart_from_parameters(tmp_path: Path) -> None:
    packed = torch.tensor([7, 0, 255], dtype=torch.uint8)
    (first, solved), *rest = options(3, 4).items()
    write_bank(
        tmp_path, DESCRIPTION, dict([(first, SolvedOption(solved.quantizer, packed)), *rest]), FoldedTransforms()
    )
    content = read_bank(tmp_path)
    assert content is not None
    found = {key: each.codes for key, each in content.options.items() if each.codes is not None}
    assert found.keys() == {first}
    assert torch.equal(found[first], packed)
    assert all(
        own.qparams.keys() == solved.quantizer.qparams().keys()
        for own, (_, solved) in zip(content.options.values(), options(3, 4).items(), strict=True)
    )


def test_files_say_what_they_hold(tmp_path: Path) -> None:
    write_bank(tmp_path, DESCRIPTION, options(4), FoldedTransforms())
    assert {entry.name for entry in tmp_path.iterdir()} == {"bank.json", "bank.safetensors"}
    assert json.loads((tmp_path / "bank.json").read_text()) == {
        "fingerprint": fingerprint_of(DESCRIPTION),
        "description": DESCRIPTION,
        "reparameterized": [],
        "centred": [],
        "entries": [
            {"site": "fc1", "operand": "input", "config": {"scheme": scheme, "bits": 4}}
            for scheme in ("uniform", "adalog")
        ],
    }


@pytest.mark.parametrize("damage", ["torn json", "torn tensors", "json is a list", "entry", "no entries"])
def test_what_cannot_be_read_is_no_bank(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    write_bank(tmp_path, DESCRIPTION, options(4), FoldedTransforms())
    document, tensors = tmp_path / "bank.json", tmp_path / "bank.safetensors"
    if damage == "json is a list":
        document.write_text("[]")
    elif damage == "entry":
        document.write_text(document.read_text().replace('"uniform"', '"unheard_of"'))
    elif damage == "no entries":
        document.write_text(document.read_text().replace('"entries"', '"others"'))
    else:
        torn = document if damage == "torn json" else tensors
        torn.write_bytes(torn.read_bytes()[:-20])
    with caplog.at_level(logging.WARNING):
        assert read_bank(tmp_path) is None
    assert f"the bank in {tmp_path}" in caplog.text
    assert "solved again" in caplog.text


@pytest.mark.parametrize("missing", ["bank.json", "bank.safetensors"])
def test_one_file_alone_is_no_bank(tmp_path: Path, caplog: pytest.LogCaptureFixture, missing: str) -> None:
    write_bank(tmp_path, DESCRIPTION, options(4), FoldedTransforms())
    (tmp_path / missing).unlink()
    assert read_bank(tmp_path) is None
    assert read_bank(tmp_path / "nowhere") is None
    assert caplog.text == ""


def test_files_of_two_saves_are_not_mixed(tmp_path: Path) -> None:
    write_bank(tmp_path, DESCRIPTION, options(4), FoldedTransforms())
    old = (tmp_path / "bank.json").read_bytes()
    write_bank(tmp_path, DESCRIPTION, options(5), FoldedTransforms())
    (tmp_path / "bank.json").write_bytes(old)
    assert read_bank(tmp_path) is None


def test_a_stale_bank_is_refused_by_what_differs() -> None:
    refuse_stale("bank", DESCRIPTION, DESCRIPTION)
    with pytest.raises(RunDirectoryError, match=r"the bank in 'bank' is stale: it differs in a \(was 1, is None\), b "):
        refuse_stale("bank", {"a": 1, "b": 2}, {"b": 3})
