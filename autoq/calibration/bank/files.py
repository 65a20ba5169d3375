"""A bank on disk: ``bank.json`` says what was solved and for what, ``bank.safetensors`` holds the parameters."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from autoq.calibration.bank.packed_codes import count_bytes
from autoq.calibration.transforms.folded import FoldedTransforms
from autoq.errors import CalibrationError, RunDirectoryError
from autoq.files import atomic_path, sha256_hex, write_text
from autoq.graph.insert import QuantizedModel
from autoq.identity import describe_changes, fingerprint_of
from autoq.quantizers import BaseQuantizer, create_quantizer
from autoq.recipe import OperandConfig

_logger = logging.getLogger(__name__)

SolvedKey = tuple[str, str, OperandConfig]
"""(site, operand, configuration)."""
_CODES = "codes"
"""Name of a weight's codes among its parameters."""
_FOLDED = "folded"
"""Stands before the names of what was folded into weights, where options have their numbers."""


@dataclass(frozen=True)
class SolvedOption:
    """What is known of an operand at an option.

    Attributes:
        quantizer: of the operand.
        codes: of a weight that is not rounded to nearest, as ``pack_codes`` gives them; else None.
    """

    quantizer: BaseQuantizer
    codes: Tensor | None = None


@dataclass(frozen=True)
class SolvedParameters:
    """A solved option in plain tensors, as it goes to a file or to another process.

    Attributes:
        qparams: parameters of the quantizer.
        codes: as in ``SolvedOption``.
    """

    qparams: dict[str, Tensor]
    codes: Tensor | None

    @classmethod
    def of(cls, solved: SolvedOption) -> SolvedParameters:
        """Take an option apart, into main memory."""
        parameters = {name: value.cpu() for name, value in solved.quantizer.qparams().items()}
        return cls(parameters, None if solved.codes is None else solved.codes.cpu())

    def option(self, model: QuantizedModel, key: SolvedKey) -> SolvedOption:
        """Make the option of a model's operand, on the model's device.

        Raises:
            CalibrationError: the codes are not those of such a weight, or a parameter does not fit.
        """
        site, operand, config = key
        if self.codes is not None:
            needed = count_bytes(config.bits, model.traced.weight(site, operand).shape)
            if self.codes.shape != (needed,):
                raise CalibrationError(f"codes of {site}:{operand} take {needed} bytes, not {tuple(self.codes.shape)}")
        layout = model.traced.sites_by_name[site].operand(operand).layout
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        return SolvedOption(create_quantizer(config, layout, self.qparams).to(device), self.codes)


@dataclass(frozen=True)
class BankContent:
    """What a bank's files hold.

    Attributes:
        description: what the parameters depend on.
        fingerprint: of the description.
        options: by operand and configuration.
        folded: what was folded into the weights of the model.
    """

    description: dict[str, Any]
    fingerprint: str
    options: dict[SolvedKey, SolvedParameters]
    folded: FoldedTransforms


def write_bank(
    directory: str | os.PathLike[str],
    description: Mapping[str, Any],
    options: Mapping[SolvedKey, SolvedOption],
    folded: FoldedTransforms,
) -> None:
    """Write both files; what was there before is still there if that fails.

    Raises:
        OSError: they cannot be written.
    """
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    entries = []
    for index, ((site, operand, config), solved) in enumerate(options.items()):
        entries.append({"site": site, "operand": operand, "config": config.to_json()})
        tensors |= {f"{index}.{name}": value for name, value in solved.quantizer.qparams().items()}
        if solved.codes is not None:
            tensors[f"{index}.{_CODES}"] = solved.codes
    tensors |= {f"{_FOLDED}.{name}": value for name, value in folded.tensors().items()}
    # Not safetensors' save_file, whose errors are no OSError.
    content = to_safetensors(
        {name: value.cpu().contiguous().clone() for name, value in tensors.items()},
        metadata={"entries": _hash_entries(entries)},
    )
    with atomic_path(target / "bank.safetensors") as temporary:
        temporary.write_bytes(content)
    document = {
        "fingerprint": fingerprint_of(description),
        "description": dict(description),
        **folded.document(),
        "entries": entries,
    }
    write_text(target / "bank.json", json.dumps(document, indent=1))


def read_bank(directory: str | os.PathLike[str]) -> BankContent | None:
    """Read a bank's files; None if there are none, or they cannot be read (a save that was cut short)."""
    folder = Path(directory)
    try:
        document = json.loads((folder / "bank.json").read_text(encoding="utf-8"))
        with safe_open(folder / "bank.safetensors", "pt") as file:
            if file.metadata()["entries"] != _hash_entries(document["entries"]):
                _logger.warning("the bank in %s was being saved when its run ended; it is solved again", folder)
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        by_key = _by_key(document["entries"], tensors)
        options = {key: SolvedParameters(own, own.pop(_CODES, None)) for key, own in by_key.items()}
        return BankContent(
            description=dict(document["description"]),
            fingerprint=document["fingerprint"],
            options=options,
            folded=FoldedTransforms.read(
                document, {name.removeprefix(f"{_FOLDED}."): value for name, value in tensors.items()}
            ),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        _logger.warning("the bank in %s cannot be read and is solved again: %s", folder, error)
        return None


def refuse_stale(folder: str | os.PathLike[str], found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a bank that was solved for something else.

    Raises:
        RunDirectoryError: names what differs.
    """
    if changes := describe_changes(found, wanted, sorted(wanted.keys() | found.keys())):
        raise RunDirectoryError(
            f"the bank in {os.fspath(folder)!r} is stale: it differs in {changes}; delete it or use another --out"
        )


def _by_key(entries: Iterable[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> dict[SolvedKey, dict[str, Tensor]]:
    grouped: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, parameter = name.partition(".")
        grouped.setdefault(number, {})[parameter] = value
    return {
        (entry["site"], entry["operand"], OperandConfig.model_validate(entry["config"])): grouped[str(index)]
        for index, entry in enumerate(entries)
    }


def _hash_entries(entries: list[dict[str, Any]]) -> str:
    """Tie ``bank.safetensors`` to the ``bank.json`` it was written with."""
    return sha256_hex([json.dumps(entries).encode()])
