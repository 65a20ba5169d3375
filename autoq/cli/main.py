"""The ``autoq`` command: its subcommands, and the exit status of errors.

Exit status: 0 done, 1 failed while running, 2 wrong usage or input, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

import autoq
from autoq.cli import (
    check_proxy,
    evaluate,
    export,
    finish,
    latency,
    latency_table,
    quantize,
    reconstruct,
    report,
    search,
    sensitivity,
    sites,
    status,
    verify,
    worker,
)
from autoq.cli.help import CONTEXT, GroupedCommand, Verbose, examples, with_verbosity
from autoq.cli.options import Interrupted, wrapped
from autoq.errors import AutoqError, InputError

app = typer.Typer(
    name="autoq",
    help="Find the bits of every layer: mixed-precision quantization search for vision transformers.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=CONTEXT,
)


def _add(name: str, function: Callable[..., None], summary: str, *lines: str) -> None:
    """Add a command with a summary that fits a line of 80 columns, and examples."""
    register = app.command(
        name, cls=GroupedCommand, context_settings=CONTEXT, short_help=summary, epilog=examples(*lines)
    )
    register(with_verbosity(function))


_add(
    "search",
    search.search,
    "Find the best recipe within a budget, and the front around it.",
    "autoq search --budget-bops w4a4",
    "autoq search --model deit_tiny_patch16_224 --data imgs/ --time-limit 2h",
    "autoq search study.toml --eval-data val/ --out runs/1",
)
_add(
    "status",
    status.status,
    "Show how far a search has come.",
    "autoq status runs/1",
    "autoq status postgresql://me@host/studies --study-name deit",
)
_add(
    "worker",
    worker.worker,
    "Evaluate recipes for a search on a shared disk.",
    "autoq worker /shared/runs/1",
    "sbatch --array=1-16 --gpus=1 --wrap 'autoq worker /shared/runs/1'",
)
_add("report", report.report, "Redraw tables, plots and the page of a run.", "autoq report runs/1")
_add(
    "export",
    export.export,
    "Write one recipe in a format, run it, and compare.",
    "autoq export runs/1 --pick knee --format onnx -o knee.onnx",
    "autoq export runs/1 --pick trial-137 -o recipe.json",
)
_add(
    "evaluate",
    evaluate.evaluate,
    "Measure one recipe: accuracy, discrepancy, BOPs, size.",
    "autoq evaluate recipe.json --data val/",
)
_add(
    "quantize",
    quantize.quantize,
    "Quantize a model by a published method.",
    "autoq quantize --method repq-vit --bits w4a4 --model MODEL --data imgs/",
)
_add(
    "latency",
    latency.latency,
    "Time recipes as ONNX against floating point.",
    "autoq latency runs/1 recipe.json --batch 1 --batch 8",
)
_add(
    "latency-table",
    latency_table.latency_table,
    "Time every site, for --budget-latency.",
    "autoq latency-table --model MODEL -o laptop.json",
    "autoq search --budget-latency 95% --latency-table laptop.json",
)
_add(
    "verify",
    verify.verify,
    "Compute a recipe's products in integers, and their width.",
    "autoq verify recipe.json",
)
_add(
    "finish",
    finish.finish,
    "Solve a recipe's weights again, in closed form.",
    "autoq finish recipe.json --data imgs/ --eval-data val/",
)
_add(
    "reconstruct",
    reconstruct.reconstruct,
    "Train a recipe's rounding and scales.",
    "autoq reconstruct recipe.json --data imgs/",
)
_add(
    "sensitivity",
    sensitivity.sensitivity,
    "Measure what each operand loses, quantized alone.",
    "autoq sensitivity --model MODEL --data imgs/",
)
_add(
    "check-proxy",
    check_proxy.check_proxy,
    "Test whether a proxy ranks recipes as accuracy does.",
    "autoq check-proxy --model MODEL --data imgs/ --eval-data val/",
)
_add(
    "sites",
    sites.sites,
    "List what can be quantized in a model.",
    "autoq sites --model deit_tiny_patch16_224 --no-pretrained",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"autoq {autoq.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    del version, verbose
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(lambda record: record.name.partition(".")[0] == "autoq")  # other libraries' words help nobody
    logging.basicConfig(handlers=[handler], format="autoq: %(message)s", level=logging.WARNING)


def run() -> NoReturn:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _interrupt)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # Pillow's, matplotlib's: what matters is an error of ours
    _open_closed_streams()
    sys.exit(_status())


def _open_closed_streams() -> None:
    """Open what was closed when the process began (``autoq sites >&-``), so that no file takes its place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            stream = Path(os.devnull).open("r+" if number == 0 else "w", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)


def _status() -> int:
    """Run, and turn every failure into one line on standard error and an exit status."""
    try:
        status = typer.main.get_command(app)(standalone_mode=False)
        sys.stdout.flush()
    except InputError as error:
        return _fail(str(error), 2)
    except AutoqError as error:
        return _fail(str(error), 1)
    except Interrupted as interrupted:
        return _fail(str(interrupted), 130)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", 130)
    except BrokenPipeError:
        return _drop_output()
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # as typer passes it on
            return _drop_output()
        raise
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        hint = ": free some space and run the same command again" if error.errno in _FULL else ""
        return _fail(f"{error.strerror or error}{where}{hint}", 1)
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the message is the help page
            sys.stderr.write(f"{error}\n")
            return 2
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # wrong usage, as typer reports it
            return _fail(f"{error.format_message().rstrip('.')}. See {_command_path(error)} --help.", 2)
        logging.getLogger("autoq").info("", exc_info=error)
        return _fail(f"unexpected {type(error).__name__}: {error} (run again with `autoq -v` for details)", 1)
    if status == 130:  # what typer makes of Ctrl-C
        return _fail("interrupted", 130)
    return status if isinstance(status, int) else 0


def _drop_output() -> int:
    """Redirect standard output to nothing after it was closed, so that Python's last flush does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    return 0


_FULL = {errno.ENOSPC, errno.EDQUOT}


def _fail(message: str, status: int) -> int:
    text = " ".join(message.split())
    stop = "." if status in (1, 2) and text[-1:] not in ".?!" else ""
    sys.stderr.write(wrapped(f"autoq: {text}{stop}", sys.stderr) + "\n")
    try:
        sys.stdout.flush()
    except OSError:  # Python would try again as it exits, complain, and change the status
        _drop_output()
    return status


def _command_path(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context is not None else "autoq"


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a signal handler's signature
    raise KeyboardInterrupt
