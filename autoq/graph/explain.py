"""Say in one line why a model does not trace: what is wrong, on which line of its source, and what to do."""

from __future__ import annotations

import contextlib
import io
import logging
import sysconfig
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from autoq.graph.lengths import free_lengths

_SHAPE_LOGGER = "torch.fx.experimental.symbolic_shapes"
_STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
_TORCH, _AUTOQ = Path(torch.__file__).parent, Path(__file__).parents[1]


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Keep what torch.export logs and prints on standard error to itself; the error it raises says it all."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        # Models that cache tensors as attributes while they run make export warn; the copies are dropped.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


_MOST_IMAGES = 2**31 - 1
"""In a batch; without a limit torch 2.7 asks whether it is infinite, and takes that for a condition on it."""


def export(module: nn.Module, example: Tensor) -> nn.Module:
    """Export a module with ``torch.export`` and a free batch dimension; silently."""
    with silenced(), torch.no_grad():
        return _export(module, example).module()


def _export(module: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    with free_lengths(module):
        return torch.export.export(
            module, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=_MOST_IMAGES)},)
        )


def explain(error: Exception, module: nn.Module, example: Tensor) -> str:
    """Explain an error of :func:`export` in one line: what is wrong, where, and what to do."""
    name = type(module).__name__
    text = str(error)
    if "Constraints violated" in text:
        where = _batch_fixing_line(module, example) or (
            f"; to find the operation, call the model on batches of {len(example)} and of {len(example) + 1}"
        )
        return f"cannot trace {name}: an operation fixes the batch size{where}; use x.shape[0] or -1 in its place"
    where = _line(traceback.extract_tb(error.__traceback__))
    if "data-dependent" in text:
        return (
            f"cannot trace {name}: the values of a tensor decide what is computed{where}; "
            "use torch.where, masks or fixed sizes in place of branches and .item()"
        )
    if "in output, which is not a known type" in text:
        kind = text.partition("<class '")[2].partition("'>")[0]
        return (
            f"cannot trace {name}: it returns a {kind}; return tensors, or tuples, lists, dicts or dataclasses of them"
        )
    try:
        with silenced(), torch.no_grad():
            module(example)
    except Exception as eager_error:  # whatever the model raises
        where = _line(traceback.extract_tb(eager_error.__traceback__))
        shape = list(example.shape)
        return (
            f"{name} does not run on an input of shape {shape}: {first_line(eager_error)}{where}; "
            "give it images of the size and number of channels that it was made for"
        )
    return f"cannot trace {name}: {first_line(error)}{where}; use torch operations on tensors there"


def first_line(error: BaseException) -> str:
    """Get the first line of an error's message without its full stop, or its type where there is no message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _line(stack: Sequence[traceback.FrameSummary]) -> str:
    """`` at model.py:8, `code```: the innermost line of the model's own source, or an empty string."""
    for frame in reversed(stack):
        path = Path(frame.filename)
        if path.is_relative_to(_AUTOQ):  # what lies further out is who called autoq
            break
        if frame.line and not _is_foreign(path):
            return f" at {frame.filename}:{frame.lineno}, `{frame.line}`"
    return ""


def _is_foreign(path: Path) -> bool:
    """Whether a source file is torch's or the standard library's, and so never the one to change."""
    installed = {"site-packages", "dist-packages"} & set(path.parts)  # may lie inside the standard library
    return path.is_relative_to(_TORCH) or (path.is_relative_to(_STANDARD_LIBRARY) and not installed)


def _batch_fixing_line(module: nn.Module, example: Tensor) -> str:
    """Export again and note what was running when the batch dimension was pinned to a number."""
    logger = logging.getLogger(_SHAPE_LOGGER)
    notes = _Notes()
    level, propagate, handlers = logger.level, logger.propagate, logger.handlers
    try:
        with silenced(), torch.no_grad():
            # The notes have to come through: let this logger speak, to nobody else.
            logging.disable(logging.NOTSET)
            logger.handlers, logger.propagate = [notes], False
            logger.setLevel(logging.INFO)
            _export(module, example)
    except Exception:  # the one that is being explained
        return notes.line
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
    return ""


class _Notes(logging.Handler):
    """Remembers the model's line that was running when a guard on the batch size was added."""

    line = ""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if not self.line and "Eq(" in message and "guard added" in message:
            self.line = _line(traceback.extract_stack()[:-1])
