"""Do what a document says, in a folder, as someone who types it would."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from autoq.cli.main import _status
from tests.cli.command import Outcome, environment
from tests.documentation.blocks import Block, blocks_of, commands_of, exchanges_of, matches

_OPERATORS = {"|", ">", "<", "<<", "&&", "||", ";", "&"}


class Reader:
    """Runs the blocks of one page in order; its Python blocks are one module.

    Commands of ours run in this process, which saves importing everything anew, or, ``as_typed``, each in its own.
    """

    def __init__(self, page: Path, folder: Path, *, as_typed: bool = False) -> None:
        self.page = page
        self.folder = folder
        self.as_typed = as_typed
        self.seconds: list[tuple[str, float]] = []
        """What was run, and its processor time: commands, and Python blocks by their first line."""
        self.module = ModuleType(f"page_{page.stem}")
        self.ran = 0

    def read(self) -> None:
        """Run every block that is not marked as one that is not."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setitem(sys.modules, self.module.__name__, self.module)
            patch.setattr(sys, "path", [str(self.folder), *sys.path])
            for block in blocks_of(self.page.read_text(encoding="utf-8")):
                if block.reason is None:
                    self._run(block)

    def _run(self, block: Block) -> None:
        if block.file is not None:
            (self.folder / block.file).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            code = compile("\n" * (block.line - 1) + block.code, str(self.page), "exec")
            with self._timed(block.code.splitlines()[0]):
                exec(code, vars(self.module))
        elif block.language == "sh":
            self._succeed(block)
        elif block.language == "console":
            for command, expected in exchanges_of(block.code):
                outcome = self._command(command)
                printed = "\n".join([outcome.out, *outcome.complaints])
                assert matches(expected, printed), f"{self.page.name}:{block.line}: {command} prints\n{printed}"
        elif block.language == "toml":
            tomllib.loads(block.code)
        elif block.language == "json":
            json.loads(block.code)
        else:
            return
        self.ran += 1

    def _succeed(self, block: Block) -> None:
        commands = commands_of(block.code)
        # What is more than a list of commands of ours is left to a shell.
        for part in commands if all(map(_is_ours, commands)) else [block.code]:
            outcome = self._command(part)
            assert outcome.status == 0, f"{self.page.name}:{block.line}: {part}\n{outcome.out}{outcome.err}"

    def _command(self, command: str) -> Outcome:
        with self._timed(command):
            in_process = _is_ours(command) and not self.as_typed
            return _in_process(command) if in_process else self._in_shell(command)

    @contextlib.contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = sum(os.times()[:4])  # user and system, of this process and of those that it has waited for
        yield
        self.seconds.append((" ".join(what.split()), sum(os.times()[:4]) - started))

    def _in_shell(self, script: str) -> Outcome:
        bin_folder = self.folder / ".bin"
        bin_folder.mkdir(exist_ok=True)
        ours = bin_folder / "autoq"
        ours.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m autoq "$@"\n', encoding="utf-8")
        ours.chmod(0o755)
        path = os.pathsep.join([str(bin_folder), str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=environment() | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)


def _words(command: str) -> list[str]:
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    return list(lexer)


def _is_ours(command: str) -> bool:
    """Whether a command is one of autoq and nothing else."""
    words = _words(command)
    return words[:1] == ["autoq"] and not _OPERATORS & set(words)


def _in_process(command: str) -> Outcome:
    with pytest.MonkeyPatch.context() as patch, _captured() as (out, err):
        patch.setattr(sys, "argv", ["/usr/bin/autoq", *_words(command)[1:]])
        status = _status()
    return Outcome(status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _captured() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        yield out, err
