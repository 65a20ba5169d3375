"""How long everything takes that the documentation says: each page followed, commands typed as they are printed.

    python -m benchmarks.documentation docs/start.md docs/export.md

Without pages, all are followed. The first one is ``docs/start.md``, whatever is named: the others go on from the folder
that it leaves. Commands run in processes of their own, and times are of the processor, so that neighbours on a machine
do not count; a machine of several cores takes less. Pages that fail are told of, the next ones are followed, and the
exit status is 1.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import torch

import autoq
from tests.documentation.pages import ROOT, START, TO_RUN
from tests.documentation.reader import Reader


def main() -> None:
    """Print a line for each command, and a table of pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path)
    arguments = parser.parse_args()
    chosen = [page.resolve() for page in arguments.pages] or TO_RUN
    print(
        f"autoq {autoq.__version__}, torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads"
    )
    totals: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        started = Path(folder) / "started"
        started.mkdir()
        failed = [START] if follow(START, started, totals) else []
        for page in [] if failed else [page for page in chosen if page != START]:
            own = Path(folder) / "reader"
            shutil.copytree(started, own)
            failed += [page] if follow(page, own, totals) else []
            shutil.rmtree(own)
    print("\n| page | seconds |\n| --- | --- |")
    for name, seconds in [*totals.items(), ("all", sum(totals.values()))]:
        print(f"| `{name}` | {seconds:.0f} |")
    if failed:
        sys.exit(f"failed: {', '.join(str(page.relative_to(ROOT)) for page in failed)}")


def follow(page: Path, folder: Path, totals: dict[str, float]) -> bool:
    """Follow a page, print what takes how long, and return whether that failed."""
    name = str(page.relative_to(ROOT))
    reader, error = Reader(page, folder, as_typed=True), None
    try:
        reader.read()
    except Exception as failure:
        error = failure
    print(f"\n{name}")
    for what, seconds in reader.seconds:
        print(f"{seconds:8.1f} s  {what[:120]}")
    if error is not None:
        print(f"FAILED: {error}", file=sys.stderr)
    totals[name] = sum(seconds for _, seconds in reader.seconds)
    sys.stdout.flush()
    return error is not None


if __name__ == "__main__":
    main()
