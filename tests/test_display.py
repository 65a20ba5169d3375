"""What a person sees of a running search: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import json
import logging
import math
import re

import pytest
from rich.console import Console

from autoq.display import JsonLog, RunDisplay
from autoq.events import BlockAdvanced, BlockFinished, Event, PhaseAdvanced, PhaseStarted, TrialFinished

EVENTS: list[Event] = [
    PhaseStarted("model", detail="vit[digits]"),
    PhaseStarted("images", 16, "digits"),
    PhaseStarted("calibration", 3),
    PhaseStarted("capture", 16),
    PhaseAdvanced("capture", 16),
    PhaseAdvanced("calibration", 1),
    PhaseAdvanced("calibration", 3),
    PhaseStarted("search", 2),
    TrialFinished(1, 2, None, 0, None),
    TrialFinished(2, 2, 0.0521, 4, 31.4),
    PhaseStarted("front", 1),
    PhaseAdvanced("front", 1),
]


def show(terminal: bool, events: list[Event]) -> str:
    stream = io.StringIO()
    with RunDisplay(Console(file=stream, force_terminal=terminal, width=200)) as display:
        for event in events:
            display(event)
    return stream.getvalue()


def lines_of(text: str) -> list[str]:
    """The lines of a log, without the time of day that each ends in."""
    found = [re.fullmatch(r"(.*) \[\d\d:\d\d:\d\d\]", line) for line in text.splitlines()]
    assert all(found)
    return [match[1] for match in found if match]


def test_lines_where_there_is_no_terminal() -> None:
    assert lines_of(show(False, EVENTS)) == [
        "autoq: loading and tracing: vit[digits]",
        "autoq: loading images (16): digits",
        "autoq: calibrating options (3)",
        "autoq: observing activations (16)",
        "autoq: observing activations 16/16",
        "autoq: calibrating options 3/3",
        "autoq: evaluating recipes (2)",
        "autoq: evaluating recipes 2/2: best KL within budget 0.052 nats, front 4, 31 s left",
        "autoq: measuring the front (1)",
        "autoq: measuring the front 1/1",
    ]


def test_lines_say_how_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("autoq.display.time.monotonic", lambda: now)
    stream = io.StringIO()
    display = RunDisplay(Console(file=stream))
    display(PhaseStarted("calibration", 1000))
    for done in (400, 500, 700):  # the first were solved by an earlier run
        now += 10
        display(PhaseAdvanced("calibration", done))
    display(TrialFinished(3, 3, 0.5, 3, 12.0, seconds_after=150.0))
    assert lines_of(stream.getvalue())[1:] == [
        "autoq: calibrating options 400/1000",
        "autoq: calibrating options 500/1000, about 50 s more",
        "autoq: calibrating options 700/1000, about 20 s more",
        "autoq: evaluating recipes 3/3: best KL within budget 0.50 nats, front 3, 12 s left, "
        "then about 2 min of accuracy",
    ]


def test_lines_are_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("autoq.display.time.monotonic", lambda: now)
    stream = io.StringIO()
    display = RunDisplay(Console(file=stream))
    display(PhaseStarted("search", 1000))
    for done in range(1, 1000):
        now = done / 10
        display(TrialFinished(done, 1000, 0.5, 3, None))
    assert 15 <= len(stream.getvalue().splitlines()) <= 21


def test_bars_on_a_terminal() -> None:
    text = show(True, EVENTS)
    last = text[text.rindex("loading and tracing") :]
    for expected in (
        "vit[digits]",
        "16/16",
        "3/3",
        "2/2",
        "best KL within budget 0.052 nats, front 4, 31 s left",
        "1/1",
    ):
        assert expected in last
    assert last.count("16/16") == 1, "observing has a bar of its own"
    assert text.endswith("\x1b[?25h"), "the cursor is shown again"


@pytest.mark.parametrize("width", [80, 120])
def test_a_bar_keeps_its_figures_however_narrow(width: int) -> None:
    """Bar, count, time and what is left of it in one row of the terminal; the detail below, broken between words."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=width, height=40)
    with RunDisplay(console) as display:
        display(PhaseStarted("search", 300))
        display(TrialFinished(137, 300, 0.0521, 14, 31.4, seconds_after=150.0))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).splitlines()
    (row,) = [line for line in shown[-4:] if "137/300" in line]
    assert re.match(r"evaluating recipes +\S+ +137/300 +\d:\d\d:\d\d +left ", row)
    below = " ".join(line.strip() for line in shown[shown.index(row) + 1 :])
    assert below.strip() == ("best KL within budget 0.052 nats, front 14, 31 s left, then about 2 min of accuracy")
    assert all(len(line) <= width for line in shown)


def test_an_interrupt_leaves_the_terminal_as_it_was() -> None:
    stream = io.StringIO()

    def interrupted() -> None:
        with RunDisplay(Console(file=stream, force_terminal=True)) as display:
            display(PhaseStarted("search", 10))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stream.getvalue().endswith("\x1b[?25h")


TRAINING: list[Event] = [
    PhaseStarted("reconstruction", 2, "16 images of digits"),
    BlockAdvanced("reconstruction", "blocks[0]", 1, 2, 1, 200, 1.0301),
    BlockAdvanced("reconstruction", "blocks[0]", 1, 2, 200, 200, 0.5),
    BlockFinished("reconstruction", "blocks[0]", 1, 2, "aph", 0.0321, 0.0123),
    BlockAdvanced("reconstruction", "head", 2, 2, 200, 200, 1.25),
    BlockFinished("reconstruction", "head", 2, 2, "kl", 0.5, 0.625, kept=False),
    PhaseStarted("score", 16),
]


def test_blocks_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr("autoq.display.time.monotonic", lambda: next(now))
    assert lines_of(show(False, TRAINING)) == [
        "autoq: reconstructing blocks (2): 16 images of digits",
        "autoq: reconstructing blocks 1/2: 1/200 of blocks[0], batch loss 1.03",
        "autoq: reconstructing blocks 1/2: 200/200 of blocks[0], batch loss 0.5",
        "autoq: reconstructing blocks 1/2: blocks[0]: aph loss 0.0321 -> 0.0123",
        "autoq: reconstructing blocks 2/2: 200/200 of head, batch loss 1.25",
        "autoq: reconstructing blocks 2/2: head: kl loss 0.5 -> 0.625, no better: left as it was",
        "autoq: comparing predictions (16)",
    ]
    monkeypatch.setattr("autoq.display.time.monotonic", lambda: 0.0)
    assert not [line for line in show(False, TRAINING).splitlines() if "batch loss" in line], "not too many"


def test_blocks_on_a_terminal() -> None:
    text = show(True, TRAINING)
    for expected in (
        "reconstructing blocks 1/2: blocks[0]: aph loss 0.0321 -> 0.0123",
        "reconstructing blocks 2/2: head: kl loss 0.5 -> 0.625, no better: left as it was",
        "head, batch loss 1.25",
    ):
        assert expected in text
    last = text[text.rindex("comparing predictions") - 400 :]
    assert "block 2/2" in last
    assert "block 1/2" not in last, "one bar, started again for each block"


def test_events_and_warnings_as_json() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    try:
        with JsonLog(stream) as log:
            log(TrialFinished(3, 10, math.inf, 2, None))
            logging.getLogger("autoq").warning("a recipe failed: %s", "head")
        logging.getLogger("autoq").warning("plain")
    finally:
        logging.getLogger().removeHandler(handler)
    first, second, plain = stream.getvalue().splitlines()
    event, logged = json.loads(first), json.loads(second)
    assert (event["event"], event["done"], event["best_loss"]) == ("TrialFinished", 3, None)
    assert (logged["event"], logged["level"], logged["message"]) == ("Logged", "warning", "a recipe failed: head")
    assert plain == "plain"
