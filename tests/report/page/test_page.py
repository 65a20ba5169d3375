"""The page of a report."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

from autoq.report import RunSummary, render_page
from autoq.report.words import headline, left_out

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


def hostile(summary: RunSummary) -> RunSummary:
    """The same run with names that would be markup."""
    points = tuple(replace(point, label=HOSTILE, origin=HOSTILE) for point in summary.points)
    sites = (replace(summary.sites[0], name=HOSTILE, op=HOSTILE), *summary.sites[1:])
    words = dict.fromkeys(("model", "data", "eval_data", "directory", "hypervolume_reference"), HOSTILE)
    budgets = {"bops": (HOSTILE, summary.budget or 0)}
    return replace(summary, points=points, sites=sites, settings={HOSTILE: HOSTILE}, budgets=budgets, **words)


def test_everything_is_in_the_page(summary: RunSummary) -> None:
    page = render_page(summary)
    data = _data(page)
    assert data["ids"] == [point.id for point in summary.points]
    assert data["best_id"] == summary.best_id
    assert headline(summary) in page
    assert "{{" not in page
    assert "<dt>wall time</dt><dd>48 s</dd>" in page


def test_the_page_loads_nothing(summary: RunSummary) -> None:
    page = render_page(summary)
    assert set(re.findall(r"https?://[^\s\"')]+", page)) == {"http://www.w3.org/2000/svg"}
    tags = _tags(page)
    assert not {tag for tag, _ in tags} & {"link", "img", "iframe", "object", "embed"}
    assert not [attributes for _, attributes in tags if attributes.keys() & {"src", "href", "action"}]


def test_nothing_runs_but_what_was_written_here(summary: RunSummary) -> None:
    """The policy names the digests of the one style and the one script, and allows nothing else."""
    page = render_page(hostile(summary))
    policy = next(a["content"] for _, a in _tags(page) if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "unsafe" not in policy
    for kind, pattern in (("style", r"<style>(.*?)</style>"), ("script", r'<script type="module">(.*?)</script>')):
        found = re.findall(pattern, page, re.DOTALL)
        assert len(found) == 1
        sha256 = base64.b64encode(hashlib.sha256(found[0].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{sha256}'" in policy
    assert not [
        name for _, attributes in _tags(page) for name in attributes if name.startswith("on") or name == "style"
    ]


def test_ids_are_unique_and_labels_point_somewhere(summary: RunSummary) -> None:
    tags = _tags(render_page(summary))
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["aria-labelledby"] for _, attributes in tags if "aria-labelledby" in attributes} <= set(ids)


def test_hostile_names_stay_text(summary: RunSummary) -> None:
    page = render_page(hostile(summary))
    assert [tag for tag, _ in _tags(page)].count("script") == 2, "data and modules"
    assert not [tag for tag, attributes in _tags(page) if tag == "img" or "onerror" in attributes]
    assert _data(page)["labels"][0] == HOSTILE
    assert _data(page)["sites"][0]["name"] == HOSTILE


def test_which_images_scored_is_in_the_page(summary: RunSummary) -> None:
    points = tuple(replace(point, calibration_kl_nats=point.kl_nats / 2) for point in summary.points)
    page = render_page(replace(summary, points=points, scoring_images=96))
    assert "KL over 96 images that did not calibrate" in page
    assert "<dt>scored on</dt><dd>96 others of them</dd>" in page
    assert _data(page)["is_held_out"]
    assert left_out(replace(summary, accuracy_left_out=4)) in render_page(replace(summary, accuracy_left_out=4))
    assert float(_data(page)["columns"]["calibration_kl_nats"].split(",")[0]) == points[0].calibration_kl_nats
    same = render_page(summary)
    assert "<dt>scored on</dt><dd>the same images</dd>" in same
    assert not _data(same)["is_held_out"]
