"""``autoq check-proxy``: what it prints, for people and for programs, and how it stops."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from autoq.recipe import SiteConfig
from autoq.runs.proxy_check import run as proxy_check
from autoq.runs.proxy_check.ranks import load_rows
from autoq.scoring.evaluator import Evaluator
from tests.cli.command import Command, one_json, refusal
from tests.runs.proxy_check.test_run import FILES, SPACE
from tests.runs.small_run import write_photos

RECIPES = 6
ARGUMENTS = (
    "check-proxy", "--space", "small.toml", "--eval-data", "photos", "--recipes", RECIPES, "--calib-images", 8,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(proxy_check, "COUNTS", (4,))
    (tmp_path / "small.toml").write_text(SPACE, encoding="utf-8")
    write_photos(tmp_path / "photos")


def test_for_people_and_for_programs(command: Command) -> None:
    outcome = command(*ARGUMENTS)
    assert (outcome.status, outcome.complaints) == (0, [])
    out = Path("autoq-runs/vit_digits-check-proxy")
    assert {path.name for path in out.iterdir()} == {*FILES, "proxy_check.png"}
    with (out / "proxy_check.csv").open(newline="") as file:
        top1 = [float(row["top1_percent"]) for row in csv.DictReader(file)]
    document = json.loads((out / "proxy_check.json").read_text())
    first, second, empty, title, header, *rows, note, table, ranks, picture = outcome.out.splitlines()
    assert first == (
        f"{RECIPES} recipes (3 uniform, 2 disturbed, 1 mutated): top-1 {min(top1):.1f} to {max(top1):.1f} %, full "
        f"precision {document['full_precision_top1_percent']:.1f} %, on 24 images, labels matched by name"
    )
    assert f" of {RECIPES * (RECIPES - 1) // 2} pairs " in second
    assert (empty, title) == ("", "Kendall's tau with top-1 (90 % interval over recipes):")
    assert header.split()[:3] == ["proxy", "images", "all"]
    assert [row.split()[:2] for row in rows[:8]] == [
        [proxy, images] for proxy in ("kl", "mse", "agreement") for images in ("4", "8")
    ] + [["fisher", "8"], ["aph", "8"]]
    taus = {(tau["proxy"], tau["images"]): tau for tau in document["taus"] if tau["subset"] == "all"}
    kl = taus["kl", 8]
    assert rows[1].split()[2:4] == [f"{kl['tau']:.2f}", f"({kl['low']:.2f}–{kl['high']:.2f})"]
    assert rows[8].split()[:2] == ["bops", f"{taus['bops', None]['tau']:.2f}"]
    assert [row.split("  ")[0] for row in rows[9:]] == ["top-1 redrawn", "half of top-1"]
    assert note.startswith("top-1 redrawn: ")
    assert [table, ranks, picture] == [
        f"recipes: {out}/proxy_check.csv", f"ranks:   {out}/proxy_check.json", f"picture: {out}/proxy_check.png",
    ]  # fmt: skip

    printed = one_json(command(*ARGUMENTS, "--format", "pdf", "--json"))
    assert (out / "proxy_check.pdf").read_bytes().startswith(b"%PDF")
    assert printed.pop("out") == str(out)
    assert printed == {name: document[name] for name in document if name not in ("settings", "fingerprints")}


def test_interrupted(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = Evaluator.evaluate
    count = 0

    def interrupt(self: Evaluator, sites: Mapping[str, SiteConfig], *rest: Any) -> Any:
        nonlocal count
        count += 1
        if count == 6:
            raise KeyboardInterrupt
        return evaluate(self, sites, *rest)

    monkeypatch.setattr(Evaluator, "evaluate", interrupt)
    outcome = command(*ARGUMENTS, "--out", "a run")
    assert (outcome.status, outcome.out) == (130, "")
    assert outcome.complaints == [
        "autoq: interrupted; run the same command to resume: autoq check-proxy --space small.toml --eval-data photos "
        "--recipes 6 --calib-images 8 --out 'a run'"
    ]
    assert len(load_rows("a run/proxy_check.jsonl")) == 2  # full precision and one recipe, on two sets of images each
    outcome = command(*ARGUMENTS, "--out", "a run")
    assert (outcome.status, count) == (0, 6 + 2 * (RECIPES + 1 - 2))


def test_wrong_input(command: Command) -> None:
    shutil.copytree(next(Path("photos").iterdir()), "unlabelled")
    assert "'unlabelled' have no labels" in refusal(command, *ARGUMENTS, "--eval-data", "unlabelled")
    assert "observer" in refusal(command, *ARGUMENTS, "--observer", "worst")
    assert "no image folder or tar at 'absent'" in refusal(command, *ARGUMENTS, "--data", "absent")
    assert "--recipes" in refusal(command, "check-proxy", "--recipes", 2)
    assert "format 'gif'" in refusal(command, *ARGUMENTS, "--format", "gif")
    assert "small.tom'" in refusal(command, "check-proxy", "--space", "small.tom")
    Path("run.json").write_text("{}")
    assert "'.' holds a search; choose another --out" in refusal(command, *ARGUMENTS, "--out", ".")
