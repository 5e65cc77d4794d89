"""The unmodified clients as fixtures: a client that cannot be had is a skip for a person, a failure where CI=true."""

from __future__ import annotations

import os

import pytest

from tests.discord.clients.bots import CLIENTS, BotClients


@pytest.fixture(scope="session")
def bot_clients() -> BotClients:
    return BotClients()


@pytest.fixture(params=CLIENTS)
def kind(request: pytest.FixtureRequest, bot_clients: BotClients) -> str:
    """Each unmodified client in turn."""
    return _had(request.param, bot_clients)


@pytest.fixture
def kinds(bot_clients: BotClients) -> list[str]:
    """All unmodified clients, for what takes long and is done with all at once."""
    return [_had(name, bot_clients) for name in CLIENTS]


def _had(name: str, bot_clients: BotClients) -> str:
    if why := bot_clients.missing(name):
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(why, pytrace=False)
        pytest.skip(why)
    return name
