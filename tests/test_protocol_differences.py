"""What ``benchmarks.protocol_differences`` switches: everything that protocols of a method do differently, once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from autoq.methods import METHODS, BaseMethod, BitWidths, MethodOptions, create_method
from benchmarks.protocol_differences import LINES, lines_of, main, switched
from tests.methods.configured import traced_model

WITH_PROTOCOLS = ("adalog", "aphq-vit", "fq-vit", "ptq4vit", "repq-vit")
"""Those whose protocols differ on other models than detectors."""
WIDTHS = (BitWidths(4, 4, 4), BitWidths(4, 8, 8))


def parts_of(method: str) -> list[str]:
    return [part for line in LINES if line.method == method for part in line.parts]


def chosen(method: BaseMethod) -> list[object]:
    """All that a preset decides, but for how many iterations it trains."""
    traced = traced_model()
    found: list[object] = [method.settings(0)]
    for bits in WIDTHS:
        training, mlps = method.reconstruction_settings(0), method.mlp_settings(0, bits)
        found += [method.sites(traced, bits), method.reparameterized(traced, bits)]
        found += [training and replace(training, iterations=1), mlps and replace(mlps, iterations=1)]
    return found


@pytest.mark.parametrize("method", WITH_PROTOCOLS)
def test_each_difference_is_on_one_line(method: str) -> None:
    subjects = [subject for line in LINES if line.method == method for subject in line.subjects]
    named = [each.subject for each in METHODS[method].differences]
    assert sorted(subjects) == sorted(name for name in named if not name.startswith("detectors:"))
    assert len(set(parts_of(method))) == len(parts_of(method))
    assert all(line.parts or line.effect for line in LINES)


@pytest.mark.parametrize("method", WITH_PROTOCOLS)
@pytest.mark.parametrize(("base", "opposite"), [("published", "autoq"), ("autoq", "published")])
def test_all_lines_together_make_the_other_protocol(method: str, base: str, opposite: str) -> None:
    everything = switched(method, parts_of(method), base)  # type: ignore[arg-type]
    other = create_method(method, MethodOptions(protocol=opposite))
    assert chosen(everything) == chosen(other)
    one, other_settings = chosen(switched(method, (), base)), chosen(other)  # type: ignore[arg-type]
    assert one != other_settings


def test_a_line_changes_its_own_parts_alone() -> None:
    method = switched("adalog", ("settings.fpcs.steps", "image"), "published")
    published = create_method("adalog", MethodOptions(protocol="published"))
    own, theirs = method.settings(0), published.settings(0)
    assert (own.fpcs.steps, theirs.fpcs.steps) == (4, 6)
    assert replace(own, fpcs=replace(own.fpcs, steps=6)) == theirs
    bits = BitWidths(4, 4, 4)
    sites = published.sites(traced_model(), bits)
    sites["patch_embed.proj"] = {"input": create_method("adalog").image(bits), **sites["patch_embed.proj"]}  # type: ignore[dict-item]
    assert method.sites(traced_model(), bits) == sites


@pytest.mark.slow
def test_lines_are_measured_once(tmp_path: Path) -> None:
    path = tmp_path / "differences.jsonl"
    arguments = ["--methods", "repq-vit", "--bits", "w4a4", "--images", "4", "--other-images", "8"]
    main([*arguments, "--results", str(path)])
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["line"] for entry in entries] == [line.subject for line in lines_of("repq-vit")]
    found = {entry["line"]: entry["kl_nats"] for entry in entries}
    assert len(set(found.values())) > 3
    assert {entry["base"] for entry in entries} == {"published", "autoq"}
    before = path.read_text()
    main([*arguments, "--results", str(path)])
    assert path.read_text() == before
    main([*arguments, "--seed", "1", "--lines", "pub*", "zero*", "--results", str(path)])
    assert [json.loads(line)["line"] for line in path.read_text().splitlines()[len(entries) :]] == [
        "published",
        "zero points",
    ]
