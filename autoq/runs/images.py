"""Make a model's input of images that are named or given as objects, with and without labels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from autoq.data import GivenImages, ImageSource, fingerprint, load_images, name_of, open_source, subset
from autoq.errors import DataError
from autoq.models import LoadedModel
from autoq.python_names import call_python_name, is_python_name
from autoq.recipe import LabelsBy
from autoq.runs.label_maps import MatchedMaps, match_maps
from autoq.runs.labels import match_labels
from autoq.runs.objects import MatchedObjects, match_objects
from autoq.tasks import CLASSIFICATION, BaseTask, Labels

_logger = logging.getLogger(__name__)
_IMAGES_AT_ONCE = 256
"""Labelled images decoded before they are evaluated; bounds memory however many there are."""
_LEAST_HELD_OUT = 32


@dataclass(frozen=True)
class CalibrationImages:
    """Unlabelled images, to calibrate or to score on.

    Attributes:
        data: the name of the data that they come from.
        seed: that chose them.
        tensor: of shape (N, *input_size), on the model's device.
    """

    data: str
    seed: int
    tensor: Tensor

    @cached_property
    def sha256(self) -> str:
        """Hash of the images as the model receives them."""
        return fingerprint(self.tensor)

    def held_out(self, count: int) -> tuple[CalibrationImages, CalibrationImages]:
        """Split into the first ``count``, to calibrate on, and those that are left, to score on.

        Where fewer than ``least_held_out(count)`` are left, the first ``count`` serve for both.
        """
        calibrating, left = (replace(self, tensor=part) for part in (self.tensor[:count], self.tensor[count:]))
        return calibrating, left if len(left.tensor) >= least_held_out(count) else calibrating

    def without(self, others: CalibrationImages, count: int) -> CalibrationImages:
        """Return the first ``count`` images that are not among ``others``, whatever seeds chose either."""
        known = {fingerprint(image) for image in others.tensor}
        kept = [index for index, image in enumerate(self.tensor) if fingerprint(image) not in known]
        return replace(self, tensor=self.tensor[kept[:count]])


def to_learn_from(
    load: Callable[[int, int], CalibrationImages], count: int, scoring: CalibrationImages | None
) -> CalibrationImages:
    """Load images to learn from, without those that score where these are held out.

    Args:
        load: takes how many images are wanted, and how many more there may be; loads as many as there are.
        count: how many to learn from, at most.
        scoring: images that are held out to score on; None: those that calibrate score too.
    """
    return load(count, 0) if scoring is None else load(count, len(scoring.tensor)).without(scoring, count)


def least_held_out(calibrating: int) -> int:
    """Return how many images tell the discrepancy of a recipe well enough: a quarter of the calibration's, at least 32.

    >>> least_held_out(128), least_held_out(1024)
    (32, 256)
    """
    return max(_LEAST_HELD_OUT, calibrating // 4)


def most_held_out(calibrating: int) -> int:
    """Return how many images are scored on where there are enough: as many as calibrate, at least 32."""
    return max(_LEAST_HELD_OUT, calibrating)


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images to measure accuracy on, decoded as they are needed.

    Attributes:
        data: the name of the data that they come from.
        count: how many there are.
        labels_by: how labels were matched with the model's outputs.
        batches: makes an iterator over (images, labels): images of shape (N, *input_size) on the model's device, class
            indices of shape (N,) there, too, or what else the model's task takes for labels.
    """

    data: str
    count: int
    labels_by: LabelsBy
    batches: Callable[[], Iterator[tuple[Tensor, Labels]]]


@dataclass(frozen=True)
class ImageReader:
    """Makes a model's input of images.

    Attributes:
        loaded: the model.
        num_classes: number of its outputs.
        batch_size: images in a batch.
        device: of the batches.
        dtype: of the batches.
        task: of the model; says what labels are.
    """

    loaded: LoadedModel
    num_classes: int
    batch_size: int
    device: torch.device
    dtype: torch.dtype
    task: BaseTask = CLASSIFICATION

    def calibration_images(self, data: object, count: int, seed: int, spare: int = 0) -> CalibrationImages:
        """Load a seeded subset of images; labels are not read.

        Args:
            data: a name as in ``--data``, or an object as in ``GivenImages``.
            count: how many; all of them, with a warning, if there are no more.
            seed: chooses them.
            spare: how many more, which follow in the seeded order, if there are so many.

        Raises:
            DataError: there are no such images, one cannot be read, or they are not of the model's input size.
        """
        if (given := self._given(data)) is not None:
            name, images = name_of(data), given.sample(count, seed, spare)
        else:
            name = str(data)
            source = open_source(name, "calibration")
            images = load_images(source, subset(source, count + spare, seed), self._transform(name))
        if len(images) < count:
            level = logging.WARNING if isinstance(data, str) else logging.INFO  # who gives a tensor knows its length
            message = "%s has %d images, fewer than the %d asked for: using all"
            _logger.log(level, message, name, len(images), count)
        return CalibrationImages(name, seed, self._input(images))

    def labelled_images(self, data: object, required: bool = True) -> LabelledImages | None:
        """Load labelled images; return None if they have no labels and ``required`` is False.

        Args:
            data: a name as in ``--eval-data``, or an object as in ``GivenImages`` whose labels are the model's outputs.
            required: whether to refuse images without labels.

        Raises:
            DataError: there are no such images, or (if required) their labels are not the model's.
        """
        if (given := self._given(data)) is not None:
            return self._given_labels(name_of(data), given, required)
        name = str(data)
        if self.task.labels in ("objects", "masks", "map"):
            return self._matched(name, required)
        if self.task.labels != "class":
            if required:
                raise DataError(
                    f"labels of images in {name!r} are classes, but those of the task {self.task.name!r} are tensors: "
                    "give (images, labels) by python:package.module:function, or from Python"
                )
            return None
        source = open_source(name, "evaluation")
        if source.class_names is None and not required:
            return None
        try:
            labels = match_labels(source, self.loaded, self.num_classes)
        except DataError as error:
            if required:
                raise
            _logger.warning("accuracy is not measured: %s", error)
            return None

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            everything = torch.tensor(labels.outputs, device=self.device)
            start = 0
            for images in self._stream(source, labels.indices):
                yield images, everything[start : start + len(images)]
                start += len(images)

        return LabelledImages(name, len(labels.indices), labels.by, batches)

    def _matched(self, name: str, required: bool) -> LabelledImages | None:
        """Load images with what is labelled on them, objects or pixels, as the model's outputs."""
        matched: MatchedObjects | MatchedMaps | None
        if self.task.labels == "map":
            matched = match_maps(name, self.loaded, self.num_classes, required)
        else:
            matched = match_objects(name, self.loaded, self.num_classes, required, self.task.labels == "masks")
        if matched is None:
            return None
        source, between = matched.source, matched.between

        def batches() -> Iterator[tuple[Tensor, Labels]]:
            start = 0
            for images in self._stream(source, range(len(source))):
                yield images, between(start, start + len(images))
                start += len(images)

        return LabelledImages(name, len(source), matched.by, batches)

    def batches(self, data: object, labelled: LabelledImages | None) -> Iterator[tuple[Tensor, Labels | None]]:
        """Load all images of ``data`` in batches, with their labels where there are any.

        Args:
            data: by name or as an object.
            labelled: what :meth:`labelled_images` has made of them.

        Raises:
            DataError: there are no such images, or one cannot be read.
        """
        if labelled is not None:
            return iter(labelled.batches())
        return ((images, None) for images in self.unlabelled_batches(data))

    def unlabelled_batches(self, data: object) -> Iterator[Tensor]:
        """Return an iterator over all images of ``data`` in batches of shape (N, *input_size).

        Raises:
            DataError: there are no such images, or one cannot be read.
        """
        if (given := self._given(data)) is not None:
            return (self._input(images) for images, _ in given.batches(self.batch_size))
        source = open_source(str(data), "evaluation")
        return self._stream(source, range(len(source)))

    def _given_labels(self, name: str, given: GivenImages, required: bool) -> LabelledImages | None:
        if self.task.labels in ("objects", "masks"):
            if required:
                raise DataError("images given as objects have no boxes: give coco:FILE.json, or shapes, by name")
            return None
        if not given.can_be_read_again():
            given = GivenImages(list(given.batches(self.batch_size)))
        _, first = next(iter(given.batches(self.batch_size)))
        if first is None:
            if required:
                raise DataError("the images have no labels: give (images, labels), or batches of them")
            return None
        self._check_classes(first)  # the others when they are read: they may take long to decode

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for images, labels in given.batches(self.batch_size):
                if labels is None:
                    raise DataError("some images have no labels: give one for each")
                self._check_classes(labels)
                yield self._input(images), labels.to(self.device)

        return LabelledImages(name, given.count(), "index", batches)

    def _check_classes(self, labels: Tensor) -> None:
        if self.task.labels != "class" or labels.is_floating_point():
            return
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or most >= self.num_classes:
            raise DataError(
                f"labels run from {least} to {most}, but the model has {self.num_classes} outputs: give indices of "
                "outputs, from 0"
            )

    def _given(self, data: object) -> GivenImages | None:
        """Return the images of an object or of a function's name; None for other names."""
        if isinstance(data, str):
            if not is_python_name(data):
                return None
            data = call_python_name(data, DataError)
        given = data if isinstance(data, GivenImages) else GivenImages(data)
        return replace(given, transform=given.transform or self.loaded.transform)

    def _stream(self, source: ImageSource, indices: Sequence[int]) -> Iterator[Tensor]:
        transform = self._transform(source.name)
        for start in range(0, len(indices), _IMAGES_AT_ONCE):
            images = load_images(source, indices[start : start + _IMAGES_AT_ONCE], transform)
            yield from torch.split(self._input(images), self.batch_size)

    def _transform(self, data: str) -> Callable[[Image.Image], Tensor]:
        if self.loaded.transform is None:
            raise DataError(
                f"nobody knows how images of {data!r} become the input of {self.loaded.name!r}: give preprocess, a "
                "function from an image to a tensor"
            )
        return self.loaded.transform

    def _input(self, images: Tensor) -> Tensor:
        """Convert images of the model's input size to its input."""
        found, wanted = tuple(images.shape[1:]), self.loaded.input_size
        if found != wanted:
            raise DataError(f"images have shape {found}, but {self.loaded.name!r} takes {wanted}: resize them")
        return images.to(self.device, self.dtype)
