"""What a search is asked to do: the options of ``autoq search``, a study file, or keyword arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_serializer, field_validator, model_validator

from autoq.errors import SpaceError
from autoq.recipe import SearchReference
from autoq.runs.settings import MOST, PLAIN_CALIBRATION, CalibrationChoices
from autoq.sensitivity.proxies import PROXIES, check_proxy_name
from autoq.validation import parse_toml, read_text, validate

if TYPE_CHECKING:
    from autoq.cost import Budget, CostKind, LatencyTable

IMPROVEMENT_SETTINGS = frozenset({"finish", "reconstruct", "reconstruct_iterations", "reconstruct_images"})
"""Settings of what follows a search."""
FAST: Mapping[str, Any] = {**PLAIN_CALIBRATION, "finish": False, "baselines": "uniform", "trials": 60}
"""Settings of the search that takes least time (``--fast``), where nothing else is given."""
PLACE_SETTINGS = frozenset({"device", "workers", "executor", "address", "storage", "study_name"})
"""Settings of where a search runs and is copied to, on which recipes and their scores do not depend."""
MOST_WORKERS = 4096
"""That can be asked for: one driver proposes for far fewer."""
MOST_SECONDS = 366 * 24 * 3600.0
"""Of a time limit: a year."""
Baselines = Literal["uniform", "published", "all"]


class SearchSettings(CalibrationChoices):
    """Settings of one search; a study file has the same keys.

    Attributes:
        eval_data: labelled images that calibration never sees; None: the bundled ones for ``digits``, else none.
        eval_recipes: most recipes of the front whose accuracy is measured, evenly spread, the best among them.
        budget_bops: ``12.5G``, ``w4a4`` or ``60%``; where no budget is given, ``w4a4``.
        budget_size: of the weights with their scales: ``3.2MB``, ``w4a4`` or ``60%``.
        budget_activations: of the largest set of live activations: ``250kB``, ``w4a4`` or ``60%``.
        budget_latency: by ``latency_table``: ``4ms``, ``w4a4`` or ``60%``.
        latency_table: JSON or CSV file with measured times (``autoq.cost.LatencyTable``).
        trials: recipes to evaluate, uniform points included.
        time_limit_seconds: be done after this long, accuracy included, or None.
        sampler: how recipes are proposed; a name in ``autoq.optimization.samplers.SAMPLERS``.
        proxy: the loss that is minimised; a name in ``autoq.sensitivity.proxies.PROXIES``.
        sensitivity: the proxy by which options are measured alone first, for samplers that start from that.
        baselines: what the result is compared with at the width of the budget: ``uniform``, recipes of the space
            alone; ``published``, also the published methods that calibrate fast; ``all``, also those that take long.
        finish: whether the best recipe within the budget and the knee are finished in closed form after the search.
        reconstruct: whether the best recipe within the budget and the knee are reconstructed after that.
        reconstruct_iterations: training steps of each block, or None: as many as ``ReconstructionSettings`` has.
        reconstruct_images: unlabelled images of ``data`` to learn from, at most.
        workers: how many evaluate recipes side by side.
        executor: where they do; a name in ``autoq.optimization.executors.EXECUTORS``. None: in this process with one
            worker, in processes of this machine with several.
        address: of the Ray cluster, such as ``auto`` or ``10.0.0.1:6379``; None: one is started on this machine.
        storage: URL of a database that every trial is written to as well; records have it without a password.
        study_name: of the study there; None: the name of the run directory.
    """

    eval_data: str | None = None
    eval_recipes: int = Field(default=24, ge=1, le=MOST)
    budget_bops: str | None = None
    budget_size: str | None = None
    budget_activations: str | None = None
    budget_latency: str | None = None
    latency_table: str | None = None
    trials: int = Field(default=100, ge=1, le=MOST)
    time_limit_seconds: float | None = Field(default=None, gt=0, le=MOST_SECONDS)
    sampler: str = "progressive"
    proxy: str = "kl"
    sensitivity: str = "fisher"
    baselines: Baselines = "published"
    finish: bool = True
    reconstruct: bool = False
    reconstruct_iterations: int | None = Field(default=None, ge=1, le=MOST)
    reconstruct_images: int = Field(default=1024, ge=1, le=MOST)
    workers: int = Field(default=1, ge=1, le=MOST_WORKERS)
    executor: str | None = None
    address: str | None = None
    storage: str | None = None
    study_name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_budgets(cls, values: Any) -> Any:
        from autoq.cost import KINDS

        if isinstance(values, dict):
            if values.get("budget_latency") is not None and values.get("latency_table") is None:
                raise ValueError("a budget of latency needs measured times: give a latency table")
            if all(values.get(f"budget_{name}") is None for name in KINDS):
                return {**values, "budget_bops": "w4a4"}
        return values

    @field_validator("sampler")
    @classmethod
    def _check_sampler(cls, name: str) -> str:
        from autoq.optimization.samplers import SAMPLERS

        SAMPLERS.lookup(name)
        return name

    @field_validator("storage")
    @classmethod
    def _check_storage(cls, url: str | None) -> str | None:
        if url is not None:
            from autoq.optimization.database import shown_url

            shown_url(url)
        return url

    @field_serializer("storage")
    def _without_password(self, url: str | None) -> str | None:
        from autoq.optimization.database import without_password

        return None if url is None else without_password(url)

    @model_validator(mode="after")
    def _check_workers(self) -> Self:
        from autoq.optimization.executors import EXECUTORS

        entry = EXECUTORS.lookup(self.executor_name)
        most = entry.most_workers
        if self.address is not None and entry.connect is None:
            raise ValueError(f"executor {self.executor_name!r} has no address: leave it out, or use ray")
        if most is not None and self.workers > most:
            raise ValueError(f"executor {self.executor_name!r} has {most} worker, not {self.workers}: use processes")
        return self

    @property
    def executor_name(self) -> str:
        """The executor that is used."""
        return self.executor or ("local" if self.workers == 1 else "processes")

    @property
    def processes(self) -> int:
        """How many processes share the cores of this machine."""
        from autoq.optimization.executors import EXECUTORS

        return self.workers if EXECUTORS[self.executor_name].divides_cores else 1

    @field_validator("proxy", "sensitivity")
    @classmethod
    def _check_proxy(cls, name: str) -> str:
        return check_proxy_name(name)

    @property
    def reference(self) -> SearchReference:
        """What recipes say of the search."""
        budgets = {name: budget.text for name, budget in self.budgets.items()}
        return SearchReference(
            space=self.space, target=self.target, budgets=budgets, fix=self.fix, exclude=self.exclude
        )

    @property
    def budgets(self) -> dict[str, Budget]:
        """The budgets that are given, by kind of cost, in the order in which one is taken for the front.

        Raises:
            BudgetError: one cannot be read.
        """
        from autoq.cost import KINDS, Budget

        written = {name: getattr(self, f"budget_{name}") for name in KINDS}
        return {name: Budget.parse(text, KINDS[name]) for name, text in written.items() if text is not None}

    @property
    def budget_name(self) -> str:
        """Name directories after the budgets: ``w4a4``, ``size-3MB-latency-4ms``."""
        parts = [
            f"{'' if name == 'bops' else f'{name}-'}{budget.text.rstrip('%')}" for name, budget in self.budgets.items()
        ]
        return "-".join(parts)

    @property
    def table(self) -> LatencyTable | None:
        """The latency table, if there is one.

        Raises:
            BudgetError: it cannot be read.
        """
        from autoq.cost import LatencyTable

        return None if self.latency_table is None else LatencyTable.load(self.latency_table)

    @property
    def improves(self) -> bool:
        """Whether recipes are finished or reconstructed after the search."""
        return self.finish or self.reconstruct

    @property
    def most_images(self) -> int:
        """Most images of ``data`` that anything here learns from at once, those that score aside."""
        from autoq.runs.finish import FINISHING_IMAGES

        finishing = FINISHING_IMAGES if self.finish else 0
        return max(self.calib_images, finishing, self.reconstruct_images if self.reconstruct else 0)

    @property
    def needs_sensitivities(self) -> bool:
        """Whether options are measured alone before the search."""
        from autoq.optimization.samplers import SAMPLERS

        return SAMPLERS[self.sampler].needs_sensitivities or PROXIES[self.proxy].is_additive

    def objectives(self, chosen: CostKind) -> tuple[str, str]:
        """Return the names of what is minimised, as in ``trials.csv``: the cost of the front, and the loss."""
        return chosen.field, PROXIES[self.proxy].loss.name

    @property
    def labelled_data(self) -> str | None:
        """``eval_data``, or the digits that nothing else sees when searching on digits."""
        if self.eval_data is None and self.data == "digits":
            return "digits/val"
        return self.eval_data


def load_study_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read settings from a TOML study file.

    Raises:
        SpaceError: the file is missing or not TOML, or has an unknown key or a value that a setting cannot have.
    """
    where = f"study {os.fspath(path)!r}"
    document = parse_toml(read_text(path, "study", SpaceError), where, SpaceError)
    make_settings(document, where)
    return document


def make_settings(values: dict[str, Any], where: str = "settings", *, are_options: bool = False) -> SearchSettings:
    """Validate settings; ``where`` is what messages call them, options by their names as they are typed.

    Raises:
        SpaceError: a key or value is wrong; the message names it and what would be right.
    """
    settings = validate(SearchSettings, values, where, SpaceError, are_options=are_options)
    for proxy in (settings.proxy, settings.sensitivity):
        check_proxy_name(proxy, settings.make_task())
    return settings
