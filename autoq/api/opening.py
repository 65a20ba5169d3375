"""Open a model given by name or as an object: load, trace, and find the preprocessing of its input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from autoq.data import GivenImages
from autoq.errors import ArgumentTypeError
from autoq.events import Progress, ignore
from autoq.models import LoadedModel, describe_module, load_model
from autoq.models.loaded import Preprocess, make_transform
from autoq.recipe import Recipe
from autoq.runs.session import Session
from autoq.tasks import CLASSIFICATION, BaseTask

ModelInput = str | nn.Module
"""A name as the command line takes it, or a module in evaluation mode."""


@dataclass(frozen=True)
class ModelOptions:
    """How a model is fed and where it runs.

    Attributes:
        preprocess: from a PIL image to a tensor (C, H, W), or an image processor of transformers; None: what the model
            itself says. Not needed where images are tensors.
        example_input: an example of the input, of shape (N, ...), where images do not tell.
        label_names: names of the model's outputs; None: what the model itself says.
        pretrained: False for random weights, of a model that is named.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``; a module stays where it is, and is copied if it must move.
    """

    preprocess: Preprocess | None = None
    example_input: Tensor | None = None
    label_names: Sequence[str] | None = None
    pretrained: bool = True
    device: str = "auto"

    def for_recipe(self, recipe: Recipe) -> ModelOptions:
        """Return the options with the preprocessing that the recipe was made with, unless another is given."""
        size = recipe.model.input_size
        if size is None or self.example_input is not None or self.preprocess is not None:
            return self
        return replace(self, example_input=torch.zeros(1, *size))


def open_model(
    model: ModelInput, options: ModelOptions, images: object = None, task: BaseTask = CLASSIFICATION
) -> Session:
    """Load a model if it is named, and trace it.

    Args:
        model: a name, or a module, which is not changed.
        options: how it is fed.
        images: what it will be fed with; tells the size of its input where nothing else does.
        task: what its output means.

    Raises:
        ArgumentTypeError: the model is neither a name nor a module.
        ModelError: there is no such model, it is in training mode, or its preprocessing is unknown.
        TraceError: it cannot be traced.
    """
    if isinstance(model, str):
        if options.preprocess is None and options.label_names is None:
            return Session.open(model, options.pretrained, options.device, task)
        return Session.of(_with_options(load_model(model, options.pretrained), options), options.device, task)
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"model is a torch.nn.Module or a name, not {type(model).__name__}")
    example = options.example_input
    if example is None and options.preprocess is None:
        example = example_of(images)
    loaded = describe_module(
        model, preprocess=options.preprocess, example_input=example, label_names=options.label_names
    )
    return Session.of(loaded, options.device, task)


def example_of(images: object) -> Tensor | None:
    """Return the first of images that are given as tensors, of shape (1, ...); None for names and for PIL images."""
    if images is None or isinstance(images, str):
        return None
    return (images if isinstance(images, GivenImages) else GivenImages(images)).example()


def _with_options(loaded: LoadedModel, options: ModelOptions) -> LoadedModel:
    if options.preprocess is not None:
        loaded = replace(loaded, transform=make_transform(options.preprocess))
    if options.label_names is not None:
        loaded = replace(loaded, label_names=tuple(options.label_names))
    return loaded


@contextmanager
def shown(progress: Progress | bool) -> Iterator[Progress]:
    """Return the progress callback: the user's own, a live display for True, one that ignores events for False."""
    if progress is True:
        from autoq.display import RunDisplay

        with RunDisplay() as display:
            yield display
    elif progress is False:
        yield ignore
    else:
        yield progress
