"""A model's compared outputs, and the first site whose output is not finite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from autoq.errors import NonFiniteError
from autoq.graph.insert import QuantizedModel
from autoq.tasks import CLASSIFICATION, BaseTask, Outputs


def predict(model: QuantizedModel, batch: Tensor, task: BaseTask = CLASSIFICATION) -> Outputs:
    """Return the compared outputs of one batch, of shape (N, C, H, W), under what the model's slots hold.

    Raises:
        TaskError: the model has no such output.
    """
    return task.outputs_of(model.run(batch), model.output_names)


def finite_outputs(model: QuantizedModel, batch: Tensor, task: BaseTask = CLASSIFICATION) -> Outputs:
    """Return the compared outputs of one batch, of shape (N, C, H, W), and check that they are finite.

    Raises:
        TaskError: the model has no such output.
        NonFiniteError: an element is NaN or infinite; names the first site that produced one.
    """
    return require_finite(predict(model, batch, task), model, batch)


def fitted_task(task: BaseTask, model: QuantizedModel, batches: Iterable[Tensor]) -> BaseTask:
    """Return the task fitted to full precision; one pass over the images, if it needs fitting.

    Args:
        task: of the model.
        model: its slots are emptied if the pass is needed.
        batches: calibration images of shape (N, C, H, W); not read unless they are needed.

    Raises:
        TaskError: the model has no such output, or the task cannot be fitted to it.
    """

    def outputs() -> Iterator[Outputs]:
        model.remove_()
        with torch.no_grad():
            for batch in batches:
                yield predict(model, batch, task)

    return task.fitted(outputs())


def require_finite(outputs: Outputs, model: QuantizedModel, batch: Tensor) -> Outputs:
    """Return ``outputs``, those of ``model`` for ``batch``, after checking that they are finite.

    Raises:
        NonFiniteError: an element is NaN or infinite; names the first site that produced one.
    """
    if not all(bool(torch.isfinite(leaf).all()) for leaf in outputs):
        site = first_non_finite_site(model, batch)
        where = f"first at site {site!r}" if site else "at no site in particular"
        raise NonFiniteError(f"the model's output is not finite; NaN or infinity arises {where}", site)
    return outputs


def first_non_finite_site(model: QuantizedModel, batch: Tensor) -> str | None:
    """Run node by node and name the first site whose output has NaN or infinity, or None."""
    state: tuple[Any, ...] = (batch,)
    for stage in model.stages:
        watch = _Watch(stage.graph_module, stage.site_nodes)
        try:
            result = watch.run(*state)
        except _Found as found:
            return found.site
        state = tuple(result) if isinstance(result, tuple | list) else (result,)
    return None


class _Found(Exception):  # noqa: N818 - a signal, not an error
    def __init__(self, site: str) -> None:
        super().__init__(site)
        self.site = site


class _Watch(fx.Interpreter):
    """Interprets a stage and stops at the first site with a non-finite output."""

    def __init__(self, graph_module: fx.GraphModule, site_nodes: Mapping[str, str]) -> None:
        super().__init__(graph_module)
        self._site_nodes = site_nodes

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        site = self._site_nodes.get(n.name)
        if site is not None and isinstance(result, Tensor) and not bool(torch.isfinite(result).all()):
            raise _Found(site)
        return result
