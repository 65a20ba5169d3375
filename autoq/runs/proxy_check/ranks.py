"""What a check of proxies measured, and how well each proxy ranks recipes as accuracy does."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoq.errors import RunDirectoryError
from autoq.files import write_text
from autoq.recipe import LabelsBy
from autoq.runs.proxy_check.recipes import FRONT
from autoq.sensitivity.rank_agreement import Agreement, BoolArray, Ceiling, FloatArray, accuracy_ceiling, agreement
from autoq.units import Metric

NEAR_POINTS = 10.0
"""Recipes this near full precision, in points of the main metric, are those that a search chooses from."""
ALIKE_IN_COST = 1.1
"""Recipes whose costs differ by less than this factor are those that a search chooses between."""
BOPS = "bops"
"""The proxy that any other has to beat: what costs more is more accurate."""
CLEAR_DEVIATIONS = 2.0
"""Standard errors by which the accuracy of two recipes has to differ to be told apart (McNemar's test)."""
SUBSETS = ("all", "near", "alike", "clear", "front", "off")
"""Pairs of recipes: all; both within ``NEAR_POINTS`` of full precision; alike in cost; told apart by the main metric
(where answers are right or wrong); both along
the front; both off it."""


@dataclass(frozen=True)
class CheckedRow:
    """A recipe with all its measures.

    Attributes:
        id: its name.
        origin: where it comes from, one of ``autoq.runs.proxy_check.recipes.ORIGINS``.
        recipe: SHA-256 of its sites.
        bops: its cost.
        losses: ``kl_128``, … to the loss; infinite where the model's output is not finite.
        metrics: of the task on the labelled images, by name, the main one first.
        right: for each labelled image whether the answer is right; empty where answers are not simply right or wrong.
    """

    id: str
    origin: str
    recipe: str
    bops: int
    losses: Mapping[str, float]
    metrics: Mapping[str, float]
    right: tuple[bool, ...] = ()

    @property
    def percent(self) -> float:
        """The main metric."""
        return next(iter(self.metrics.values()))


@dataclass(frozen=True)
class ProxyRank:
    """How well one proxy ranks the recipes of one subset.

    Attributes:
        proxy: its name, or ``bops``.
        images: that it is measured on; None for ``bops``.
        subset: one of ``SUBSETS``.
        agreement: with the main metric; 1 where less loss is always more accurate.
    """

    proxy: str
    images: int | None
    subset: str
    agreement: Agreement


@dataclass(frozen=True)
class Subset:
    """Pairs of recipes that are compared.

    Attributes:
        name: one of ``SUBSETS``.
        recipes: that are in any of its pairs.
        pairs: how many.
        tied: pairs with exactly the same main metric, which no proxy can order.
        ceiling: what the sampling error of the main metric leaves to reach, where answers are right or wrong.
    """

    name: str
    recipes: int
    pairs: int
    tied: int
    ceiling: Ceiling


@dataclass(frozen=True)
class ProxyCheck:
    """A finished check.

    Attributes:
        out: its directory.
        rows: the recipes.
        metric: the task's main one, in percent.
        full_precision_percent: the metric before quantization.
        labelled_images: that the metric is measured on.
        labels_by: how labels were matched with the model's outputs; None where that is not known.
        subsets: in the order of ``SUBSETS``.
        ranks: every proxy and number of images, on every subset.
    """

    out: str
    rows: tuple[CheckedRow, ...]
    metric: Metric
    full_precision_percent: float
    labelled_images: int
    subsets: tuple[Subset, ...]
    ranks: tuple[ProxyRank, ...]
    labels_by: LabelsBy | None = None

    def to_json(self) -> dict[str, Any]:
        """Return all but the recipes themselves, as JSON values."""
        values = [row.percent for row in self.rows]
        return {
            "recipes": len(self.rows),
            "origins": dict(Counter(row.origin for row in self.rows)),
            "labelled_images": self.labelled_images,
            "labels_by": self.labels_by,
            f"full_precision_{self.metric.name}": self.full_precision_percent,
            f"{self.metric.name}_quartiles": [float(np.percentile(values, share)) for share in (0, 25, 50, 75, 100)],
            "subsets": [asdict(subset) for subset in self.subsets],
            "taus": [
                {"proxy": rank.proxy, "images": rank.images, "subset": rank.subset, **asdict(rank.agreement)}
                for rank in self.ranks
            ],
        }

    def rank_of(self, proxy: str, images: int | None, subset: str = "all") -> Agreement:
        """Return the agreement of one proxy.

        Raises:
            KeyError: it was not checked.
        """
        for each in self.ranks:
            if (each.proxy, each.images, each.subset) == (proxy, images, subset):
                return each.agreement
        raise KeyError((proxy, images, subset))


def column(proxy: str, images: int | None) -> str:
    """``kl_128``."""
    return proxy if images is None else f"{proxy}_{images}"


def rank(rows: Sequence[CheckedRow], labelled_images: int, seed: int, metric: Metric) -> ProxyCheck:
    """Compare the orders.

    Args:
        rows: full precision, and then the recipes.
        labelled_images: how many images the metric is measured on.
        seed: of the resamples.
        metric: the task's main one, in percent.
    """
    full, *recipes = rows
    accurate = np.array([row.percent for row in recipes])
    measures: dict[tuple[str, int | None], FloatArray] = {}
    for name in recipes[0].losses:
        proxy, _, images = name.rpartition("_")
        measures[proxy, int(images)] = -np.array([row.losses[name] for row in recipes])
    measures[BOPS, None] = np.array([row.bops for row in recipes], dtype=np.float64)
    right = np.array([row.right for row in recipes], dtype=np.bool_)
    subsets, ranks = [], []
    for name, pairs in _pairs(recipes, right, accurate, full.percent).items():
        ties = pairs & (accurate[:, None] == accurate[None, :])
        ceiling = accuracy_ceiling(right, pairs, seed)
        subsets.append(Subset(name, int(pairs.any(1).sum()), int(pairs.sum()) // 2, int(ties.sum()) // 2, ceiling))
        ranks += [
            ProxyRank(proxy, images, name, agreement(values, accurate, pairs, seed))
            for (proxy, images), values in measures.items()
        ]
    return ProxyCheck("", tuple(recipes), metric, full.percent, labelled_images, tuple(subsets), tuple(ranks))


def _pairs(rows: Sequence[CheckedRow], right: BoolArray, accurate: FloatArray, full: float) -> dict[str, BoolArray]:
    """(n, n) for each of ``SUBSETS``; no recipe is paired with itself."""
    near = accurate >= full - NEAR_POINTS
    front = np.array([row.origin in FRONT for row in rows])
    cost = np.log([row.bops for row in rows])
    hits = right.astype(np.float64)
    only_one = hits @ (1 - hits).T  # images that the one recipe has right and the other wrong
    difference, either = np.abs(only_one - only_one.T), only_one + only_one.T
    pairs = {
        "all": np.ones((len(rows), len(rows)), dtype=np.bool_),
        "near": near[:, None] & near,
        "alike": np.abs(cost[:, None] - cost) < math.log(ALIKE_IN_COST),
        "clear": difference > CLEAR_DEVIATIONS * np.sqrt(either),
        "front": front[:, None] & front,
        "off": ~front[:, None] & ~front,
    }
    return {name: pairs[name] & ~np.eye(len(rows), dtype=np.bool_) for name in SUBSETS}


def save_csv(rows: Sequence[CheckedRow], path: str | os.PathLike[str]) -> None:
    """Write the recipes as comma-separated values, atomically; floats read back equal."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(rows[0].losses)
    writer.writerow(["id", "origin", "bops", *names, *rows[0].metrics])
    for row in rows:
        writer.writerow([row.id, row.origin, row.bops, *(row.losses[name] for name in names), *row.metrics.values()])
    write_text(path, text.getvalue())


def save_rows(rows: Iterable[CheckedRow], path: str | os.PathLike[str]) -> None:
    """Write rows as JSON, one a line, atomically."""
    write_text(path, "".join(json.dumps(_to_json(row)) + "\n" for row in rows))


def load_rows(path: str | os.PathLike[str]) -> list[CheckedRow]:
    """Read what ``save_rows`` wrote; nothing if there is no such file.

    Raises:
        RunDirectoryError: it cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        return [_of_json(json.loads(line)) for line in lines]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunDirectoryError(f"cannot read {os.fspath(path)!r}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunDirectoryError(f"{os.fspath(path)!r} is damaged; delete it") from error


def _to_json(row: CheckedRow) -> dict[str, Any]:
    losses = {name: loss if math.isfinite(loss) else None for name, loss in row.losses.items()}
    return asdict(row) | {"losses": losses, "right": "".join("01"[each] for each in row.right)}


def _of_json(document: dict[str, Any]) -> CheckedRow:
    losses = {name: math.inf if loss is None else float(loss) for name, loss in document["losses"].items()}
    right = tuple(each == "1" for each in document["right"])
    return CheckedRow(**document | {"losses": losses, "right": right})
