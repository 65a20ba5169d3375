"""A folder with the state of a quantized module, its recipe and the architecture's configuration."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autoq.calibration.transforms.folded import FoldedTransforms
from autoq.errors import CalibrationError, ExportError, RecipeError
from autoq.exporters._base import BaseExporter, ExportSource, Runner, Written, tensors_of
from autoq.graph.insert import OperandKey
from autoq.models import IN_MEMORY, load_model
from autoq.quantizers import BaseQuantizer, create_quantizer, quantizer_class
from autoq.recipe import Recipe
from autoq.runs.session import Session
from autoq.scoring.quantized_module import QuantizedModule, path_of
from autoq.scoring.solved_operands import SolvedOperands

_STATE = "quantized.safetensors"
_FOLDED = "folded."
_CONFIGS = {"local-dir:": ("config.json",), "hf-dir:": ("config.json", "preprocessor_config.json")}
"""Prefixes of models in folders, and the files there that describe the architecture."""


class TorchExporter(BaseExporter):
    """Writes the state of the quantized module; ``autoq.load_quantized`` makes the module of it again.

    The float weights of quantized layers are not in the folder, so that neither timm nor transformers can load it as a
    model in floating point.
    """

    name: ClassVar[str] = "torch"
    suffix: ClassVar[str] = ""
    reader: ClassVar[str] = "autoq.load_quantized(folder), a torch.nn.Module"
    expresses: ClassVar[str] = "every recipe of a model that has a name"
    loses: ClassVar[str] = "nothing; timm or transformers must be there to build the architecture"

    def check_path(self, source: ExportSource, path: Path) -> None:  # noqa: ARG002
        """Refuse models that were given as objects.

        Raises:
            ExportError: nothing says how the architecture is built.
        """
        if source.recipe.model.name.startswith(IN_MEMORY):
            raise ExportError("the model was given as an object, so that no name builds it again: use format pt2")

    def write(self, source: ExportSource, path: Path) -> Written:
        """Write the state, the recipe, the preprocessing and the architecture's configuration."""
        module = source.module
        path.mkdir()
        state = {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items()}
        state |= {f"{_FOLDED}{key}": value.cpu().clone() for key, value in module.folded.tensors().items()}
        save_file(state, path / _STATE, metadata={"autoq_version": source.metadata["autoq_version"]})
        module.recipe.save(path / Recipe.FILE)
        preprocessing = json.dumps(module.preprocessing, indent=2)
        (path / "preprocessing.json").write_text(preprocessing + "\n", encoding="utf-8")
        copy_configuration(source.recipe, path)
        return Written()

    def load(self, source: ExportSource, path: Path) -> Runner:  # noqa: ARG002
        """Load the module."""
        model = load_quantized(path)
        return lambda images: tensors_of(model(images))


def copy_configuration(recipe: Recipe, folder: Path) -> None:
    """Copy the files that describe the architecture of a recipe's model, if the model lies in a folder."""
    for prefix, files in _CONFIGS.items():
        if recipe.model.name.startswith(prefix):
            there = Path(recipe.model.name.removeprefix(prefix)).expanduser()
            for file in files:
                shutil.copyfile(there / file, folder / file)


def load_quantized(folder: str | os.PathLike[str]) -> QuantizedModule:
    """Load a quantized model from a folder that ``autoq.export(…, format="torch")`` wrote, on the CPU.

    Args:
        folder: has the module's state, its recipe, and the configuration of its architecture.

    Raises:
        RecipeError: a file is missing or damaged, or the architecture is another.
        ModelError: the architecture cannot be built.

    Examples:
        >>> import autoq, pathlib, tempfile, torch
        >>> quantized = autoq.quantize("vit_digits", "rtn", images="digits", bits="w4a8", calib_images=8)
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     report = autoq.export(quantized, pathlib.Path(parent) / "mine", "torch")
        ...     loaded = autoq.load_quantized(pathlib.Path(parent) / "mine")
        >>> x = torch.rand(2, 1, 8, 8)
        >>> torch.equal(loaded(x), quantized(x))
        True
    """
    path = Path(folder)
    recipe, state = Recipe.load(path / Recipe.FILE), _read_state(path / _STATE)
    kept = {key.removeprefix(_FOLDED): state.pop(key) for key in list(state) if key.startswith(_FOLDED)}
    try:
        named = {"reparameterized": list(recipe.reparameterized), "centred": list(recipe.centred)}
        folded = FoldedTransforms.read(named, kept)
        session = _session(path, recipe).rotated_by(recipe.rotated).centred_by(folded.centres)
        session = session.rescaled_by(recipe.reparameterized, folded.factors)
        operands = _operands(session, recipe, state)
        input_name = next(iter(inspect.signature(session.loaded.module.forward).parameters), "x")
        module = QuantizedModule(
            session.traced,
            operands,
            recipe,
            input_name,
            folded=folded,
            preprocessing=json.loads((path / "preprocessing.json").read_text(encoding="utf-8")),
        )
        module.load_state_dict(state)
    except (CalibrationError, RuntimeError, KeyError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(f"{os.fspath(path)!r} does not fit its architecture: {reason}; export it again") from error
    return module


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"cannot read {os.fspath(path)!r}: {error}; export the model again") from error


def _session(path: Path, recipe: Recipe) -> Session:
    """Build and trace the architecture; its weights are of no account."""
    name = recipe.model.name
    for prefix in _CONFIGS:
        if name.startswith(prefix):
            return Session.of(load_model(f"{prefix}{path}", pretrained=False), "cpu")
    is_function = name.startswith("python:")
    return Session.of(load_model(name, pretrained=is_function), "cpu")


def _operands(session: Session, recipe: Recipe, state: Mapping[str, Tensor]) -> SolvedOperands:
    """Return the quantizers and codes that a state has."""
    quantizers: dict[OperandKey, BaseQuantizer] = {}
    codes: dict[OperandKey, Tensor] = {}
    session.model.check_keys([(site, name) for site, operands in recipe.sites.items() for name in operands])
    for site, operands in recipe.sites.items():
        for name, config in operands.items():
            operand = session.traced.sites_by_name[site].operand(name)
            place = f"model.{path_of((site, name))}"
            if operand.is_weight:
                codes[site, name] = state[f"{place}.codes"].to(torch.int32)
                place += ".quantizer"
            names = quantizer_class(config.scheme).qparam_names
            qparams = {each: state[f"{place}.{each}"] for each in names}
            quantizers[site, name] = create_quantizer(config, operand.layout, qparams)
    return SolvedOperands(quantizers, codes)
