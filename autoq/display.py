"""Show a running command: live bars on a terminal, plain lines elsewhere, or JSON for programs."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from autoq.sensitivity.proxies import PROXIES
from autoq.units import format_digits, format_seconds

if TYPE_CHECKING:
    from autoq.events import BlockAdvanced, BlockFinished, Event

_NAMES = {
    "model": "loading and tracing",
    "images": "loading images",
    "capture": "observing activations",
    "calibration": "calibrating options",
    "sensitivity": "measuring sensitivity",
    "timing": "timing sites",
    "baselines": "published methods",
    "search": "evaluating recipes",
    "front": "measuring the front",
    "improving": "improving recipes",
    "mlp": "training MLPs",
    "finishing": "finishing layers",
    "reconstruction": "reconstructing blocks",
    "score": "comparing predictions",
    "accuracy": "measuring accuracy",
}
_SECONDS_BETWEEN_LINES = 5.0
_WIDE = 100
"""Columns of a terminal from which on bars are long."""


class _RateColumn(ProgressColumn):
    """Steps in a second, or seconds a step."""

    def render(self, task: Task) -> Text:
        """Return the rate in a few characters; nothing where it is not known."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{format_digits(speed, 2)}/s" if speed >= 1 else f"{format_digits(1 / speed, 2)} s each")


class _Bars(Progress):
    """Bars, and below each what there is to say of it, broken between words."""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the row of each bar, then its detail."""
        for task in self.tasks:
            yield self.make_tasks_table([task])
            if detail := task.fields["detail"]:
                yield Padding(Text(str(detail)), (0, 0, 0, 2))


class RunDisplay:
    """A progress callback for searches and other long commands; a context manager that owns the terminal meanwhile."""

    def __init__(self, console: Console | None = None) -> None:
        """Draw on ``console``, standard error by default."""
        self._console = console or Console(stderr=True)
        self._live = self._console.is_terminal
        self._bars = _Bars(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=10 if self._console.width < _WIDE else 24),
            TextColumn("{task.fields[count]:>9}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            _RateColumn(),
            console=self._console,
        )
        self._task: TaskID | None = None
        self._tasks: dict[str, TaskID] = {}
        self._totals: dict[str, int | None] = {}
        self._first: dict[str, tuple[int, float]] = {}
        self._last_line = 0.0

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._live:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        if self._live:
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        from autoq.events import BlockAdvanced, BlockFinished, FirstRecipe, PhaseAdvanced, PhaseStarted

        if isinstance(event, PhaseStarted):
            self._start(event.phase, event.total, event.detail)
        elif isinstance(event, PhaseAdvanced):
            self._advance(event.phase, event.done, self._totals.get(event.phase), "")
        elif isinstance(event, FirstRecipe):
            self._line(f"first recipe: {event.loss} at {event.cost}: {event.path}")
        elif isinstance(event, BlockAdvanced):
            self._advance_block(event)
        elif isinstance(event, BlockFinished):
            self._finish_block(event)
        else:
            proxy = PROXIES[event.proxy]
            name = event.proxy if proxy.is_additive else proxy.loss.title
            best = "none yet" if event.best_loss is None else proxy.loss.format(event.best_loss)
            left = "" if event.seconds_left is None else f", {event.seconds_left:.0f} s left"
            if event.seconds_after:
                left += f", then about {format_seconds(event.seconds_after)} of accuracy"
            detail = f"best {name} within budget {best}, front {event.front_size}{left}"
            self._advance("search", event.done, event.total, detail)

    def _start(self, phase: str, total: int | None, detail: str) -> None:
        self._totals[phase] = total
        self._first.pop(phase, None)
        if phase != "capture":  # which interrupts calibration, whose bar is not done yet
            self._finish_bar()
        if self._live:
            self._task = self._tasks[phase] = self._bars.add_task(_NAMES[phase], total=total, count="", detail=detail)
        else:
            self._line(f"{_NAMES[phase]}{f' ({total})' if total else ''}{f': {detail}' if detail else ''}")

    def _advance(self, phase: str, done: int, total: int | None, detail: str) -> None:
        count = f"{done}/{total}" if total else str(done)
        first, since = self._first.setdefault(phase, (done, time.monotonic()))
        if phase in self._tasks:
            self._bars.update(self._tasks[phase], completed=done, total=total, count=count, detail=detail)
        elif not self._live and (done == total or time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES):
            if total and first < done < total:  # on a terminal, a column of its own says so
                seconds = (time.monotonic() - since) * (total - done) / (done - first)
                count += f", about {format_seconds(seconds)} more"
            self._line(f"{_NAMES[phase]} {count}{f': {detail}' if detail else ''}")

    def _advance_block(self, event: BlockAdvanced) -> None:
        detail = f"{event.name}, batch loss {format_digits(event.loss)}"
        if self._live and event.phase in self._tasks:
            task, block = self._tasks[event.phase], f"block {event.number}/{event.blocks}"
            if self._bars.tasks[task].fields["count"] != block:  # its times are this block's
                self._bars.reset(task, total=event.iterations, count=block, detail=detail)
            self._bars.update(task, completed=event.done, detail=detail)
        elif not self._live and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            count = f"{event.number}/{event.blocks}"
            self._line(f"{_NAMES[event.phase]} {count}: {event.done}/{event.iterations} of {detail}")

    def _finish_block(self, event: BlockFinished) -> None:
        outcome = f"{event.loss} loss {format_digits(event.before)} -> {format_digits(event.after)}"
        kept = "" if event.kept else ", no better: left as it was"
        self._line(f"{_NAMES[event.phase]} {event.number}/{event.blocks}: {event.name}: {outcome}{kept}")

    def _finish_bar(self) -> None:
        if self._live and self._task is not None:
            task = self._bars.tasks[self._task]
            self._bars.update(self._task, total=task.total or 1, completed=task.total or 1)

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        clock = "" if self._live else f" [{time.strftime('%H:%M:%S')}]"
        self._console.print(f"autoq: {text}{clock}", markup=False, highlight=False, soft_wrap=True)


class JsonLog:
    """A progress callback that writes each event, and each warning, as a JSON object in a line of its own.

    >>> import io
    >>> from autoq.events import PhaseAdvanced
    >>> stream = io.StringIO()
    >>> with JsonLog(stream) as log:
    ...     log(PhaseAdvanced("search", 3))
    >>> json.loads(stream.getvalue())["done"]
    3
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to ``stream``, standard error by default."""
        self._stream = stream or sys.stderr
        self._formatters: dict[logging.Handler, logging.Formatter | None] = {}

    def __enter__(self) -> Self:
        """Write what is logged as JSON too."""
        self._formatters = {handler: handler.formatter for handler in logging.getLogger().handlers}
        for handler in self._formatters:
            handler.setFormatter(_JsonFormatter())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Log in plain words again."""
        for handler, formatter in self._formatters.items():
            handler.setFormatter(formatter)

    def __call__(self, event: Event) -> None:
        """Write one event."""
        self._stream.write(_json_line(type(event).__name__, vars(event)) + "\n")
        self._stream.flush()


class _JsonFormatter(logging.Formatter):
    """Formats what is logged as an event."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message as a JSON object."""
        return _json_line("Logged", {"level": record.levelname.lower(), "message": record.getMessage()})


def _json_line(event: str, values: Mapping[str, Any]) -> str:
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    return json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **finite})
