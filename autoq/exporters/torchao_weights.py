"""torchao: weights as its tensors of few bits, in the state of the model's own modules."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from autoq.exporters._base import BaseExporter, ExportSource, Runner, Written, tensors_of
from autoq.exporters.affine_codes import AffineCodes, centred_codes
from autoq.graph.insert import OperandKey

if TYPE_CHECKING:
    from torchao.core.config import AOBaseConfig

_SITES = ("linear", "conv2d")
"""Operations that torchao's tensors of few bits have."""


class TorchaoExporter(BaseExporter):
    """Writes a state whose weights are ``IntxUnpackedToInt8Tensor``, one byte a code, as ``FqnToConfig`` makes them.

    The file is a dictionary: ``state_dict``; ``fqn_to_config``, torchao's configuration as JSON; recipe, preprocessing
    and version.
    """

    name: ClassVar[str] = "torchao"
    suffix: ClassVar[str] = ".pt"
    reader: ClassVar[str] = "torch.load(file), then load_state_dict(…, assign=True) of the model's own class"
    expresses: ClassVar[str] = "weights of linear layers and convolutions, 1 to 8 bits, one scale an output channel"
    loses: ClassVar[str] = "activations stay in floating point; speed: weights are dequantized when they are used"
    packages: ClassVar[tuple[str, ...]] = ("torchao",)
    extra: ClassVar[str | None] = "torchao"

    def inexpressible(self, source: ExportSource) -> dict[OperandKey, str]:
        """Return all operands but weights of linear layers and convolutions."""
        found = {key: _parameter(source, key) for key in source.module.quantizers}
        return {key: reason for key, reason in found.items() if isinstance(reason, str)}

    def write(self, source: ExportSource, path: Path) -> Written:
        """Quantize the model's own modules by torchao, and give its tensors the codes and scales of the recipe."""
        from torchao.core.config import config_to_dict
        from torchao.quantization import FqnToConfig, quantize_

        module = source.architecture.with_values(source.module)
        found = [_parameter(source, key) for key in source.module.quantizers]
        weights = dict(each for each in found if not isinstance(each, str))
        config = FqnToConfig(OrderedDict((name, _config(codes)) for name, codes in weights.items()))
        quantize_(module, config, filter_fn=None)
        for name, codes in weights.items():
            tensor: Any = module.get_parameter(name)
            shape = (-1, *[1] * (tensor.ndim - 1))  # torchao's scales of convolutions vary over the kernel, too
            tensor.qdata.copy_(codes.codes)
            tensor.scale.copy_(codes.scale.reshape(shape))
            tensor.zero_point.copy_(codes.zero_point.reshape(shape))
        as_json = json.dumps(config_to_dict(config))
        torch.save({"state_dict": module.state_dict(), "fqn_to_config": as_json, **source.metadata}, path)
        return Written()

    def load(self, source: ExportSource, path: Path) -> Runner:
        """Load the state into the model's own modules."""
        model = copy.deepcopy(source.architecture.module)
        model.load_state_dict(torch.load(path)["state_dict"], assign=True)
        return lambda images: tensors_of(model(images))


def _parameter(source: ExportSource, key: OperandKey) -> tuple[str, AffineCodes] | str:
    """Return the name of the parameter that an operand is and its codes, or why torchao has none for it."""
    site = source.architecture.traced.sites_by_name[key[0]]
    if not site.operand(key[1]).is_weight:
        return "torchao's file has weights alone"
    if site.op not in _SITES:
        return f"torchao has no {site.op} of such weights"
    if site.op == "conv2d" and site.operand(key[1]).shape[1] == 1:
        return "torchao has no scales for convolutions of one input channel each"
    owner, codes = source.architecture.owner(key), centred_codes(source.module, key)
    if isinstance(owner, str) or isinstance(codes, str):
        return owner if isinstance(owner, str) else str(codes)
    return owner.name, codes


def _config(codes: AffineCodes) -> AOBaseConfig:
    """Return torchao's configuration of a weight."""
    from torchao.quantization import IntxWeightOnlyConfig, MappingType, PerAxis

    mapping = MappingType.ASYMMETRIC if bool(codes.zero_point.any()) else MappingType.SYMMETRIC
    return IntxWeightOnlyConfig(getattr(torch, f"int{codes.bits}"), PerAxis(0), mapping)
