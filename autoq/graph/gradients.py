"""Gradients of one stage at operands and outputs of its sites, and at what comes into it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor

from autoq.graph.cuts import Call, run_stage_with
from autoq.graph.insert import QuantizedModel
from autoq.graph.stages import State

Point = tuple[str, str | None]
"""Where a gradient is taken: an operand of a site, or (None) its output."""
Gradients = Sequence[Tensor | None]
"""Of the entries of a state, None where the output does not depend on one."""


class StageGradients:
    """A stage, run with what it takes to differentiate it."""

    def __init__(
        self, model: QuantizedModel, index: int, state: State, points: Iterable[Point], *, has_earlier: bool
    ) -> None:
        """Run the stage.

        Args:
            model: with whatever its slots hold.
            index: of the stage.
            state: before it.
            points: where gradients are wanted.
            has_earlier: whether derivatives by ``state`` are wanted too.
        """
        self._model = model
        self._calls: dict[str, Call] = {}
        self._points: dict[Point, Tensor] = {point: torch.empty(0) for point in points}
        sites = {site for site, _ in self._points}
        hooks = {
            node: partial(self._run, site) for node, site in model.stages[index].site_nodes.items() if site in sites
        }
        with torch.enable_grad():
            self._state = [_differentiable(value) if has_earlier and _is_real(value) else value for value in state]
            self._results = run_stage_with(model, index, tuple(self._state), hooks)

    def _run(self, site: str, call: Call) -> Tensor:
        edges = self._model.traced.edges
        for operand in self._model.traced.sites_by_name[site].operands:
            if (site, operand.name) in self._points:
                # The same tensor may go elsewhere too: only what goes through this edge counts.
                edge = edges[site, operand.name]
                alias = _differentiable(call.operand(edge))
                self._points[site, operand.name] = alias
                call = call.with_operand(edge, alias)
        self._calls[site] = call
        output = call.run()
        if (site, None) in self._points:
            output = self._points[site, None] = _differentiable(output)
        return output

    def differentiate(self, upstream: Sequence[Gradients]) -> tuple[dict[Point, Gradients], list[Gradients]]:
        """Differentiate from the end of the stage to the points, and to its start.

        Args:
            upstream: for each probe, gradients with respect to the entries of the state after the stage.

        Returns:
            At each point, the gradients of all probes; for each probe, those of the state before.
        """
        entries = {index: value for index, value in enumerate(self._state) if _is_real(value) and value.requires_grad}
        targets = [*self._points.values(), *entries.values()]
        rows: list[Gradients] = []
        for probe, gradients in enumerate(upstream):
            pairs = [
                (result, gradient)
                for result, gradient in zip(self._results, gradients, strict=False)
                if gradient is not None and isinstance(result, Tensor) and result.requires_grad
            ]
            if not pairs or not targets:
                rows.append([None] * len(targets))
                continue
            results, given = zip(*pairs, strict=True)
            keep = probe + 1 < len(upstream)
            rows.append(torch.autograd.grad(results, targets, given, retain_graph=keep, allow_unused=True))
        before: list[Gradients] = []
        for row in rows:
            found = dict(zip(entries, row[len(self._points) :], strict=True))
            before.append([found.get(index) for index in range(len(self._state))])
        return {point: [row[index] for row in rows] for index, point in enumerate(self._points)}, before


def _differentiable(value: Tensor) -> Tensor:
    """Return the same values as a tensor whose derivatives are kept apart from those of ``value``."""
    return value.view_as(value) if value.requires_grad else value.detach().requires_grad_()


def _is_real(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.is_floating_point()
