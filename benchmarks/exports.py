"""What each export format makes of recipes: agreement in a fresh process, difference, size, time.

    python -m benchmarks.exports --recipes runs/mine/recipes/w8a8.json runs/mine/recipes/w4a4.json --data cifar10/val

Each file is read by a process of its own, in which autoq cannot be imported where the format does not need it, and
compared with the recipe's module in autoq over the first images; what the file leaves in floating point is left so in
both. Formats ``qonnx`` and ``aimet`` are compared by the exporter itself, on calibration images. Sizes are of the file
and of what lies beside it; seconds are of wall time, without tracing the model.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import autoq
from autoq.errors import AutoqError
from autoq.exporters import EXPORTERS, Agreement, ExportReport
from autoq.runs.recipes import open_model

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
READERS = {
    "recipe": (_BY_AUTOQ, ()),
    "bundle": (_BY_AUTOQ, ()),
    "pt2": (_BY_TORCH, ("autoq", "timm")),
    "torch": (_BY_LOAD_QUANTIZED, ()),
    "onnx": (_BY_ONNXRUNTIME, ("autoq", "timm", "torch")),
    "onnx-int4": (_BY_ONNXRUNTIME, ("autoq", "timm", "torch")),
    "torchao": (_BY_TORCHAO, ("autoq",)),
    "compressed-tensors": (_BY_COMPRESSED_TENSORS, ("autoq",)),
}
"""Formats, the code that makes ``logits`` of the file ``path`` and of ``images``, and what it may not import."""


@dataclass(frozen=True)
class Row:
    """One format of one recipe."""

    recipe: str
    format: str
    agreement_percent: float
    mean_difference: float
    images: int
    megabytes: float
    seconds: float
    plain: int
    float_operands: int


def read_alone(format_: str, path: Path, model_name: str, images: Tensor) -> Tensor:
    """Return what a file answers in a fresh process, which builds the architecture by its name if it has to."""
    code, blocked = READERS[format_]
    with tempfile.TemporaryDirectory() as folder:
        given, answer = Path(folder) / "images.npy", Path(folder) / "answer.npy"
        np.save(given, images.numpy())
        script = _ALONE.format(code=code, blocked=set(blocked))
        subprocess.run([sys.executable, "-c", script, path, model_name, given, answer], check=True)
        return torch.from_numpy(np.load(answer))


def rows_of(path: Path, formats: list[str], data: str, count: int, allow_float: bool) -> Iterator[Row | str]:
    """Export one recipe in every format; yield a row for each, or why there is none."""
    recipe = autoq.load_recipe(path)
    session = open_model(recipe, device="cpu")
    images = session.calibration_images(data, count, 0).tensor
    quantized = autoq.quantize(recipe.model.name, recipe, device="cpu", pretrained=recipe.model.pretrained)
    name = path.parent.name if path.stem == "recipe" else path.stem
    for format_ in formats:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / f"exported{EXPORTERS[format_].suffix}"
            try:
                report = autoq.export(recipe, target, format_, allow_float=allow_float)
            except AutoqError as error:
                yield f"{name} {format_}: {error}"
                continue
            if format_ not in READERS:
                yield _row(name, report, report.agreement)
                continue
            found = read_alone(format_, target, recipe.model.name, images)
        expected = _outputs(quantized.without([tuple(each.rsplit(":", 1)) for each in report.left_in_float]), images)
        difference = (found - expected).abs()
        same = 100 * float((found.argmax(1) == expected.argmax(1)).double().mean())
        yield _row(name, report, Agreement(same, float(difference.mean()), float(expected.abs().mean()), len(images)))


def _outputs(module: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([module(batch) for batch in images.split(32)])


def _row(name: str, report: ExportReport, found: Agreement) -> Row:
    return Row(
        recipe=name,
        format=report.format,
        agreement_percent=found.agreement_percent,
        mean_difference=found.mean_difference,
        images=found.images,
        megabytes=report.bytes / 1e6,
        seconds=report.seconds,
        plain=len(report.plain_operators),
        float_operands=len(report.left_in_float),
    )


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", type=Path, required=True)
    parser.add_argument(
        "--formats", nargs="+", default=[*READERS, "qonnx", "aimet"], choices=[*READERS, "qonnx", "aimet"]
    )
    parser.add_argument("--data", required=True, help="images that calibrated nothing")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--allow-float", action="store_true")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}, {arguments.images} images of {arguments.data}")
    print(
        "| recipe | format | top-1 agrees | mean logit difference | images | MB | export, s | plain operators | "
        "left in float |"
    )
    print("| --- " * 9 + "|")
    for path in arguments.recipes:
        for row in rows_of(path, arguments.formats, arguments.data, arguments.images, arguments.allow_float):
            if isinstance(row, str):
                print(row)
                continue
            print(
                f"| {row.recipe} | {row.format} | {row.agreement_percent:.1f} % | {row.mean_difference:.2g} | "
                f"{row.images} | "
                f"{row.megabytes:.2f} | {row.seconds:.1f} | {row.plain} | {row.float_operands} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
