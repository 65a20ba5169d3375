"""A model traced and ready, its calibration images, its bank: what every command but ``sites`` starts from."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from autoq.calibration import Bank, CalibrationSettings
from autoq.calibration.bank.files import read_bank
from autoq.calibration.transforms.reparameterization import ChannelFactors, observe_factors, reparameterize
from autoq.data import ImageSource, class_indices, fingerprint, load_images, open_source, subset
from autoq.errors import DataError, ModelError, RecipeError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import TracedModel, trace
from autoq.models import LoadedModel, load_model
from autoq.recipe import CalibrationReference, ModelReference, Recipe, SiteConfig
from autoq.scoring.evaluator import choose_batch_size

_logger = logging.getLogger(__name__)
_IMAGES_AT_ONCE = 256
"""Labelled images decoded before they are evaluated; bounds memory however many there are."""


@dataclass(frozen=True)
class CalibrationImages:
    """The images that calibrate and score.

    Attributes:
        data: the ``--data`` that was given.
        seed: that chose them.
        tensor: of shape (N, C, H, W), on the model's device.
    """

    data: str
    seed: int
    tensor: Tensor

    @cached_property
    def sha256(self) -> str:
        """Of the pixels as the model sees them."""
        return fingerprint(self.tensor)


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images to measure accuracy on, decoded as they are needed.

    Attributes:
        data: the ``--eval-data`` that was given.
        count: how many there are.
        batches: makes an iterator over (images, class indices), on the model's device.
    """

    data: str
    count: int
    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Session:
    """A loaded and traced model.

    Attributes:
        loaded: the model with its transform and labels.
        pretrained: False for random weights.
        traced: its graph.
        model: the graph with a slot on every operand.
        device: where it runs.
        reparameterized: LayerNorm sites that were rescaled, and the bits for which they were.
        factors: by which they were.
    """

    loaded: LoadedModel
    pretrained: bool
    traced: TracedModel
    model: QuantizedModel
    device: torch.device
    reparameterized: Mapping[str, int] = field(default_factory=dict)
    factors: Mapping[str, ChannelFactors] = field(default_factory=dict)

    @classmethod
    def open(cls, name: str, pretrained: bool = True, device: str = "auto") -> Session:
        """Load and trace a model.

        Args:
            name: as in ``--model``.
            pretrained: whether to load weights.
            device: ``auto`` (CUDA if there is one), ``cpu``, ``cuda``, ``cuda:1``.

        Raises:
            ModelError: the model or the device does not exist.
            TraceError: the model cannot be traced.
        """
        chosen = _device(device)
        loaded = load_model(name, pretrained=pretrained)
        loaded.module.to(chosen)
        example = torch.zeros(2, *loaded.input_size, device=chosen)
        traced = trace(loaded.module, example)
        return cls(loaded, pretrained, traced, QuantizedModel(traced).to(chosen), chosen)

    @property
    def reference(self) -> ModelReference:
        """How a recipe names this model."""
        sha256 = self.loaded.weights_sha256
        return ModelReference(name=self.loaded.name, weights_sha256=sha256, pretrained=self.pretrained)

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe that was made for another model.

        Raises:
            RecipeError: the weights differ, or the recipe names a site or operand that the model does not have.
        """
        keys = [(site, operand) for site, operands in recipe.sites.items() for operand in operands]
        self.model.check_keys(keys)
        if recipe.model.weights_sha256 != self.loaded.weights_sha256:
            raise RecipeError(
                f"the recipe was made for the weights {recipe.model.weights_sha256[:12]} of {recipe.model.name!r}, but "
                f"{self.loaded.name!r} has {self.loaded.weights_sha256[:12]}: search again for this model"
            )

    def calibration_images(self, data: str, count: int, seed: int) -> CalibrationImages:
        """Load a seeded subset of unlabelled images.

        Raises:
            DataError: there are no such images, or one cannot be read.
        """
        source = open_source(data, "calibration")
        chosen = subset(source, count, seed)
        if len(chosen) < count:
            _logger.warning("%s has %d images, fewer than the %d asked for: using all", data, len(chosen), count)
        images = load_images(source, chosen, self.loaded.transform)
        return CalibrationImages(data, seed, images.to(self.device))

    def labelled_images(self, data: str, required: bool = True) -> LabelledImages | None:
        """Labelled images, or None if they have no labels and ``required`` is False.

        Raises:
            DataError: there are no such images, or (if required) their labels are not the model's.
        """
        source = open_source(data, "evaluation")
        if source.class_names is None:
            if required:
                raise DataError(f"images in {data!r} have no labels: put each class into a folder named after it")
            return None
        try:
            class_of = class_indices(source.class_names, self.loaded.label_names, self.loaded.num_classes)
        except DataError as error:
            if required:
                raise
            _logger.warning("accuracy is not measured: %s", error)
            return None
        labels = ((index, source.label(index)) for index in range(len(source)))
        known = [(index, class_of[label]) for index, label in labels if label is not None]
        indices, classes = [index for index, _ in known], [label for _, label in known]

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            everything = torch.tensor(classes, device=self.device)
            start = 0
            for images in self._stream(source, indices):
                yield images, everything[start : start + len(images)]
                start += len(images)

        return LabelledImages(data, len(known), batches)

    def unlabelled_batches(self, data: str) -> Iterator[Tensor]:
        """All images of ``data``, of shape (N, C, H, W) each time.

        Raises:
            DataError: there are no such images, or one cannot be read.
        """
        source = open_source(data, "evaluation")
        return self._stream(source, range(len(source)))

    def _stream(self, source: ImageSource, indices: Sequence[int]) -> Iterator[Tensor]:
        size = choose_batch_size(self.traced)
        for start in range(0, len(indices), _IMAGES_AT_ONCE):
            images = load_images(source, indices[start : start + _IMAGES_AT_ONCE], self.loaded.transform)
            yield from torch.split(images.to(self.device), size)

    def rescaled(
        self,
        norms: Mapping[str, int],
        images: Callable[[], CalibrationImages],
        bank: str | os.PathLike[str] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Session:
        """The same model with reparameterized LayerNorms (RepQ-ViT); full precision stays as it is, up to rounding.

        Args:
            norms: LayerNorm sites, and the bits of the quantizers that they feed.
            images: gives the calibration images; one full-precision pass over them finds the factors,
            bank: unless the bank in this directory has them.
            progress: called with the number of images of each batch that is observed.

        Raises:
            CalibrationError: a LayerNorm feeds something else than linear layers.
        """
        if not norms:
            return self
        content = None if bank is None else read_bank(bank)
        if content is not None and content.factors.keys() == norms.keys():
            factors = content.factors
        else:
            batches = torch.split(images().tensor, choose_batch_size(self.traced))
            factors = observe_factors(self.model, batches, norms, progress)
        return self.rescaled_by(norms, factors)

    def rescaled_by(self, norms: Mapping[str, int], factors: Mapping[str, ChannelFactors]) -> Session:
        """As :meth:`rescaled`, by factors that are known.

        Raises:
            CalibrationError: a LayerNorm feeds something else than linear layers, or its factors do not fit.
        """
        if not norms:
            return self
        traced = reparameterize(self.traced, factors)
        model = QuantizedModel(traced).to(self.device)
        return replace(self, traced=traced, model=model, reparameterized=dict(norms), factors=dict(factors))

    def bank(
        self,
        images: Callable[[], CalibrationImages],
        images_sha256: str,
        settings: CalibrationSettings,
        progress: Callable[[int], None] | None = None,
        recipe_sites: Mapping[str, SiteConfig] | None = None,
    ) -> Bank:
        """An empty bank for these images.

        Args:
            images: gives the calibration images; called when the first activation has to be solved.
            images_sha256: of those images; part of the bank's identity.
            settings: how parameters are chosen.
            progress: called with the number of images of each batch that is observed.
            recipe_sites: the recipe that is solved, where ``settings.observer`` solves sites and not operands.
        """
        description = {"weights_sha256": self.loaded.weights_sha256, "images_sha256": images_sha256}
        return Bank(
            self.model,
            lambda: images().tensor,
            settings,
            description | ({"reparameterized": dict(self.reparameterized)} if self.reparameterized else {}),
            batch_size=choose_batch_size(self.traced),
            factors=self.factors,
            recipe_sites=recipe_sites,
            capture_progress=progress,
        )

    def calibration_reference(self, images: CalibrationImages, bank: Bank) -> CalibrationReference:
        """How a recipe names its calibration."""
        return CalibrationReference(
            data=images.data,
            images=len(images.tensor),
            seed=images.seed,
            observer=bank.settings.observer,
            bank_fingerprint=bank.fingerprint,
            settings=bank.settings.to_json(),
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"cannot use device {name!r}: use auto, cpu or a CUDA device of this machine") from error
    return device
