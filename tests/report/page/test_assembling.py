"""The parts of the page put together."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from autoq.report.page import assembling
from autoq.report.page.assembling import assemble_script, embed_json, read_part


def test_every_module_is_in_the_script_once() -> None:
    names = {path.name for path in resources.files("autoq.report.page").joinpath("script").iterdir()}
    assert {f"{name}.js" for name in re.findall(r"^const module_(\w+) = ", assemble_script(), re.M)} == names
    assert not re.search(r"^(import|export)\b", assemble_script(), re.M)


def test_a_module_comes_behind_what_it_imports() -> None:
    script = assemble_script()
    places = {found[1]: found.start() for found in re.finditer(r"^const module_(\w+) = ", script, re.M)}
    for found in re.finditer(r"= module_(\w+);$", script, re.M):
        assert places[found[1]] < found.start()


def test_modules_that_import_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "script/page.js": 'import { b } from "./other.js";\nexport const a = 1;\n',
        "script/other.js": 'import { a } from "./page.js";\nexport const b = 1;\n',
    }
    monkeypatch.setattr(assembling, "read_part", texts.__getitem__)
    with pytest.raises(ValueError, match="page -> other -> page"):
        assemble_script.__wrapped__()


def test_nothing_in_the_data_ends_the_script() -> None:
    text = embed_json({"</script><!--": "\u2028&"})
    assert not re.search("[<>&\u2028]", text)


def test_no_module_is_long_and_none_builds_markup_from_text() -> None:
    for path in resources.files("autoq.report.page").joinpath("script").iterdir():
        text = read_part(f"script/{path.name}")
        assert text.count("\n") < 300, path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", text), (
            path.name
        )
