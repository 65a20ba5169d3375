"""Context managers around the libraries that download weights: short timeouts, no log messages."""

from __future__ import annotations

import logging
import socket
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

_CONNECT_TIMEOUT_SECONDS = 3.0
_NOISY_LOGGERS = ("timm", "huggingface_hub")


@contextmanager
def quick_hub() -> Iterator[None]:
    """Look for weights in the local cache alone while the hub cannot be reached.

    Its client otherwise tries again and again for the better part of a minute before it says so.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _is_reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings and log messages of timm and the hub client; what matters arrives as an exception."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def is_network_failure(error: BaseException) -> bool:
    """Return whether an exception of the hub client or of a download says that a server was not reached."""
    from huggingface_hub import errors

    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    unreached = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, urllib.error.URLError)
    return any(isinstance(cause, (*unreached, ConnectionError, TimeoutError, socket.gaierror)) for cause in causes)


def _is_reachable(endpoint: str) -> bool:
    proxies = urllib.request.getproxies()
    if "https" in proxies or "all" in proxies:
        return True  # only the proxy knows
    parts = urlsplit(endpoint)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_CONNECT_TIMEOUT_SECONDS).close()
    except OSError:
        return False
    return True
