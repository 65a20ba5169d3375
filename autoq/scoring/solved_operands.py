"""Solved operands: codes of weights and parameters of quantizers, and the file that holds them."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from autoq.calibration import Bank
from autoq.calibration.transforms.folded import FoldedTransforms
from autoq.calibration.transforms.integer_operations import integer_operations
from autoq.errors import CalibrationError, RecipeError
from autoq.files import atomic_path, sha256_hex
from autoq.graph.bases import check_codes
from autoq.graph.insert import FixedTensor, OperandKey, QuantizedModel
from autoq.quantizers import BaseQuantizer, create_quantizer
from autoq.recipe import OperandConfig, SiteConfig


@dataclass(frozen=True)
class SolvedOperands:
    """All operands of a recipe, or those of a block.

    Attributes:
        quantizers: of every operand.
        codes: of the weights that are not rounded to nearest (whole numbers from 0).
    """

    quantizers: Mapping[OperandKey, BaseQuantizer]
    codes: Mapping[OperandKey, Tensor] = field(default_factory=dict)

    @classmethod
    def from_bank(cls, bank: Bank, sites: Mapping[str, SiteConfig]) -> SolvedOperands:
        """Take the operands of a recipe from a bank, which solves those that it does not have.

        Raises:
            CalibrationError: an option does not fit its operand.
        """
        options = [(site, operand, config) for site, operands in sites.items() for operand, config in operands.items()]
        bank.solve_all(options)
        codes = {option[:2]: bank.codes(*option) for option in options}
        return cls(
            {option[:2]: bank.quantizer(*option) for option in options},
            {key: given for key, given in codes.items() if given is not None},
        )

    @property
    def sites(self) -> dict[str, SiteConfig]:
        """The configuration of every operand."""
        sites: dict[str, SiteConfig] = {}
        for (site, operand), quantizer in self.quantizers.items():
            sites.setdefault(site, {})[operand] = quantizer.config
        return sites

    def of_sites(self, sites: Container[str]) -> SolvedOperands:
        """Return the operands of some sites."""
        return SolvedOperands(
            {key: quantizer for key, quantizer in self.quantizers.items() if key[0] in sites},
            {key: codes for key, codes in self.codes.items() if key[0] in sites},
        )

    def insert_(self, model: QuantizedModel) -> None:
        """Fill the operands' slots; the others keep what they hold."""
        model.insert_({key: self._module(model, key) for key in self.quantizers})

    def apply_(self, model: QuantizedModel) -> None:
        """Fill the operands' slots and empty all others; put integer operations in.

        Raises:
            RecipeError: the model has no such operand, or schemes do not fit together.
        """
        model.check_keys(self.quantizers)
        check_codes(model.traced.sites_by_name, self.sites)
        operations = integer_operations(
            model.traced, self.sites, lambda site, operand, _: self.quantizers[site, operand]
        )
        model.remove_()
        self.insert_(model)
        model.replace_(operations)

    def _module(self, model: QuantizedModel, key: OperandKey) -> torch.nn.Module:
        quantizer = self.quantizers[key]
        if not model.traced.sites_by_name[key[0]].operand(key[1]).is_weight:
            return quantizer
        weight = model.traced.weight(*key)
        return FixedTensor(self.quantized_weight(key, weight).to(weight.dtype), quantizer.config)

    @torch.no_grad()
    def quantized_weight(self, key: OperandKey, weight: Tensor) -> Tensor:
        """Return what a weight is quantized to, by its codes or to nearest, in the weight's shape.

        Args:
            key: of the weight.
            weight: in full precision.
        """
        quantizer, codes = self.quantizers[key], self.codes.get(key)
        value: Tensor = quantizer(weight) if codes is None else quantizer.dequantize(codes.to(weight.device))
        return value

    def __or__(self, other: SolvedOperands) -> SolvedOperands:
        """Return the operands of both; where both have one, that of ``other``."""
        return SolvedOperands({**self.quantizers, **other.quantizers}, {**self.codes, **other.codes})


def write_operands(
    path: str | os.PathLike[str],
    operands: SolvedOperands,
    folded: FoldedTransforms | None = None,
    description: Mapping[str, Any] | None = None,
) -> None:
    """Write a safetensors file, atomically: ``SITE:OPERAND.codes`` and ``SITE:OPERAND.PARAMETER``.

    Codes take one byte each, four above 8 bits.

    Args:
        path: the file.
        operands: what to write.
        folded: what was folded into the model's weights.
        description: plain JSON to keep with it.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    tensors: dict[str, Tensor] = {}
    configs = {}
    for (site, operand), quantizer in operands.quantizers.items():
        configs[f"{site}:{operand}"] = quantizer.config.to_json()
        for name, value in quantizer.qparams().items():
            tensors[f"{site}:{operand}.{name}"] = value
    for (site, operand), codes in operands.codes.items():
        wide = operands.quantizers[site, operand].config.bits > 8
        tensors[f"{site}:{operand}.codes"] = codes.to(torch.int32 if wide else torch.uint8)
    folded = folded or FoldedTransforms()
    tensors |= folded.tensors()
    document = {"operands": configs, "description": dict(description or {})} | folded.document()
    content = to_safetensors(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
        metadata={"reconstruction": json.dumps(document, sort_keys=True)},
    )
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


@dataclass(frozen=True)
class OperandsFile:
    """What such a file holds.

    Attributes:
        operands: of which model they are is not checked but for names and shapes.
        folded: what was folded into the model's weights.
        description: as it was written.
        sha256: of the file.
    """

    operands: SolvedOperands
    folded: FoldedTransforms
    description: dict[str, Any]
    sha256: str


def read_operands(path: str | os.PathLike[str], model: QuantizedModel) -> OperandsFile:
    """Read what :func:`write_operands` wrote.

    Args:
        path: the file.
        model: whose operands they are.

    Raises:
        RecipeError: the file is missing or is no such file, or the model has no such operands.
    """
    shown = os.fspath(path)
    try:
        sha256 = sha256_hex([Path(path).read_bytes()])
        with safe_open(path, "pt") as file:
            document = json.loads(file.metadata()["reconstruction"])
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise RecipeError(
            f"cannot read {shown!r}, which holds the recipe's reconstructed weights: it is missing"
        ) from error
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"{shown!r} does not hold reconstructed weights: {error}; reconstruct the recipe again"
        ) from error
    device = next(model.parameters()).device
    quantizers: dict[OperandKey, BaseQuantizer] = {}
    codes: dict[OperandKey, Tensor] = {}
    try:
        for name, entry in document["operands"].items():
            site, _, operand = name.rpartition(":")
            model.check_keys([(site, operand)])
            own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
            if "codes" in own:
                read = own.pop("codes").to(device, torch.int32)
                if read.shape != model.traced.weight(site, operand).shape:
                    raise ValueError(f"codes of {name} have shape {tuple(read.shape)}")
                codes[site, operand] = read
            config = OperandConfig.model_validate(entry)
            layout = model.traced.sites_by_name[site].operand(operand).layout
            quantizers[site, operand] = create_quantizer(config, layout, own).to(device)
        folded = FoldedTransforms.read(document, tensors)
    except (CalibrationError, ValueError, KeyError) as error:
        raise RecipeError(f"{shown!r} does not fit the model: {error}; reconstruct the recipe again") from error
    return OperandsFile(SolvedOperands(quantizers, codes), folded, document["description"], sha256)
