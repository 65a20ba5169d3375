"""Detectors on the command line: a search end to end, and what is refused."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

from tests.cli.command import ROOT, Command, one_json

SPACE = """
schema_version = 1
[[rules]]
scheme = "uniform"
bits = [4, 8]
[[rules]]
operand = "weight"
granularity = "channel"
"""
NAMES = ["box_ap_percent", "box_ap50_percent", "mask_ap_percent", "mask_ap50_percent"]


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    script = runpy.run_path(str(ROOT / "scripts" / "draw_shapes.py"))
    path: Path = script["write_data_set"](tmp_path_factory.mktemp("shapes"), "val", 12)
    return path


@pytest.mark.slow
def test_a_search_is_judged_by_average_precision(plain_command: Command, annotations: Path, tmp_path: Path) -> None:
    space, out = tmp_path / "two.toml", tmp_path / "run"
    space.write_text(SPACE, encoding="utf-8")
    model = ("--model", "swin_shapes", "--task", "detection")
    done = plain_command(
        *("search", *model, "--data", "shapes", "--eval-data", f"coco:{annotations}", "--fast", "--json"),
        *("--budget-bops", "60%", "--space", space, "--calib-images", 4, "--trials", 3, "--out", out),
    )
    assert done.status == 0, done.err
    found = json.loads(done.out)
    recipe = json.loads((out / "recipes" / f"{found['best']}.json").read_text(encoding="utf-8"))
    assert recipe["task"] == {"name": "detection", "scores": "sigmoid", "box_weight": 1.0, "mask_weight": 1.0}
    assert list(recipe["score"]["full_precision"]) == NAMES
    assert 20 < recipe["score"]["box_ap_percent"] <= 100
    assert "box AP" in (out / "report.html").read_text(encoding="utf-8")
    measured = one_json(
        plain_command("evaluate", out / "recipes" / f"{found['best']}.json", "--data", f"coco:{annotations}", "--json")
    )
    assert measured["images"] == 12
    for name in NAMES:
        assert measured[name] == pytest.approx(recipe["score"][name])
        assert measured["full_precision"][name] == pytest.approx(recipe["score"]["full_precision"][name])
    one = one_json(
        plain_command(
            *("evaluate", out / "recipes" / f"{found['best']}.json", "--data", f"coco:{annotations}", "--json"),
            *("--task-option", "most_objects=1"),
        )
    )
    assert 0 < one["box_ap_percent"] < measured["box_ap_percent"] - 5, "there are several objects on an image"
    assert one["kl_nats"] == pytest.approx(measured["kl_nats"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "detection", "--model", "vit_digits"), "the model returns one tensor without a name"),
        (("--model", "swin_shapes", "--data", "shapes"), "the model returns boxes.*use --task detection"),
        (
            ("--task", "detection", "--model", "swin_shapes", "--data", "shapes", "--eval-data", "digits"),
            "images in 'digits' have no boxes: give coco:FILE.json with annotations, or shapes",
        ),
    ],
)
def test_a_model_of_another_task_is_refused(
    plain_command: Command, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    refused = plain_command(
        "search", *arguments, "--budget-bops", "w4a4", "--calib-images", 2, "--out", tmp_path / "run"
    )
    assert refused.status == 2
    assert len(refused.complaints) == 1
    assert re.search(message, refused.complaints[0])
    assert not (tmp_path / "run").exists()


def test_a_category_that_the_model_lacks_is_named(plain_command: Command, annotations: Path, tmp_path: Path) -> None:
    document = json.loads(annotations.read_text(encoding="utf-8"))
    document["categories"][2]["name"] = "giraffe"
    path = tmp_path / "other.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    refused = plain_command(
        *("search", "--task", "detection", "--model", "swin_shapes", "--data", "shapes", "--budget-bops", "w4a4"),
        *("--eval-data", f"coco:{path}:{annotations.parent}", "--calib-images", 2, "--out", tmp_path / "run"),
    )
    assert refused.status == 2
    assert "category 'giraffe': the model has no class of that name" in refused.complaints[0]


@pytest.mark.parametrize(
    "command",
    [
        ("search", "--budget-bops", "w4a4"),
        ("quantize", "--method", "rtn", "--bits", "w4a4"),
        ("sensitivity",),
        ("check-proxy", "--eval-data", "shapes"),
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("nms_iou",), "cannot read the task option 'nms_iou': write it as NAME=VALUE, such as nms_iou=0.5"),
        (("nms_uoi=0.5",), "task 'detection' has no setting 'nms_uoi', .* Did you mean 'nms_iou'"),
        (("most_objects=0.5",), "most_objects is 0.5: give a whole number from 1 on"),
        (("nms_iou=1", "nms_iou=0.5"), "the task option 'nms_iou' is given twice: give it once"),
    ],
)
def test_a_setting_that_a_task_does_not_have_is_refused(
    plain_command: Command, tmp_path: Path, command: tuple[str, ...], options: tuple[str, ...], message: str
) -> None:
    given = [part for option in options for part in ("--task-option", option)]
    model = ("--task", "detection", "--model", "swin_shapes", "--data", "shapes")
    refused = plain_command(*command, *model, *given, "--out", tmp_path / "run")
    assert refused.status == 2
    assert len(refused.complaints) == 1
    assert re.search(message, refused.complaints[0])
    assert not (tmp_path / "run").exists()
