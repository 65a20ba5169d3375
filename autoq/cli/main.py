"""The ``autoq`` command: its subcommands, and the exit status of errors.

Exit status: 0 done, 1 failed while running, 2 wrong usage or input, 130 interrupted.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer

import autoq
from autoq.cli import check_proxy, evaluate, export, finish, quantize, reconstruct, report, search, sensitivity, sites
from autoq.cli.options import Interrupted
from autoq.errors import AutoqError, InputError

app = typer.Typer(
    name="autoq",
    help="Find the bits of every layer: mixed-precision quantization search for vision transformers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("search")(search.search)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("evaluate")(evaluate.evaluate)
app.command("quantize")(quantize.quantize)
app.command("finish")(finish.finish)
app.command("reconstruct")(reconstruct.reconstruct)
app.command("sensitivity")(sensitivity.sensitivity)
app.command("check-proxy")(check_proxy.check_proxy)
app.command("sites")(sites.sites)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"autoq {autoq.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens in detail.")] = False,
) -> None:
    del version
    logging.basicConfig(stream=sys.stderr, format="autoq: %(message)s", level=logging.WARNING)
    if verbose:
        logging.getLogger("autoq").setLevel(logging.INFO)


def run() -> NoReturn:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(_status())


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
            return _fail(f"{error.format_message()} See {_command_path(error)} --help.", 2)
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
    sys.stderr.write(f"autoq: {' '.join(message.split())}\n")
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
