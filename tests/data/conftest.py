from pathlib import Path

import pytest

from tests.data.sources import write_image


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Five images in class folders, one of them nested, beside files that are none."""
    root = tmp_path / "images"
    names = ["10/b.png", "10/a.JPG", "2/deep/c.webp", "2/d.bmp", "cat/e.jpeg"]
    for value, name in enumerate(names):
        write_image(root / name, value * 40)
    (root / "10" / "notes.txt").write_text("not an image")
    write_image(root / "10" / ".hidden.png", 0)
    write_image(root / ".cache" / "f.png", 0)
    return root
