"""The recipe as a document: how every operand of one model is quantized."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from pydantic import Field, PrivateAttr

from autoq.errors import RecipeError, RecipeNotFoundError
from autoq.files import TemporaryFolder, sha256_hex, write_text
from autoq.recipe._base import Frozen
from autoq.recipe.operands import SiteConfig
from autoq.recipe.records import OF_LABELS, CostRecord, ScoreRecord
from autoq.recipe.references import (
    CalibrationReference,
    FinishingReference,
    ModelReference,
    OperandsReference,
    ReconstructionReference,
    SearchReference,
)
from autoq.validation import parse_json, read_text, validate

SCHEMA_VERSION: Final = 1


class Recipe(Frozen):
    """Per-operand quantization of one model.

    Attributes:
        schema_version: version of this file format.
        model: the model this recipe belongs to.
        sites: site name to operand configurations.
        rotated: channel spaces rotated first, streams and heads, by the matrices of these seeds.
        centred: products of queries and keys whose keys were centred next; the bank has the centres.
        reparameterized: LayerNorm sites rescaled channel by channel (RepQ-ViT) for these bits; the bank has factors.
        search: what the search that found this recipe might choose, for people to read.
        method: the published method that made this recipe, for people to read.
        calibration: what made the quantizer parameters.
        operands: where they and the codes of weights are, if they were exported without the bank.
        finishing: where they and the weights are, if weights were solved again on the recipe's own quantized inputs.
        reconstruction: where they and the weights are, if they were learned since.
        cost: BOPs and size when the recipe was written.
        task: what the model's output means, by name and settings; None: classification by its defaults.
        score: discrepancy (and accuracy) when the recipe was written.

    Examples:
        >>> import autoq
        >>> recipe = autoq.quantize("vit_digits", "rtn", images="digits", bits="w4a8", calib_images=8).recipe
        >>> {operand: config.bits for operand, config in recipe.sites["blocks.0.attn.qkv"].items()}
        {'input': 8, 'weight': 4}
    """

    FILE: ClassVar[str] = "recipe.json"
    """Name of a recipe in a folder or a bundle that has one."""

    schema_version: Literal[1] = SCHEMA_VERSION
    model: ModelReference
    sites: dict[str, SiteConfig]
    rotated: dict[str, int] = Field(default_factory=dict)
    centred: tuple[str, ...] = ()
    reparameterized: dict[str, int] = Field(default_factory=dict)
    search: SearchReference | None = None
    method: str | None = None
    calibration: CalibrationReference | None = None
    operands: OperandsReference | None = None
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
    def solved(self) -> FinishingReference | ReconstructionReference | OperandsReference | None:
        """What names the file with the recipe's weights and parameters; None: they are the bank's."""
        return self.improved or self.operands

    @property
    def improved(self) -> FinishingReference | ReconstructionReference | None:
        """What made weights of the recipe's own after it was calibrated, if anything did."""
        return self.reconstruction or self.finishing

    @property
    def content_hash(self) -> str:
        """SHA-256 of what is quantized and how; equal for recipes that differ only in their records."""
        parts = [hash_sites(self.sites)]
        if self.rotated:
            parts.append(json.dumps({"rotated": self.rotated}, sort_keys=True))
        if self.centred:
            parts.append(json.dumps({"centred": self.centred}))
        if self.reparameterized:
            parts.append(json.dumps(self.reparameterized, sort_keys=True))
        if self.improved is not None:
            parts.append(self.improved.sha256)
        return parts[0] if len(parts) == 1 else sha256_hex(part.encode() for part in parts)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, defaults left out of the operands."""
        document = {k: v for k, v in self.model_dump(exclude={"sites"}, exclude_none=True).items() if v not in ({}, ())}
        if self.model.pretrained:
            del document["model"]["pretrained"]
        for name in ("settings", "scoring_images"):
            if self.calibration is not None and not document["calibration"][name]:
                del document["calibration"][name]
        if self.search is not None:
            document["search"] = self.search.model_dump(exclude_defaults=True)
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
        """Read and validate a recipe, of a file, of a bundle (a zip file), or of a folder that has ``recipe.json``.

        Raises:
            RecipeNotFoundError: there is no such file.
            RecipeError: it is not JSON, or has a key or value that a recipe cannot have, or a bundle is damaged.
        """
        where, file = f"recipe {os.fspath(path)!r}", Path(path)
        if zipfile.is_zipfile(file):
            return cls._load_bundle(file)
        if (file / cls.FILE).is_file():
            file /= cls.FILE
        document = parse_json(read_text(file, "recipe", RecipeError, RecipeNotFoundError), where, RecipeError)
        return validate(cls, document, where, RecipeError).located(file.parent)

    @classmethod
    def _load_bundle(cls, path: Path) -> Recipe:
        """Unpack a bundle into a temporary folder that lives as long as the recipe."""
        folder = TemporaryFolder()
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder.path)
            recipe = cls.load(folder.path / cls.FILE)
        except (OSError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise RecipeError(
                f"{os.fspath(path)!r} is no bundle, or a damaged one: {error}; export it again"
            ) from error
        return recipe.located(recipe.folder, folder)


def hash_sites(sites: Mapping[str, SiteConfig]) -> str:
    """Return the SHA-256 of operand configurations in canonical JSON; evaluations are cached under it."""
    return sha256_hex([json.dumps(sites_to_json(sites), sort_keys=True).encode()])


def sites_to_json(sites: Mapping[str, SiteConfig]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return operand configurations as plain data, defaults left out."""
    return {site: {name: config.to_json() for name, config in operands.items()} for site, operands in sites.items()}


def _score_to_json(score: dict[str, Any], *, is_classification: bool) -> dict[str, Any]:
    """Return a score as a recipe stores it: metrics before the number of their images, and logits called so."""
    last = {key: score[key] for key in OF_LABELS if key in score}
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
