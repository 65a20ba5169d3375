"""What is built from the repository: a wheel and a source archive with their data, and a package that finds it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SOURCES = ("autoq", "search_spaces", "LICENSE", "README.md", "pyproject.toml", "setup.py")
SPACES = sorted(path.name for path in (ROOT / "search_spaces").glob("*.toml"))
FIND_DATA = """
import autoq
from autoq.models import load_model
from autoq.optimization.space import load_space, shipped_spaces

print(autoq.__file__)
print(*(load_space(name).name + ".toml" for name in shipped_spaces()))
print(load_model("vit_digits").name)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, without what earlier builds have left."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def build(checkout: Path, kind: str, out: Path) -> Path:
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, out], cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


def found_by(code_folder: Path, elsewhere: Path) -> list[str]:
    """What a fresh process finds, with ``code_folder`` first on its path."""
    done = subprocess.run(
        [sys.executable, "-c", FIND_DATA],
        cwd=elsewhere,
        env={"PYTHONPATH": str(code_folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_an_installed_wheel_finds_its_data(checkout: Path, tmp_path: Path) -> None:
    wheel = build(checkout, "wheel", tmp_path)
    installed = tmp_path / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(installed)
    assert {name for name in names if name.endswith(".toml")} == {f"autoq/search_spaces/{name}" for name in SPACES}
    assert {"autoq/models/vit_digits/model.safetensors", "autoq/report/page.html"} <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"autoq", next(top for top in tops if top.endswith(".dist-info"))}, "nothing else at the top"
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "autoq").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == code
    file, spaces, model = found_by(installed, tmp_path)
    assert Path(file).is_relative_to(installed)
    assert spaces.split() == SPACES
    assert model == "vit_digits"


def test_a_source_archive_makes_the_same_wheel(checkout: Path, tmp_path: Path) -> None:
    archive = build(checkout, "sdist", tmp_path)
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    again, direct = build(unpacked, "wheel", tmp_path), tmp_path / "direct"
    direct.mkdir()
    with zipfile.ZipFile(again) as one, zipfile.ZipFile(build(checkout, "wheel", direct)) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


def test_a_checkout_finds_its_data(checkout: Path, tmp_path: Path) -> None:
    file, spaces, model = found_by(checkout, tmp_path)
    assert Path(file).is_relative_to(checkout)
    assert spaces.split() == SPACES
    assert model == "vit_digits"
