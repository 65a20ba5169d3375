"""The page in headless Chromium, used as a person does."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoq.exporters import pick
from autoq.report import RunSummary
from autoq.report.from_run import summarize
from autoq.report.page.assembling import read_part
from autoq.units import format_bops, format_bytes, format_digits, format_kl
from tests.report.page.test_page import hostile
from tests.report.synthetic import make_summary, with_improved, with_points, with_published
from tests.runs.small_run import finished_run

pytestmark = [pytest.mark.browser, pytest.mark.slow]
Open = Callable[..., Any]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


def chosen(page: Any) -> str:
    """The label of the chosen recipe."""
    title: str = page.text_content("#recipe-title")
    return title.removeprefix("Recipe: ").removesuffix(", chosen by the search")


def ink(page: Any) -> bytes:
    """What the chart shows."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    picture: bytes = page.locator("#chart").screenshot()
    return picture


@pytest.mark.parametrize(
    ("make", "fragment", "label"),
    [
        (lambda summary: summary, "", "{best}"),
        (lambda summary: summary, "#w3a3", "w3a3"),
        (lambda summary: summary, "#trial-30/w3a3", "trial 30"),
        (lambda summary: summary, "#%E0%A4%A", "{best}"),
        (lambda summary: with_improved(with_improved(summary, kind="finished")), "", "{best}"),
        (lambda summary: with_published(summary), "#igq-vit-w4a4", "igq-vit 4/4"),
        (lambda _: make_summary(blocks=33, trials=30, labels=False), "#w8a8", "w8a8"),
    ],
    ids=["best", "hash", "pinned", "bad-hash", "improved", "published", "200-sites"],
)
def test_it_opens_with_what_the_address_names(
    open_page: Open, summary: RunSummary, make: Any, fragment: str, label: str
) -> None:
    run: RunSummary = make(summary)
    page = open_page(run, fragment)
    assert chosen(page) == label.format(best=summary.best.label if summary.best else "")
    assert page.is_visible("#improved-section") == bool(run.improved)
    assert page.locator("#improved-list li").count() == len(run.improved)


def test_a_run_without_trials(open_page: Open, summary: RunSummary) -> None:
    page = open_page(with_points(summary, lambda _: False))
    assert not page.is_visible("#recipe")
    assert page.text_content("#shown") == "0 of 0 recipes shown."


def test_names_run_nothing(open_page: Open, summary: RunSummary) -> None:
    page = open_page(hostile(summary), "#w4a4")
    page.click("#open-blocks")
    assert page.locator("img").count() == 0
    assert chosen(page).startswith("</script><img")


def test_every_downloaded_recipe_is_the_file(open_page: Open, tmp_path: Path) -> None:
    """Those that have a file in ``recipes/``, and those that ``--pick`` makes from the study."""
    run = summarize(finished_run())
    page = open_page(replace(run, improved=()))
    page.check("#all-trials")
    written = 0
    for point in run.points:
        page.click(f'#points tr[data-id="{point.id}"] button')
        with page.expect_download() as download:
            page.click("#download")
        download.value.save_as(tmp_path / "downloaded.json")
        assert download.value.suggested_filename == f"{point.id}.json"
        expected = tmp_path / "picked.json"
        if point.recipe_path is not None:
            expected, written = finished_run() / point.recipe_path, written + 1
        else:
            pick(finished_run(), point.id).recipe.save(expected)
        assert (tmp_path / "downloaded.json").read_bytes() == expected.read_bytes()
        assert f"--pick {point.id} -o {point.id}.json" in page.text_content("#commands")
    assert 0 < written < len(run.points)


def test_clicking_a_grey_mark_chooses_it(open_page: Open, summary: RunSummary) -> None:
    """At the place of the loneliest of the other trials, zoomed until marks are apart."""
    page = open_page(summary)
    page.click('#key button[data-kind="front"]')
    page.click('#key button[data-kind="uniform"]')
    box = page.locator("#chart-canvas").bounding_box()
    found = set()
    for across in range(10, 95, 4):
        for up in range(10, 90, 6):
            page.mouse.click(box["x"] + box["width"] * across / 100, box["y"] + box["height"] * up / 100)
        found.add(chosen(page))
    trials = {point.label for point in summary.points if not point.on_front and not point.is_uniform}
    assert found & trials


def test_pin_and_compare(open_page: Open, summary: RunSummary) -> None:
    page = open_page(summary, "#w8a8")
    assert page.is_visible("#changes")
    page.click("#pin")
    page.click('#points tr[data-id="w3a3"] button')
    assert page.text_content("#changes-title") == "What differs from w8a8, pinned"
    heads = page.locator("#figures thead th").all_text_contents()
    assert heads == ["Figure", "w3a3", "w8a8, pinned", "Difference"]
    assert "of 18, 18 have fewer." in page.text_content("#changes-list")
    assert page.locator("#blocks td.differs").count() > 0
    page.click("#open-blocks")
    text = page.text_content('#blocks tr[data-site="blocks.0.attn.qkv"]')
    assert text.count("3 (8)") == 2
    with page.expect_download() as download:
        page.click("#download-pinned")
    assert download.value.suggested_filename == "w8a8.json"
    assert page.url.endswith("#w3a3/w8a8")
    page.click("#unpin")
    assert "the baseline at this cost" in page.text_content("#changes-title")


def test_zoom_and_pan(open_page: Open, summary: RunSummary) -> None:
    page = open_page(summary)
    start, canvas = ink(page), page.locator("#chart-canvas")
    all_ = page.text_content("#shown")
    canvas.hover(position={"x": 300, "y": 200})
    page.mouse.wheel(0, -300)
    assert page.evaluate("scrollY") >= 0
    page.keyboard.down("Control")
    page.mouse.wheel(0, -600)
    page.keyboard.up("Control")
    assert ink(page) != start
    assert "outside the zoom" in page.text_content("#shown")
    page.click("#zoom-all")
    ink(page)
    assert page.text_content("#shown") == all_
    page.focus("#chart")
    for key in ("+", "+", "Shift+ArrowLeft", "-"):
        before = ink(page)
        page.keyboard.press(key)
        assert ink(page) != before, key
    page.keyboard.press("0")
    ink(page)
    assert page.text_content("#shown") == all_
    box = canvas.bounding_box()
    page.keyboard.down("Shift")
    page.mouse.move(box["x"] + 150, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 400, box["y"] + 300, steps=4)
    page.mouse.up()
    page.keyboard.up("Shift")
    ink(page)
    assert "outside the zoom" in page.text_content("#shown")


def test_pinching_zooms(open_page: Open, summary: RunSummary) -> None:
    page = open_page(summary, **PHONE)
    page.locator("#chart-canvas").scroll_into_view_if_needed()
    box = page.locator("#chart-canvas").bounding_box()
    touch = page.context.new_cdp_session(page)
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    def send(kind: str, apart: float | None) -> None:
        at = [] if apart is None else [middle[0] - apart, middle[0] + apart]
        fingers = [{"x": x, "y": middle[1], "id": number} for number, x in enumerate(at)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    send("touchStart", 30)
    for apart in (45, 60, 80):
        send("touchMove", apart)
    send("touchEnd", None)
    ink(page)
    assert "outside the zoom" in page.text_content("#shown")


def test_keys_walk_along_the_front_and_through_all(open_page: Open, summary: RunSummary) -> None:
    page = open_page(summary)
    page.focus("#chart")
    labels = [point.label for point in summary.front]
    assert summary.best is not None
    place = labels.index(summary.best.label)
    page.keyboard.press("ArrowLeft")
    assert chosen(page) == labels[place - 1]
    page.keyboard.press("ArrowRight")
    assert chosen(page) == labels[place]
    page.keyboard.press("ArrowDown")
    assert chosen(page) == next(p.label for p in summary.uniform if p.cost > summary.best.cost)
    page.keyboard.press("PageUp")
    by_cost = sorted(summary.points, key=lambda point: point.cost)
    above = next(p for p in summary.uniform if p.cost > summary.best.cost)
    assert chosen(page) == by_cost[by_cost.index(above) - 1].label
    assert chosen(page) in page.get_attribute("#chart", "aria-label")


def test_axes_and_filters_say_what_they_hide(open_page: Open, summary: RunSummary) -> None:
    page = open_page(summary)
    assert page.text_content("#shown") == f"{len(summary.points)} of {len(summary.points)} recipes shown."
    page.select_option("#y-axis", "metric")
    unmeasured = sum(point.metric is None for point in summary.points)
    ink(page)
    assert f"{unmeasured} were not measured for this" in page.text_content("#shown")
    page.click('#key button[data-kind="uniform"]')
    ink(page)
    assert "7 hidden by the filter" in page.text_content("#shown")
    assert page.get_attribute('#key button[data-kind="uniform"]', "aria-pressed") == "false"
    page.select_option("#x-axis", "weight_bytes")
    page.uncheck("#log")
    page.check("#dear")
    ink(page)


def test_the_budget_slider_chooses_the_best_within(open_page: Open, summary: RunSummary) -> None:
    page = open_page(summary)
    slider = page.locator("#budget-slider")
    slider.focus()
    slider.press("Home")
    assert chosen(page) == summary.front[0].label
    slider.press("End")
    assert chosen(page) == summary.front[-1].label
    slider.evaluate("(s) => { s.value = 500; s.dispatchEvent(new Event('input')); }")
    low, high = summary.front[0].cost, max(summary.front[-1].cost, summary.budget or 0)
    within = [point for point in summary.front if point.cost <= (low * high) ** 0.5]
    assert chosen(page) == within[-1].label
    assert within[-1].label in page.text_content("#budget-text")


def test_the_table_finds_sorts_and_turns_pages(open_page: Open) -> None:
    run = make_summary(trials=300)
    page = open_page(run)
    assert page.locator("#points tbody tr").count() == len({p.id for p in [*run.front, *run.uniform]})
    page.check("#all-trials")
    assert page.locator("#points tbody tr").count() == 100
    page.click("#next")
    assert page.text_content("#page-number") == "page 2 of 4"
    page.fill("#search", "trial 123")
    assert page.locator("#points tbody tr").count() == 1
    page.locator("#points tbody tr").first.click()
    assert chosen(page) == "trial 123"
    page.fill("#search", "")
    page.click("#points thead th:nth-child(3) button")
    losses = [float(text) for text in page.locator("#points tbody td:nth-child(3)").all_text_contents()]
    assert losses == sorted(losses)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
def test_nothing_is_wider_than_the_screen(open_page: Open, scheme: str, options: dict[str, Any]) -> None:
    """Twelve blocks, their sites open, on a desk and on a phone."""
    page = open_page(with_improved(make_summary(blocks=12, trials=60)), color_scheme=scheme, **options)
    page.click("#open-blocks")
    width = page.evaluate("innerWidth")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.getElementById('blocks').scrollWidth") <= width
    assert page.locator("#blocks tr.block").count() == 14
    if options:
        small = page.evaluate(
            "() => [...document.querySelectorAll('.controls button, select, .key button')]"
            ".filter((e) => e.offsetParent && e.getBoundingClientRect().height < 40).map((e) => e.id || e.textContent)"
        )
        assert small == [], "too small to touch"


def test_the_chart_stays_in_view_while_the_table_is_read(open_page: Open, summary: RunSummary) -> None:
    page = open_page(summary, **PHONE)
    page.locator("#points").scroll_into_view_if_needed()
    row = page.locator("#points tbody tr button").nth(3)
    row.click()
    assert page.locator("#chart").evaluate("(c) => c.getBoundingClientRect().top >= 0")
    assert row.evaluate("(r) => r.getBoundingClientRect().bottom <= innerHeight")


def test_ten_thousand_recipes(open_page: Open, tmp_path: Path) -> None:
    """As few elements as for two hundred, and everything works; times are those of ``benchmarks.page``."""
    page = open_page(make_summary(trials=10_000, blocks=1))
    assert page.locator("*").count() < 1200
    assert page.text_content("#shown") == "10,007 of 10,007 recipes shown."
    page.check("#all-trials")
    page.fill("#search", "trial 9999")
    page.click("#points tbody button")
    assert chosen(page) == "trial 9999"
    assert page.locator("*").count() < 1200
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
    assert (tmp_path / "light.png").read_bytes() != (tmp_path / "dark.png").read_bytes()


def test_the_screen_reader_is_told(open_page: Open, summary: RunSummary) -> None:
    page = open_page(with_published(summary))
    unnamed = page.evaluate(
        "() => [...document.querySelectorAll('button, select, input, [role=application], [role=region], canvas[role]')]"
        ".filter((e) => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.labels?.length"
        " || e.textContent.trim())).map((e) => e.outerHTML)"
    )
    assert unnamed == []
    page.click('#points tr[data-id="w3a3"] button')
    assert page.get_attribute('#points tr[data-id="w3a3"]', "aria-current") == "true"


def test_numbers_are_rounded_as_in_the_terminal(chromium: Any) -> None:
    """Halves to even, as in Python, and everything else."""
    rng = random.Random(0)
    values = [rng.choice((1, 10)) ** rng.uniform(-7, 7) * rng.random() for _ in range(2000)]
    values += [0.125, 0.375, 12.5, 13.5, 98.25, 98.75, 0.5, 1.5, 2.5, 999.5, 9.95, 0.0001, 0.00005, 1e-05, 55_920_640.0]
    page = chromium.new_page()
    texts = page.evaluate(
        "async ([source, values]) => { const m = await import('data:text/javascript,' + encodeURIComponent(source));"
        " return values.map((v) => [m.klText(v), m.digitsText(v), m.fixed(v, 1), m.amountText(v, 'BOPs'),"
        " m.amountText(v, 'B')]); }",
        [read_part("script/numbers.js"), values],
    )
    page.close()
    for value, found in zip(values, texts, strict=True):
        expected = [format_kl(value), format_digits(value), f"{value:.1f}", format_bops(value), format_bytes(value)]
        assert found == expected, value


def test_no_script_says_where_the_numbers_are(open_page: Open, summary: RunSummary) -> None:
    page = open_page(summary, java_script_enabled=False)
    assert re.search(r"trials\.csv", page.inner_text("body"))
