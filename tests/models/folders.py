"""What tests do to models that were saved in folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoq.errors import ModelError
from autoq.models import load_model


def message_of(name: str, **options: object) -> str:
    """The line that says why a model cannot be loaded."""
    with pytest.raises(ModelError) as raised:
        load_model(name, **options)  # type: ignore[arg-type]
    text = str(raised.value)
    assert "\n" not in text
    return text


def edit_config(folder: Path, **changes: object) -> None:
    """Change keys of a model's ``config.json``."""
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
