"""How commands present themselves: options in groups, examples, ``-h``, ``-v`` where people type it."""

from __future__ import annotations

import functools
import inspect
import logging
import typing
from collections.abc import Callable
from typing import Annotated, Any

import typer

CONTEXT = {"help_option_names": ["-h", "--help"]}
"""Settings of every command."""
_OTHERS = "Other options"
_GROUPS = {
    "Model and images": (
        *("model", "pretrained", "data", "eval_data", "calib_data", "calib_images", "images", "eval_recipes"),
        *("task", "task_option", "output"),
    ),
    "Search": (
        *("budget_bops", "budget_size", "budget_activations", "budget_latency", "latency_table", "space", "target"),
        *("fix", "exclude", "trials", "time_limit", "sampler", "proxy", "sensitivity", "baselines", "fast"),
    ),
    "Calibration": ("method", "bits", "observer", "rotate", "reparameterize", "second_order", "groups", "ptf", "lis"),
    "Finishing and reconstruction": (
        *("finish", "reconstruct", "reconstruct_iterations", "reconstruct_images", "ridge", "iterations"),
        *("mlp", "importance", "bfloat16", "on_disk", "blocks", "batch_size", "loss"),
    ),
}
"""Titles of the groups of options, and the parameters in them; what is in none stands under ``_OTHERS``."""


class GroupedCommand(typer.core.TyperCommand):
    """A command whose help lists options in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then the groups that have options; a single group has no title of its own."""
        arguments, groups = [], dict[str, list[tuple[str, str]]]()
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if parameter.param_type_name == "argument":
                arguments.append(record)
            else:
                groups.setdefault(_group_of(str(parameter.name)), []).append(record)
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(arguments)
        for title in (*_GROUPS, _OTHERS):
            if title in groups:
                with formatter.section(title if len(groups) > 1 else "Options"):
                    formatter.write_dl(groups[title])


def _group_of(parameter: str) -> str:
    return next((title for title, names in _GROUPS.items() if parameter in names), _OTHERS)


def examples(*lines: str) -> str:
    """Return the end of a help page, which typer does not wrap.

    >>> examples("autoq sites").splitlines()[1:]
    ['Examples:', '  autoq sites']
    """
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def be_verbose(wanted: bool) -> None:
    """Log what happens in detail from now on, if that is wanted."""
    if wanted:
        logging.getLogger("autoq").setLevel(logging.INFO)


Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", callback=be_verbose, is_eager=True, help="Log what happens in detail."),
]


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the option ``-v``, which its function need not know of."""

    @functools.wraps(command)
    def run(*args: Any, verbose: bool = False, **options: Any) -> None:
        del verbose  # its callback has seen to it
        command(*args, **options)

    hints = typing.get_type_hints(command, include_extras=True)
    known = inspect.signature(command)
    parameters = [parameter.replace(annotation=hints[name]) for name, parameter in known.parameters.items()]
    verbose = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Verbose)
    run.__signature__ = known.replace(parameters=[*parameters, verbose])  # type: ignore[attr-defined]
    run.__annotations__ = {**hints, "verbose": Verbose}
    return run
