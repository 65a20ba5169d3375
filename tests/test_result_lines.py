"""Results of benchmarks, a line each."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoq.errors import InputError
from benchmarks.result_lines import append_result, open_results, read_results


def test_what_is_appended_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "results.jsonl"
    assert open_results(path) == []
    append_result(path, {"method": "adalog", "kl_nats": 0.1})
    append_result(path, {"method": "repq-vit", "kl_nats": 1 / 3})
    assert open_results(path) == read_results(path)
    assert read_results(path) == [{"method": "adalog", "kl_nats": 0.1}, {"method": "repq-vit", "kl_nats": 1 / 3}]


def test_a_page_of_no_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the results"):
        read_results(tmp_path / "missing.jsonl")


def test_a_torn_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"a": 1}\n{"a"')
    with pytest.raises(InputError, match="line 2 of"):
        open_results(path)
