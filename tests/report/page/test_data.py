"""What the page embeds of a run."""

from __future__ import annotations

import json
from dataclasses import replace

from autoq.recipe import OperandConfig
from autoq.report import RunSummary
from autoq.report.page.assembling import embed_json
from autoq.report.page.data import page_data
from autoq.sensitivity.table import Sensitivity, SensitivityTable
from tests.report.synthetic import as_dense, with_improved, with_published


def test_numbers_are_written_as_in_files(summary: RunSummary) -> None:
    column = page_data(summary)["columns"]["kl_nats"].split(",")
    assert column == [json.dumps(point.kl_nats) for point in summary.points]


def test_what_was_not_measured_is_empty(summary: RunSummary) -> None:
    column = page_data(summary)["columns"]["metric"].split(",")
    assert [text == "" for text in column] == [point.metric is None for point in summary.points]
    assert "" in column


def test_every_trial_has_its_recipe(summary: RunSummary) -> None:
    data = page_data(summary)
    assert len(data["choices"]) == len(summary.points)
    assert min(data["form_of"]) == 0


def test_axes_are_what_the_run_knows(summary: RunSummary) -> None:
    axes = page_data(summary)["axes"]
    assert [axis["key"] for axis in axes["x"]] == ["bops", "weight_bytes"]
    assert [axis["key"] for axis in axes["y"]] == [
        *("loss", "labelled_kl_nats", "metric", "agreement_percent", "sqnr_db"),
    ]
    dense = page_data(as_dense(summary))["axes"]["y"]
    assert {axis["key"]: axis["is_lower_better"] for axis in dense}["metric"]
    assert "agreement_percent" not in [axis["key"] for axis in dense]


def test_improved_and_published_recipes(summary: RunSummary) -> None:
    run = with_improved(with_improved(summary, kind="finished"))
    found = page_data(run)["improved"]
    assert page_data(summary)["improved"] == []
    assert [(each["id"], each["kind"]) for each in found] == [(each.point.id, each.kind) for each in run.improved]
    published = page_data(with_published(summary))
    assert [published["origins"][number] for number in published["origin_of"]].count("published") == 2
    assert published["baseline_id"] == "igq-vit-w4a4"


def test_sensitivities_are_in_network_order(summary: RunSummary) -> None:
    first, last = summary.sites[0].name, summary.sites[-1].name
    rows = tuple(
        Sensitivity(site, "weight", OperandConfig(scheme="uniform", bits=bits), loss)
        for site, bits, loss in ((last, 4, 0.1), (first, 4, 0.2), (first, 8, 0.0))
    )
    data = page_data(replace(summary, sensitivity=SensitivityTable("kl", 16, rows)))["sensitivity"]
    assert data["bits"] == [4, 8]
    assert [(row["site"], row["losses"]) for row in data["rows"]] == [(first, [0.2, 0.0]), (last, [0.1, None])]
    assert "16 images" in data["note"]
    assert page_data(summary)["sensitivity"] is None


def test_numbers_that_json_lacks_become_null() -> None:
    assert embed_json({"a": [float("inf"), float("nan"), 1.0]}) == '{"a":[null,null,1.0]}'
