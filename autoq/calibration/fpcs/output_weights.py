"""Weights of a layer's squared output errors: what they cost the predictions, to second order.

PTQ4ViT (Yuan et al., ECCV 2022, §3.3) compares scales by Σ (∂L/∂O)² (Ô − O)², where O is a layer's output and L the
task's loss, as BRECQ does (Li et al., ICLR 2021): the diagonal of L's Hessian by that of the Fisher information. There
are no labels here. With those that the model itself predicts, the mean of (∂L/∂O)² is the diagonal of Jᵀ F J, with
J = dz/dO for the model's output z and F the Fisher information of the distribution that z stands for
(:mod:`autoq.tasks`). It is the mean of g² for g = Jᵀ F^½ ξ and random signs ξ, as for the ``fisher`` proxy: exactly
for classes of which there are no more than ``PROBES``, else estimated.

PTQ4ViT's code differentiates the divergence of the model from itself, both in full precision, which is zero whatever O:
its gradients are rounding errors, on their way back through J.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from autoq.errors import CalibrationError
from autoq.graph.gradients import Gradients, StageGradients
from autoq.graph.insert import QuantizedModel
from autoq.graph.stages import State
from autoq.tasks import BaseTask

PROBES = 16
"""Random vectors ξ for each image."""
IMAGES_AT_ONCE = 4
"""Most images of a batch: memory holds the gradients of all probes at all sites of a stage for them."""


class OutputWeights:
    """Squared gradients at the outputs of a model's sites, a stage at a time from the last to the first.

    Costs two passes over the images and ``PROBES`` backward ones. Memory holds the states between stages for all
    images, the outputs of one stage and, for a batch, their gradients.
    """

    def __init__(self, model: QuantizedModel, batches: Sequence[Tensor], task: BaseTask, seed: int) -> None:
        """Run the model, in full precision.

        Args:
            model: its slots are empty.
            batches: images of shape (N, C, H, W) on the model's device, ``IMAGES_AT_ONCE`` or fewer each.
            task: says what the model's output means; fitted.
            seed: of the signs.

        Raises:
            TaskError: the model has no such output, or the task is not fitted.
        """
        self._model = model
        self._states: list[list[State]] = []
        self._upstream: list[list[Gradients]] = []
        drawn = task.probes(PROBES, seed)
        # Whatever mode the caller is in: images made in inference mode cannot be differentiated, copies can.
        with torch.inference_mode(False), torch.no_grad():
            for batch in batches:
                states: list[State] = [(batch.clone(),)]
                for index in range(len(model.stages)):
                    states.append(model.run_stage(index, states[-1]))
                self._states.append(states)
                leaves = task.select(states[-1], model.output_names)
                probes = dict(zip(leaves, drawn.draw(task.outputs_of(states[-1], model.output_names)), strict=True))
                self._upstream.append(
                    [
                        [probes[leaf][probe] if leaf in probes else None for leaf in range(len(states[-1]))]
                        for probe in range(PROBES)
                    ]
                )

    def states_before(self, index: int) -> list[State]:
        """Return the state of each batch before a stage."""
        return [states[index] for states in self._states]

    def of_stage(self, index: int, sites: Iterable[str]) -> dict[str, Tensor]:
        """Return g², divided by its mean, in the shape of each site's output on all images; none where all are zero.

        Stages are asked for once each, from the last to the first.

        Args:
            index: of the stage.
            sites: of the stage.

        Raises:
            CalibrationError: derivatives have NaN or infinite values.
        """
        wanted = tuple(sites)
        found: dict[str, list[Tensor | None]] = {site: [] for site in wanted}
        with torch.inference_mode(False), torch.no_grad():
            for batch, state in enumerate(self.states_before(index)):
                points = [(site, None) for site in wanted]
                stage = StageGradients(self._model, index, state, points, has_earlier=index > 0)
                gradients, self._upstream[batch] = stage.differentiate(self._upstream[batch])
                for site in wanted:
                    squares = [each.float().square() for each in gradients[site, None] if each is not None]
                    found[site].append(torch.stack(squares).mean(0) if squares else None)
        weights = {}
        for site, parts in found.items():
            known = [part for part in parts if part is not None]
            mean = torch.cat(known).mean() if len(known) == len(parts) else torch.zeros(())
            if not torch.isfinite(mean):
                raise CalibrationError(
                    f"derivatives at {site!r} have NaN or infinite values in full precision: check the weights"
                )
            if mean > 0:
                weights[site] = torch.cat(known) / mean
        return weights
