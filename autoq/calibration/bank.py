"""The bank: every operand's quantizer parameters at every option, solved once."""

from __future__ import annotations

import json
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from autoq.calibration.capture import OperandSample
from autoq.calibration.settings import CalibrationSettings
from autoq.calibration.solvers import OperandSolver
from autoq.errors import CalibrationError, RecipeError, RunDirectoryError
from autoq.files import atomic_path, sha256_hex, write_text
from autoq.graph.insert import FixedTensor, OperandKey, QuantizedModel
from autoq.quantizers import BaseQuantizer, create_quantizer
from autoq.recipe import OperandConfig, SiteConfig

_logger = logging.getLogger(__name__)

BANK_VERSION = 1
"""Raised when the same settings would give other parameters."""
_SOLVER_BYTES = 1 << 28
"""Memory for tables that options of one operand share."""
Samples = Mapping[OperandKey, OperandSample]
_Key = tuple[str, str, OperandConfig]


class Bank:
    """Quantizers by operand and option. What is asked for and not there is solved and kept.

    Attributes:
        description: what the parameters depend on: model weights, calibration images, settings, code version.
        settings: how parameters are chosen.
    """

    def __init__(
        self,
        model: QuantizedModel,
        samples: Samples | Callable[[], Samples],
        settings: CalibrationSettings,
        description: Mapping[str, Any],
        cached_weight_bytes: int = 1 << 30,
    ) -> None:
        """Start empty.

        Args:
            model: whose operands are calibrated.
            samples: what ``capture`` returned, or a function that captures when the first activation is solved.
            settings: how parameters are chosen.
            description: identifies model weights and calibration images; plain JSON.
            cached_weight_bytes: most memory for quantized weights that are kept; the least recently used go first.
        """
        self.settings = settings
        described = {**description, "bank_version": BANK_VERSION, "settings": asdict(settings)}
        # As it comes back from a file: tuples are lists there.
        self.description: dict[str, Any] = json.loads(json.dumps(described))
        self._model = model
        self._provider = samples
        self._quantizers: dict[_Key, BaseQuantizer] = {}
        self._solvers: OrderedDict[OperandKey, OperandSolver] = OrderedDict()
        self._weights: OrderedDict[_Key, FixedTensor] = OrderedDict()
        self._weight_bytes_left = cached_weight_bytes
        self._unsaved = False

    def __len__(self) -> int:
        """How many options are solved."""
        return len(self._quantizers)

    @property
    def fingerprint(self) -> str:
        """Changes when anything the parameters depend on does."""
        return sha256_hex([json.dumps(self.description, sort_keys=True).encode()])[:16]

    @cached_property
    def _samples(self) -> Samples:
        return self._provider() if callable(self._provider) else self._provider

    def quantizer(self, site: str, operand: str, config: OperandConfig) -> BaseQuantizer:
        """The solved quantizer of one operand at one option.

        Raises:
            CalibrationError: the option does not fit the operand.
        """
        key = (site, operand, config)
        if key not in self._quantizers:
            try:
                self._quantizers[key] = self._solver(site, operand).solve(config)
            except CalibrationError as error:
                raise CalibrationError(f"{site}:{operand} at {config.to_json()}: {error}") from error
            self._unsaved = True
        return self._quantizers[key]

    def _solver(self, site: str, operand: str) -> OperandSolver:
        """The operand's solver, kept for its next option; the least recently used go first."""
        key = (site, operand)
        if key not in self._solvers:
            traced = self._model.traced
            described = traced.sites_by_name[site].operand(operand)
            data = traced.weight(site, operand) if described.is_weight else self._samples[site, operand]
            self._solvers[key] = OperandSolver(described, data, self.settings)
        self._solvers.move_to_end(key)
        while len(self._solvers) > 1 and sum(solver.nbytes for solver in self._solvers.values()) > _SOLVER_BYTES:
            self._solvers.popitem(last=False)
        return self._solvers[key]

    def module(self, site: str, operand: str, config: OperandConfig) -> torch.nn.Module:
        """What goes into the operand's slot: its quantizer, or for a weight the quantized weight itself."""
        if not self._model.traced.sites_by_name[site].operand(operand).is_weight:
            return self.quantizer(site, operand, config)
        key = (site, operand, config)
        if key in self._weights:
            self._weights.move_to_end(key)
            return self._weights[key]
        with torch.no_grad():
            fixed = FixedTensor(self.quantizer(site, operand, config)(self._model.traced.weight(site, operand)))
        self._weights[key] = fixed
        self._weight_bytes_left -= fixed.value.nbytes
        while self._weight_bytes_left < 0 and len(self._weights) > 1:
            _, oldest = self._weights.popitem(last=False)
            self._weight_bytes_left += oldest.value.nbytes
        return fixed

    def modules(self, sites: Mapping[str, SiteConfig]) -> dict[OperandKey, torch.nn.Module]:
        """What goes into the slots of a model for a recipe's sites."""
        return {
            (site, operand): self.module(site, operand, config)
            for site, operands in sites.items()
            for operand, config in operands.items()
        }

    def solve_all(self, options: Iterable[_Key], progress: Callable[[int, int], None] | None = None) -> None:
        """Solve ahead what is not solved yet, operand by operand; ``progress`` gets (done, total)."""
        by_operand: dict[OperandKey, dict[_Key, None]] = {}
        for key in options:
            if key not in self._quantizers:
                by_operand.setdefault(key[:2], {})[key] = None
        missing = [key for keys in by_operand.values() for key in keys]
        for done, key in enumerate(missing, start=1):
            self.quantizer(*key)
            if progress is not None:
                progress(done, len(missing))

    def resolve(self, sites: Mapping[str, SiteConfig]) -> dict[str, SiteConfig]:
        """The same operands with fitted logarithm bases written out; the bank answers for these as for the original."""
        resolved: dict[str, SiteConfig] = {}
        for site, operands in sites.items():
            resolved[site] = {}
            for operand, config in operands.items():
                if config.scheme == "adalog" and config.log_base_numerator is None:
                    fitted = self.quantizer(site, operand, config).qparams()
                    explicit = config.model_copy(update={"log_base_numerator": int(fitted["log_base_numerator"])})
                    if (site, operand, explicit) not in self._quantizers:
                        layout = self._model.traced.sites_by_name[site].operand(operand).layout
                        self._quantizers[site, operand, explicit] = create_quantizer(explicit, layout, fitted)
                        self._unsaved = True
                    config = explicit
                resolved[site][operand] = config
        return resolved

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write ``bank.safetensors`` and ``bank.json`` if anything was solved since the last save.

        Raises:
            OSError: they cannot be written; what was there before is still there.
        """
        if not self._unsaved:
            return
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        entries = []
        for index, ((site, operand, config), quantizer) in enumerate(self._quantizers.items()):
            entries.append({"site": site, "operand": operand, "config": config.to_json()})
            for name, value in quantizer.qparams().items():
                tensors[f"{index}.{name}"] = value.cpu().contiguous().clone()
        # Not safetensors' save_file, whose errors are no OSError.
        content = to_safetensors(tensors, metadata={"entries": _hash_entries(entries)})
        with atomic_path(target / "bank.safetensors") as temporary:
            temporary.write_bytes(content)
        index_document = {"fingerprint": self.fingerprint, "description": self.description, "entries": entries}
        write_text(target / "bank.json", json.dumps(index_document, indent=1))
        self._unsaved = False

    def load(self, directory: str | os.PathLike[str]) -> bool:
        """Take over what an earlier run solved; False if there is nothing (or a save was cut short).

        Raises:
            RunDirectoryError: the bank there was solved for something else; the message says what differs.
        """
        folder = Path(directory)
        try:
            document = json.loads((folder / "bank.json").read_text(encoding="utf-8"))
            self._refuse_stale(folder, dict(document["description"]))
            with safe_open(folder / "bank.safetensors", "pt") as file:
                if file.metadata()["entries"] != _hash_entries(document["entries"]):
                    _logger.warning("the bank in %s was being saved when its run ended; it is solved again", folder)
                    return False
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self._quantizers |= self._rebuilt(document["entries"], tensors)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, CalibrationError, RecipeError) as error:
            _logger.warning("the bank in %s cannot be read and is solved again: %s", folder, error)
            return False
        return True

    def _rebuilt(self, entries: list[dict[str, Any]], tensors: Mapping[str, Tensor]) -> dict[_Key, BaseQuantizer]:
        grouped: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            number, _, parameter = name.partition(".")
            grouped.setdefault(int(number), {})[parameter] = value
        device = next((tensor.device for tensor in self._model.parameters()), torch.device("cpu"))
        rebuilt: dict[_Key, BaseQuantizer] = {}
        for index, entry in enumerate(entries):
            config = OperandConfig.model_validate(entry["config"])
            layout = self._model.traced.sites_by_name[entry["site"]].operand(entry["operand"]).layout
            key = (entry["site"], entry["operand"], config)
            rebuilt[key] = create_quantizer(config, layout, grouped[index]).to(device)
        return rebuilt

    def _refuse_stale(self, folder: Path, found: Mapping[str, Any]) -> None:
        differing = [
            key for key in self.description.keys() | found.keys() if self.description.get(key) != found.get(key)
        ]
        if differing:
            changes = ", ".join(
                f"{key} (was {found.get(key)}, is {self.description.get(key)})" for key in sorted(differing)
            )
            raise RunDirectoryError(
                f"the bank in '{folder}' is stale: it differs in {changes}; delete it or use another --out"
            )


def _hash_entries(entries: list[dict[str, Any]]) -> str:
    """Ties ``bank.safetensors`` to the ``bank.json`` it was written with."""
    return sha256_hex([json.dumps(entries).encode()])
