"""What is built from the repository: a wheel and a source archive with their data, and a package that works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SOURCES = ("autoq", "schemas", "search_spaces", "targets", "LICENSE", "README.md", "pyproject.toml", "setup.py")
SCHEMAS = sorted(path.name for path in (ROOT / "schemas").glob("*.json"))
SPACES, TARGETS = (
    sorted(path.name for path in (ROOT / folder).glob("*.toml")) for folder in ("search_spaces", "targets")
)
FIND_DATA = """
import autoq
from autoq.models import load_model
from autoq.optimization.space import load_space, load_target, shipped_spaces, shipped_targets

print(autoq.__file__)
print(*(load_space(name).name + ".toml" for name in shipped_spaces()))
print(*(load_target(name).name + ".toml" for name in shipped_targets()))
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


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is built of them."""
    return build(checkout, "wheel", tmp_path_factory.mktemp("wheel"))


def build(checkout: Path, kind: str, out: Path) -> Path:
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, out], cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


def install(wheel: Path, environment: Path) -> Path:
    """Install a wheel alone into a fresh environment and return its folder of commands.

    The libraries that it needs are those of this process: they are put on the path after it, without their ``.pth``
    files, so that a checkout that is installed here is not found there.
    """
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (site_packages,) = environment.glob("lib/python*/site-packages")
    libraries = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    (site_packages / "libraries.pth").write_text("\n".join(sorted(libraries)), encoding="utf-8")
    return environment / "bin"


def run(*command: object, cwd: Path, **environment: str) -> str:
    """What a command prints, run elsewhere without this process's environment."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={"PATH": os.defpath, "HOME": str(cwd), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installed_wheel_has_its_data_and_works(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    documents = {f"autoq/search_spaces/{name}" for name in SPACES} | {f"autoq/targets/{name}" for name in TARGETS}
    assert {name for name in names if name.endswith(".toml")} == documents
    assert {f"autoq/schemas/{name}" for name in SCHEMAS} <= names
    data = {path for path in (ROOT / "autoq").rglob("*.*") if path.suffix in {".html", ".css", ".js", ".safetensors"}}
    assert {str(path.relative_to(ROOT)) for path in data} <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"autoq", next(top for top in tops if top.endswith(".dist-info"))}, "nothing else at the top"
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "autoq").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == code

    commands, elsewhere = install(wheel, tmp_path / "environment"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    file, spaces, targets, model = run(commands / "python", "-c", FIND_DATA, cwd=elsewhere).splitlines()
    assert Path(file).is_relative_to(tmp_path / "environment")
    assert (spaces.split(), targets.split()) == (SPACES, TARGETS)
    assert model == "vit_digits"
    options = ["--budget-bops", "w4a4", "--space", "bits_only", "--fast", "--trials", 3, "--calib-images", 8]
    searched = json.loads(run(commands / "autoq", "search", *options, "--json", cwd=elsewhere))
    assert (elsewhere / searched["out"] / "report.html").stat().st_size > 10_000


def test_a_source_archive_makes_the_same_wheel(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    archive = build(checkout, "sdist", tmp_path)
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    again = build(unpacked, "wheel", tmp_path)
    with zipfile.ZipFile(again) as one, zipfile.ZipFile(wheel) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


def test_a_checkout_finds_its_data(checkout: Path, tmp_path: Path) -> None:
    found = run(sys.executable, "-c", FIND_DATA, cwd=tmp_path, PYTHONPATH=str(checkout))
    file, spaces, targets, model = found.splitlines()
    assert Path(file).is_relative_to(checkout)
    assert (spaces.split(), targets.split()) == (SPACES, TARGETS)
    assert model == "vit_digits"
