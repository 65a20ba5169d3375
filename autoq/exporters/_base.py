"""What an exporter is, what it is given, and what it says of itself."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from torch import Tensor
from torch.utils import _pytree as pytree

from autoq.errors import ExportError
from autoq.exporters.architecture import Architecture
from autoq.graph.insert import OperandKey
from autoq.recipe import Recipe
from autoq.scoring.quantized_module import QuantizedModule
from autoq.version import __version__

Runner = Callable[[Tensor], list[Tensor]]
"""Takes images of shape (N, ...), returns the tensors that the model returns, in the order of its output's leaves."""


@dataclass(frozen=True)
class ExportSource:
    """A recipe to export, and the model that it makes.

    Attributes:
        recipe: what is quantized and how.
        make_module: applies the recipe to its model, on the CPU; called at most once.
        make_images: gives calibration images of shape (N, ...), float32, on the CPU; called at most once.
        reopen: applies another recipe to the same model, to see what its file holds; None: the model is not at hand.
        make_architecture: gives the model in full precision, on the CPU; None: as above.
    """

    recipe: Recipe
    make_module: Callable[[], QuantizedModule]
    make_images: Callable[[], Tensor]
    reopen: Callable[[Recipe], QuantizedModule] | None = None
    make_architecture: Callable[[], Architecture] | None = None

    @cached_property
    def module(self) -> QuantizedModule:
        """The quantized model: its graph, its solved quantizers and the codes of its weights.

        Raises:
            InputError: the model, its bank or its images cannot be found.
        """
        return self.make_module()

    def without(self, keys: Sequence[OperandKey]) -> ExportSource:
        """Return the source with some operands in floating point."""
        module = self.module.without(keys)
        return replace(self, recipe=module.recipe, make_module=lambda: module)

    @cached_property
    def architecture(self) -> Architecture:
        """The model's own modules.

        Raises:
            ExportError: they are not at hand.
        """
        if self.make_architecture is None:
            raise ExportError("the model was given as an object: give it again, with model=")
        return self.make_architecture()

    @cached_property
    def images(self) -> Tensor:
        """Calibration images to compare on.

        Raises:
            InputError: they cannot be found.
        """
        return self.make_images()

    @cached_property
    def metadata(self) -> dict[str, str]:
        """What every file carries, by name: the recipe and the preprocessing as JSON, and autoq's version."""
        return {
            "recipe.json": json.dumps(self.module.recipe.to_json()),
            "preprocessing.json": json.dumps(self.module.preprocessing),
            "autoq_version": __version__,
        }


@dataclass(frozen=True)
class Written:
    """What an exporter says of a file that it has written.

    Attributes:
        plain_operators: operands that the format's own quantized operators do not express, and why; written as
            arithmetic in floating point, with the same values.
        session_options: to set where the file is run.
    """

    plain_operators: Mapping[OperandKey, str] = field(default_factory=dict)
    session_options: Mapping[str, str] = field(default_factory=dict)


class BaseExporter(ABC):
    """Writes quantized models in one format, and runs what it has written.

    Attributes:
        name: ``--format``.
        suffix: what names of such files end in; empty: it is a folder.
        reader: what reads such a file.
        expresses: which operands the format can hold.
        loses: what is not in the file.
        packages: that are imported to write and run it, beyond those of autoq.
        extra: of autoq, which installs them.
        is_recipe: whether ``Recipe.load`` reads such a file.
        most_checked: images that what was written is run on at most, where that is slow.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    reader: ClassVar[str]
    expresses: ClassVar[str]
    loses: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str | None] = None
    is_recipe: ClassVar[bool] = False
    most_checked: ClassVar[int | None] = None

    def require_packages(self) -> None:
        """Check that what the format needs is installed.

        Raises:
            ExportError: a package is missing; names what installs it.
        """
        if missing := [package for package in self.packages if find_spec(package) is None]:
            raise ExportError(
                f"format {self.name!r} needs {', '.join(missing)}: pip install 'autoq[{self.extra or self.name}]'"
            )

    def check_path(self, source: ExportSource, path: Path) -> None:  # noqa: B027 - most formats need none
        """Refuse a path before anything is written; any file may be replaced if not overridden.

        Raises:
            InputError: something that is not the export's would be overwritten.
        """

    def inexpressible(self, source: ExportSource) -> dict[OperandKey, str]:  # noqa: ARG002
        """Return the operands that the format cannot hold, and why; none if not overridden."""
        return {}

    @abstractmethod
    def write(self, source: ExportSource, path: Path) -> Written:
        """Write a source.

        Args:
            source: all of its operands can be expressed.
            path: in an empty folder, to whose other files this one may refer by name.

        Raises:
            ExportError: the format cannot hold the model.
            OSError: a file cannot be written.
        """

    def can_run(self, source: ExportSource) -> bool:  # noqa: ARG002
        """Tell whether :meth:`load` works; True if not overridden."""
        return True

    @abstractmethod
    def load(self, source: ExportSource, path: Path) -> Runner:
        """Read what was written, as its users will, and return what runs it.

        Args:
            source: that was written.
            path: of the file.
        """


def tensors_of(output: object) -> list[Tensor]:
    """Return the tensors among the leaves of a model's output, in order."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
