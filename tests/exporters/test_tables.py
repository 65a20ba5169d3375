"""Tables for people."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from autoq.exporters import BaseExporter, write_export
from autoq.exporters.tables import COLUMNS, CsvExporter, MarkdownExporter, table_rows
from autoq.recipe import CostRecord, ScoreRecord
from autoq.scoring.quantized_module import QuantizedModule
from tests.exporters.sources import source_of


def test_a_row_an_operand(tmp_path: Path) -> None:
    source = source_of("mixed")
    report = write_export(CsvExporter(), source, tmp_path / "x.csv")
    assert report.agreement is None
    with (tmp_path / "x.csv").open(newline="") as file:
        first, *rows = csv.reader(file)
    assert tuple(first) == COLUMNS
    assert [(row[0], row[1]) for row in rows] == list(source.module.quantizers)
    by_key = {(row[0], row[1]): dict(zip(COLUMNS, row, strict=True)) for row in rows}
    assert by_key["av", "lhs"]["settings"] == "log_base_numerator=31"
    assert by_key["av", "lhs"]["scale"] == ""
    assert by_key["fc1", "input"]["settings"] == "groups=4"
    assert (by_key["fc1", "weight"]["bits"], by_key["fc1", "weight"]["elements"]) == ("3", "512")
    quantizer = source.module.quantizers["qkv", "input"]
    assert float(by_key["qkv", "input"]["scale"]) == pytest.approx(float(quantizer.qparams()["scale"]), rel=1e-5)
    least, greatest = map(float, by_key["qkv", "weight"]["scale"].split("…"))
    scales = source.module.quantizers["qkv", "weight"].qparams()["scale"]
    assert (least, greatest) == pytest.approx((float(scales.min()), float(scales.max())), rel=1e-5)


def test_a_page_says_what_it_costs_and_loses(tmp_path: Path) -> None:
    source = source_of("w4a4")
    recipe = source.recipe.model_copy(
        update={
            "cost": CostRecord(bops=1_500_000, group_bops=0, weight_layers_only_bops=0, weight_bytes=2500),
            "score": ScoreRecord(kl_nats=0.012, sqnr_db=20, images=128, top1_percent=91.25),
            "rotated": {"stream": 1},
        }
    )

    def module() -> QuantizedModule:
        made = source.make_module()
        made.recipe = recipe
        return made

    changed = replace(source, recipe=recipe, make_module=module)
    write_export(MarkdownExporter(), changed, tmp_path / "x.md")
    text = (tmp_path / "x.md").read_text()
    for line in ("- cost: 1.5 M BOPs, weights 2.5 kB", "- KL: 0.012 nats over 128 images", "- top1_percent: 91.25"):
        assert line in text
    assert "- rotated: stream\n" in text
    assert text.count("\n| ") == 2 + len(table_rows(source))


@pytest.mark.parametrize("exporter", [CsvExporter, MarkdownExporter])
def test_tables_replace_files_alone(exporter: type[BaseExporter], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory"):
        write_export(exporter(), source_of("w4a4"), tmp_path)
    for _ in range(2):
        write_export(exporter(), source_of("w4a4"), tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
