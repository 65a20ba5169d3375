"""What every exporter must fulfil. Inherit :class:`ExporterContract` in a ``Test...`` class and give its exporter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from autoq.errors import ExportError
from autoq.exporters import EXPORTERS, BaseExporter, ExportReport, ExportSource, write_export
from autoq.recipe import Recipe
from tests.api.models import IMAGES
from tests.exporters.sources import CASES, PREPROCESSING, source_of

_ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name + " is not needed")
sys.meta_path.insert(0, Blocked())
import numpy
path, images, answer = sys.argv[1:]
images = numpy.load(images)
{code}
numpy.save(answer, logits)
"""


class ExporterContract:
    """Checks for one format on recipes of many kinds."""

    exporter: ClassVar[type[BaseExporter]]
    cases: ClassVar[tuple[str, ...]] = tuple(CASES)
    """Of ``tests.exporters.sources``, that the format holds wholly."""
    refused: ClassVar[tuple[str, ...]] = ()
    """Those of which it leaves something in floating point."""
    is_exact: ClassVar[bool] = False
    """Whether the file is run by the same arithmetic, and not by a runtime that adds up in another order."""
    alone: ClassVar[str] = ""
    """Code that makes ``logits`` of the file ``path`` and of ``images`` (arrays), without :attr:`blocked`."""
    blocked: ClassVar[tuple[str, ...]] = ("autoq", "timm")
    _written: ClassVar[dict[tuple[str, str], tuple[ExportReport, Path]]] = {}
    _before: ClassVar[dict[tuple[str, str], tuple[ExportSource, dict[str, Tensor]]]] = {}
    """What was written, and its state before that."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", self.cases)
        if "refused_case" in metafunc.fixturenames:
            metafunc.parametrize("refused_case", self.refused)

    def metadata(self, path: Path) -> dict[str, str]:
        """Read what the file says of itself."""
        raise NotImplementedError

    def path(self, folder: Path) -> Path:
        return folder / f"quantized{self.exporter.suffix}"

    def write(self, source: ExportSource, path: Path, **options: Any) -> ExportReport:
        return write_export(self.exporter(), source, path, **options)

    def written(self, case: str, factory: pytest.TempPathFactory) -> tuple[ExportReport, Path]:
        """A case in a folder of its own, written once for all tests that only read it.

        What the format cannot hold of it is left in floating point.
        """
        key = self.exporter.name, case
        if key not in self._written:
            source, path = source_of(case), self.path(factory.mktemp(case))
            self._before[key] = source, {name: value.clone() for name, value in source.module.state_dict().items()}
            self._written[key] = self.write(source, path, allow_float=case in self.refused), path
        return self._written[key]

    def assert_agrees(self, report: ExportReport) -> None:
        found = report.agreement
        assert found is not None
        assert found.images == min(len(IMAGES), self.exporter.most_checked or len(IMAGES))
        assert found.agreement_percent is not None
        assert found.agreement_percent >= (100 if self.is_exact else 95)
        assert found.mean_difference <= (0 if self.is_exact else 0.02 * found.mean_magnitude)

    def test_is_registered_and_described(self) -> None:
        assert EXPORTERS[self.exporter.name] is self.exporter
        for text in (self.exporter.reader, self.exporter.expresses, self.exporter.loses):
            assert text
            assert not text.endswith(".")

    def test_what_is_written_agrees_with_autoq(self, case: str, tmp_path_factory: pytest.TempPathFactory) -> None:
        report, path = self.written(case, tmp_path_factory)
        self.assert_agrees(report)
        assert (report.path, report.format, report.left_in_float) == (path, self.exporter.name, ())
        assert report.bytes == sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
        assert path.exists()
        assert not list(path.parent.glob(".*"))
        json.dumps(report.to_json())

    def test_the_file_carries_recipe_and_preprocessing(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        _, path = self.written(self.cases[0], tmp_path_factory)
        found = self.metadata(path)
        sites = Recipe.model_validate(json.loads(found["recipe.json"])).sites
        assert sites == source_of(self.cases[0]).recipe.sites
        assert json.loads(found["preprocessing.json"]) == PREPROCESSING

    def test_the_file_names_no_place_on_this_machine(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        _, path = self.written(self.cases[0], tmp_path_factory)
        for file in path.rglob("*") if path.is_dir() else [path]:
            content = file.read_bytes()
            assert str(Path(__file__).parents[2]).encode() not in content
            assert str(path.parent).encode() not in content

    def test_it_runs_alone_in_a_fresh_process(self, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        import numpy as np

        if not self.alone:
            pytest.skip("the format is autoq's own")
        source, (_, path) = source_of(self.cases[-1]), self.written(self.cases[-1], tmp_path_factory)
        np.save(tmp_path / "images.npy", IMAGES[:3].numpy())
        code = _ALONE.format(code=self.alone, blocked=set(self.blocked))
        arguments = [path, tmp_path / "images.npy", tmp_path / "answer.npy"]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},  # models of tests, as users' own code
        )
        assert done.returncode == 0, done.stderr
        with torch.no_grad():
            expected = source.module(IMAGES[:3])["logits"]
        torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "answer.npy")), expected, rtol=0.02, atol=0.02)

    def test_what_it_cannot_hold_is_refused_or_left_in_float(
        self, refused_case: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        with pytest.raises(ExportError, match=r"cannot hold .*:.* \(.*use --allow-float"):
            self.write(source_of(refused_case), self.path(tmp_path))
        assert list(tmp_path.iterdir()) == []
        report, path = self.written(refused_case, tmp_path_factory)
        assert report.left_in_float
        left = [tuple(name.rsplit(":", 1)) for name in report.left_in_float]
        self.assert_agrees(report)
        recipe = json.loads(self.metadata(path)["recipe.json"])
        assert not [key for key in left if key[1] in recipe["sites"].get(key[0], {})]

    def test_files_are_replaced_and_folders_are_not(
        self, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        source, (_, written) = source_of(self.cases[0]), self.written(self.cases[0], tmp_path_factory)
        path = self.path(tmp_path)
        if written.is_file():
            shutil.copytree(written.parent, tmp_path, dirs_exist_ok=True)
            there = path.stat().st_ino
            self.write(source, path)
            assert path.stat().st_ino != there
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "mine").write_text("mine")
        with pytest.raises(OSError, match="directory"):
            self.write(source, tmp_path / "folder")
        assert list((tmp_path / "folder").iterdir()) == [tmp_path / "folder" / "mine"]
        with pytest.raises(OSError, match="absent"):
            self.write(source, tmp_path / "absent" / path.name)

    def test_the_module_is_left_as_it_is(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.written(self.cases[0], tmp_path_factory)
        source, before = self._before[self.exporter.name, self.cases[0]]
        after = source.module.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_a_missing_package_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(self.exporter, "packages", (*self.exporter.packages, "no_such_package"))
        extra = self.exporter.extra or self.exporter.name
        with pytest.raises(ExportError, match=rf"needs no_such_package: pip install 'autoq\[{extra}\]'"):
            self.write(source_of(self.cases[0]), self.path(tmp_path))
