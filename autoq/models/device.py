"""The device that a model runs on."""

from __future__ import annotations

import torch

from autoq.errors import ModelError


def choose_device(name: str) -> torch.device:
    """Return the device of a name: ``auto`` (CUDA if there is one), ``cpu``, ``cuda``, ``cuda:1``.

    Raises:
        ModelError: this machine has no such device, or nothing can be computed on it.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # which the device "meta" cannot do
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"cannot use device {name!r}: use auto, cpu or a CUDA device of this machine.") from error
    return device
