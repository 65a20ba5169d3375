"""Packages of the wheel; everything else is in pyproject.toml, which cannot map a folder into a package it finds.

The search spaces lie at the top of the repository, where people look for them, and in the wheel inside the package.
"""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["autoq", "autoq.*"]), "autoq.search_spaces"],
    package_dir={"autoq.search_spaces": "search_spaces"},
)
