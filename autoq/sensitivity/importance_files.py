"""Importance on disk: ``importance.safetensors`` holds every element, ``importance.csv`` a line for each output."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors

from autoq.errors import RunDirectoryError
from autoq.files import atomic_path, write_text
from autoq.sensitivity.block_importance import OutputImportance
from autoq.sensitivity.perturbation_hessian import PerturbationSettings

COLUMNS = ("block", "entry", "shape", "mean", "median", "p99", "max", "top_1_percent_share")
"""Of the table; ``shape`` is of one image, values are in nats per squared unit, the share is between 0 and 1."""
_FORMAT = "autoq importance 1"
_UNIT = "nats per squared unit of the output"


@dataclass(frozen=True)
class Importance:
    """The importance of blocks' outputs, and the images and settings it was measured with.

    Attributes:
        model: as in ``--model``.
        weights_sha256: of the model.
        images: how many images H is a mean over.
        images_sha256: of their pixels.
        settings: how outputs were perturbed.
        outputs: in execution order.
    """

    model: str
    weights_sha256: str
    images: int
    images_sha256: str
    settings: PerturbationSettings
    outputs: tuple[OutputImportance, ...]


def save_importance(importance: Importance, path: str | os.PathLike[str]) -> None:
    """Write H as safetensors, by name of the output, atomically; the metadata says what it was measured on.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    outputs = [
        {"name": each.name, "block": each.block, "entry": each.entry, "channel_axis": each.channel_axis}
        | {"grid": each.grid, "is_logits": each.is_logits}
        for each in importance.outputs
    ]
    metadata = {
        "format": _FORMAT,
        "unit": _UNIT,
        "model": importance.model,
        "weights_sha256": importance.weights_sha256,
        "images": str(importance.images),
        "images_sha256": importance.images_sha256,
        **{key: str(value) for key, value in asdict(importance.settings).items()},
        "outputs": json.dumps(outputs),
    }
    # Not safetensors' save_file, whose errors are no OSError.
    content = to_safetensors({each.name: each.hessian.contiguous().clone() for each in importance.outputs}, metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def load_importance(path: str | os.PathLike[str]) -> Importance:
    """Read what ``save_importance`` wrote.

    Raises:
        RunDirectoryError: the file cannot be read, or is none of these.
    """
    try:
        with safe_open(os.fspath(path), "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ValueError(f"its format is not {_FORMAT!r}")
            # Copies, because the tensors are the mapped file, and change with it.
            outputs = tuple(
                _output(entry, file.get_tensor(entry["name"]).clone()) for entry in json.loads(metadata["outputs"])
            )
        return Importance(
            metadata["model"],
            metadata["weights_sha256"],
            int(metadata["images"]),
            metadata["images_sha256"],
            PerturbationSettings(float(metadata["temperature"]), metadata["direction"], int(metadata["seed"])),  # type: ignore[arg-type]
            outputs,
        )
    except OSError as error:
        raise RunDirectoryError(f"cannot read {os.fspath(path)!r}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunDirectoryError(f"{os.fspath(path)!r} holds no importance: {error}; delete it") from error


def summary_rows(outputs: Sequence[OutputImportance]) -> list[dict[str, Any]]:
    """Return a summary of each output, by column; floats in nats per squared unit, the share between 0 and 1."""
    rows = []
    for each in outputs:
        numbers = each.summary
        values = (numbers.mean, numbers.median, numbers.high, numbers.max, numbers.top_share)
        rows.append(dict(zip(COLUMNS, (each.block, each.entry, shape_of(each), *values), strict=True)))
    return rows


def save_table(outputs: Sequence[OutputImportance], path: str | os.PathLike[str]) -> None:
    """Write a line for each output as comma-separated values, atomically.

    Raises:
        OSError: it cannot be written; what was there before is still there.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in summary_rows(outputs):
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    write_text(path, text.getvalue())


def shape_of(output: OutputImportance) -> str:
    """Return the shape of one image's output as text: ``65x192``."""
    shape = tuple(output.hessian.shape)
    return "x".join(map(str, shape[1:] if shape[0] == 1 and len(shape) > 1 else shape))


def _output(entry: dict[str, Any], hessian: Any) -> OutputImportance:
    grid = None if entry["grid"] is None else (int(entry["grid"][0]), int(entry["grid"][1]))
    return OutputImportance(
        entry["name"], entry["block"], entry["entry"], hessian, entry["channel_axis"], grid, entry["is_logits"]
    )
