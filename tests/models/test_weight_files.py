"""Weights files that were never downloaded whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.folders import message_of

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: b"", "model.safetensors is empty: copy or download it again."),
        (lambda _: POINTER, "model.safetensors is a Git LFS pointer, not the weights: run git lfs pull in its folder."),
        (lambda data: data[:-100], "model.safetensors is no whole safetensors file"),
        (lambda data: data[:100], "model.safetensors is no whole safetensors file"),
        (lambda _: b"<!doctype html><html>not found</html>", "model.safetensors is no whole safetensors file"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(folder, damage, message: str) -> None:
    path = Path(folder) / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert message in message_of(f"local-dir:{folder}")


def test_other_formats_are_looked_at_too(folder) -> None:
    (Path(folder) / "model.safetensors").unlink()
    (Path(folder) / "pytorch_model.bin").write_bytes(POINTER)
    assert "pytorch_model.bin is a Git LFS pointer" in message_of(f"local-dir:{folder}")
