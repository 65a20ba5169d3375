"""Packages of the wheel; everything else is in pyproject.toml, which cannot map a folder into a package it finds.

Search spaces, targets and JSON Schemas lie at the top of the repository, where people look for them, and in the wheel
inside the package.
"""

from setuptools import find_namespace_packages, setup

DATA = ("schemas", "search_spaces", "targets")
"""Folders without code."""

setup(
    packages=[*find_namespace_packages(include=["autoq", "autoq.*"]), *(f"autoq.{name}" for name in DATA)],
    package_dir={f"autoq.{name}": name for name in DATA},
)
