"""A folder of tensors that were computed one after the other, so that an interrupted run can be resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from autoq.errors import RunDirectoryError
from autoq.files import atomic_path

_FINGERPRINT = "fingerprint"


@dataclass(frozen=True)
class Kept:
    """The content of a file.

    Attributes:
        tensors: by name, on the CPU.
        numbers: by name.
    """

    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorFolder:
    """Files of tensors, all for the same purpose.

    Attributes:
        folder: where they are; None: nothing is kept, and nothing found.
        fingerprint: of all that the tensors depend on.
    """

    folder: Path | None
    fingerprint: str

    def load(self, name: str) -> Kept | None:
        """Return what was kept under a name, or None.

        Raises:
            RunDirectoryError: the file cannot be read, or was made for something else.
        """
        if self.folder is None or not (path := self._path(self.folder, name)).exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                metadata = dict(file.metadata() or {})
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise RunDirectoryError(f"{str(path)!r} cannot be read ({error}): delete it") from error
        if metadata.pop(_FINGERPRINT, None) != self.fingerprint:
            raise RunDirectoryError(
                f"{str(path)!r} was made for another model, other images or other settings: "
                "give the ones it was made for, or another folder"
            )
        return Kept(tensors, {key: float(value) for key, value in metadata.items()})

    def save(self, name: str, kept: Kept) -> None:
        """Keep tensors and numbers under a name; the file appears whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in kept.tensors.items()}
        metadata = {key: repr(value) for key, value in kept.numbers.items()} | {_FINGERPRINT: self.fingerprint}
        with atomic_path(self._path(self.folder, name)) as temporary:
            temporary.write_bytes(to_safetensors(tensors, metadata=metadata))

    @staticmethod
    def _path(folder: Path, name: str) -> Path:
        return folder / f"{name}.safetensors"
