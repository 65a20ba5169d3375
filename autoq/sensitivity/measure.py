"""Sensitivities: what a model loses with one operand quantized and everything else in full precision."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from autoq.calibration import Bank
from autoq.errors import NonFiniteError, RunDirectoryError
from autoq.recipe import OperandConfig, SiteConfig
from autoq.scoring.discrepancy import Score
from autoq.scoring.evaluator import choose_batch_size
from autoq.sensitivity.bit_sweep import sweep
from autoq.sensitivity.fisher import FisherSettings, add_up_losses
from autoq.sensitivity.perturbation_hessian import PerturbationSettings, average_perturbation_hessian
from autoq.sensitivity.proxies import FISHER
from autoq.sensitivity.table import Option, Sensitivity, SensitivityTable
from autoq.sensitivity.weighted_errors import aph_losses, mean_losses
from autoq.tasks import CLASSIFICATION, BaseTask

__all__ = [
    "FisherElsewhere",
    "Option",
    "Sensitivity",
    "SensitivityTable",
    "measure_additive_sensitivities",
    "measure_sensitivities",
]

LossSums = tuple[Mapping[Option, float], int]
"""Sums of the losses of options over images, and how many images those were."""
FisherElsewhere = Callable[[Sequence[Option], Sequence[range], Callable[[int], None]], Iterator[LossSums]]
"""Gets options, parts of the images by their numbers, and what to call with the number of images that are done; yields
the sums of their losses by ``fisher``, part by part."""

_FIRST_IMAGES = 16
"""That a first table is measured on, where it is wanted: allocation by it loses a tenth or two more than by 64."""
_KEEP_SECONDS = 5.0
"""How often a table that is being measured is handed out: what a kill may cost."""
_logger = logging.getLogger(__name__)


def measure_sensitivities(
    evaluate: Callable[[Mapping[str, SiteConfig]], Score],
    loss_of: Callable[[Score], float],
    options: Sequence[Option],
    proxy: str,
    images: int,
    *,
    exhaustive: bool = False,
    known: SensitivityTable | None = None,
    progress: Callable[[int, int], None] | None = None,
    keep: Callable[[SensitivityTable], None] | None = None,
) -> SensitivityTable:
    """Measure every option alone, coarse ones first.

    The options of an operand that differ only in bits are a family. Each family is measured at its coarse bits first
    (``coarse_bits``). A family that loses no less at all of them than another with as many groups or fewer is not
    measured further; of the others, the bits in between are, where the losses on both sides differ. What is left is
    interpolated, the logarithm of the loss linearly in bits. Operands are taken one after another in the order of
    ``options``: in the order of the model's stages, ``evaluate`` can reuse what lies before them.

    Args:
        evaluate: scores a recipe; what raises ``NonFiniteError`` has an infinite loss.
        loss_of: reads the loss off a score.
        options: in canonical form.
        proxy: name of the loss.
        images: how many images scores are means over.
        exhaustive: measure all options.
        known: what an earlier call has measured; not measured again.
        progress: gets (options done, options).
        keep: gets the rows measured so far every few seconds, and at the end or when an exception ends the measurement.

    Returns:
        A row for each option, in the order of ``options``.

    Raises:
        RunDirectoryError: ``known`` is of another proxy or number of images.
        CalibrationError: an option does not fit its operand.
    """
    if known is not None and (known.proxy, known.images) != (proxy, images):
        raise RunDirectoryError(
            f"the sensitivities at hand are {known.proxy!r} over {known.images} images, not {proxy!r} over {images}: "
            "delete them or choose another --out"
        )
    earlier = {row.option: row for row in known.rows if row.measured} if known is not None else {}
    rows = _GrowingTable(proxy, images, options, earlier, progress, keep)
    try:
        for (site, operand), configs in rows.configs_by_operand().items():

            def measure(config: OperandConfig, site: str = site, operand: str = operand) -> float:
                option = (site, operand, config)
                row = earlier.get(option) or Sensitivity(*option, _loss(evaluate, loss_of, option))
                rows.add(row)
                return row.loss

            for config, loss in sweep(configs, measure, exhaustive).items():
                option = (site, operand, config)
                rows.add(earlier.get(option) or Sensitivity(*option, loss, measured=False))
    finally:
        rows.hand_out()
    return rows.table()


class _GrowingTable:
    """A sensitivity table that is handed to ``keep`` every few seconds while rows are added."""

    def __init__(
        self,
        proxy: str,
        images: int,
        options: Sequence[Option],
        earlier: Mapping[Option, Sensitivity],
        progress: Callable[[int, int], None] | None,
        keep: Callable[[SensitivityTable], None] | None,
    ) -> None:
        self._proxy, self._images, self._wanted = proxy, images, list(dict.fromkeys(options))
        self._earlier, self._progress, self._keep = dict(earlier), progress, keep
        self._found: dict[Option, Sensitivity] = {}
        self._kept = time.monotonic()

    def configs_by_operand(self) -> dict[tuple[str, str], list[OperandConfig]]:
        """Group the options by site and operand, in their order."""
        grouped: dict[tuple[str, str], list[OperandConfig]] = {}
        for site, operand, config in self._wanted:
            grouped.setdefault((site, operand), []).append(config)
        return grouped

    def add(self, row: Sensitivity) -> None:
        """Add a row, report progress, and hand the table out if that is due."""
        self._found[row.option] = row
        if self._progress is not None:
            self._progress(len(self._found), len(self._wanted))
        if time.monotonic() - self._kept > _KEEP_SECONDS:
            self.hand_out()

    def hand_out(self) -> None:
        """Give ``keep`` the table as it is, if rows have been added."""
        if self._keep is not None and self._found:
            self._keep(self.table())
            self._kept = time.monotonic()

    def table(self) -> SensitivityTable:
        """Return the rows known so far, those of an earlier call included, in the order of the options."""
        rows = self._earlier | self._found  # earlier rows stay even if this call does not reach their options
        found = tuple(rows[option] for option in self._wanted if option in rows)
        return SensitivityTable(self._proxy, self._images, found)


def measure_additive_sensitivities(
    proxy: str,
    bank: Bank,
    images: Tensor,
    options: Sequence[Option],
    progress: Callable[[int, int], None] | None = None,
    *,
    task: BaseTask = CLASSIFICATION,
    fisher: FisherElsewhere | None = None,
    on_first: Callable[[SensitivityTable], None] | None = None,
) -> SensitivityTable:
    """Compute the losses of all options by a proxy that uses the errors of the sites' own operands and outputs.

    Args:
        proxy: an additive one of ``autoq.sensitivity.proxies.PROXIES``.
        bank: gives the quantizers; its model's slots are emptied.
        images: of shape (N, C, H, W).
        options: in canonical form.
        progress: gets (images done, N); 2 N for ``aph``, which passes over them for the Hessians and for the errors.
        task: says what the model's output means; fitted.
        fisher: adds up the losses by ``fisher`` on the same images instead of this process.
        on_first: gets what is known after the first few images, by ``fisher``.

    Raises:
        TaskError: the model has no such output, or the task is not fitted.
        CalibrationError: an option does not fit its operand, or full precision or its derivatives are not finite.
    """
    batches = torch.split(images, choose_batch_size(bank.model.traced))
    total = len(images) if proxy == FISHER else 2 * len(images)
    done = 0

    def on_batch(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    def add_up(
        options: Sequence[Option], parts: Sequence[range], progress: Callable[[int], None]
    ) -> Iterator[LossSums]:
        for part in parts:
            own = torch.split(images[part.start : part.stop], choose_batch_size(bank.model.traced))
            settings = FisherSettings(seed=bank.settings.seed, first=part.start)
            sums = add_up_losses(bank, own, options, settings, progress, task=task)
            yield sums.totals, sums.images

    seed = bank.settings.seed
    if proxy == FISHER:
        measured: list[LossSums] = []
        parts = _parts(len(images), on_first is not None)
        for part, sums in zip(parts, (fisher or add_up)(options, parts, on_batch), strict=True):
            measured.append(sums)
            losses = mean_losses(measured)
            if on_first is not None and part.stop < len(images):
                on_first(_table(proxy, part.stop, options, losses))
    else:
        sites = dict.fromkeys(site for site, _, _ in options)
        settings = PerturbationSettings(seed=seed)
        hessians = average_perturbation_hessian(bank.model, batches, sites, settings, on_batch, task=task)
        losses = aph_losses(bank, batches, hessians, options, on_batch)
    return _table(proxy, len(images), options, losses)


def _parts(images: int, has_first: bool) -> list[range]:
    """Divide images into the first few and the others; what is less than two images is not divided."""
    first = min(_FIRST_IMAGES, images // 2) if has_first else 0
    return [range(first), range(first, images)] if first else [range(images)]


def _table(proxy: str, images: int, options: Sequence[Option], losses: Mapping[Option, float]) -> SensitivityTable:
    return SensitivityTable(proxy, images, tuple(Sensitivity(*option, losses[option]) for option in options))


def _loss(
    evaluate: Callable[[Mapping[str, SiteConfig]], Score], loss_of: Callable[[Score], float], option: Option
) -> float:
    """Return the loss of one option alone: clamped to 0 from below (rounding), infinite in place of NaN."""
    site, operand, config = option
    try:
        loss = loss_of(evaluate({site: {operand: config}}))
    except NonFiniteError as error:
        _logger.info("%s:%s at %s: %s", site, operand, config.to_json(), error)
        return math.inf
    return math.inf if math.isnan(loss) else max(float(loss), 0.0)
