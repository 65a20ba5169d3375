"""Tables of papers: files of studies/imagenet, and what re-measures them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm

from autoq.methods import METHODS
from benchmarks.published_tables import main, read_table

FOLDER = Path(__file__).parents[1] / "studies" / "imagenet"
TABLE = """
method = "repq-vit"
source = "a test"

[models.vit_digits]
full_precision = 99.00
w8a8 = 98.50
w4a4 = 90.00
"""


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_tables_are_of_models_that_timm_has(path: Path) -> None:
    table = read_table(path)
    assert table.method == path.stem
    assert table.method in METHODS
    assert table.rows
    known = set(timm.list_pretrained())
    for row in table.rows:
        assert row.model in known
        assert 0 < row.top1 <= 100
        assert 70 < row.full_precision < 90


def run(tmp_path: Path, *arguments: str) -> None:
    path = tmp_path / "repq-vit.toml"
    path.write_text(TABLE)
    images = ("--data", "digits", "--eval-data", "digits/val", "--images", "8")
    main([str(path), *images, "--results", str(tmp_path / "results.jsonl"), *arguments])


def test_a_table_is_measured_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, "--bits", "w8a8", "--seeds", "2")
    first = capsys.readouterr().out
    row = first.splitlines()[-1]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:2] == ["vit_digits", "w8a8"]
    assert cells[3] == "98.50"
    ours = float(cells[4].split(" ± ")[0])
    assert float(cells[5]) == pytest.approx(ours - 98.5, abs=0.011)
    entries = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [entry.get("seed") for entry in entries] == [None, 0, 1]
    assert entries[0]["top1_percent"] > 95
    assert all(entry["protocol"] == "published" for entry in entries[1:])
    (tmp_path / "results.jsonl").write_text(
        "".join(json.dumps(entry | {"top1_percent": 50.0}) + "\n" for entry in entries)
    )
    run(tmp_path, "--bits", "w8a8", "--seeds", "2")
    assert capsys.readouterr().out.splitlines()[-1].endswith("| 99.00, 50.00 | 98.50 | 50.00 ± 0.00 | -48.50 |")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method = 'repq'\nsource = ''\n[models.a]\nfull_precision = 1.0\n", "repq"),
        ("source = ''\n[models.a]\nfull_precision = 1.0\n", "has no 'method'"),
        ("method = 'rtn'\nsource = ''\n[models.a]\nw4a4 = 1.0\n", "has no 'full_precision'"),
        ("method = 'rtn'\nsource = ''\n[models.a]\nfull_precision = 1.0\nfour = 1.0\n", "four"),
        ("method =", "cannot read the table"),
    ],
)
def test_bad_tables(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "table.toml"
    path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main([str(path), "--data", "digits", "--eval-data", "digits/val"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_nothing_to_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path, "--models", "deit*")
    assert "no row of the table" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b'{"top1_percent": 5', b"[]\n", b"\xff\n"])
def test_results_that_cannot_be_read(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert len(error.splitlines()) == 1
    assert path.read_bytes() == content


def test_results_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert "cannot write results to" in captured.err
    assert not captured.out
