"""The graph of a quantized model in the form that other tools trace."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoq.graph.insert import OperandKey
from autoq.quantizers import BaseQuantizer
from autoq.scoring.quantized_module import QuantizedModule, QuantizedWeight, path_of


class CodedWeight(nn.Module):
    """A weight as codes, which are dequantized whenever it is read: nothing else of it is in the state.

    Attributes:
        quantizer: reads the codes.
        codes: of the weight's shape.
    """

    codes: Tensor

    def __init__(self, weight: QuantizedWeight) -> None:
        """Take over a weight; nothing is copied."""
        super().__init__()
        self.quantizer: BaseQuantizer = weight.quantizer
        self.register_buffer("codes", weight.codes)
        self._dtype = weight.value.dtype

    def forward(self) -> Tensor:
        """Return the quantized weight, of the weight's shape."""
        return self.quantizer.dequantize(self.codes.to(torch.int32)).to(self._dtype)


class TracedByPosition(nn.Module):
    """A quantized model with other modules in the places of its operands, called with one tensor by position."""

    def __init__(self, module: QuantizedModule, operands: Mapping[OperandKey, nn.Module]) -> None:
        """Copy a quantized model and replace operands.

        Args:
            module: left as it is.
            operands: take what they stand for: an activation, or nothing for a weight.
        """
        super().__init__()
        self.module = copy.deepcopy(module)
        for key, operand in operands.items():
            self.module.model.set_submodule(path_of(key), operand)

    def forward(self, x: Tensor) -> Any:
        """Return what the model returns."""
        return self.module(x)


def quantized_weights(module: QuantizedModule) -> dict[OperandKey, QuantizedWeight]:
    """Return the weights of a quantized model that are kept as codes."""
    found = {key: module.model.get_submodule(path_of(key)) for key in module.quantizers}
    return {key: weight for key, weight in found.items() if isinstance(weight, QuantizedWeight)}
