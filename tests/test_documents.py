"""The documents: the files and modules that they name exist."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest
import typer.main
import yaml

import autoq
from autoq.cli.main import app

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FOLDERS = "autoq|benchmarks|notebooks|schemas|scripts|search_spaces|tests"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_files_that_are_named_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./-]*\w/?(?![\w*])", text))
    missing = {name for name in named if "my_" not in name and not (ROOT / name).exists()}
    linked = set(re.findall(r"\]\((?!https?:)([^)#]+)", text))
    missing |= {name for name in linked if not (path.parent / name).exists()}
    scripts = set(re.findall(r"python -m (benchmarks\.\w+)", text))
    places = {name: ROOT / name.replace(".", "/") for name in scripts}
    missing |= {n for n, at in places.items() if not (at.with_suffix(".py").exists() or (at / "__main__.py").exists())}
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_modules_that_are_named_can_be_imported(path: Path) -> None:
    for name in sorted(set(re.findall(r"\bautoq(?:\.\w+)+", path.read_text(encoding="utf-8")))):
        found: object = importlib.import_module("autoq")
        for depth, part in enumerate(name.split(".")[1:], start=1):
            if not hasattr(found, part):
                importlib.import_module(".".join(name.split(".")[: depth + 1]))
            found = getattr(found, part)


def test_the_site_has_every_page() -> None:
    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    listed = re.findall(r"'([\w/.-]+\.md)'", str(site["nav"]))
    pages = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(pages), "a page that the navigation lacks, or one that is not there"


def test_the_site_has_every_command() -> None:
    listed = re.findall(r"^\| `autoq ([a-z-]+)` \|", (ROOT / "docs/commands.md").read_text(encoding="utf-8"), re.M)
    assert set(listed) == set(typer.main.get_command(app).commands)


def test_the_site_has_every_name() -> None:
    listed = re.findall(r"^::: autoq\.(\w+)$", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.M)
    assert {*listed, "__version__"} == {*autoq.__all__, "events"}


def test_the_release_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == autoq.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{autoq.__version__}] - {citation['date-released']}" in changes
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["license"] == project["license"]
    assert {author["name"] for author in citation["authors"]} == {author["name"] for author in project["authors"]}


def test_the_floors_are_those_that_are_enforced() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    enforced = [set(layer.split(" | ")) for layer in layers if layer not in ("__main__", "version")]
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = text.partition("| floor |")[2].partition("\n\n")[0].splitlines()[2:]
    assert [set(re.findall(r"`(\w+)`", row.split("|")[1])) for row in table] == enforced


def test_every_registry_is_told_of() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("autoq/**/*.py"))
    registries = set(re.findall(r"^([A-Z]+): (?:Registry\[|dict\[type, type\[Base)", source, re.M))
    assert {"QUANTIZERS", "SOLVERS", "TASKS"} <= registries
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("## Adding things")[2]
    assert {name for name in registries if f"`{name}`" not in text} == set()
