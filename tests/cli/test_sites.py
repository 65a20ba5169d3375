"""``autoq sites``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import Command, in_a_process, one_json
from tests.runs.small_run import small_session


def test_sites(command: Command) -> None:
    traced = small_session().traced
    document = one_json(command("sites", "--json"))
    assert [site["name"] for site in document] == [site.name for site in traced.sites]
    assert sum(site["macs"] for site in document) == traced.macs
    qkv = next(site for site in document if site["name"] == "blocks.0.attn.qkv")
    assert qkv["op"] == "linear"
    assert [(operand["name"], operand["producer"]) for operand in qkv["operands"]] == [
        ("input", "layer_norm"),
        ("weight", "parameter"),
    ]
    assert qkv["operands"][1]["shape"] == list(traced.weight("blocks.0.attn.qkv").shape)
    lines = command("sites").out.splitlines()
    assert lines[0].split()[:2] == ["site", "op"]
    assert len(lines) == 1 + len(document) + 2 + len(traced.uncounted)
    assert "0.003495 GMACs per image" in lines[-1 - len(traced.uncounted)]


@pytest.mark.slow
def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    outcome = in_a_process("sites", "--json", cwd=tmp_path)
    assert len(one_json(outcome)) == len(small_session().traced.sites)
    assert outcome.err == ""
