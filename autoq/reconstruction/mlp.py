"""MLP reconstruction: ReLU in place of GELU, compensated by training on unlabelled images.

Wu et al., "APHQ-ViT: Post-Training Quantization with Average Perturbation Hessian Based Reconstruction for Vision
Transformers", CVPR 2025, section 3.3. A ReLU's output has no negative tail and, through the clamp in the loss, fewer
outliers, so that it can be quantized uniformly. It works on the traced graph, whatever the architecture.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor, nn

from autoq.files import sha256_hex
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import TracedModel
from autoq.identity import fingerprint_of, tensor_chunks
from autoq.reconstruction.losses import normalized
from autoq.reconstruction.mlp_graph import Mlp, check_mlps, find_mlps, own_parameters, with_relu
from autoq.reconstruction.mlp_training import (
    MlpSettings,
    MlpSpan,
    measure_error,
    span_of,
    train_mlp_,
)
from autoq.reconstruction.states import Entry, StateStore, find_layouts
from autoq.reconstruction.tensor_folder import Kept, TensorFolder
from autoq.sensitivity.perturbation_hessian import stage_hessians
from autoq.tasks import CLASSIFICATION, BaseTask, task_to_record

_VERSION = 1
"""Changes when the same settings give other parameters than before."""


@dataclass(frozen=True)
class MlpProgress:
    """Progress of the training of MLPs.

    Attributes:
        name: of the MLP.
        index: of the MLP, from 0.
        total: number of MLPs.
        iteration: finished iterations of this MLP.
        iterations: that it is trained for.
        loss: of the last one.
    """

    name: str
    index: int
    total: int
    iteration: int
    iterations: int
    loss: float


@dataclass(frozen=True)
class MlpErrors:
    """Errors of an MLP with ReLU: ½ Σ (Ô − O)² H of its stages' output, H of mean one; the mean over all images.

    Attributes:
        before: with the original parameters.
        after: with the trained ones.
    """

    before: float
    after: float


@dataclass(frozen=True)
class ReconstructedMlps:
    """A model with ReLU in its MLPs.

    Attributes:
        traced: the model; what was not trained is shared with the original.
        parameters: the trained ones, by the names they have in the model.
        errors: by MLP.
    """

    traced: TracedModel
    parameters: dict[str, Tensor]
    errors: dict[str, MlpErrors]


def reconstruct_mlps(
    traced: TracedModel,
    images: Tensor,
    settings: MlpSettings | None = None,
    folder: Path | None = None,
    states_folder: Path | None = None,
    progress: Callable[[MlpProgress], None] | None = None,
    hessian_progress: Callable[[int], None] | None = None,
    *,
    task: BaseTask = CLASSIFICATION,
) -> ReconstructedMlps:
    """Replace GELU by ReLU in every MLP and train its layers and their LayerNorm, one MLP after the other.

    An MLP's errors are weighed at the end of the stage that holds fc2: in a residual network, where its branch has been
    added. At most three states of all images are held at a time.

    Args:
        traced: left as it is.
        images: of shape (N, C, H, W), on the model's device; at least one.
        settings: None: the defaults.
        folder: where each MLP's parameters are kept (``00-blocks.0.mlp.safetensors``), so that an interrupted run goes
            on after the last finished MLP, with the result that it would have had; made if need be. None: nowhere.
        states_folder: an existing folder for temporary files with the states of all images; None: in memory.
        progress: called every few iterations.
        hessian_progress: called with the number of images of each few whose importance is known.
        task: says what the model's output means; fitted.

    Raises:
        ModelError: the model has no MLP with GELU.
        CalibrationError: there is no image, training diverged, or the states of this model cannot be told apart by
            image.
        RunDirectoryError: ``folder`` has the files of another model, of other images or settings.
        OSError: a file cannot be written.
    """
    settings = MlpSettings() if settings is None else settings
    mlps = find_mlps(traced)
    check_mlps(mlps)
    with torch.inference_mode(False), torch.no_grad():
        original = QuantizedModel(traced).to(images.device)
        spans = [span_of(original, mlp) for mlp in mlps]
        kept = TensorFolder(folder, _fingerprint(traced, images, settings, mlps, task))
        hessians = _hessians(original, images, spans, settings, kept, hessian_progress, task)
        trainer = _MlpTrainer(original, mlps, spans, hessians, images, settings, states_folder, progress)
        parameters: dict[str, Tensor] = {}
        errors: dict[str, MlpErrors] = {}
        for index, mlp in enumerate(mlps):
            name = f"{index:02d}-{mlp.name}"
            found = kept.load(name)
            if found is None:
                found = trainer.train(index, parameters)
                kept.save(name, found)
            parameters |= {key: value.detach().to(images.device) for key, value in found.tensors.items()}
            errors[mlp.name] = MlpErrors(found.numbers["before"], found.numbers["after"])
        return ReconstructedMlps(with_relu(traced, mlps, parameters), parameters, errors)


class _MlpTrainer:
    """Trains one MLP after the other; holds the states of all images before and after the current MLP."""

    def __init__(
        self,
        original: QuantizedModel,
        mlps: Sequence[Mlp],
        spans: Sequence[MlpSpan],
        hessians: Mapping[int, Mapping[int, Tensor]],
        images: Tensor,
        settings: MlpSettings,
        states_folder: Path | None,
        progress: Callable[[MlpProgress], None] | None,
    ) -> None:
        self._original, self._mlps, self._spans, self._hessians = original, mlps, spans, hessians
        self._device, self._settings, self._progress = images.device, settings, progress
        layouts = find_layouts(original, images[:1])
        self._inputs = _States(layouts, images, states_folder, settings.batch_size)
        self._targets = _States(layouts, images, states_folder, settings.batch_size)

    def train(self, index: int, parameters: Mapping[str, Tensor]) -> Kept:
        """Train MLP ``index``, all before it having ReLU and ``parameters``; return its parameters and errors."""
        mlp, span, settings = self._mlps[index], self._spans[index], self._settings
        changed = with_relu(self._original.traced, self._mlps[: index + 1], parameters)
        model = QuantizedModel(changed).to(self._device)
        self._inputs.advance_(self._original if settings.inputs == "original" else model, span.first)
        self._targets.advance_(self._original, span.last + 1)
        trained = _trained_parameters(changed, mlp, settings)
        weights = normalized(self._hessians[span.last])
        sides = (self._inputs.store, self._targets.store)
        before = measure_error(model, span, *sides, weights, settings.batch_size)
        seed = zlib.crc32(f"{settings.seed} {mlp.name}".encode())
        train_mlp_(model, mlp, list(trained.values()), *sides, weights, settings, seed, self._progress_of(index))
        after = measure_error(model, span, *sides, weights, settings.batch_size)
        return Kept(dict(trained), {"before": before, "after": after})

    def _progress_of(self, index: int) -> Callable[[int, float], None]:
        """Make the callback that reports iterations of MLP ``index``."""

        def report(iteration: int, loss: float) -> None:
            if self._progress is not None:
                name, total = self._mlps[index].name, len(self._mlps)
                self._progress(MlpProgress(name, index, total, iteration, self._settings.iterations, loss))

        return report


class _States:
    """The states of all images at a cut that moves through the model."""

    def __init__(self, layouts: Sequence[tuple[Entry, ...]], images: Tensor, folder: Path | None, size: int) -> None:
        self._layouts, self._images, self._folder, self._size = layouts, images, folder, size
        self.store: StateStore
        self._stage: int
        self._restart_()

    def advance_(self, model: QuantizedModel, stage: int) -> None:
        """Run the model up to a stage; from the first stage if the cut is behind it, as it is for MLPs that overlap."""
        if stage < self._stage:
            self._restart_()
        if stage == self._stage:
            return
        ahead = StateStore(self._layouts[stage], self.store.images, self._folder)
        for start in range(0, self.store.images, self._size):
            chosen = slice(start, min(start + self._size, self.store.images))
            state = self.store.get(chosen, self._images.device)
            ahead.put_(start, model.run_stages(range(self._stage, stage), state))
        self.store, self._stage = ahead, stage

    def _restart_(self) -> None:
        self.store, self._stage = StateStore.of_images(self._layouts[0], self._images), 0


def _hessians(
    model: QuantizedModel,
    images: Tensor,
    spans: Sequence[MlpSpan],
    settings: MlpSettings,
    kept: TensorFolder,
    progress: Callable[[int], None] | None,
    task: BaseTask,
) -> dict[int, dict[int, Tensor]]:
    """Return H by stage (where an MLP's span ends) and by entry of its state; entries without H are left out."""
    stages = list(dict.fromkeys(span.last for span in spans))
    found = kept.load("hessians")
    if found is None:
        batches = torch.split(images, settings.batch_size)
        states = stage_hessians(model, batches, stages, settings.perturbation, progress, task=task)
        found = Kept({f"{s}.{leaf}": h for s in stages for leaf, h in enumerate(states[s]) if h is not None})
        kept.save("hessians", found)
    result: dict[int, dict[int, Tensor]] = {stage: {} for stage in stages}
    for key, value in found.tensors.items():
        stage, leaf = map(int, key.split("."))
        result[stage][leaf] = value.to(images.device)
    return result


def _trained_parameters(traced: TracedModel, mlp: Mlp, settings: MlpSettings) -> dict[str, nn.Parameter]:
    kept = () if settings.train_norm or mlp.norm is None else own_parameters(traced, mlp.norm)
    names = [name for name in mlp.parameters if name not in kept]
    return {name: attrgetter(name)(traced.graph_module) for name in names}


def _fingerprint(
    traced: TracedModel, images: Tensor, settings: MlpSettings, mlps: Sequence[Mlp], task: BaseTask
) -> str:
    graph_module = traced.graph_module
    names = sorted({str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"})
    tensors = {name: attrgetter(name)(graph_module) for name in names}
    description: Mapping[str, object] = {
        "version": _VERSION,
        "settings": asdict(settings),
        "mlps": [asdict(mlp) for mlp in mlps],
        "weights_sha256": sha256_hex(tensor_chunks(tensors.items())),
        "images_sha256": sha256_hex(tensor_chunks([("images", images)])),
    }
    record = task_to_record(task)
    return fingerprint_of(description if record is None else {**description, "task": record})
