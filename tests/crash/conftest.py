"""The unmodified clients: one that cannot be had is a skip for a person, a failure where CI=true."""

from __future__ import annotations

import os

import pytest

from tests.discord.clients.bots import CLIENTS, BotClients


@pytest.fixture(scope="session")
def clients() -> BotClients:
    """All of them, installed."""
    found = BotClients()
    for kind in CLIENTS:
        if why := found.missing(kind):
            (pytest.fail if os.environ.get("CI", "").lower() == "true" else pytest.skip)(why)
    return found
