"""Libraries that download weights, without a network."""

import logging
import socket
import urllib.error
import warnings

import pytest
from huggingface_hub import constants

from autoq.models.hub import is_network_failure, quick_hub, quiet
from tests.models.folders import message_of


def test_an_unreachable_hub_is_not_asked():
    before = constants.HF_HUB_OFFLINE
    with quick_hub():
        assert constants.HF_HUB_OFFLINE
    assert before == constants.HF_HUB_OFFLINE


def test_a_reachable_hub_is_asked(monkeypatch):
    asked = []

    def connect(address, **_options):
        asked.append(address)
        return socket.socket()

    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.example:8080")
    with quick_hub():
        assert not constants.HF_HUB_OFFLINE
    assert asked == [("hub.example", 8080)]


def test_behind_a_proxy_only_the_proxy_knows(monkeypatch):
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy.example"})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with quick_hub():
        assert not constants.HF_HUB_OFFLINE


def test_libraries_are_quiet_until_they_are_done(caplog):
    logger = logging.getLogger("timm")
    before = logger.level
    with caplog.at_level(logging.DEBUG), quiet():
        logger.error("not said")
        warnings.warn("nor this", stacklevel=1)
    assert not caplog.records
    assert logger.level == before
    with pytest.warns(UserWarning, match="this is"):
        warnings.warn("this is", stacklevel=1)


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "is_failure"),
    [
        (ConnectionError(), True),
        (socket.gaierror(), True),
        (urllib.error.URLError("no route"), True),
        (caused(ValueError(), caused(KeyError(), TimeoutError())), True),
        (caused(ValueError(), KeyError()), False),
        (FileNotFoundError(), False),
    ],
)
def test_what_says_that_no_server_was_reached(error, is_failure):
    assert is_network_failure(error) is is_failure


def test_causes_that_go_round_in_circles_end():
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert not is_network_failure(first)


def test_weights_that_cannot_be_downloaded_fail_at_once(caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        assert "--no-pretrained" in message_of("deit_tiny_patch16_224")
        text = message_of("hf-hub:timm/deit_tiny_patch16_224.fb_in1k")
    assert "cannot be reached" in text
    assert "--no-pretrained" not in text
    assert not [record for record in caplog.records if record.name.startswith(("timm", "huggingface_hub"))]
