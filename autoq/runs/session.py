"""Sessions: a traced model with its reader of images and its banks; all commands but ``sites`` start from one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from autoq.calibration import Bank, CalibrationSettings
from autoq.calibration.transforms.centring.centre import centre_keys
from autoq.calibration.transforms.folded import FoldedTransforms
from autoq.calibration.transforms.reparameterization import ChannelFactors, reparameterize
from autoq.calibration.transforms.rotation.rotate import rotate
from autoq.cost import CostModel
from autoq.errors import RecipeError
from autoq.graph.bases import check_codes
from autoq.graph.insert import QuantizedModel
from autoq.graph.saved_trace import dump_traced, load_traced
from autoq.graph.trace import TracedModel, trace
from autoq.models import IN_MEMORY, LoadedModel, dtype_of, load_model
from autoq.models.device import choose_device
from autoq.recipe import ModelReference, Recipe, SiteConfig
from autoq.runs.images import CalibrationImages, ImageReader, LabelledImages
from autoq.scoring.evaluator import choose_batch_size
from autoq.scoring.outputs import fitted_task
from autoq.tasks import CLASSIFICATION, BaseTask


@dataclass(frozen=True)
class Session:
    """A loaded and traced model.

    Attributes:
        loaded: the model with its transform and labels.
        pretrained: False for random weights.
        traced: its graph.
        model: the graph with a slot on every operand.
        device: where it runs.
        rotated: channel spaces that were rotated, and the seeds of their matrices.
        reparameterized: LayerNorm sites that were rescaled, and the bits for which they were.
        folded: by which factors they were, and the centres that were taken away from attention keys.
        task: what the model's output means.
    """

    loaded: LoadedModel
    pretrained: bool
    traced: TracedModel
    model: QuantizedModel
    device: torch.device
    rotated: Mapping[str, int] = field(default_factory=dict)
    reparameterized: Mapping[str, int] = field(default_factory=dict)
    folded: FoldedTransforms = field(default_factory=FoldedTransforms)
    task: BaseTask = CLASSIFICATION

    @cached_property
    def costs(self) -> CostModel:
        """What recipes of this model cost."""
        return CostModel(self.traced.sites, self.traced.live_sets)

    @classmethod
    def open(cls, name: str, pretrained: bool = True, device: str = "auto", task: BaseTask = CLASSIFICATION) -> Session:
        """Load and trace a model.

        Args:
            name: as in ``--model``.
            pretrained: whether to load weights.
            device: ``auto`` (CUDA if there is one), ``cpu``, ``cuda``, ``cuda:1``.
            task: what the model's output means.

        Raises:
            ModelError: the model or the device does not exist.
            TraceError: the model cannot be traced.
        """
        chosen = choose_device(device)
        loaded = load_model(name, pretrained=pretrained)
        loaded.module.to(chosen)
        return cls._traced(loaded, pretrained, chosen, task)

    @classmethod
    def of(cls, loaded: LoadedModel, device: str = "auto", task: BaseTask = CLASSIFICATION) -> Session:
        """Trace a model that was given as an object; the object itself is left as and where it is.

        Args:
            loaded: the model.
            device: ``auto`` (where the model is), or a device as in :meth:`open`, to which a copy is made.
            task: what the model's output means.

        Raises:
            ModelError: there is no such device.
            TraceError: the model cannot be traced.
        """
        own = next((value.device for value in loaded.module.parameters()), torch.device("cpu"))
        chosen = own if device == "auto" else choose_device(device)
        if chosen != own:
            loaded = replace(loaded, module=copy.deepcopy(loaded.module).to(chosen))
        return cls._traced(loaded, True, chosen, task)

    @classmethod
    def rebuilt(
        cls,
        loaded: LoadedModel,
        content: bytes,
        pretrained: bool = True,
        device: str = "auto",
        task: BaseTask = CLASSIFICATION,
    ) -> Session:
        """Take over the trace of another process that has loaded the same model.

        Args:
            loaded: the model, with the same weights as there; it is moved.
            content: what ``dump_trace`` returned there, with the same versions of PyTorch and autoq.
            pretrained: whether the weights are no random ones.
            device: as in :meth:`open`, of the same type as there.
            task: what the model's output means.

        Raises:
            ModelError: there is no such device.
            TraceError: it is not the trace of this model.
        """
        chosen = choose_device(device)
        loaded.module.to(chosen)
        return cls._with(loaded, pretrained, chosen, task, load_traced(content, loaded.module))

    def dump_trace(self) -> bytes:
        """Write down the trace, for :meth:`rebuilt`; the model is as it was loaded, nothing folded into its weights."""
        return dump_traced(self.traced, self.loaded.module)

    @classmethod
    def _traced(cls, loaded: LoadedModel, pretrained: bool, device: torch.device, task: BaseTask) -> Session:
        example = torch.zeros(2, *loaded.input_size, device=device, dtype=dtype_of(loaded.module))
        return cls._with(loaded, pretrained, device, task, trace(loaded.module, example))

    @classmethod
    def _with(
        cls, loaded: LoadedModel, pretrained: bool, device: torch.device, task: BaseTask, traced: TracedModel
    ) -> Session:
        return cls(loaded, pretrained, traced, QuantizedModel(traced).to(device), device, task=task)

    @cached_property
    def num_classes(self) -> int:
        """Number of the model's outputs: as the model says, else as its task finds it in its output."""
        if self.loaded.num_classes is not None:
            return self.loaded.num_classes
        return self.task.num_classes(self.task.outputs_of(self._blank_leaves(), self.model.output_names))

    def _blank_leaves(self) -> tuple[Tensor, ...]:
        """Return all tensors that the model makes of an image of zeros."""
        example = torch.zeros(1, *self.loaded.input_size, device=self.device, dtype=dtype_of(self.loaded.module))
        with torch.inference_mode():
            return self.model.run(example)

    @property
    def reference(self) -> ModelReference:
        """The model as a recipe records it."""
        loaded = self.loaded
        size = loaded.input_size if loaded.name.startswith(IN_MEMORY) else None
        return ModelReference(
            name=loaded.name, weights_sha256=loaded.weights_sha256, pretrained=self.pretrained, input_size=size
        )

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe that was made for another model.

        Raises:
            RecipeError: the weights differ, the recipe names a site or operand that the model does not have, or two
                operands of a site are quantized in different bases.
        """
        keys = [(site, operand) for site, operands in recipe.sites.items() for operand in operands]
        self.model.check_keys(keys)
        check_codes(self.traced.sites_by_name, recipe.sites)
        if recipe.model.weights_sha256 != self.loaded.weights_sha256:
            raise RecipeError(
                f"the recipe was made for the weights {recipe.model.weights_sha256[:12]} of {recipe.model.name!r}, but "
                f"{self.loaded.name!r} has {self.loaded.weights_sha256[:12]}: search again for this model"
            )

    @property
    def reader(self) -> ImageReader:
        """The reader that makes the model's input of images."""
        return ImageReader(
            self.loaded,
            self.num_classes,
            choose_batch_size(self.traced),
            self.device,
            dtype_of(self.loaded.module),
            self.task,
        )

    def adapted(self) -> Session:
        """Return the session with its task adapted to the model, without any image.

        Raises:
            TaskError: the model has no output such as the task compares.
        """
        leaves, names = self._blank_leaves(), self.model.output_names
        chosen = self.task.select(leaves, names)
        outputs = tuple(leaves[position] for position in chosen)
        return replace(self, task=self.task.adapted(outputs, self.loaded.num_classes, names))

    def fitted(self, images: Callable[[], CalibrationImages]) -> Session:
        """Return the session with its task adapted to the model and fitted to full precision on calibration images.

        Args:
            images: gives the calibration images; not called if the task has to know nothing, or knows it already.

        Raises:
            TaskError: the model has no output such as the task compares, or the task cannot be fitted to it.
        """

        def batches() -> Iterator[Tensor]:
            yield from torch.split(images().tensor, choose_batch_size(self.traced))

        adapted = self.adapted()
        return replace(adapted, task=fitted_task(adapted.task, self.model, batches()))

    def calibration_images(self, data: object, count: int, seed: int, spare: int = 0) -> CalibrationImages:
        """Load a seeded subset of unlabelled images; see ``ImageReader.calibration_images``."""
        return self.reader.calibration_images(data, count, seed, spare)

    def labelled_images(self, data: object, required: bool = True) -> LabelledImages | None:
        """Load labelled images; see ``ImageReader.labelled_images``."""
        return self.reader.labelled_images(data, required)

    def rotated_by(self, rotated: Mapping[str, int]) -> Session:
        """Return the model with channel spaces rotated by the matrices of known seeds, before it is rescaled.

        Raises:
            CalibrationError: the model has no such space, or it cannot be rotated.
        """
        if not rotated:
            return self
        traced = rotate(self.traced, rotated)
        return replace(self, traced=traced, model=QuantizedModel(traced).to(self.device), rotated=dict(rotated))

    def centred_by(self, centres: Mapping[str, Tensor]) -> Session:
        """Return the model with attention keys centred by known vectors, before it is rescaled.

        Raises:
            CalibrationError: there are no such keys, or the centres do not fit.
        """
        if not centres:
            return self
        traced = centre_keys(self.traced, centres)
        folded = replace(self.folded, centres=dict(centres))
        return replace(self, traced=traced, model=QuantizedModel(traced).to(self.device), folded=folded)

    def rescaled_by(self, norms: Mapping[str, int], factors: Mapping[str, ChannelFactors]) -> Session:
        """Return the model with LayerNorms reparameterized by known factors (RepQ-ViT); full precision is unchanged.

        Raises:
            CalibrationError: a LayerNorm feeds something else than linear layers, or its factors do not fit.
        """
        if not norms:
            return self
        traced = reparameterize(self.traced, factors)
        model = QuantizedModel(traced).to(self.device)
        folded = replace(self.folded, factors=dict(factors))
        return replace(self, traced=traced, model=model, reparameterized=dict(norms), folded=folded)

    def bank(
        self,
        images: Callable[[], CalibrationImages],
        images_sha256: str,
        settings: CalibrationSettings,
        progress: Callable[[int], None] | None = None,
        recipe_sites: Mapping[str, SiteConfig] | None = None,
    ) -> Bank:
        """Make an empty bank for these images.

        Args:
            images: gives the calibration images; called when the first activation has to be solved.
            images_sha256: of those images; part of the bank's identity.
            settings: how parameters are chosen.
            progress: called with the number of images of each batch that is observed.
            recipe_sites: the recipe that is solved, where what ``settings`` choose for an operand depends on others.
        """
        description = {"weights_sha256": self.loaded.weights_sha256, "images_sha256": images_sha256}
        changes = {
            "rotated": dict(self.rotated),
            "centred": list(self.folded.centres),
            "reparameterized": dict(self.reparameterized),
        }
        return Bank(
            self.model,
            lambda: images().tensor,
            settings,
            description | {key: value for key, value in changes.items() if value},
            batch_size=choose_batch_size(self.traced),
            folded=self.folded,
            recipe_sites=recipe_sites,
            task=self.task,
            capture_progress=progress,
        )
