"""``run.json``: what a search was asked for, with which versions, and what was measured once."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from autoq.cost import BOPS, KINDS, CostKind, CostModel, Limits
from autoq.errors import BudgetError
from autoq.recipe import CostRecord, LabelsBy, ModelReference, ScoreRecord
from autoq.runs.directory import BaseSettingsRecord
from autoq.runs.opening import RunInputs
from autoq.runs.search.settings import IMPROVEMENT_SETTINGS, PLACE_SETTINGS, SearchSettings
from autoq.runs.session import Session
from autoq.tasks import Accuracy, task_to_record
from autoq.version import __version__


class SiteEntry(BaseModel):
    """A site as the report needs it."""

    model_config = ConfigDict(frozen=True)

    name: str
    op: str
    macs: int
    operands: tuple[str, ...]


class MeasuredAccuracy(BaseModel):
    """The task's metrics on the labelled images; JSON has them by name beside the other keys.

    Attributes:
        images: how many.
        kl_nats: discrepancy from full precision on the same images; None for full precision itself.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, float]

    images: int
    kl_nats: float | None = None

    @classmethod
    def of(cls, accuracy: Accuracy) -> MeasuredAccuracy:
        """Record what was measured."""
        return cls.model_validate({**accuracy.metrics, "images": accuracy.images})

    @property
    def metrics(self) -> dict[str, float]:
        """By name."""
        return dict(self.__pydantic_extra__)


ImprovedKind = Literal["finished", "reconstructed"]
"""What is done to chosen recipes after the search, in that order; the field of the record that has them."""


class ImprovedEntry(BaseModel):
    """A recipe that was finished or reconstructed after the search.

    Attributes:
        recipe: path of the improved recipe, relative to the run directory.
        images: that it learned from.
        iterations: training steps of each block; None where nothing is trained.
        score: discrepancy on the images that the search scores on, and accuracy on the labelled ones.
    """

    model_config = ConfigDict(frozen=True)

    recipe: str
    images: int
    iterations: int | None = None
    score: ScoreRecord

    def without_accuracy(self) -> ImprovedEntry:
        """Return the same before it was measured on labelled images."""
        return self.model_copy(update={"score": self.score.without_metrics()})


class BaselineEntry(BaseModel):
    """A published method that the search is compared with.

    Attributes:
        method: its name.
        weight_bits: width of weights.
        activation_bits: width of activations, the image aside.
        images: that it was calibrated on.
        recipe: path of its recipe, relative to the run directory.
        cost: of its recipe.
        score: discrepancy on the images that the search scores on, and accuracy on the labelled ones.
    """

    model_config = ConfigDict(frozen=True)

    method: str
    weight_bits: int
    activation_bits: int
    images: int
    recipe: str
    cost: CostRecord
    score: ScoreRecord

    @property
    def label(self) -> str:
        """What tables and pictures call it."""
        return f"{self.method} {self.weight_bits}/{self.activation_bits}"

    def without_accuracy(self) -> BaselineEntry:
        """Return the same before it was measured on labelled images."""
        return self.model_copy(update={"score": self.score.without_metrics()})


_Entry = TypeVar("_Entry", ImprovedEntry, BaselineEntry)


class RunRecord(BaseSettingsRecord):
    """``run.json``: settings, versions, fingerprints, and what is measured once.

    Attributes:
        run: tells this run from any other; empty in records of early versions.
        settings: what was asked for.
        versions: of autoq and the libraries that matter.
        model: name and weights.
        fingerprints: SHA-256 of the calibration and scoring images and the search space, fingerprint of the bank.
        budgets: the budgets, by kind of cost: BOPs, bytes, nanoseconds.
        baseline_bits: widths of weights and activations whose uniform recipes are compared with the chosen one; None
            if the budget is below all of them.
        uniform_8_8_cost: cost of uniform 8/8, the reference of the hypervolume, of the kind that the front is over.
        uniform_costs: of kinds other than BOPs, by kind and label (``w4a4``), where they are known.
        full_precision_bops: cost at 32 bits.
        macs: per image.
        sites: all sites.
        images: number of calibration images.
        scoring_images: number of other images that recipes were scored on; 0: they were scored on the former.
        calibration_kl_nats: discrepancy on the calibration images of the best recipe, the knee and the baseline, which
            were scored on others, by id.
        state: how far the search came; what is finished or reconstructed after it does not count.
        seconds: wall time, earlier runs included.
        labels_by: how labels were matched with the model's outputs; None where there are none.
        full_precision: accuracy before quantization.
        accuracy: of measured recipes, by id.
        accuracy_seconds: that this took of the last one, or None.
        accuracy_left_out: recipes that were to be measured, but not within the time limit.
        finished: recipes that were finished in closed form, by the id of the trial that each was made from.
        reconstructed: recipes that were reconstructed, likewise.
        baselines: published methods that are compared with, by name and width: ``repq-vit-w4a4``.
        task: what the model's output means, by name and settings; None: classification by its defaults.
    """

    schema_version: Literal[1] = 1
    run: str = ""
    settings: SearchSettings
    versions: dict[str, str]
    model: ModelReference
    fingerprints: dict[str, str]
    budgets: dict[str, int]
    baseline_bits: tuple[int, int] | None = None
    uniform_8_8_cost: int
    uniform_costs: dict[str, dict[str, int]] = Field(default_factory=dict)
    full_precision_bops: int
    macs: int
    sites: tuple[SiteEntry, ...]
    images: int
    scoring_images: int = 0
    calibration_kl_nats: dict[str, float] = Field(default_factory=dict)
    state: Literal["running", "interrupted", "finished"] = "running"
    seconds: float = 0.0
    labels_by: LabelsBy | None = None
    full_precision: MeasuredAccuracy | None = None
    accuracy: dict[str, MeasuredAccuracy] = Field(default_factory=dict)
    accuracy_seconds: float | None = None
    accuracy_left_out: int = 0
    finished: dict[str, ImprovedEntry] = Field(default_factory=dict)
    reconstructed: dict[str, ImprovedEntry] = Field(default_factory=dict)
    baselines: dict[str, BaselineEntry] = Field(default_factory=dict)
    task: dict[str, Any] | None = None

    def is_search_for(self, settings: SearchSettings) -> bool:
        """Tell whether this is a finished search with the same settings, where it runs and what follows it aside."""
        apart = IMPROVEMENT_SETTINGS | PLACE_SETTINGS
        return self.state == "finished" and self.settings.model_dump(exclude=set(apart)) == settings.model_dump(
            exclude=set(apart)
        )

    def only_lacks_improvement(self, settings: SearchSettings) -> bool:
        """Tell whether nothing more is to be proposed: the search is finished, and what follows it was asked for since.

        Finishing, which follows every search, is that only where it was not done: a search that its time limit has
        ended goes on when it is started again.
        """
        return self.is_search_for(settings) and (settings.reconstruct or (settings.finish and not self.finished))

    @model_validator(mode="before")
    @classmethod
    def _of_bops_alone(cls, values: Any) -> Any:
        """Read the records of early versions, which knew no budget but that of BOPs."""
        if isinstance(values, dict) and "budget_bops" in values:
            values = dict(values)
            values["budgets"] = {"bops": values.pop("budget_bops")}
            values["uniform_8_8_cost"] = values.pop("uniform_8_8_bops", 0)
        return values

    @property
    def limits(self) -> Limits:
        """The budgets."""
        return Limits(self.budgets)

    @property
    def objectives(self) -> tuple[str, str]:
        """Names of the cost and the loss that the search minimises."""
        return self.settings.objectives(self.limits.chosen)

    def uniform_cost(self, kind: CostKind, weight_bits: int, activation_bits: int) -> int:
        """Return the cost with every weight at one width and every activation at another.

        Raises:
            BudgetError: the run does not know it.
        """
        if kind != BOPS:
            label = f"w{weight_bits}a{activation_bits}"
            if label not in (known := self.uniform_costs.get(kind.name, {})):
                raise BudgetError(f"this run does not know what {kind.title} cost at {label}: give an amount")
            return known[label]
        return sum(
            site.macs * activation_bits * (weight_bits if "weight" in site.operands else activation_bits)
            for site in self.sites
        )


def new_record(
    settings: SearchSettings,
    session: Session,
    costs: CostModel,
    inputs: RunInputs,
    fingerprints: dict[str, str],
    earlier: RunRecord | None,
) -> RunRecord:
    """Make the record of a run that starts or goes on; what was measured on the same labelled images is taken over."""
    budgets = settings.budgets
    limits = Limits.resolve(budgets, costs)
    kind = limits.chosen
    first = budgets.get(kind.name)
    cost_of = partial(costs.uniform, kind if first else KINDS[next(iter(budgets))])
    same_labels = earlier is not None and earlier.settings.labelled_data == settings.labelled_data
    measured = earlier if same_labels else None

    def kept(entries: Mapping[str, _Entry]) -> dict[str, _Entry]:
        return {name: entry if same_labels else entry.without_accuracy() for name, entry in entries.items()}

    return RunRecord(
        settings=settings,
        versions=_versions(),
        model=session.reference,
        fingerprints=fingerprints,
        budgets=dict(limits.most),
        baseline_bits=(first or next(iter(budgets.values()))).widths(cost_of),
        uniform_8_8_cost=costs.uniform(kind, 8, 8),
        uniform_costs={each.name: _uniform_costs(costs, each) for each in KINDS.values() if each != BOPS},
        full_precision_bops=costs.float_cost.bops,
        macs=session.traced.macs,
        sites=tuple(
            SiteEntry(name=site.name, op=site.op, macs=site.macs, operands=tuple(o.name for o in site.operands))
            for site in session.traced.sites
        ),
        images=len(inputs.images.tensor),
        scoring_images=0 if inputs.held_out is None else len(inputs.held_out.tensor),
        calibration_kl_nats={} if earlier is None else earlier.calibration_kl_nats,
        task=task_to_record(session.task),
        labels_by=None if inputs.labelled is None else inputs.labelled.labels_by,
        full_precision=measured.full_precision if measured is not None else None,
        accuracy=measured.accuracy if measured is not None else {},
        accuracy_seconds=measured.accuracy_seconds if measured is not None else None,
        finished={} if earlier is None else kept(earlier.finished),
        reconstructed={} if earlier is None else kept(earlier.reconstructed),
        baselines={} if earlier is None else kept(earlier.baselines),
    )


def _uniform_costs(costs: CostModel, kind: CostKind) -> dict[str, int]:
    """Compute the costs of uniform recipes of 2 to 8 bits, as far as they are known."""
    found = {}
    for weights, activations in itertools.product(range(2, 9), repeat=2):
        try:
            found[f"w{weights}a{activations}"] = costs.uniform(kind, weights, activations)
        except BudgetError:  # no latency table, or one without these widths
            continue
    return found


def _versions() -> dict[str, str]:
    libraries = {name: version(name) for name in ("torch", "timm", "optuna", "numpy")}
    return {"autoq": __version__, "python": platform.python_version(), **libraries}
