"""compressed-tensors: linear layers with packed weights and quantized inputs, for transformers and vLLM."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autoq.exporters._base import BaseExporter, ExportSource, Runner, Written, tensors_of
from autoq.exporters.affine_codes import AffineCodes, centred_codes
from autoq.exporters.torch_folder import copy_configuration
from autoq.graph.insert import OperandKey
from autoq.recipe import Recipe

if TYPE_CHECKING:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


class CompressedTensorsExporter(BaseExporter):
    """Writes a folder in the style of transformers: compressed weights, and a configuration that says how to read them.

    ``config.json`` is that of the model, if it has one, with a ``quantization_config``. ``recipe.json`` and
    ``preprocessing.json`` lie beside it.
    """

    name: ClassVar[str] = "compressed-tensors"
    suffix: ClassVar[str] = ""
    reader: ClassVar[str] = "from_pretrained(folder) of transformers; compressed_tensors for any other module"
    expresses: ClassVar[str] = (
        "linear layers: uniform weights and inputs of 2 to 8 bits, one scale (weights: a channel)"
    )
    loses: ClassVar[str] = "all else stays in floating point: attention products, convolutions"
    packages: ClassVar[tuple[str, ...]] = ("compressed_tensors",)
    extra: ClassVar[str | None] = "compressed-tensors"

    def inexpressible(self, source: ExportSource) -> dict[OperandKey, str]:
        """Return the operands of other sites than linear layers, and those that are not uniform."""
        found = {key: _layer(source, key) for key in source.module.quantizers}
        return {key: reason for key, reason in found.items() if isinstance(reason, str)}

    def write(self, source: ExportSource, path: Path) -> Written:
        """Attach schemes, scales and zero points to the model's own layers, and have them compressed."""
        from compressed_tensors.compressors import compress_module
        from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus, apply_quantization_config

        layers = _layers(source)
        schemes = _schemes(layers)
        config = QuantizationConfig(
            config_groups={f"group_{number}": scheme for number, scheme in enumerate(schemes)},
            quantization_status=QuantizationStatus.COMPRESSED,
            format=_summary([scheme.format for scheme in schemes]),
        )
        module = source.architecture.with_values(source.module)
        apply_quantization_config(module, config, show_progress=False)
        for name, operands in layers.items():
            layer = module.get_submodule(name)
            for operand, codes in operands.items():
                _set_(layer, f"{operand}_scale", codes.scale)
                _set_(layer, f"{operand}_zero_point", codes.zero_point)
            compress_module(layer)
        path.mkdir()
        state = {name: value.contiguous() for name, value in module.state_dict().items()}
        save_file(state, path / _WEIGHTS, metadata={"format": "pt", "autoq_version": source.metadata["autoq_version"]})
        copy_configuration(source.recipe, path)
        _add_(path / _CONFIG, config.model_dump(mode="json"))
        for file in (Recipe.FILE, "preprocessing.json"):
            document = json.dumps(json.loads(source.metadata[file]), indent=2)
            (path / file).write_text(document + "\n", encoding="utf-8")
        return Written()

    def load(self, source: ExportSource, path: Path) -> Runner:
        """Load the folder into the model's own modules, as transformers does."""
        from compressed_tensors.compressors import compress_module, decompress_module
        from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

        document = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
        model = copy.deepcopy(source.architecture.module)
        apply_quantization_config(
            model, QuantizationConfig.model_validate(document["quantization_config"]), show_progress=False
        )
        for layer in model.modules():
            compress_module(layer)  # gives it the parameters that the file has; others than quantized ones are left
        model.load_state_dict(load_file(path / _WEIGHTS))
        for layer in model.modules():
            decompress_module(layer)
        return lambda images: tensors_of(model(images))


def _layer(source: ExportSource, key: OperandKey) -> tuple[str, AffineCodes] | str:
    """Return the linear layer that an operand is of and its codes, or why the format has none for it."""
    traced = source.architecture.traced
    if traced.sites_by_name[key[0]].op != "linear":
        return "it is of no linear layer"
    owner = source.architecture.owner((key[0], "weight"))
    if isinstance(owner, str):
        return owner
    if not isinstance(owner.module, nn.Linear) or owner.name != f"{owner.path}.weight":
        return "it is of no module of class Linear"
    codes = centred_codes(source.module, key)
    if isinstance(codes, str):
        return codes
    if codes.bits < 2:
        return "it has one bit"
    if codes.codes is not None and not codes.has_zero:
        return "its zero point is outside of its codes"
    return owner.path, codes


def _layers(source: ExportSource) -> dict[str, dict[str, AffineCodes]]:
    """Return the codes of the layers' operands, by module and operand."""
    found: dict[str, dict[str, AffineCodes]] = {}
    for key in source.module.quantizers:
        layer = _layer(source, key)
        assert not isinstance(layer, str)  # noqa: S101 - all operands can be expressed
        found.setdefault(layer[0], {})[key[1]] = layer[1]
    return found


def _schemes(layers: Mapping[str, Mapping[str, AffineCodes]]) -> list[QuantizationScheme]:
    """Return one scheme for all layers of the same widths, granularity and symmetry; its targets are their names."""
    from compressed_tensors.config import CompressionFormat
    from compressed_tensors.quantization import QuantizationScheme

    alike: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, operands in layers.items():
        described = {operand: _arguments(codes).model_dump_json() for operand, codes in operands.items()}
        alike.setdefault(tuple(sorted(described.items())), []).append(name)
    schemes = []
    for names in alike.values():
        found = {operand: _arguments(codes) for operand, codes in layers[names[0]].items()}
        weights, inputs = found.get("weight"), found.get("input")
        is_packed = weights is not None and (weights.num_bits < 8 or inputs is None)
        stored = CompressionFormat.pack_quantized if is_packed else CompressionFormat.int_quantized
        schemes.append(
            QuantizationScheme(
                targets=names,
                weights=weights,
                input_activations=inputs,
                format=CompressionFormat.dense if weights is None else stored,
            )
        )
    return schemes


def _arguments(codes: AffineCodes) -> QuantizationArgs:
    """Return what the library says of an operand's codes."""
    from compressed_tensors.quantization import QuantizationArgs

    return QuantizationArgs(
        num_bits=codes.bits,
        symmetric=not bool(codes.zero_point.any()),
        strategy="tensor" if codes.scale.numel() == 1 else "channel",
    )


def _summary(formats: Sequence[str | None]) -> str:
    """Return the format of a model whose layers have these."""
    from compressed_tensors.config import CompressionFormat

    found = set(formats) - {CompressionFormat.dense.value}
    if len(found) > 1:
        return str(CompressionFormat.mixed_precision.value)
    return str(found.pop() if found else CompressionFormat.dense.value)


def _set_(layer: nn.Module, name: str, value: Tensor) -> None:
    """Give a layer a scale or zero points; symmetric operands have none of these."""
    parameter = getattr(layer, name, None)
    if parameter is not None:
        parameter.data.copy_(value.reshape(parameter.shape))


def _add_(path: Path, quantization: Mapping[str, Any]) -> None:
    """Add what is quantized to a configuration, or write one of that alone."""
    document = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    document["quantization_config"] = dict(quantization)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
