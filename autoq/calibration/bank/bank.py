"""The bank: every operand's quantizer parameters at every option, solved once."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from autoq.calibration.bank.files import (
    SolvedKey,
    SolvedOption,
    SolvedParameters,
    read_bank,
    refuse_stale,
    write_bank,
)
from autoq.calibration.bank.packed_codes import unpack_codes
from autoq.calibration.bank.quantized_weights import QuantizedWeights
from autoq.calibration.bank.solving import OptionSolver
from autoq.calibration.observers import OBSERVERS
from autoq.calibration.settings import CalibrationSettings
from autoq.calibration.transforms.folded import FoldedTransforms
from autoq.calibration.transforms.integer_operations import integer_operations
from autoq.calibration.transforms.reparameterization import shared_quantizers
from autoq.errors import CalibrationError, RecipeError
from autoq.graph.bases import check_codes
from autoq.graph.insert import FixedTensor, QuantizedModel
from autoq.identity import fingerprint_of
from autoq.quantizers import BaseQuantizer, quantizer_class
from autoq.recipe import OperandConfig, SiteConfig, hash_sites
from autoq.tasks import CLASSIFICATION, BaseTask, task_to_record

BANK_VERSION = 5
"""Raised when the same settings would give other parameters."""
_SAVE_SECONDS = 20.0
"""How often a bank that is being solved is written: what a kill may cost."""
_logger = logging.getLogger(__name__)

SolveProgress = Callable[[int, int], None]
"""Gets (options solved, options to solve)."""
Elsewhere = Callable[[Sequence[SolvedKey]], Iterator[Mapping[SolvedKey, SolvedParameters]]]
"""Solves options by other banks of the same description (:meth:`Bank.solve_apart`), some at a time."""


class Bank:
    """Quantizers by operand and option, and codes of weights. What is asked for and not there is solved and kept.

    With ``settings.inputs`` "quantized", an option of ``recipe_sites`` is solved behind the others of its recipe.
    With the observer ``fpcs``, parameters are solved site by site for the error of the site's output. An option is then
    solved with the site's other operand in full precision, unless there are ``settings.fpcs.rounds`` and it belongs to
    ``recipe_sites``, which are solved with both operands quantized.

    With ``settings.second_order``, weights are rounded by the error of their layer's output on the calibration images;
    whoever puts a quantized weight somewhere takes :meth:`codes`.

    Attributes:
        description: what the parameters depend on: model weights, calibration images, settings, code version.
        settings: how parameters are chosen.
        model: whose operands are calibrated; its slots are emptied by solving.
    """

    def __init__(
        self,
        model: QuantizedModel,
        images: Tensor | Callable[[], Tensor],
        settings: CalibrationSettings,
        description: Mapping[str, Any],
        *,
        batch_size: int = 32,
        folded: FoldedTransforms | None = None,
        recipe_sites: Mapping[str, SiteConfig] | None = None,
        task: BaseTask = CLASSIFICATION,
        capture_progress: Callable[[int], None] | None = None,
        cached_weight_bytes: int = 1 << 28,
    ) -> None:
        """Start empty.

        Args:
            model: whose operands are calibrated.
            images: of shape (N, C, H, W) on the model's device, or a function that returns them when the first
                activation is solved.
            settings: how parameters are chosen.
            description: identifies model weights and calibration images; plain JSON.
            batch_size: images that run at a time.
            folded: what was folded into the model's weights; kept with the parameters.
            recipe_sites: the recipe that is solved, where what is solved for an operand depends on others.
            task: says what the model's output means, where errors are weighted by what they cost it; fitted.
            capture_progress: gets the number of images of each batch that is observed.
            cached_weight_bytes: most memory for codes of quantized weights.
        """
        self.settings = settings
        self.model = model
        described: dict[str, Any] = {**description, "bank_version": BANK_VERSION, "settings": settings.identity()}
        by_output = OBSERVERS.lookup(settings.observer).by_layer_output
        is_joint = by_output and settings.fpcs.rounds > 0
        if by_output and settings.fpcs.output_weights != "none":
            described["task"] = task_to_record(task)
        together = dict(recipe_sites or {}) if is_joint or settings.inputs == "quantized" else {}
        if together:
            described["solved_for"] = hash_sites(together)[:16]
        # As it comes back from a file: tuples are lists there.
        self.description: dict[str, Any] = json.loads(json.dumps(described))
        self._folded = folded or FoldedTransforms()
        known = (
            shared_quantizers(model.traced, self._folded.factors, together) if settings.inputs == "quantized" else {}
        )
        self._solver = OptionSolver(
            model,
            images,
            settings,
            batch_size=batch_size,
            recipe_sites=together,
            known=known,
            task=task,
            capture_progress=capture_progress,
        )
        self._options: dict[SolvedKey, SolvedOption] = {}
        self._weights = QuantizedWeights(cached_weight_bytes)
        self._in_use: WeakValueDictionary[SolvedKey, FixedTensor] = WeakValueDictionary()
        self._unsaved = bool(self._folded.tensors())  # it has taken passes over the images to find

    def __len__(self) -> int:
        """Count the solved options."""
        return len(self._options)

    def __contains__(self, key: SolvedKey) -> bool:
        """Tell whether an option is solved."""
        return key in self._options

    @property
    def fingerprint(self) -> str:
        """Changes when anything the parameters depend on does."""
        return fingerprint_of(self.description)

    def quantizer(self, site: str, operand: str, config: OperandConfig) -> BaseQuantizer:
        """Return the solved quantizer of one operand at one option.

        Raises:
            CalibrationError: the option does not fit the operand.
        """
        return self._solved((site, operand, config)).quantizer

    def codes(self, site: str, operand: str, config: OperandConfig) -> Tensor | None:
        """Return the codes (uint8) of a weight at one option, of its shape; None: it is rounded to nearest.

        Raises:
            CalibrationError: the option does not fit the operand.
        """
        packed = self._solved((site, operand, config)).codes
        return None if packed is None else self._unpacked((site, operand, config), packed)

    def _unpacked(self, key: SolvedKey, packed: Tensor) -> Tensor:
        weight = self.model.traced.weight(*key[:2])
        return unpack_codes(packed, key[2].bits, weight.shape).to(weight.device)

    def _solved(self, key: SolvedKey) -> SolvedOption:
        if key not in self._options:
            self.solve_all([key], workers=1)
        return self._options[key]

    def module(self, site: str, operand: str, config: OperandConfig) -> nn.Module:
        """Return what goes into the operand's slot: its quantizer, or for a weight the quantized weight itself."""
        key = (site, operand, config)
        solved = self._solved(key)
        if not self.model.traced.sites_by_name[site].operand(operand).is_weight:
            return solved.quantizer
        if (fixed := self._in_use.get(key)) is None:  # else it stands in the slot since the last recipe
            codes = None if solved.codes is None else partial(self._unpacked, key, solved.codes)
            with torch.no_grad():
                values = self._weights.get(key, solved.quantizer, self.model.traced.weight(site, operand), codes)
            fixed = self._in_use[key] = FixedTensor(values, config)
        return fixed

    def apply_(self, sites: Mapping[str, SiteConfig]) -> None:
        """Put a recipe's quantizers and integer operations into the model and take all others out.

        Raises:
            RecipeError: the model has no such site or operand, or the recipe's schemes do not fit together.
            CalibrationError: an option does not fit its operand.
        """
        keys = [(site, operand) for site, operands in sites.items() for operand in operands]
        self.model.check_keys(keys)
        check_codes(self.model.traced.sites_by_name, sites)
        modules = {key: self.module(*key, sites[key[0]][key[1]]) for key in keys}
        operations = integer_operations(self.model.traced, sites, self.quantizer)
        self.model.remove_()
        self.model.insert_(modules)
        self.model.replace_(operations)

    def solve_all(
        self,
        options: Iterable[SolvedKey],
        progress: SolveProgress | None = None,
        workers: int | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """Solve ahead what is not solved yet.

        Args:
            options: operands and configurations.
            progress: told after every operand (``fpcs``: every site).
            workers: operands solved side by side, one thread each; None: as many as PyTorch has threads.
            elsewhere: solves them instead.

        Raises:
            CalibrationError: an option does not fit its operand.
        """
        missing = [key for key in dict.fromkeys(options) if key not in self._options]
        done = 0
        solving = (
            self._solver.solve(missing, workers or torch.get_num_threads())
            if elsewhere is None
            else ({key: each.option(self.model, key) for key, each in part.items()} for part in elsewhere(missing))
        )
        with closing(solving) as results:  # so that whatever stops this stops the threads at once
            for solved in results:
                self._options |= solved
                self._unsaved = True
                done += len(solved)
                if progress is not None:
                    progress(done, len(missing))

    def solve_apart(self, options: Sequence[SolvedKey]) -> dict[SolvedKey, SolvedParameters]:
        """Solve options for another bank of the same description, and keep nothing; errors as ``solve_all``."""
        with closing(self._solver.solve(options, torch.get_num_threads())) as results:
            return {key: SolvedParameters.of(option) for part in results for key, option in part.items()}

    def solve_into(
        self,
        directory: str | os.PathLike[str],
        options: Iterable[SolvedKey],
        progress: SolveProgress,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """Solve ahead like :meth:`solve_all`, saving from time to time, and whatever stops it: a kill costs little.

        Args:
            directory: where to save.
            options: operands and configurations.
            progress: gets (options solved, options), those that were solved before included.
            elsewhere: solves them instead.
        """
        wanted = list(dict.fromkeys(options))
        saved = time.monotonic()

        def on_solved(done: int, total: int) -> None:
            nonlocal saved
            progress(len(wanted) - total + done, len(wanted))
            if time.monotonic() - saved > _SAVE_SECONDS:
                self.save(directory)
                saved = time.monotonic()

        try:
            self.solve_all(wanted, on_solved, elsewhere=elsewhere)
        finally:
            self.save(directory)

    def resolve(self, sites: Mapping[str, SiteConfig]) -> dict[str, SiteConfig]:
        """Write out the configuration fields that were fitted; the bank answers for the result as for the original."""
        resolved: dict[str, SiteConfig] = {site: {} for site in sites}
        for site, operands in sites.items():
            for operand, config in operands.items():
                if any(getattr(config, name) is None for name in quantizer_class(config.scheme).fitted_fields):
                    fitted = self._solved((site, operand, config))
                    config = fitted.quantizer.resolved_config()
                    key = (site, operand, config)
                    if key not in self._options:
                        self._options[key] = SolvedParameters.of(fitted).option(self.model, key)
                        self._unsaved = True
                resolved[site][operand] = config
        return resolved

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write ``bank.safetensors`` and ``bank.json`` if anything was solved since the last save.

        Raises:
            OSError: they cannot be written; what was there before is still there.
        """
        if self._unsaved:
            write_bank(directory, self.description, self._options, self._folded)
            self._unsaved = False

    def load(self, directory: str | os.PathLike[str]) -> bool:
        """Take over what an earlier run solved; False if there is nothing (or a save was cut short).

        Raises:
            RunDirectoryError: the bank there was solved for something else; the message says what differs.
        """
        if (content := read_bank(directory)) is None:
            return False
        refuse_stale(directory, content.description, self.description)
        try:
            self._options |= {key: each.option(self.model, key) for key, each in content.options.items()}
        except (CalibrationError, RecipeError, KeyError) as error:
            _logger.warning("the bank in %s cannot be used and is solved again: %s", os.fspath(directory), error)
            return False
        return True
