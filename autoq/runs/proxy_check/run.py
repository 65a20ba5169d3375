"""Does a proxy rank recipes as accuracy does? Both are measured on recipes of all kinds, and their orders compared."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from autoq.calibration import Bank
from autoq.data import open_source
from autoq.errors import NonFiniteError, SpaceError
from autoq.events import PhaseAdvanced, PhaseStarted, Progress, ignore
from autoq.optimization.objective import AdditiveObjective
from autoq.optimization.space import ResolvedSpace
from autoq.python_names import is_python_name
from autoq.recipe import hash_sites
from autoq.runs.directory import BaseSettingsDirectory, BaseSettingsRecord
from autoq.runs.images import LabelledImages
from autoq.runs.opening import RunInputs, open_bank, open_run, solve_bank
from autoq.runs.proxy_check.answers import measure_answers
from autoq.runs.proxy_check.ranks import CheckedRow, ProxyCheck, column, load_rows, rank, save_csv, save_rows
from autoq.runs.proxy_check.recipes import CheckedRecipe, choose_recipes
from autoq.runs.sensitivity import measure_into, options_of_space
from autoq.runs.settings import CalibrationChoices
from autoq.scoring import Evaluator, choose_batch_size
from autoq.scoring.evaluator import CACHE_BYTES
from autoq.scoring.threads import fastest_threads
from autoq.sensitivity.proxies import APH, FISHER, joint_proxies
from autoq.tasks import Labels
from autoq.validation import validate

ROWS, TABLE, RECORD = "proxy_check.jsonl", "proxy_check.csv", "proxy_check.json"
"""Names of files: the recipes measured so far, the same as a table, and how well each proxy ranks them."""
COUNTS = (32, 64, 128, 256)
"""Images that joint proxies are means over."""
_HELD_BYTES = 1 << 30
"""Labelled images that are decoded once; more are decoded again for each recipe."""
_FEWEST = 3
"""Recipes that have an order worth comparing."""


class ProxyCheckSettings(CalibrationChoices):
    """Settings of one check.

    Attributes:
        eval_data: labelled images that calibration never sees.
        recipes: how many to compare.
    """

    eval_data: str = "digits/val"
    recipes: int = Field(default=64, ge=_FEWEST)


def make_check_settings(**values: Any) -> ProxyCheckSettings:
    """Validate settings.

    Raises:
        SpaceError: a value is wrong; the message names it.
    """
    settings = validate(ProxyCheckSettings, values, "option", SpaceError, are_options=True)
    if settings.make_task().main_metric.unit != "%":
        raise SpaceError(
            f"the task {settings.task!r} has no accuracy in percent: check proxies on classification or detection"
        )
    return settings


class ProxyCheckRecord(BaseSettingsRecord):
    """``proxy_check.json``: what the check depends on, and once it is done how well each proxy ranks recipes."""

    model_config = ConfigDict(extra="allow")

    settings: ProxyCheckSettings


class ProxyCheckDirectory(BaseSettingsDirectory[ProxyCheckRecord]):
    """The recipes measured so far, the tables of sensitivities, the bank, and the ranks."""

    holds: ClassVar[str] = "a check of proxies"
    record_name: ClassVar[str] = RECORD
    record_type: ClassVar[type[ProxyCheckRecord]] = ProxyCheckRecord
    orphans: ClassVar[Mapping[str, str]] = {
        **BaseSettingsDirectory.orphans,
        ROWS: "proxy_check.jsonl without proxy_check.json",
    }
    may_differ: ClassVar[frozenset[str]] = frozenset({"recipes", "device"})


def run_proxy_check(
    settings: ProxyCheckSettings,
    out: str | os.PathLike[str],
    progress: Progress = ignore,
) -> ProxyCheck:
    """Check all proxies, or go on with the check in ``out``: what is solved and measured there is kept.

    Args:
        settings: what to check.
        out: directory for ``proxy_check.csv``, ``proxy_check.json`` and what they come from; created if missing.
        progress: told what happens.

    Raises:
        InputError: a setting is wrong, or ``out`` belongs to something else.
        RunError: an option does not fit its operand.
        KeyboardInterrupt: passed on; the same call goes on.
    """
    directory = ProxyCheckDirectory(out)
    with open_run(
        directory,
        settings,
        progress=progress,
        check=lambda _, space: _refuse_small(space),
        images=lambda: _images_wanted(settings),
        eval_data=settings.eval_data,
    ) as (inputs, earlier):
        images, labelled = inputs.images, inputs.labelled
        assert labelled is not None  # noqa: S101 - required
        calibration = replace(images, tensor=images.tensor[: settings.calib_images])
        session, bank = open_bank(inputs.session, calibration, settings, directory.bank, progress)
        fingerprints = {
            "space": inputs.space_fingerprint,
            "bank": bank.fingerprint,
            "images": images.sha256,
            "labelled_images": str(labelled.count),
        }
        directory.refuse_changed(earlier, fingerprints)
        record = ProxyCheckRecord(settings=settings, fingerprints=fingerprints)
        directory.save(record)
        few = images.tensor[: choose_batch_size(session.traced)]
        with fastest_threads(lambda: session.model.run(few.clone()), session.device):
            solve_bank(bank, options_of_space(inputs.space), directory.bank, progress)
            rows = _measure_recipes(replace(inputs, session=session), bank, settings, directory.path, progress)
        check = replace(
            rank(rows, labelled.count, settings.seed, session.task.main_metric), labels_by=labelled.labels_by
        )
        save_csv(rows[1:], directory.path / TABLE)
        directory.save(ProxyCheckRecord(**(check.to_json() | dict(record))))
        return replace(check, out=os.fspath(out))


def _refuse_small(space: ResolvedSpace) -> None:
    if space.size_log10 < math.log10(_FEWEST):
        count = round(10**space.size_log10)
        raise SpaceError(f"space {space.name!r} leaves this model {count} recipes, too few to order: widen it")


def _images_wanted(settings: ProxyCheckSettings) -> int:
    """Return how many images joint proxies are means over, at most; no more than there are, if that is known."""
    most = max(COUNTS)
    there = most if is_python_name(settings.data) else len(open_source(settings.data, "calibration"))
    return max(settings.calib_images, min(most, there))


def _measure_recipes(
    inputs: RunInputs, bank: Bank, settings: ProxyCheckSettings, folder: Path, progress: Progress
) -> list[CheckedRow]:
    """Measure full precision and recipes of all kinds by every proxy, and on labelled images."""
    session, tensor = inputs.session, inputs.images.tensor
    # Losses are means over images: each count's are those of the count before and of the images in between.
    counts = image_counts(len(tensor), settings.calib_images)
    slices = torch.split(tensor[: counts[-1]], _steps(counts))
    evaluators = [
        Evaluator(session.model, bank, each, cache_bytes=CACHE_BYTES // len(slices), task=session.task)
        for each in slices
    ]
    options, calibration = options_of_space(inputs.space), tensor[: settings.calib_images]
    tables = [
        measure_into(
            folder / f"{proxy}.csv",
            options,
            evaluator=lambda: evaluators[0],
            bank=bank,
            images=calibration,
            proxy=proxy,
            task=session.task,
            progress=progress,
        )
        for proxy in (FISHER, APH)
    ]
    recipes = choose_recipes(session.traced.sites, inputs.space, tables[0], settings.recipes, settings.seed)
    additive = [(column(table.proxy, table.images), AdditiveObjective(table)) for table in tables]
    assert inputs.labelled is not None  # noqa: S101 - required
    measure = _Measure(evaluators, counts, additive, _held(inputs.labelled))
    return _measure_all(recipes, measure, folder, progress)


def image_counts(available: int, calib_images: int) -> list[int]:
    """List the image counts that joint proxies are compared at: ``COUNTS`` and ``calib_images``, as far as there."""
    return sorted({count for count in (*COUNTS, min(calib_images, available)) if count <= available})


def _steps(counts: Sequence[int]) -> list[int]:
    return [count - before for before, count in zip([0, *counts], counts, strict=False)]


@dataclass(frozen=True)
class _Measure:
    """Measures a recipe by every proxy, and on labelled images.

    Attributes:
        evaluators: on the first images, and on those that each larger count adds.
        counts: the counts.
        additive: column and measure of the proxies that need no evaluation.
        batches: labelled images and the task's labels.
    """

    evaluators: Sequence[Evaluator]
    counts: Sequence[int]
    additive: Sequence[tuple[str, AdditiveObjective]]
    batches: Iterable[tuple[Tensor, Labels]]

    def __call__(self, recipe: CheckedRecipe) -> CheckedRow:
        joint = joint_proxies()
        losses = dict.fromkeys((column(proxy, count) for proxy in joint for count in self.counts), float("inf"))
        sums = dict.fromkeys(joint, 0.0)
        for count, evaluator in zip(self.counts, self.evaluators, strict=True):
            try:
                score = evaluator.evaluate(recipe.sites)
            except NonFiniteError:  # over these images and any more
                break
            for proxy, loss_of in joint.items():
                sums[proxy] += score.images * loss_of(score)
                losses[column(proxy, count)] = sums[proxy] / count
        losses |= {name: measure(recipe.sites).loss for name, measure in self.additive}
        self.evaluators[0].apply_(recipe.sites)
        metrics, right = measure_answers(self.evaluators[0].model, self.batches, self.evaluators[0].task)
        return CheckedRow(
            id=recipe.id,
            origin=recipe.origin,
            recipe=hash_sites(recipe.sites),
            bops=recipe.bops,
            losses=losses,
            metrics=metrics,
            right=right,
        )


def _measure_all(
    recipes: Sequence[CheckedRecipe], measure: _Measure, folder: Path, progress: Progress
) -> list[CheckedRow]:
    """Measure full precision and all recipes, in their order; rows are kept as they are measured."""
    known = {row.recipe: row for row in load_rows(folder / ROWS)}
    full = CheckedRecipe("full precision", "full", {}, 0)
    progress(PhaseStarted("search", len(recipes)))
    rows: list[CheckedRow] = []
    for done, recipe in enumerate([full, *recipes]):
        row = known.get(hash_sites(recipe.sites))
        if row is None:
            row = measure(recipe)
            known[row.recipe] = row
            save_rows(known.values(), folder / ROWS)
        rows.append(replace(row, id=recipe.id, origin=recipe.origin))  # another number of recipes numbers them anew
        progress(PhaseAdvanced("search", done))
    return rows


def _held(labelled: LabelledImages) -> Iterable[tuple[Tensor, Labels]]:
    """Return the labelled images, decoded once if they fit into memory."""
    held: list[tuple[Tensor, Labels]] = []
    size = 0
    for images, labels in labelled.batches():
        size += images.element_size() * images.numel()
        if size > _HELD_BYTES:
            return _Again(labelled)
        held.append((images, labels))
    return held


@dataclass(frozen=True)
class _Again:
    """Labelled images that are decoded every time they are gone through."""

    labelled: LabelledImages

    def __iter__(self) -> Iterator[tuple[Tensor, Labels]]:
        return self.labelled.batches()
