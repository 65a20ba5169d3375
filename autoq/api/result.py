"""The result of a search: the front as a table, recipes, pictures, the run directory."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from autoq.errors import BudgetError, InputError, RunDirectoryError
from autoq.exporters.pick import pick
from autoq.files import TemporaryFolder, check_writable
from autoq.recipe import Recipe
from autoq.report.from_run import summarize
from autoq.report.summary import RunSummary
from autoq.report.tables import baselines_csv, pareto_csv, trials_csv
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.result import SearchOutcome, make_result

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


class SearchResult:
    """A finished search, or one that is still running in its directory.

    Attributes:
        folder: the run directory.

    Examples:
        >>> import autoq
        >>> result = autoq.search(trials=4, calib_images=8, space="bits_only", fast=True)
        >>> result.recipe(result.front.index[-1]) == result.best
        True
        >>> autoq.SearchResult(result.folder).best == result.best
        True
    """

    def __init__(self, folder: str | os.PathLike[str], kept: TemporaryFolder | None = None) -> None:
        """Name a run directory, which is read when an attribute is accessed.

        Args:
            folder: the run directory.
            kept: the temporary directory that it is, which lives as long as this object and its recipes.
        """
        self.folder = Path(folder)
        self._kept = kept

    @property
    def summary(self) -> RunSummary:
        """All figures of the run, read anew from the directory.

        Raises:
            RunDirectoryError: there is no run, or its files are damaged.
        """
        return summarize(self.folder)

    @property
    def outcome(self) -> SearchOutcome:
        """The front, the best recipe and what was finished and reconstructed, as the command line prints them."""
        directory = SearchDirectory(self.folder)
        return make_result(directory, directory.require(), directory.trials())

    @property
    def budgets(self) -> dict[str, int]:
        """The budgets by kind of cost: ``bops``, ``size`` and ``activations`` in bytes, ``latency`` in nanoseconds."""
        return SearchDirectory(self.folder).require().budgets

    @property
    def front(self) -> pd.DataFrame:
        """The non-dominated recipes within the budget, cheapest first, one row a recipe.

        The index is the recipe's id, as ``recipe`` takes it. ``bops`` are per image, ``kl_nats`` the mean divergence
        from full precision on images that did not calibrate, ``calibration_kl_nats`` the same on those that did, for
        the best and the knee (where there are too few others, ``kl_nats`` is that); accuracy is there if labelled
        images were given.
        """
        return _table(pareto_csv(self.summary)).drop(columns=["label", "origin", "feasible", "recipe_path"])

    @property
    def trials(self) -> pd.DataFrame:
        """All recipes that were evaluated, in that order; the index is the id."""
        return _table(trials_csv(self.summary))

    @property
    def baselines(self) -> pd.DataFrame:
        """Uniform recipes, and published methods at the width of the budget, cheapest first; the index is the id."""
        return _table(baselines_csv(self.summary))

    @property
    def best(self) -> Recipe:
        """The recipe of least discrepancy within the budget, finished or reconstructed where that lowers it.

        Raises:
            BudgetError: no recipe was evaluated yet.
        """
        return self.recipe("best")

    @property
    def knee(self) -> Recipe:
        """The recipe at the bend of the front, after which more bit operations buy little; likewise.

        Raises:
            BudgetError: no recipe was evaluated yet.
        """
        return self.recipe("knee")

    def recipe(self, choice: str, *, version: str | None = None) -> Recipe:
        """Choose a recipe of the run.

        Args:
            choice: ``best``, ``knee``, the id of any trial, or a budget such as ``60%``: the best within it.
            version: ``searched``, ``finished`` or ``reconstructed``; None: that of least discrepancy.

        Raises:
            RunDirectoryError: there is no such recipe, or not in that version.
            RecipeError: there is no such version.
            BudgetError: no recipe is within that budget.
        """
        try:
            found = pick(self.folder, choice, version=version)
        except RunDirectoryError:
            if not (self.folder / "run.json").exists():
                raise BudgetError("no recipe was evaluated yet: let the search go on") from None
            raise
        return found.recipe.located(found.recipe.folder, self._kept)

    def plot_front(self, measure: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw the front, and what it is compared with, against the cost that it is over.

        Args:
            measure: what to draw: ``kl_nats`` (the default), or the task's main metric (``top1_percent``) if it was
                measured.
            ax: where to draw; None: on a new figure.

        Raises:
            InputError: that was not measured.
        """
        from autoq.report.plots import plot_front

        return plot_front(self.summary, measure, ax)

    def plot_history(self, ax: Axes | None = None) -> Axes:
        """Draw the loss of every evaluation within the budgets, and the least so far; ``ax`` as above."""
        from autoq.report.run_plots import plot_history

        return plot_history(self.summary, ax)

    def plot_bits(self, choice: str = "best", ax: Axes | None = None) -> Axes:
        """Draw the mean bits of a recipe, block by block.

        Args:
            choice: the recipe, as :meth:`recipe` takes it.
            ax: where to draw; None: on a new figure.

        Raises:
            RunDirectoryError: there is no such recipe.
            BudgetError: no recipe is within that budget.
        """
        from autoq.report.run_plots import plot_bits

        return plot_bits(self.recipe(choice).sites, self.summary.sites, ax)

    def plot_sensitivity(self) -> Axes:
        """Draw what every operand loses alone at every width, on a new figure.

        Raises:
            InputError: the search did without sensitivities.
        """
        from autoq.report.sensitivity_map import plot_sensitivity

        summary = self.summary
        if summary.sensitivity is None:
            raise InputError(
                "this search measured no sensitivities: its sampler needs none; `autoq sensitivity` measures them"
            )
        return plot_sensitivity(
            summary.sensitivity, [(s.name, operand) for s in summary.sites for operand in s.operands]
        )

    def write_report(self) -> None:
        """Write the tables, the picture and the page into the run directory, as ``autoq report`` does."""
        from autoq.report import write_report

        write_report(self.summary, self.folder)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Copy the run directory and its report to where the command line can resume it.

        Args:
            path: the directory; it must not exist, or be empty.

        Raises:
            RunDirectoryError: something is there, or it cannot be written.
        """
        to = Path(path)
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise RunDirectoryError(f"cannot save to {os.fspath(path)!r}: something is there; choose another directory")
        try:
            check_writable(to)
            shutil.copytree(self.folder, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".lock"))
        except OSError as error:
            raise RunDirectoryError(
                f"cannot save to {os.fspath(path)!r}: {error.strerror or error}; choose another directory"
            ) from error
        SearchResult(to).write_report()

    def __repr__(self) -> str:
        """Return the headline of the report."""
        from autoq.report.words import headline

        return f"SearchResult({os.fspath(self.folder)!r}): {headline(self.summary)}"


def _table(text: str) -> pd.DataFrame:
    import pandas as pd

    table: pd.DataFrame = pd.read_csv(io.StringIO(text), index_col="id")
    return table
