"""``autoq sensitivity``: what it prints, for people and for programs, and how it stops."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autoq.report.sensitivity_map import best_cells
from autoq.runs import sensitivity as sensitivities
from autoq.scoring.evaluator import Evaluator
from autoq.sensitivity.importance_files import load_importance, save_importance
from autoq.sensitivity.measure import SensitivityTable
from autoq.units import format_kl
from tests.cli.command import Command, one_json, refusal

SPACE = """
schema_version = 1

[[rules]]
site = "blocks.0.*"
scheme = "uniform"
bits = [3, 4, 6]

[[rules]]
site = "blocks.0.attn.qkv"
operand = "input"
scheme = "instance_groups"
groups = [1, 4]
"""
FILES = {".lock", "bank", "sensitivity.csv", "sensitivity.json", "sensitivity.png"}
IMPORTANCE_FILES = {"importance.csv", "importance.png", "importance.safetensors"}
BLOCKS = ["patch_embed.proj", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "head"]


@pytest.fixture(autouse=True)
def _in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SPACE, encoding="utf-8")


ARGUMENTS = ("sensitivity", "--space", "small.toml", "--calib-images", 8)


def test_for_people(command: Command) -> None:
    outcome = command(*ARGUMENTS)
    assert (outcome.status, outcome.complaints) == (0, [])
    first, *ten, table, picture = outcome.out.splitlines()
    assert first == "most sensitive 10 of 12 operands at 4 bits, by KL from full precision (nats):"
    assert len(ten) == 10
    losses = [float(line.split()[1]) for line in ten]
    assert losses == sorted(losses, reverse=True)
    out = Path("autoq-runs/vit_digits-sensitivity")
    assert (table, picture) == (f"table: {out}/sensitivity.csv", f"map:   {out}/sensitivity.png")
    assert {path.name for path in out.iterdir()} == FILES
    cells = best_cells(SensitivityTable.load(out / "sensitivity.csv"))
    for line in ten:
        site, operand = line.split()[0].split(":")
        best = cells[site, operand][4]
        assert line.split()[1:] == [format_kl(best.loss), *filter(None, [best.label.mark])]
    assert float(ten[0].split()[1]) == max(float(format_kl(row[4].loss)) for row in cells.values())


def test_for_programs(command: Command) -> None:
    outcome = command(*ARGUMENTS, "--out", "here", "--all", "--json")
    document = one_json(outcome)
    assert document.keys() == {"out", "proxy", "images", "rows"}
    assert (document["out"], document["proxy"], document["images"]) == ("here", "kl", 8)
    table = SensitivityTable.load("here/sensitivity.csv")
    assert [row["loss"] for row in document["rows"]] == [row.loss for row in table.rows]
    assert document["rows"][0].keys() == {
        "site", "operand", "scheme", "bits", "granularity", "symmetric", "groups", "log_base_numerator", "overflow",
        "hadamard_block", "loss", "measured",
    }  # fmt: skip
    assert {row["measured"] for row in document["rows"]} == {True}
    assert len(document["rows"]) == 12 * 3 + 3
    assert json.loads(Path("here/sensitivity.json").read_text())["settings"]["exhaustive"] is True
    assert one_json(command(*ARGUMENTS, "--out", "here", "--json")) == document, "resumed"
    assert {path.name for path in Path("here").iterdir()} == FILES


def test_importance_of_blocks(command: Command) -> None:
    arguments = (*ARGUMENTS, "--proxy", "aph", "--out", "here")
    outcome = command(*arguments)
    assert (outcome.status, outcome.complaints) == (0, [])
    assert outcome.out.splitlines()[-4:] == [
        "table: here/sensitivity.csv",
        "map:   here/sensitivity.png",
        "importance of blocks' outputs: here/importance.csv",
        "its map: here/importance.png",
    ]
    assert {path.name for path in Path("here").iterdir()} == FILES | IMPORTANCE_FILES
    importance = load_importance("here/importance.safetensors")
    assert (importance.model, importance.images) == ("vit_digits", 8)
    assert [each.name for each in importance.outputs] == BLOCKS
    document = one_json(command(*arguments, "--format", "svg", "--json"))
    assert {path.name for path in Path("here").glob("*.svg")} == {"importance.svg", "sensitivity.svg"}
    assert document.keys() == {"out", "proxy", "images", "rows", "importance"}
    rows = document["importance"]
    assert [row["block"] for row in rows] == BLOCKS
    assert [row["mean"] for row in rows] == pytest.approx([float(each.hessian.mean()) for each in importance.outputs])
    with Path("here/importance.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["block"], line["shape"]) for line in lines] == [(row["block"], row["shape"]) for row in rows]


def test_importance_is_measured_once(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (*ARGUMENTS, "--proxy", "aph", "--out", "here")
    calls: list[str] = []

    def spy(*given: Any, **named: Any) -> Any:
        calls.append("measured")
        if len(calls) == 1:
            raise KeyboardInterrupt
        return measure_importance(*given, **named)

    measure_importance = sensitivities.measure_importance
    monkeypatch.setattr(sensitivities, "measure_importance", spy)
    assert command(*arguments).status == 130
    assert "sensitivity.csv" in {path.name for path in Path("here").iterdir()}
    assert IMPORTANCE_FILES.isdisjoint(path.name for path in Path("here").iterdir())
    assert command(*arguments).status == 0
    first = load_importance("here/importance.safetensors")
    table = Path("here/importance.csv").read_bytes()
    Path("here/importance.csv").unlink()
    Path("here/importance.png").unlink()
    assert command(*arguments).status == 0
    assert len(calls) == 2
    assert Path("here/importance.csv").read_bytes() == table
    assert Path("here/importance.png").exists()
    Path("here/importance.safetensors").write_bytes(b"damaged")
    assert command(*arguments).status == 0
    assert len(calls) == 3, "damaged"
    save_importance(replace(first, images_sha256="another", outputs=first.outputs[:1]), "here/importance.safetensors")
    assert command(*arguments).status == 0
    assert len(calls) == 4, "of other images"
    last = load_importance("here/importance.safetensors")
    assert replace(last, outputs=()) == replace(first, outputs=())
    assert all(torch.equal(a.hessian, b.hessian) for a, b in zip(last.outputs, first.outputs, strict=True))


def test_interrupted(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = Evaluator.evaluate
    count = 0

    def interrupt(self: Evaluator, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == 11:
            raise KeyboardInterrupt
        return evaluate(self, *arguments)

    monkeypatch.setattr(Evaluator, "evaluate", interrupt)
    outcome = command(*ARGUMENTS, "--out", "a run")
    assert (outcome.status, outcome.out) == (130, "")
    assert outcome.complaints == [
        "autoq: interrupted; run the same command to resume: autoq sensitivity --space small.toml --calib-images 8 "
        "--out 'a run'"
    ]
    assert len(SensitivityTable.load("a run/sensitivity.csv").rows) == 10
    outcome = command(*ARGUMENTS, "--out", "a run")
    assert (outcome.status, count) == (0, 11 + 12 * 3 + 3 - 10)


def test_wrong_input(command: Command) -> None:
    assert "unknown proxy 'kld'; there are kl, " in refusal(command, *ARGUMENTS, "--proxy", "kld")
    assert "observer" in refusal(command, *ARGUMENTS, "--observer", "worst")
    assert "no image folder or tar at 'absent'" in refusal(command, *ARGUMENTS, "--data", "absent")
    assert "--calib-images" in refusal(command, "sensitivity", "--calib-images", 0)
    assert "format 'gif'" in refusal(command, *ARGUMENTS, "--format", "gif")
    assert "small.tom'" in refusal(command, "sensitivity", "--space", "small.tom")
    Path("run.json").write_text("{}")
    assert "'.' holds a search; choose another --out" in refusal(command, *ARGUMENTS, "--out", ".")


def test_one_option_an_operand(command: Command) -> None:
    Path("one.toml").write_text('schema_version = 1\n[[rules]]\nsite = "head"\nscheme = "uniform"\nbits = 5\n')
    outcome = command("sensitivity", "--space", "one.toml", "--calib-images", 8)
    assert (outcome.status, outcome.complaints) == (0, [])
    assert outcome.out.startswith("most sensitive operands at 5 bits, by KL")
    assert {line.split()[0] for line in outcome.out.splitlines()[1:3]} == {"head:input", "head:weight"}
