"""Does a proxy rank recipes as accuracy does? Both are measured on recipes of all kinds, and their orders compared."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from autoq.data import open_source
from autoq.errors import NonFiniteError, SpaceError
from autoq.events import PhaseAdvanced, PhaseStarted, Progress, ignore
from autoq.graph.insert import QuantizedModel
from autoq.recipe import hash_sites
from autoq.runs.images import LabelledImages
from autoq.runs.measurement_dir import MeasurementDirectory
from autoq.runs.preparation import open_bank
from autoq.runs.proxy_check.ranks import CheckedRow, ProxyCheck, column, load_rows, rank, save_csv, save_rows
from autoq.runs.proxy_check.recipes import CheckedRecipe, choose_recipes
from autoq.runs.search.settings import CalibrationChoices
from autoq.runs.sensitivity import measure_into, options_of_space
from autoq.runs.session import Session
from autoq.scoring import Evaluator, choose_batch_size
from autoq.scoring.evaluator import CACHE_BYTES
from autoq.scoring.threads import fastest_threads
from autoq.search.measuring import AdditiveMeasure
from autoq.search.space import load_space, resolve_space
from autoq.search.storage import RunLock
from autoq.sensitivity.proxies import APH, FISHER, LOSSES
from autoq.validation import validate

ROWS, TABLE, RECORD = "proxy_check.jsonl", "proxy_check.csv", "proxy_check.json"
"""Names of files: the recipes measured so far, the same as a table, and how well each proxy ranks them."""
COUNTS = (32, 64, 128, 256)
"""Images that joint proxies are means over."""
_HELD_BYTES = 1 << 30
"""Labelled images that are decoded once; more are decoded again for each recipe."""
_MAY_DIFFER = frozenset({"recipes", "device"})
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
    """Validated settings.

    Raises:
        SpaceError: a value is wrong; the message names it.
    """
    return validate(ProxyCheckSettings, values, "option", SpaceError)


def run_proxy_check(
    settings: ProxyCheckSettings, out: str | os.PathLike[str], progress: Progress = ignore
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
    folder = Path(out)
    space = load_space(settings.space)
    directory = MeasurementDirectory(folder, ProxyCheckSettings, "a check of proxies", RECORD, ROWS, _MAY_DIFFER)
    directory.refuse_unusable(settings)
    with ExitStack() as held:
        progress(PhaseStarted("model", detail=settings.model))
        session = Session.open(settings.model, settings.pretrained, settings.device)
        resolved = resolve_space(space, session.traced.sites)
        if resolved.size_log10 < math.log10(_FEWEST):
            count = round(10**resolved.size_log10)
            raise SpaceError(f"space {resolved.name!r} leaves this model {count} recipes, too few to order: widen it")
        labelled = session.labelled_images(settings.eval_data)
        assert labelled is not None  # noqa: S101 - required
        wanted = max(settings.calib_images, min(max(COUNTS), len(open_source(settings.data, "calibration"))))
        progress(PhaseStarted("images", wanted, settings.data))
        images = session.calibration_images(settings.data, wanted, settings.seed)
        directory.create()  # made once all input is known good: wrong input leaves nothing
        held.enter_context(RunLock(folder))
        directory.refuse_unusable(settings)  # as the lock's last holder has left it

        calibration = replace(images, tensor=images.tensor[: settings.calib_images])
        session, bank = open_bank(session, calibration, settings, folder / "bank", progress)
        fingerprints = {
            "space": space.fingerprint,
            "bank": bank.fingerprint,
            "images": images.sha256,
            "labelled_images": str(labelled.count),
        }
        directory.keep_record(settings, fingerprints)
        options = options_of_space(resolved)
        few = images.tensor[: choose_batch_size(session.traced)]
        with fastest_threads(lambda: session.model.run(few.clone()), session.device):
            progress(PhaseStarted("calibration", len(options)))
            bank.solve_into(folder / "bank", options, lambda done, _: progress(PhaseAdvanced("calibration", done)))
            # Losses are means over images: each count's are those of the count before and of the images in between.
            counts = image_counts(len(images.tensor), settings.calib_images)
            slices = torch.split(images.tensor[: counts[-1]], _steps(counts))
            evaluators = [
                Evaluator(session.model, bank, each, cache_bytes=CACHE_BYTES // len(slices)) for each in slices
            ]
            tables = [
                measure_into(folder / f"{proxy}.csv", options, evaluators[0], bank, calibration.tensor, proxy, progress)
                for proxy in (FISHER, APH)
            ]
            recipes = choose_recipes(session.traced.sites, resolved, tables[0], settings.recipes, settings.seed)
            additive = [(column(table.proxy, table.images), AdditiveMeasure(table)) for table in tables]
            measure = _Measure(evaluators, counts, additive, _held(labelled))
            rows = _measure_all(recipes, measure, folder, progress)
        check = rank(rows, labelled.count, settings.seed)
        save_csv(rows[1:], folder / TABLE)
        directory.keep_record(settings, fingerprints, **check.to_json())
        return replace(check, out=os.fspath(folder))


def image_counts(available: int, calib_images: int) -> list[int]:
    """The image counts that joint proxies are compared at: ``COUNTS`` and the calibration images, as far as there."""
    return sorted({count for count in (*COUNTS, min(calib_images, available)) if count <= available})


def _steps(counts: Sequence[int]) -> list[int]:
    return [count - before for before, count in zip([0, *counts], counts, strict=False)]


@dataclass(frozen=True)
class _Measure:
    """Everything about one recipe.

    Attributes:
        evaluators: on the first images, and on those that each larger count adds.
        counts: the counts.
        additive: column and measure of the proxies that need no evaluation.
        batches: labelled images and class indices.
    """

    evaluators: Sequence[Evaluator]
    counts: Sequence[int]
    additive: Sequence[tuple[str, AdditiveMeasure]]
    batches: Iterable[tuple[Tensor, Tensor]]

    def __call__(self, recipe: CheckedRecipe) -> CheckedRow:
        losses = dict.fromkeys((column(proxy, count) for proxy in LOSSES for count in self.counts), float("inf"))
        sums = dict.fromkeys(LOSSES, 0.0)
        for count, evaluator in zip(self.counts, self.evaluators, strict=True):
            try:
                score = evaluator.evaluate(recipe.sites)
            except NonFiniteError:  # over these images and any more
                break
            for proxy, loss_of in LOSSES.items():
                sums[proxy] += score.images * loss_of(score)
                losses[column(proxy, count)] = sums[proxy] / count
        losses |= {name: measure(recipe.sites).loss for name, measure in self.additive}
        self.evaluators[0].apply(recipe.sites)
        right = which_right(self.evaluators[0].model, self.batches)
        return CheckedRow(
            id=recipe.id,
            origin=recipe.origin,
            recipe=hash_sites(recipe.sites),
            bops=recipe.bops,
            losses=losses,
            right=right,
        )


def _measure_all(
    recipes: Sequence[CheckedRecipe], measure: _Measure, folder: Path, progress: Progress
) -> list[CheckedRow]:
    """Rows of full precision and of all recipes, in their order; kept as they are measured."""
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


def which_right(model: QuantizedModel, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[bool, ...]:
    """For each image whether its label is the most likely class; where a logit is not finite it is not.

    Args:
        model: with whatever its slots hold.
        batches: images of shape (N, C, H, W) and class indices of shape (N,), on the model's device.
    """
    right: list[bool] = []
    with torch.inference_mode():
        for images, labels in batches:
            logits = model.run(images)[0]
            right += ((logits.argmax(-1) == labels) & torch.isfinite(logits).all(-1)).tolist()
    return tuple(right)


def _held(labelled: LabelledImages) -> Iterable[tuple[Tensor, Tensor]]:
    """The labelled images, decoded once if they fit into memory."""
    held: list[tuple[Tensor, Tensor]] = []
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

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.labelled.batches()
