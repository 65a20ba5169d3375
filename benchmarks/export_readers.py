"""Read exported files as their users do: in a process of its own, without autoq where the format does not need it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import numpy
path, model_name, images, answer = sys.argv[1:]
images = numpy.load(images)
{code}
numpy.save(answer, logits)
"""
_BY_AUTOQ = """
import autoq, torch
recipe = autoq.load_recipe(path)
with torch.no_grad():
    quantized = autoq.quantize(recipe.model.name, recipe, device="cpu", pretrained=recipe.model.pretrained)
    logits = quantized(torch.from_numpy(images)).numpy()
"""
_BY_LOAD_QUANTIZED = """
import autoq, torch
with torch.no_grad():
    logits = autoq.load_quantized(path)(torch.from_numpy(images)).numpy()
"""
_BY_ONNXRUNTIME = """
import onnxruntime
session = onnxruntime.InferenceSession(path)
logits = session.run(None, {session.get_inputs()[0].name: images})[0]
"""
_BY_TORCH = """
import torch
with torch.no_grad():
    logits = torch.export.load(path).module()(torch.from_numpy(images)).numpy()
"""
_BY_TORCHAO = """
import timm, torch, torchao
model = timm.create_model(model_name).eval()
model.load_state_dict(torch.load(path)["state_dict"], assign=True)
with torch.no_grad():
    logits = model(torch.from_numpy(images)).numpy()
"""
_BY_COMPRESSED_TENSORS = """
import json, timm, torch
from compressed_tensors.compressors import compress_module, decompress_module
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from safetensors.torch import load_file
model = timm.create_model(model_name).eval()
config = json.load(open(path + "/config.json"))["quantization_config"]
apply_quantization_config(model, QuantizationConfig.model_validate(config), show_progress=False)
for layer in model.modules():
    compress_module(layer)
model.load_state_dict(load_file(path + "/model.safetensors"))
for layer in model.modules():
    decompress_module(layer)
with torch.no_grad():
    logits = model(torch.from_numpy(images)).numpy()
"""
_BY_QONNX = """
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes
model = ModelWrapper(path).transform(InferShapes())
entry, answer_name = model.graph.input[0].name, model.graph.output[0].name
logits = numpy.concatenate([execute_onnx(model, {entry: image[None]})[answer_name] for image in images])
"""
READERS = {
    "recipe": (_BY_AUTOQ, ()),
    "bundle": (_BY_AUTOQ, ()),
    "pt2": (_BY_TORCH, ("autoq", "timm")),
    "torch": (_BY_LOAD_QUANTIZED, ()),
    "onnx": (_BY_ONNXRUNTIME, ("autoq", "timm", "torch")),
    "onnx-int4": (_BY_ONNXRUNTIME, ("autoq", "timm", "torch")),
    "qonnx": (_BY_QONNX, ("autoq", "timm")),
    "torchao": (_BY_TORCHAO, ("autoq",)),
    "compressed-tensors": (_BY_COMPRESSED_TENSORS, ("autoq",)),
}
"""Formats, the code that makes ``logits`` of the file ``path`` and of ``images``, and what it may not import."""


def read_alone(format_: str, path: Path, model_name: str, images: Tensor) -> Tensor:
    """Return what a file answers in a fresh process, which builds the architecture by its name if it has to.

    Args:
        format_: of the file.
        path: of the file.
        model_name: as recipes name it.
        images: of shape (N, channels, height, width).

    Returns:
        Logits of shape (N, classes).

    Raises:
        subprocess.CalledProcessError: the file cannot be read or run; what went wrong is on standard error.
    """
    code, blocked = READERS[format_]
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder) / "images.npy", Path(folder) / "answer.npy"
        np.save(given, images.numpy())
        script = _ALONE.format(code=code, blocked=set(blocked))
        subprocess.run([sys.executable, "-c", script, path, model_name, given, answer], check=True)
        return torch.from_numpy(np.load(answer))
