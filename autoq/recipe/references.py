"""What a recipe refers to: its model, its calibration images, the weights that were solved or learned since."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from autoq.recipe._base import Frozen


class ModelReference(Frozen):
    """Which model a recipe is for.

    Attributes:
        name: what loads it again; ``memory:CLASS`` for a module that was given as an object.
        weights_sha256: of its weights; a recipe is refused for others.
        pretrained: False for a timm architecture with random weights.
        input_size: shape of one input, of a module that was given as an object and cannot tell.
    """

    name: str
    weights_sha256: str
    pretrained: bool = True
    input_size: tuple[int, ...] | None = None


class CalibrationReference(Frozen):
    """The calibration data and settings that made the bank, enough to solve it again.

    ``settings`` are those of ``CalibrationSettings`` that differ from their defaults, ``observer`` and ``seed`` aside.
    ``scoring_images`` is how many images after those, in the order of the seed, score; 0: the same ones.
    """

    data: str
    images: int
    seed: int
    observer: str
    bank_fingerprint: str
    settings: dict[str, Any] = Field(default_factory=dict)
    scoring_images: int = Field(default=0, ge=0)


class SearchReference(Frozen):
    """What a search that found a recipe was allowed to choose.

    Attributes:
        space: name or path of the search space.
        target: name or path of the hardware description that it was narrowed to, or None.
        budgets: as they were written, by kind: ``{"bops": "w4a4"}``.
        fix: operands that kept one width, as they were written: ``head:*=8``.
        exclude: operands that stayed in floating point, as they were written.
    """

    space: str
    target: str | None = None
    budgets: dict[str, str]
    fix: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class ReconstructionReference(Frozen):
    """Where reconstructed weights and quantizer parameters are, and what they were learned from.

    Attributes:
        file: name of the safetensors file, which lies beside the recipe.
        sha256: of that file.
        data: images that it was reconstructed on.
        images: how many.
        seed: that chose them, and drew batches.
        iterations: of each block.
        importance: by what squared errors of a block's output were weighted.
        settings: those of ``ReconstructionSettings`` that differ from their defaults, but for the three above.
        blocks: that were reconstructed, if not all.
    """

    file: str = Field(pattern=r"^[^/\\]+$")
    sha256: str
    data: str
    images: int
    seed: int
    iterations: int
    importance: str
    settings: dict[str, Any] = Field(default_factory=dict)
    blocks: tuple[str, ...] | None = None


class FinishingReference(Frozen):
    """Where the weights of a recipe that was finished in closed form are, and what they were solved on.

    Attributes:
        file: name of the safetensors file, which lies beside the recipe.
        sha256: of that file.
        data: images that it was finished on.
        images: how many.
        seed: that chose them.
        settings: those of ``FinishingSettings`` that differ from their defaults.
    """

    file: str = Field(pattern=r"^[^/\\]+$")
    sha256: str
    data: str
    images: int
    seed: int
    settings: dict[str, Any] = Field(default_factory=dict)


class OperandsReference(Frozen):
    """Where the codes and quantizer parameters of a calibrated recipe are that was exported without its bank.

    Attributes:
        file: name of the safetensors file, which lies beside the recipe.
        sha256: of that file.
    """

    file: str = Field(pattern=r"^[^/\\]+$")
    sha256: str
