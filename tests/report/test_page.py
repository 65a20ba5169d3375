"""The page of a report."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from autoq.recipe import Recipe
from autoq.report import RunSummary, render_page
from autoq.report.words import headline, left_out
from tests.report.synthetic import make_summary, with_improved, with_points, with_published

HOSTILE = "</script><img src=x onerror=alert(1)>{{data}}'\"&\u2028"


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def _tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Tags()
    parser.feed(page)
    return parser.seen


def _data(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="run">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def _hostile(summary: RunSummary) -> RunSummary:
    points = tuple(replace(point, label=HOSTILE, origin=HOSTILE) for point in summary.points)
    sites = (replace(summary.sites[0], name=HOSTILE, op=HOSTILE), *summary.sites[1:])
    words = dict.fromkeys(("model", "data", "eval_data", "directory", "hypervolume_reference"), HOSTILE)
    budgets = {"bops": (HOSTILE, summary.budget or 0)}
    return replace(summary, points=points, sites=sites, settings={HOSTILE: HOSTILE}, budgets=budgets, **words)


def test_everything_is_in_the_page(summary: RunSummary) -> None:
    page = render_page(summary)
    data = _data(page)
    assert len(data["points"]) == len(summary.points)
    assert data["best_id"] == summary.best_id
    assert headline(summary) in page
    assert "{{" not in page
    assert "<dt>wall time</dt><dd>48 s</dd>" in page
    best = next(point for point in data["points"] if point["id"] == summary.best_id)
    assert Recipe.model_validate(best["recipe"]).sites.keys() == {site.name for site in summary.sites}


def test_logarithm_bases_come_as_text(summary: RunSummary) -> None:
    best = next(point for point in summary.points if point.id == summary.best_id)
    assert best.recipe is not None
    site, other = (row.name for row in summary.sites[:2])
    sites = {
        site: {"input": {"scheme": "adalog", "bits": 4, "log_base_numerator": 37}},
        other: {"input": {"scheme": "log_sqrt2", "bits": 4}, "weight": {"scheme": "uniform", "bits": 4}},
    }
    changed = replace(best, recipe={**best.recipe, "sites": sites})
    data = _data(render_page(replace(summary, points=(changed,))))
    assert data["points"][0]["log_bases"] == {site: {"input": "2.00"}, other: {"input": "√2"}}


def test_the_page_loads_nothing(summary: RunSummary) -> None:
    page = render_page(summary)
    assert set(re.findall(r"https?://[^\s\"')]+", page)) == {"http://www.w3.org/2000/svg"}
    tags = _tags(page)
    assert not {tag for tag, _ in tags} & {"link", "img", "iframe", "object", "embed"}
    assert not [attributes for _, attributes in tags if attributes.keys() & {"src", "href", "action"}]


def test_ids_are_unique_and_labels_point_somewhere(summary: RunSummary) -> None:
    tags = _tags(render_page(summary))
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["aria-labelledby"] for _, attributes in tags if "aria-labelledby" in attributes} <= set(ids)


def test_hostile_names_stay_text(summary: RunSummary) -> None:
    hostile = _hostile(summary)
    page = render_page(hostile)
    assert [tag for tag, _ in _tags(page)].count("script") == 2
    assert not [tag for tag, attributes in _tags(page) if tag == "img" or "onerror" in attributes]
    assert _data(page)["points"][0]["label"] == HOSTILE
    assert _data(page)["sites"][0]["name"] == HOSTILE


def test_numbers_that_json_lacks_become_null(summary: RunSummary) -> None:
    perfect = replace(summary.points[0], kl_nats=0.0, sqnr_db=float("inf"))
    page = render_page(replace(summary, points=(perfect,), best_id=None))
    assert _data(page)["points"][0]["sqnr_db"] is None


def test_improved_recipes_are_in_the_page(summary: RunSummary) -> None:
    run = with_improved(with_improved(summary, kind="finished"))
    data = _data(render_page(run))
    assert _data(render_page(summary))["improved"] == []
    assert [found["id"] for found in data["improved"]] == [found.point.id for found in run.improved]
    assert [(found["kind"], found["iterations"]) for found in data["improved"]] == [
        *[("finished", None)] * 2,
        *[("reconstructed", 1000)] * 2,
    ]
    assert data["points"] == _data(render_page(summary))["points"], "the front is as searched"


def test_published_methods_are_in_the_page(summary: RunSummary) -> None:
    run = with_published(summary)
    data = _data(render_page(run))
    assert [point["id"] for point in data["points"] if point["published"]] == ["repq-vit-w4a4", "igq-vit-w4a4"]
    assert data["baseline_id"] == "igq-vit-w4a4"
    assert not [point for point in _data(render_page(summary))["points"] if point["published"]]


def test_which_images_scored_is_in_the_page(summary: RunSummary) -> None:
    points = tuple(replace(point, calibration_kl_nats=point.kl_nats / 2) for point in summary.points)
    page = render_page(replace(summary, points=points, scoring_images=96))
    assert "KL over 96 images that did not calibrate" in page
    assert "<dt>scored on</dt><dd>96 others of them</dd>" in page
    assert _data(page)["is_held_out"]
    assert left_out(replace(summary, accuracy_left_out=4)) in render_page(replace(summary, accuracy_left_out=4))
    assert _data(page)["points"][0]["calibration_kl_nats"] == points[0].calibration_kl_nats
    same = render_page(summary)
    assert "<dt>scored on</dt><dd>the same images</dd>" in same
    assert not _data(same)["is_held_out"]


def _open(page: Path, profile: Path, fragment: str = "") -> tuple[str, str]:
    """The page after its script ran, without script and style, and what the browser logged."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on PATH")
    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--no-sandbox"]
    quiet += ["--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--v=0"]
    command = [chromium, "--headless", *quiet, f"--user-data-dir={profile}", "--dump-dom", page.as_uri() + fragment]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return re.sub(r"<(style|script)\b.*?</\1>", "", done.stdout, flags=re.DOTALL), done.stderr


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "fragment", "title"),
    [
        (lambda summary: summary, "", "{best}, chosen by the search"),
        (lambda summary: summary, "#w3a3", "Recipe: w3a3"),
        (lambda summary: summary, "#%E0%A4%A", "{best}, chosen by the search"),
        (lambda summary: with_points(summary, lambda _: False), "", "No recipe to show"),
        (lambda summary: with_improved(with_improved(summary, kind="finished")), "", "{best}, chosen by the search"),
        (lambda summary: with_published(summary), "#igq-vit-w4a4", "Recipe: igq-vit 4/4"),
        (lambda _: make_summary(blocks=33, trials=30, labels=False), "#w8a8", "Recipe: w8a8"),
        (_hostile, "#w4a4", "Recipe: &lt;/script&gt;"),
    ],
    ids=["best", "hash", "bad-hash", "none", "improved", "published", "200-sites", "hostile"],
)
def test_the_script_fills_the_page(summary: RunSummary, tmp_path: Path, make: Any, fragment: str, title: str) -> None:
    run: RunSummary = make(summary)
    (tmp_path / "report.html").write_text(render_page(run), encoding="utf-8")
    dom, log = _open(tmp_path / "report.html", tmp_path / "profile", fragment)
    assert "CONSOLE" not in log, log
    heading = re.search(r'<h2 id="recipe-title">(.*?)</h2>', dom)
    assert heading
    assert title.format(best=summary.best.label if summary.best else "") in heading[1]
    pickable = [point for point in run.compared if point.recipe is not None]
    assert dom.count('class="point"') == len(pickable)
    assert dom.count('class="trial"') == len(run.compared) - len(pickable)
    assert dom.count('class="improved"') == len(run.improved)
    section = re.search(r'<section id="improved-section"(.*?)</section>', dom, re.DOTALL)
    assert section
    assert ("hidden" in section[1].partition(">")[0]) == (not run.improved)
    assert section[1].count("<tr") == 1 + len(run.improved)
    assert ("--as reconstructed" in section[1]) == bool(run.improved)
    assert dom.count('aria-checked="true"') == (1 if pickable else 0)
    assert len(re.findall(r"<tr [^>]*data-id=", dom)) == len(pickable)
    assert "<img" not in dom
