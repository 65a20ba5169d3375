"""Options that several commands share."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol, TextIO

import typer

from autoq.errors import InputError, RunDirectoryError, SpaceError
from autoq.files import check_writable

MODEL_HELP = (
    "timm name, hf-hub:NAME, local-dir:PATH (timm's hub format), hf-dir:PATH (transformers), python:MODULE:FUNCTION, "
    "or one that is bundled: vit_digits, or swin_shapes, a detector."
)
DATA_HELP = (
    "digits, shapes, coco:FILE.json[:IMAGES], maps:IMAGES:LABELS, an image folder, a .tar of one, hfds/NAME, or "
    "python:MODULE:FUNCTION."
)

Model = Annotated[str, typer.Option("--model", metavar="MODEL", help=MODEL_HELP)]
Pretrained = Annotated[bool, typer.Option("--pretrained/--no-pretrained", help="Load weights, or use random ones.")]
Data = Annotated[str, typer.Option("--data", metavar="DATA", help=f"Calibration images: {DATA_HELP}")]
EvalData = Annotated[
    str | None, typer.Option("--eval-data", metavar="DATA", help="Labelled images to measure accuracy on.")
]
RecipeModel = Annotated[
    str | None, typer.Option("--model", metavar="MODEL", help="The model, if it is not where the recipe says.")
]
CalibData = Annotated[
    str | None,
    typer.Option(
        "--calib-data", metavar="DATA", help="Calibration images, if they have moved or the recipe names none."
    ),
]
Pick = Annotated[
    str,
    typer.Option("--pick", metavar="PICK", help="Of a run: best, knee, an id such as trial-137, or a smaller budget."),
]
Version = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="VERSION",
        help="searched, finished or reconstructed (by autoq search --finish, --reconstruct). "
        "[default: that of least discrepancy]",
    ),
]
PictureFormat = Annotated[str, typer.Option("--format", metavar="FORMAT", help="Of what is drawn: png, svg or pdf.")]
Space = Annotated[str, typer.Option("--space", metavar="SPACE", help="Shipped search space, or a TOML file.")]
Target = Annotated[
    str | None,
    typer.Option("--target", metavar="TARGET", help="What there is where it runs: a shipped target, or a TOML file."),
]
FIX_HELP = "Operands that keep one width, SITE[:OPERAND]=BITS: 'head:*=8', '*.attn.qk:lhs=6'. May be repeated."
EXCLUDE_HELP = (
    "Operands that stay in floating point, SITE[:OPERAND]: 'patch_embed.*', '*.attn.av:lhs'. May be repeated."
)
Fix = Annotated[list[str] | None, typer.Option("--fix", metavar="GLOB=BITS", help=FIX_HELP)]
Exclude = Annotated[list[str] | None, typer.Option("--exclude", metavar="GLOB", help=EXCLUDE_HELP)]
Observer = Annotated[
    str,
    typer.Option(
        "--observer",
        metavar="NAME",
        help="Ranges by mse, min_max, ema, percentile, omse, best_percentile or, slower, by the error of each layer's "
        "output: fpcs.",
    ),
]
Rotate = Annotated[
    bool,
    typer.Option("--rotate/--no-rotate", help="Rotate channels first, where weights can take it up and it helps."),
]
CENTRE_KEYS_HELP = "Centre attention keys first, where weights can take it up and it helps."
CentreKeys = Annotated[bool, typer.Option("--centre-keys/--no-centre-keys", help=CENTRE_KEYS_HELP)]
Reparameterize = Annotated[
    bool,
    typer.Option("--reparameterize/--no-reparameterize", help="Rescale LayerNorm outputs first, as RepQ-ViT does."),
]
SECOND_ORDER_HELP = "Round weights by the error of each layer's output (GPTQ), or to nearest."
SecondOrder = Annotated[bool, typer.Option("--second-order/--no-second-order", help=SECOND_ORDER_HELP)]
CalibImages = Annotated[
    int, typer.Option("--calib-images", metavar="N", min=1, max=1_000_000, help="Images to calibrate and score on.")
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, max=2**32 - 1, help="Of everything that is random.")]
TASK_HELP = (
    "What the model's output means: classification, detection (boxes, and masks where there are), "
    "instance-segmentation (masks, and boxes where there are), semantic-segmentation (classes of pixels), or dense for "
    "maps and vectors of numbers."
)
OUTPUT_HELP = "Leaf of the model's output that is compared. [default: as the task chooses]"
Task = Annotated[str, typer.Option("--task", metavar="NAME", help=TASK_HELP)]
Output = Annotated[str | None, typer.Option("--output", metavar="NAME", help=OUTPUT_HELP)]
TASK_OPTION_HELP = (
    "A setting of the task, NAME=VALUE: 'nms_iou=0.5', 'most_objects=300', 'least_score=0.01', 'mask_weight=4' of "
    "detectors. May be repeated."
)
TaskOption = Annotated[list[str] | None, typer.Option("--task-option", metavar="NAME=VALUE", help=TASK_OPTION_HELP)]
Device = Annotated[str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else there.")]


class Described(Protocol):
    """An entry of a registry with a description for help texts."""

    @property
    def description(self) -> str:
        """What the entry does, in a few words."""


def named(registry: Mapping[str, Described]) -> str:
    """List the entries of a registry with their descriptions, for a help text."""
    return "; ".join(f"{name} ({entry.description})" for name, entry in registry.items())


class Interrupted(Exception):  # noqa: N818 - not an error
    """Ctrl-C in a command, with a message for the user; exit status 130."""


@contextmanager
def explained(output: Path) -> Iterator[None]:
    """Tell the user why a file cannot be written where that is due to the choice of it; at once where it is known."""
    try:
        check_writable(output.parent)
        if not output.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        yield
    except InputError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunDirectoryError(f"cannot write {os.fspath(output)!r}: {error.strerror}") from error


def short_name(model: str) -> str:
    """Return the last part of a model's name: ``x`` of ``hf-hub:timm/x`` and of ``local-dir:models/x/``."""
    return model.rpartition(":")[2].rstrip("/").rpartition("/")[2]


def default_out(model: str, what: str) -> Path:
    """Return the run directory ``autoq-runs/MODEL-WHAT``, the model by the last part of its name."""
    name = re.sub(r"[^\w.]+", "-", short_name(model)).strip("-")
    return Path("autoq-runs") / f"{name or 'model'}-{what}"


def this_command() -> str:
    """Return the running command as one would type it again."""
    program = Path(sys.argv[0]).name
    return shlex.join([*(["python", "-m", "autoq"] if program == "__main__.py" else [program]), *sys.argv[1:]])


def say(text: str) -> None:
    """Print a sentence on standard output; on a terminal, lines are broken between words."""
    typer.echo(wrapped(text, sys.stdout))


def wrapped(text: str, stream: TextIO) -> str:
    """Break a line between words where it goes to a terminal that is narrower; elsewhere it stays one line."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def print_json(document: Any) -> None:
    """Write one JSON value on standard output; NaN and infinities, which JSON lacks, become null."""
    sys.stdout.write(json.dumps(_finite(document)) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def parse_seconds(text: str) -> float:
    """Read a time such as ``90s``, ``10m`` or ``1.5h``.

    Raises:
        SpaceError: it is none.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(s|m|h|)\s*", text)
    if match is None:
        raise SpaceError(f"cannot read time {text!r}: write it as 90s, 10m or 1.5h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
