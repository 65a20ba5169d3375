from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autoq.errors import DataError, ModelError
from autoq.python_names import call_python_name, is_python_name

CODE = """
from dataclasses import dataclass

def make():
    return 42

class Maker:
    @staticmethod
    def make():
        return "made"

def fail():
    raise KeyError("no such weights")

def complain():
    from autoq.errors import DataError
    raise DataError("the disk is empty: fill it")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_project_of_tests.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("my_project_of_tests", None)


def test_names_are_told_from_others() -> None:
    assert is_python_name("python:a:b")
    assert not is_python_name("local-dir:python")


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("python:my_project_of_tests:make", 42),
        ("python:my_project_of_tests:Maker.make", "made"),
        ("python:my_project_of_tests.py:make", 42),
    ],
)
@pytest.mark.usefixtures("project")
def test_the_working_directory_and_files_are_searched(name: str, made: object) -> None:
    before = list(sys.path)
    assert call_python_name(name, ModelError) == made
    assert sys.path == before


def test_an_absolute_path_needs_no_working_directory(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert call_python_name(f"python:{project}/my_project_of_tests.py:make", ModelError) == 42


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("python:my_project_of_tests", "names no function"),
        ("python:", "names no function"),
        ("python:no_such_module_of_tests:make", "No module named 'no_such_module_of_tests'"),
        ("python:no_such_file.py:make", "there is no file 'no_such_file.py'"),
        ("python:my_project_of_tests:mke", "has no 'mke'. Did you mean 'make'?"),
        ("python:my_project_of_tests:fail", "KeyError: 'no such weights'; correct"),
    ],
)
@pytest.mark.usefixtures("project")
def test_what_is_wrong_is_said_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ModelError) as raised:
        call_python_name(name, ModelError)
    text = str(raised.value)
    assert name.partition(":")[0] in text
    assert message in text.replace("?;", "?")
    assert "\n" not in text


@pytest.mark.usefixtures("project")
def test_the_users_own_message_for_a_user_comes_through() -> None:
    with pytest.raises(DataError, match="the disk is empty: fill it"):
        call_python_name("python:my_project_of_tests:complain", ModelError)
