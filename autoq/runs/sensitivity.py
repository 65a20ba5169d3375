"""Measure the sensitivities of a model over a search space: a directory with the table and its bank."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from autoq.calibration import Bank
from autoq.errors import RunDirectoryError, SpaceError
from autoq.events import PhaseAdvanced, PhaseStarted, Progress, ignore
from autoq.optimization.space import ResolvedSpace
from autoq.runs.directory import BaseSettingsDirectory, BaseSettingsRecord
from autoq.runs.images import CalibrationImages
from autoq.runs.opening import GivenObjects, open_bank, open_run, solve_bank
from autoq.runs.session import Session
from autoq.runs.settings import CalibrationChoices
from autoq.scoring import Evaluator, choose_batch_size
from autoq.scoring.threads import fastest_threads
from autoq.sensitivity.block_importance import measure_importance
from autoq.sensitivity.importance_files import Importance, load_importance, save_importance, save_table
from autoq.sensitivity.measure import (
    FisherElsewhere,
    Option,
    SensitivityTable,
    measure_additive_sensitivities,
    measure_sensitivities,
)
from autoq.sensitivity.perturbation_hessian import PerturbationSettings
from autoq.sensitivity.proxies import APH, PROXIES, check_proxy_name, joint_proxies
from autoq.tasks import BaseTask
from autoq.validation import validate

TABLE = "sensitivity.csv"
"""The table's name in its directory."""
IMPORTANCE, IMPORTANCE_TABLE = "importance.safetensors", "importance.csv"
"""Names of the importance of blocks' outputs, beside a table by ``aph``: every element, and a summary."""
_logger = logging.getLogger(__name__)


class SensitivitySettings(CalibrationChoices):
    """Settings of one measurement.

    Attributes:
        proxy: the loss; a name in ``autoq.sensitivity.proxies.PROXIES``.
        exhaustive: measure every option, instead of interpolating where another is better anyway.
    """

    proxy: str = "kl"
    exhaustive: bool = False


@dataclass(frozen=True)
class SensitivityResult:
    """The sensitivities of a model.

    Attributes:
        out: the directory.
        table: the losses.
        operands: (site, operand) of the quantized operands, in the order of the model.
        importance: of the outputs of blocks, by ``aph``; None for other proxies.
        label_names: names of the model's classes, if they are known.
    """

    out: str
    table: SensitivityTable
    operands: tuple[tuple[str, str], ...]
    importance: Importance | None = None
    label_names: tuple[str, ...] | None = None


def make_sensitivity_settings(**values: Any) -> SensitivitySettings:
    """Validate settings.

    Raises:
        SpaceError: a value is wrong; the message names it.
    """
    settings = validate(SensitivitySettings, values, "option", SpaceError, are_options=True)
    check_proxy_name(settings.proxy, settings.make_task())
    return settings


class SensitivityRecord(BaseSettingsRecord):
    """``sensitivity.json``: what the table beside it was measured with."""

    settings: SensitivitySettings


class SensitivityDirectory(BaseSettingsDirectory[SensitivityRecord]):
    """The table, the bank, and by ``aph`` the importance of blocks' outputs."""

    holds: ClassVar[str] = "sensitivities"
    record_name: ClassVar[str] = "sensitivity.json"
    record_type: ClassVar[type[SensitivityRecord]] = SensitivityRecord
    orphans: ClassVar[Mapping[str, str]] = {
        **BaseSettingsDirectory.orphans,
        TABLE: "sensitivity.csv without sensitivity.json",
    }
    may_differ: ClassVar[frozenset[str]] = frozenset({"exhaustive", "device"})


def run_sensitivity(
    settings: SensitivitySettings,
    out: str | os.PathLike[str],
    progress: Progress = ignore,
    given: GivenObjects | None = None,
) -> SensitivityResult:
    """Measure, or go on with the measurement in ``out``: what is solved and measured there is kept.

    Args:
        settings: what to measure.
        out: directory for ``sensitivity.csv`` and ``bank/``, and with ``aph`` for ``importance.safetensors`` and
            ``importance.csv``; created if missing.
        progress: told what happens.
        given: a model and images that are at hand, used in place of those that the settings name.

    Raises:
        InputError: a setting is wrong, or ``out`` belongs to something else.
        RunError: an option does not fit its operand.
        KeyboardInterrupt: passed on; the same call goes on.
    """
    directory = SensitivityDirectory(out)
    with open_run(directory, settings, given, progress) as (inputs, earlier):
        images = inputs.images
        session, bank = open_bank(inputs.session, images, settings, directory.bank, progress)
        fingerprints = {"space": inputs.space_fingerprint, "bank": bank.fingerprint}
        directory.refuse_changed(earlier, fingerprints)
        directory.save(SensitivityRecord(settings=settings, fingerprints=fingerprints))
        options = options_of_space(inputs.space)
        few = images.tensor[: choose_batch_size(session.traced)]
        with fastest_threads(lambda: session.model.run(few), session.device):
            solve_bank(bank, options, directory.bank, progress)
            table = measure_into(
                directory.path / TABLE,
                options,
                evaluator=lambda: Evaluator(session.model, bank, images.tensor, task=session.task),
                bank=bank,
                images=images.tensor,
                proxy=settings.proxy,
                task=session.task,
                progress=progress,
                exhaustive=settings.exhaustive,
            )
            importance = importance_into(directory.path, session, images, progress) if settings.proxy == APH else None
        operands = tuple((plan.site, plan.operand.name) for plan in inputs.space.plans)
        return SensitivityResult(os.fspath(out), table, operands, importance, session.loaded.label_names)


def options_of_space(resolved: ResolvedSpace) -> list[Option]:
    """List every option of every operand, in the order of the model's sites."""
    return [
        (plan.site, plan.operand.name, config)
        for plan in resolved.plans
        for config in resolved.options_for(plan.site, plan.operand.name)
    ]


def measure_into(
    path: str | os.PathLike[str],
    options: Sequence[Option],
    *,
    evaluator: Callable[[], Evaluator],
    bank: Bank,
    images: Tensor,
    proxy: str,
    task: BaseTask,
    progress: Progress = ignore,
    exhaustive: bool = False,
    fisher: FisherElsewhere | None = None,
    on_first: Callable[[SensitivityTable], None] | None = None,
) -> SensitivityTable:
    """Measure sensitivities, written to ``path`` as they are measured; what is there already is kept.

    Args:
        path: the table's file; if it exists, it is of the same model, bank and space.
        options: of operands, in canonical form.
        evaluator: gives what scores recipes, on ``images``; called where the proxy is no sum over operands.
        bank: the evaluator's, with all options solved.
        images: of shape (N, C, H, W).
        proxy: the loss; a name in ``autoq.sensitivity.proxies.PROXIES``.
        task: of the model, fitted.
        progress: told what happens, as phase ``sensitivity``.
        exhaustive: measure every option; ``fisher`` and ``aph`` do so anyway.
        fisher: measures by ``fisher`` instead of this process.
        on_first: gets what ``fisher`` finds on the first few images, before it goes on.

    Raises:
        SpaceError: there is no such proxy.
        RunDirectoryError: the file is no table, or of another proxy or number of images.
        CalibrationError: an option does not fit its operand.
    """
    check_proxy_name(proxy, task)
    known = SensitivityTable.load(path) if Path(path).exists() else None
    stage_of = bank.model.stage_of
    ordered = sorted(options, key=lambda option: stage_of[option[:2]])
    is_additive = PROXIES[proxy].is_additive
    if is_additive and known is not None and known.covers(ordered, proxy):
        return known

    def on_progress(done: int, _: int) -> None:
        progress(PhaseAdvanced("sensitivity", done))

    passes = 2 if proxy == APH else 1  # one for the Hessians, one for the errors
    progress(PhaseStarted("sensitivity", passes * len(images) if is_additive else len(ordered)))
    if is_additive:
        table = measure_additive_sensitivities(
            proxy, bank, images, ordered, on_progress, task=task, fisher=fisher, on_first=on_first
        )
        table.save(path)
        return table
    return measure_sensitivities(
        evaluator().evaluate,
        joint_proxies()[proxy],
        ordered,
        proxy,
        len(images),
        exhaustive=exhaustive,
        known=known,
        progress=on_progress,
        keep=lambda table: table.save(path),
    )


def importance_into(
    directory: str | os.PathLike[str], session: Session, images: CalibrationImages, progress: Progress = ignore
) -> Importance:
    """Measure how important what leaves each block is, into two files; what is there of the same images is kept.

    Args:
        directory: where ``importance.safetensors`` and ``importance.csv`` are or will be.
        session: a model; its slots are emptied.
        images: to measure on; their seed is that of the perturbations.
        progress: told what happens, as phase ``sensitivity``.

    Raises:
        CalibrationError: full precision or its derivatives are not finite.
    """
    folder = Path(directory)
    sha256, settings = session.loaded.weights_sha256, PerturbationSettings(seed=images.seed)
    wanted = (sha256, len(images.tensor), images.sha256, settings)
    importance = _known_importance(folder / IMPORTANCE)
    if importance is None or wanted != (
        importance.weights_sha256,
        importance.images,
        importance.images_sha256,
        importance.settings,
    ):
        progress(PhaseStarted("sensitivity", len(images.tensor), "outputs of blocks"))
        done = 0

        def on_batch(count: int) -> None:
            nonlocal done
            done += count
            progress(PhaseAdvanced("sensitivity", done))

        batches = torch.split(images.tensor, choose_batch_size(session.traced))
        outputs = measure_importance(session.model, batches, settings, progress=on_batch, task=session.task)
        importance = Importance(session.loaded.name, *wanted, outputs)
        save_importance(importance, folder / IMPORTANCE)
    save_table(importance.outputs, folder / IMPORTANCE_TABLE)
    return importance


def _known_importance(path: Path) -> Importance | None:
    try:
        return load_importance(path) if path.exists() else None
    except RunDirectoryError:
        _logger.warning("the importance in %s cannot be read and is measured again", path)
        return None
