"""Recipes of trials made again from the study: what they share, the resolved space and what calibration fitted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from autoq.calibration import Bank
from autoq.errors import RunDirectoryError
from autoq.files import write_text
from autoq.optimization.space import ResolvedSpace
from autoq.optimization.space.stored import space_from_json, space_to_json
from autoq.optimization.trials import EvaluatedTrial
from autoq.recipe import OperandConfig, Recipe, ScoreRecord, SiteConfig, hash_sites
from autoq.runs.search.record import RunRecord

Fitted = Mapping[tuple[str, str, OperandConfig], OperandConfig]
"""(site, operand, option) to the option with what calibration fitted spelled out; options without such are left out."""


@dataclass(frozen=True)
class TrialRecipes:
    """Makes the recipe of any trial of a search, without its model and its bank.

    Attributes:
        shared: what all recipes of the search have in common; its sites are empty.
        space: from which trials are made.
        fitted: by calibration.
    """

    shared: Recipe
    space: ResolvedSpace
    fitted: Fitted = field(default_factory=dict)

    @classmethod
    def of(cls, shared: Recipe, space: ResolvedSpace, bank: Bank) -> Self:
        """Ask a bank that has solved all options of a space what it fitted."""
        fitted = {}
        for plan in space.plans:
            site, operand = plan.site, plan.operand.name
            for config in space.options_for(site, operand):
                resolved = bank.resolve({site: {operand: config}})[site][operand]
                if resolved != config:
                    fitted[site, operand, config] = resolved
        return cls(shared, space, fitted)

    def recipe(self, trial: EvaluatedTrial, record: RunRecord | None = None) -> Recipe:
        """Make the recipe of a trial, with its cost and score.

        Args:
            trial: of the study.
            record: of the run; has accuracy and discrepancy on the images that calibrated, as far as measured.

        Raises:
            RunDirectoryError: another version of autoq evaluated another recipe for the same decisions.
            SpaceError: the trial is of another space.
        """
        sites = self.space.sites_for(trial.assignment)
        if trial.recipe_hash is not None and hash_sites(sites) != trial.recipe_hash:
            raise RunDirectoryError(
                f"{trial.id} was evaluated by a version of autoq that made another recipe of its decisions: "
                "search in a new directory"
            )
        spelled_out = {site: self._spelled_out(site, operands) for site, operands in sites.items()}
        score = trial.score if record is None else measured_score(trial, record)
        return self.shared.model_copy(update={"sites": spelled_out, "cost": trial.cost, "score": score})

    def document(self, trial: EvaluatedTrial, record: RunRecord) -> dict[str, Any]:
        """Return the same recipe as JSON data, fast: trials share the data of sites that they have in common."""
        bare = self.shared.model_copy(update={"cost": trial.cost, "score": measured_score(trial, record)})
        sites = {}
        for site, decisions in self._decisions_of.items():
            key = (site, *(trial.assignment[name] for name in decisions))
            if key not in self._known_sites:
                operands = self._spelled_out(site, self.space.site_config(site, trial.assignment))
                self._known_sites[key] = {name: config.to_json() for name, config in operands.items()}
            sites[site] = self._known_sites[key]
        return bare.to_json() | {"sites": sites}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that recipes are made from as JSON, atomically."""
        fitted = [
            {"site": site, "operand": operand, "option": option.to_json(), "fitted": config.to_json()}
            for (site, operand, option), config in self.fitted.items()
        ]
        document = {"recipe": self.shared.to_json(), "space": space_to_json(self.space), "fitted": fitted}
        write_text(path, json.dumps(document) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            RunDirectoryError: it is not there, or damaged.
        """
        try:
            with open(path, encoding="utf-8") as file:  # noqa: PTH123 - takes any path
                document = json.load(file)
            fitted = {
                (each["site"], each["operand"], OperandConfig(**each["option"])): OperandConfig(**each["fitted"])
                for each in document["fitted"]
            }
            return cls(Recipe.model_validate(document["recipe"]), space_from_json(document["space"]), fitted)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunDirectoryError(
                f"cannot read {os.fspath(path)!r}, from which recipes of trials are made; the same search writes it "
                f"again: {error}"
            ) from error

    def _spelled_out(self, site: str, operands: SiteConfig) -> SiteConfig:
        return {name: self.fitted.get((site, name, config), config) for name, config in operands.items()}

    @cached_property
    def _known_sites(self) -> dict[tuple[Any, ...], dict[str, Any]]:
        return {}

    @cached_property
    def _decisions_of(self) -> dict[str, list[str]]:
        """The decisions that each site depends on."""
        found: dict[str, dict[str, None]] = {}
        for plan in self.space.plans:
            mine = found.setdefault(plan.site, {})
            mine |= dict.fromkeys(name for name, _ in plan.sources if name is not None)
        return {site: list(names) for site, names in found.items()}


def measured_score(trial: EvaluatedTrial, record: RunRecord) -> ScoreRecord:
    """Return a trial's score with what the run's record has of it: accuracy, the images that calibrated."""
    score = trial.score.model_copy(update={"calibration_kl_nats": record.calibration_kl_nats.get(trial.id)})
    if (accuracy := record.accuracy.get(trial.id)) is None:
        return score
    full = None if record.full_precision is None else record.full_precision.metrics
    return score.with_metrics(accuracy.metrics, accuracy.images, record.labels_by, full, accuracy.kl_nats)
