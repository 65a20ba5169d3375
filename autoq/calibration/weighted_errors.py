"""What each option of each operand costs, by the error of its site's own output: the ``aph`` proxy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from autoq.calibration.bank import Bank
from autoq.calibration.bank_files import SolvedKey
from autoq.calibration.perturbation_hessian import hessian_loss
from autoq.errors import CalibrationError
from autoq.graph.stages import State


def aph_losses(
    bank: Bank,
    batches: Iterable[Tensor],
    hessians: Mapping[str, Tensor],
    options: Iterable[SolvedKey],
    progress: Callable[[int], None] | None = None,
) -> dict[SolvedKey, float]:
    """½ Σ (Ô − O)² H for every option, O its site's output, with all other operands in full precision.

    One full-precision pass over the images, in which each site repeats its own operation for each option; nothing is
    kept. LayerNorm and softmax sites are no exception: there, Ô is what the floating-point operation makes of the
    quantized input.

    Args:
        bank: gives the quantizers; its model's slots are emptied.
        batches: images of shape (N, C, H, W) on the model's device.
        hessians: by site, ``average_perturbation_hessian`` of every site in ``options``.
        options: site, operand and configuration; solved where the bank does not have them yet.
        progress: called with the number of images of each finished batch.

    Returns:
        The mean over images for each option, an estimate of its KL divergence in nats; infinite where an output is not
        finite.

    Raises:
        RecipeError: the model has no such site or operand.
        CalibrationError: there are no images, a site has no Hessian, or an option does not fit its operand.
    """
    model = bank.model
    losses: dict[SolvedKey, float] = dict.fromkeys(options, 0.0)
    model.check_keys(key[:2] for key in losses)
    by_site: dict[str, list[SolvedKey]] = {}
    for key in losses:
        by_site.setdefault(key[0], []).append(key)
    for site in by_site:
        if site not in hessians:
            raise CalibrationError(f"no Hessian was computed for site {site!r}")
    bank.solve_all(losses)
    model.remove_()
    last = max((index for index, stage in enumerate(model.stages) if by_site.keys() & set(stage.sites)), default=-1)
    images = 0
    with torch.no_grad():
        for batch in batches:
            state: State = (batch,)
            for index in range(last + 1):
                stage = model.stages[index]
                chosen = {node: by_site[site] for node, site in stage.site_nodes.items() if site in by_site}
                if not chosen:
                    state = model.run_stage(index, state)
                    continue
                run = _Repeating(bank, stage.graph_module, chosen, hessians)
                result = run.run(*state)
                state = tuple(result) if isinstance(result, tuple | list) else (result,)
                for key, loss in run.losses.items():
                    losses[key] += loss * len(batch)
            images += len(batch)
            if progress is not None:
                progress(len(batch))
    if not images:
        raise CalibrationError("there are no calibration images")
    return {key: total / images if math.isfinite(total) else math.inf for key, total in losses.items()}


class _Repeating(fx.Interpreter):
    """Runs a stage; at some nodes, runs the node again for each option of its operands and weighs the error.

    Attributes:
        losses: of the options so far, the mean over the batch.
    """

    def __init__(
        self,
        bank: Bank,
        graph_module: fx.GraphModule,
        options: Mapping[str, Sequence[SolvedKey]],
        hessians: Mapping[str, Tensor],
    ) -> None:
        super().__init__(graph_module)
        self.losses: dict[SolvedKey, float] = {}
        self._bank = bank
        self._options = options
        self._hessians = hessians

    def run_node(self, n: fx.Node) -> Any:
        if n.name not in self._options:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        operation = getattr(self, n.op)  # call_function, or call_module for LayerNorms and softmaxes
        reference = operation(n.target, args, kwargs)
        for key in self._options[n.name]:
            edge = self._bank.model.traced.edges[key[:2]]
            replaced = list(args)
            if edge.item is None:
                replaced[edge.index] = self._bank.module(*key)(args[edge.index])
            else:
                replaced[edge.index] = list(args[edge.index])
                replaced[edge.index][edge.item] = self._bank.module(*key)(args[edge.index][edge.item])
            output = operation(n.target, tuple(replaced), kwargs)
            self.losses[key] = float(hessian_loss(output, reference, self._hessians[key[0]]))
        return reference
