"""``autoq search --finish --reconstruct`` and what comes after it: printed, reported, exported, interrupted."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from pathlib import Path

import pytest

from autoq.recipe import Recipe
from autoq.runs.search.directory import SearchDirectory
from tests.cli.command import Command, one_json, stopped_at
from tests.runs.small_run import TRIALS, finished_run, small_settings

QUICK = ("--reconstruct", "--reconstruct-iterations", 2, "--reconstruct-images", 16)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finish on 16 images, which takes a moment."""
    monkeypatch.setattr("autoq.runs.search.improve_front.FINISHING_IMAGES", 16)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A finished search, to be written to."""
    shutil.copytree(finished_run(), tmp_path / "my run")
    return tmp_path / "my run"


def search(out: Path) -> list[object]:
    """The command that goes on with ``out``."""
    settings = small_settings(finished_run().parent)
    options = {"space": settings.space, "eval-data": settings.eval_data, "trials": TRIALS, "calib-images": 16}
    return [
        "search",
        "--fast",
        *(part for name, value in options.items() for part in (f"--{name}", value)),
        "--out",
        out,
    ]


def test_from_search_to_export(command: Command, out: Path, tmp_path: Path) -> None:
    document = one_json(command(*search(out), "--finish", *QUICK, "--json"))
    found = {kind: {point["id"]: point for point in document[kind]} for kind in ("finished", "reconstructed")}
    assert document["best"] in found["finished"]
    assert len(found["finished"]) == 2
    assert list(found["finished"]) == list(found["reconstructed"])
    for kind, name, point in ((kind, *item) for kind, points in found.items() for item in points.items()):
        assert f"{kind}/" in point["recipe"]
        assert point.keys() == {"id", "recipe", "bops", "kl_nats", "top1_percent"}
        measured = one_json(command("evaluate", point["recipe"], "--json"))
        assert (measured["kl_nats"], measured["bops"]) == (point["kl_nats"], point["bops"])

        mine = tmp_path / f"{name}-{kind}.json"
        exported = one_json(command("export", out, "--pick", name, "--as", kind, "-o", mine, "--json"))
        expected = {"id": name, "version": kind, "path": str(mine), "format": "recipe"}
        assert {key: exported[key] for key in expected} == expected
        assert Recipe.load(mine).score == Recipe.load(point["recipe"]).score
        assert one_json(command("evaluate", mine, "--json")) == measured
    best = command("export", out, "-o", tmp_path / "best.json").out
    least = Recipe.load(tmp_path / "best.json")
    assert least.score is not None
    version = "searched" if least.improved is None else "finished" if least.reconstruction is None else "reconstructed"
    assert best.startswith(f"{document['best']}, as {version} -> ")
    others = [Recipe.load(points[document["best"]]["recipe"]).score for points in found.values()]
    assert least.score.labelled_kl_nats == min(score.labelled_kl_nats for score in (least.score, *others) if score)
    knee = command("export", out, "--pick", "knee", "-o", tmp_path / "knee.json").out
    assert knee.split(",")[0] in found["finished"].keys() - {document["best"]}
    assert command("export", out, "--as", "searched", "-o", tmp_path / "searched.json").status == 0
    assert Recipe.load(tmp_path / "searched.json").improved is None

    improved = [*document["finished"], *document["reconstructed"]]
    with (out / "improved.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [point["id"] for point in improved]
    assert [row["kind"] for row in rows] == [*2 * ["finished"], *2 * ["reconstructed"]]
    (out / "improved.csv").unlink()
    assert str(out / "improved.csv") in command("report", out).out, "redrawn without a model"
    page = (out / "report.html").read_text()
    assert all(f'"id":{json.dumps(point["id"])}' in page for point in improved)
    assert all(json.dumps(point["kl_nats"]) in page for point in improved)


@pytest.mark.parametrize(
    ("options", "kind", "shown"),
    [(("--finish",), "finished", "finishing layers"), (QUICK, "reconstructed", "reconstructing blocks (6)")],
)
def test_for_people(command: Command, out: Path, options: tuple[object, ...], kind: str, shown: str) -> None:
    outcome = command(*search(out), *options)
    assert (outcome.status, outcome.complaints) == (0, [])
    _, _, _, *sentences, page, recipe, first, second = outcome.out.splitlines()
    assert len(sentences) == len(getattr(SearchDirectory(out).require(), kind)) == 2
    for sentence, path in zip(sentences, (first, second), strict=True):
        assert sentence.startswith(f"{kind.capitalize()}, trial ")
        assert " nats; top-1 " in sentence
        assert Path(path.removeprefix(f"{kind}: ")).is_file()
    assert page == f"page:   {out}/report.html"
    assert recipe.startswith(f"recipe: {out}/recipes/")
    assert f"autoq: {shown}" in outcome.err
    assert ": trial " in outcome.err


def test_what_is_not_reconstructed_is_not_exported(command: Command, out: Path, tmp_path: Path) -> None:
    outcome = command("export", out, "--as", "reconstructed", "-o", tmp_path / "mine.json")
    assert outcome.status == 2
    assert "is not reconstructed, nothing is: run the search with --reconstruct" in outcome.err
    assert not (tmp_path / "mine.json").exists()


@pytest.mark.parametrize("option", ["--reconstruct-iterations", "--reconstruct-images"])
def test_options_that_would_do_nothing_are_refused(command: Command, out: Path, option: str) -> None:
    outcome = command(*search(out), option, 5)
    assert (outcome.status, outcome.err) == (2, f"autoq: {option} is of no use without --reconstruct: add it.\n")
    assert command(*search(out), "--reconstruct", option, 0).status == 2


def test_a_study_file_may_ask_for_it(command: Command, out: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text("finish = true\nreconstruct = true\nreconstruct_iterations = 9\nreconstruct_images = 16\n")
    name, *arguments = search(out)
    assert one_json(command(name, study, *arguments, "--no-finish", "--no-reconstruct", "--json"))["finished"] == []
    document = one_json(command(name, study, *arguments, "--reconstruct-iterations", 2, "--json"))
    assert len(document["finished"]) == len(document["reconstructed"]) == 2
    assert {entry.iterations for entry in SearchDirectory(out).require().reconstructed.values()} == {2}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped(command: Command, out: Path, number: signal.Signals) -> None:
    """Ctrl-C leaves the report of the search and says how to go on; nothing that was finished is done again."""
    options = (*QUICK[:2], 12, *QUICK[3:], "--device", "cpu")
    process = stopped_at("reconstructing blocks 2/6: blocks.0: ", number, *search(out), *options)
    rest = process.stderr
    assert (out / "report.html").stat().st_size > 10_000
    assert SearchDirectory(out).require().state == "finished"
    if number == signal.SIGINT:
        assert process.returncode == 130, rest
        told, how = [line for line in rest.splitlines() if not line.startswith("autoq: reconstructing")]
        assert told == f"autoq: {out}/report.html shows the search, which is finished"
        assert how.startswith("autoq: interrupted; run the same command to resume: python -m autoq search ")
    else:
        assert process.returncode == -signal.SIGKILL
    assert len(list(out.glob("reconstructed/*/blocks/[!.]*.safetensors"))) >= 2, "finished blocks are kept"
    resumed = command(*search(out), *options)
    assert (resumed.status, resumed.complaints) == (0, [])
    assert "reconstructing blocks 6/6" in resumed.err
    assert len(SearchDirectory(out).require().reconstructed) == 2
