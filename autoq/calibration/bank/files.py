"""A bank on disk: ``bank.json`` says what was solved and for what, ``bank.safetensors`` holds the parameters."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from autoq.calibration.transforms.folded import FoldedTransforms
from autoq.errors import RunDirectoryError
from autoq.files import atomic_path, sha256_hex, write_text
from autoq.identity import describe_changes, fingerprint_of
from autoq.quantizers import BaseQuantizer
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
class BankContent:
    """What a bank's files hold.

    Attributes:
        description: what the parameters depend on.
        fingerprint: of the description.
        qparams: parameters by operand and configuration.
        codes: packed codes of weights that are not rounded to nearest, likewise.
        folded: what was folded into the weights of the model.
    """

    description: dict[str, Any]
    fingerprint: str
    qparams: dict[SolvedKey, dict[str, Tensor]]
    codes: dict[SolvedKey, Tensor]
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
        qparams = _by_key(document["entries"], tensors)
        return BankContent(
            description=dict(document["description"]),
            fingerprint=document["fingerprint"],
            codes={key: own.pop(_CODES) for key, own in qparams.items() if _CODES in own},
            qparams=qparams,
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
