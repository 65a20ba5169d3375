"""A recipe: how every operand of a model is quantized, keyed by name, written to be read and edited by a person."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, PrivateAttr

from autoq.errors import RecipeError, RecipeNotFoundError
from autoq.files import sha256_hex, write_text
from autoq.validation import parse_json, power_of_two, read_text, validate

SCHEMA_VERSION: Final = 1
FLOAT_BITS = 32
"""Bits of an operand that a recipe leaves in floating point."""

Granularity = Literal["tensor", "channel", "head", "group"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OperandConfig(_Frozen):
    """How one operand is quantized.

    Attributes:
        scheme: a name in ``autoq.quantizers.QUANTIZERS``.
        bits: code width; at most ``2**bits`` codes are used.
        granularity: which elements share quantizer parameters (schemes that support it).
        symmetric: zero point fixed at zero (``uniform`` only).
        groups: number of groups: static consecutive channels for ``uniform`` with granularity ``group``, quantizers
            chosen at run time for ``instance_groups``.
        log_base_numerator: AdaLog's q, the logarithm's base being 2**(q/37); None: fitted in calibration.
        overflow: where values below the last logarithmic level go: the last code (``zero_code``) or, as published, a
            (2**bits + 1)-th level (``extra_zero``).
        hadamard_block: channels that a Hadamard transform mixes (``hadamard`` only), a power of two; 1: none.
    """

    scheme: str
    bits: int = Field(ge=1, le=16)
    granularity: Granularity = "tensor"
    symmetric: bool = False
    groups: int = Field(default=1, ge=1)
    log_base_numerator: int | None = Field(default=None, ge=10, le=137)
    overflow: Literal["zero_code", "extra_zero"] = "zero_code"
    hadamard_block: Annotated[int, AfterValidator(power_of_two)] = 1

    def to_json(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults."""
        return self.model_dump(exclude_defaults=True)


SiteConfig = dict[str, OperandConfig]
"""Operand name (``input``, ``weight``, ``lhs``, ``rhs``) to its configuration; absent operands stay in float."""


class ModelReference(_Frozen):
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


class CalibrationReference(_Frozen):
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


class ReconstructionReference(_Frozen):
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


class FinishingReference(_Frozen):
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


class CostRecord(_Frozen):
    """Cost of a recipe."""

    bops: int
    group_bops: int
    weight_layers_only_bops: int
    weight_bytes: int


class ScoreRecord(BaseModel):
    """Discrepancy of a recipe's predictions from full precision, and the task's metrics where labels exist.

    JSON has a metric beside the other keys, by its name (``top1_percent``, ``rmse``).

    Attributes:
        kl_nats: mean divergence of an image's prediction, in nats.
        agreement_percent: images on which both predict the same; None for tasks that do not say so.
        sqnr_db: 10 log10 of the output's power over its squared error, in dB.
        output_mse: mean squared error of an element of the output; None in recipes of early versions. A recipe for
            classification has it as ``logit_mse``.
        images: that these are means over.
        calibration_kl_nats: ``kl_nats`` on the images that calibrated, where these are others.
        labelled_images: that the metrics are measured on; None where there were no labels.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, float | None]

    kl_nats: float
    agreement_percent: float | None = None
    sqnr_db: float
    output_mse: float | None = Field(default=None, validation_alias=AliasChoices("output_mse", "logit_mse"))
    images: int
    calibration_kl_nats: float | None = None
    labelled_images: int | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """The task's metrics on the labelled images, by name."""
        return {name: value for name, value in self.__pydantic_extra__.items() if value is not None}

    def with_metrics(self, metrics: Mapping[str, float], images: int) -> ScoreRecord:
        """Return the score with metrics on labelled images."""
        return ScoreRecord(**self.without_metrics().model_dump() | dict(metrics) | {"labelled_images": images})

    def without_metrics(self) -> ScoreRecord:
        """Return the score without metrics on labelled images."""
        return ScoreRecord(**self.model_dump(include=set(ScoreRecord.model_fields) - {"labelled_images"}))


class Recipe(_Frozen):
    """Per-operand quantization of one model.

    Attributes:
        schema_version: version of this file format.
        model: the model this recipe belongs to.
        sites: site name to operand configurations.
        rotated: channel spaces rotated first, streams and heads, by the matrices of these seeds.
        reparameterized: LayerNorm sites rescaled channel by channel (RepQ-ViT) for these bits; the bank has factors.
        method: the published method that made this recipe, for people to read.
        calibration: what made the quantizer parameters.
        finishing: where they and the weights are, if weights were solved again on the recipe's own quantized inputs.
        reconstruction: where they and the weights are, if they were learned since.
        cost: BOPs and size when the recipe was written.
        task: what the model's output means, by name and settings; None: classification by its defaults.
        score: discrepancy (and accuracy) when the recipe was written.

    >>> import autoq
    >>> recipe = autoq.quantize("vit_digits", "rtn", images="digits", bits="w4a8", calib_images=8).recipe
    >>> {operand: config.bits for operand, config in recipe.sites["blocks.0.attn.qkv"].items()}
    {'input': 8, 'weight': 4}
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    model: ModelReference
    sites: dict[str, SiteConfig]
    rotated: dict[str, int] = Field(default_factory=dict)
    reparameterized: dict[str, int] = Field(default_factory=dict)
    method: str | None = None
    calibration: CalibrationReference | None = None
    finishing: FinishingReference | None = None
    reconstruction: ReconstructionReference | None = None
    cost: CostRecord | None = None
    task: dict[str, Any] | None = None
    score: ScoreRecord | None = None
    _folder: Path | None = PrivateAttr(default=None)
    _kept: object = PrivateAttr(default=None)

    def __eq__(self, other: object) -> bool:
        """Compare two recipes' content; their folders do not count."""
        return isinstance(other, Recipe) and self.to_json() == other.to_json()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Recipe:
        """Return the recipe itself, which does not change."""
        return self

    def __getstate__(self) -> dict[Any, Any]:
        """Return the state without the recipe's folder, which may differ on another machine."""
        return super().__getstate__() | {"__pydantic_private__": {"_folder": None, "_kept": None}}

    __hash__ = None  # type: ignore[assignment] # as of all that holds a dict; ``content_hash`` is a key

    @property
    def folder(self) -> Path | None:
        """Folder of the recipe and of its bank or weights; None for a recipe that was never written."""
        return self._folder

    def located(self, folder: Path | None, keep: object = None) -> Recipe:
        """Return the same recipe in another folder.

        Args:
            folder: where its bank or its weights are looked for.
            keep: lives as long as the recipe, such as the temporary directory that the folder is in.
        """
        located = self.model_copy()
        located._folder, located._kept = folder, keep
        return located

    @property
    def solved(self) -> FinishingReference | ReconstructionReference | None:
        """What names the file with the recipe's weights and parameters; None: they are the bank's."""
        return self.reconstruction or self.finishing

    @property
    def content_hash(self) -> str:
        """SHA-256 of what is quantized and how; equal for recipes that differ only in their records."""
        parts = [hash_sites(self.sites)]
        if self.rotated:
            parts.append(json.dumps({"rotated": self.rotated}, sort_keys=True))
        if self.reparameterized:
            parts.append(json.dumps(self.reparameterized, sort_keys=True))
        if self.solved is not None:
            parts.append(self.solved.sha256)
        return parts[0] if len(parts) == 1 else sha256_hex(part.encode() for part in parts)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, defaults left out of the operands."""
        document = {k: v for k, v in self.model_dump(exclude={"sites"}, exclude_none=True).items() if v != {}}
        if self.model.pretrained:
            del document["model"]["pretrained"]
        for name in ("settings", "scoring_images"):
            if self.calibration is not None and not document["calibration"][name]:
                del document["calibration"][name]
        for name in ("finishing", "reconstruction"):
            if name in document and not document[name]["settings"]:
                del document[name]["settings"]
        if self.score is not None:
            document["score"] = _score_to_json(document["score"], is_classification=self.task is None)
        first = {key: document.pop(key) for key in ("schema_version", "model")}
        return {**first, "sites": sites_to_json(self.sites), **document}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the recipe as JSON, one operand a line, atomically."""
        write_text(path, _format(self.to_json()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read and validate a recipe.

        Raises:
            RecipeNotFoundError: there is no such file.
            RecipeError: it is not JSON, or has a key or value that a recipe cannot have.
        """
        where = f"recipe {os.fspath(path)!r}"
        document = parse_json(read_text(path, "recipe", RecipeError, RecipeNotFoundError), where, RecipeError)
        return validate(cls, document, where, RecipeError).located(Path(path).parent)


def hash_sites(sites: Mapping[str, SiteConfig]) -> str:
    """Return the SHA-256 of operand configurations in canonical JSON; evaluations are cached under it."""
    return sha256_hex([json.dumps(sites_to_json(sites), sort_keys=True).encode()])


def sites_to_json(sites: Mapping[str, SiteConfig]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return operand configurations as plain data, defaults left out."""
    return {site: {name: config.to_json() for name, config in operands.items()} for site, operands in sites.items()}


def _score_to_json(score: dict[str, Any], *, is_classification: bool) -> dict[str, Any]:
    """Return a score as a recipe stores it: metrics before the number of their images, and logits called so."""
    last = {key: value for key, value in score.items() if key == "labelled_images"}
    names = {"output_mse": "logit_mse"} if is_classification else {}
    return {names.get(key, key): value for key, value in score.items() if key not in last} | last


def _format(document: dict[str, Any]) -> str:
    """Format JSON with one operand a line, so that files are short, easy to compare and to edit."""
    texts = {key: json.dumps(value) for key, value in document.items()}
    if document["sites"]:
        texts["sites"] = "{\n" + ",\n".join(_format_site(*item) for item in document["sites"].items()) + "\n  }"
    return "{\n" + ",\n".join(f'  "{key}": {text}' for key, text in texts.items()) + "\n}\n"


def _format_site(name: str, operands: Mapping[str, Any]) -> str:
    rows = [f"      {json.dumps(operand)}: {json.dumps(config)}" for operand, config in operands.items()]
    return f"    {json.dumps(name)}: {{\n" + ",\n".join(rows) + "\n    }"
