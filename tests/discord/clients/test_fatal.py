"""Codes that no reconnect mends (discord R22, R31, U10, U11), before unmodified bots: told to agents and to persons, and asked again by
nobody until something changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tests.clients.processes import until
from tests.discord.clients.bots import BotClients
from tests.discord.clients.outage import Act, Outage, Outcomes, Scenario, judge, play_all
from tests.discord.clients.stage import TOKEN

SCENARIOS: dict[str, Scenario] = {}
CODES = {4004: "python", 4010: "djs", 4011: "carbon", 4012: "python", 4013: "djs", 4014: "python"}
INTENTS, CONTENT = 46593, 1 << 15


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, bot_clients: BotClients, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What the selected scenarios came to."""
    return play_all(SCENARIOS, request, bot_clients, tmp_path_factory.mktemp("fatal"))


async def comes(o: Outage, token: str = TOKEN) -> int | None:
    """An agent logs in, with the intents that were asked for last: the code that it is closed with; None: it got READY."""
    intents = o.ledger.identifies[-1].intents
    async with aiohttp.ClientSession() as http, http.ws_connect(o.at.sidecar.url) as line:
        await line.send_json({"op": 2, "d": {"token": token, "intents": intents, "properties": {}}})
        async for message in line:
            if message.json()["t"] == "READY":
                return None
        return line.close_code


async def refused(o: Outage, code: int) -> None:
    """It stands in status, metrics and log, agents are told the same code, and upstream hears no IDENTIFY any more."""

    async def shown() -> bool:
        return f"stopped: {code}" in str((await o.at.status())["problems"])

    await o.once(shown, "the status does not show it")
    assert f'sidecar_fatal_total{{code="{code}"}} 1' in await o.at.metrics()
    assert any("error" in line and f"({code}, " in line for line in o.at.sidecar.lines)
    asked = len(o.ledger.identifies)
    for _ in range(3):
        assert await comes(o) == code
    assert len(o.ledger.identifies) == asked and not o.world.open()


def _fatal(code: int) -> Act:
    async def act(o: Outage) -> None:
        o.faults.close_identify.append(code)
        o.world.invalidate(False)
        # The bot is told at once, not when another one comes.
        bot = o.at.bot
        await o.once(lambda: not bot.alive or bool(bot.states["closed"] or bot.states["disconnect"]), "the bot is not told")
        await refused(o, code)
        if CODES[code] == "python":
            await until(lambda: not bot.alive, "discord.py does not end")
            assert ("PrivilegedIntentsRequired" if code == 4014 else str(code)) in bot.tail()

    return act


for code, kind in CODES.items():
    SCENARIOS[f"R22 R31 U10 IDENTIFY is closed with {code}"] = Scenario(_fatal(code), kind, is_noticed=True)


def scenario(name: str, **more: Any) -> Callable[[Act], Act]:
    """This is played under that name."""

    def named(act: Act) -> Act:
        SCENARIOS[name] = Scenario(act, is_noticed=True, **more)
        return act

    return named


@scenario("R31 a RESUME is closed with 4004: the token was reset, and with the new one nothing is lost", kind="carbon")
async def _(o: Outage) -> None:
    o.world.bot.reset_token()
    await refused(o, 4004)
    o.post(5)
    await o.at.bot.kill()
    o.world.bot.token = "another-token"
    assert await comes(o) == 4004
    await o.at.bot.start("another-token", o.at.address)
    await o.came()
    o.post(5)
    await o.came()
    assert (await o.at.status())["problems"] == []
    assert {call.headers.get("authorization") for call in o.ledger.calls if call.path.endswith("/messages")} <= {"Bot another-token"}


@scenario("U11 metadata answer 401", kind="djs")
async def _(o: Outage) -> None:
    o.faults.metadata_status.append(401)
    o.world.invalidate(False)
    await refused(o, 4004)
    assert len(o.ledger.identifies) == 1


@scenario("R31 intents that were refused are asked again when an agent asks for others", kind="carbon")
async def _(o: Outage) -> None:
    o.world.bot.granted = 0
    o.world.invalidate(False)
    o.post(5)
    await refused(o, 4014)
    await o.at.bot.kill()
    # A person takes the privileged intent out of the bot, and starts it again.
    o.at.bot.more["intents"] = INTENTS & ~CONTENT
    await o.at.bot.start(TOKEN, o.at.address)
    await o.once(lambda: sum(map(len, o.got().values())) >= sum(map(len, o.made.values())), "not all came")
    assert o.answers()["identify 4014"] == 1 and o.ledger.identifies[-1].intents == INTENTS & ~CONTENT
    assert (await o.at.status())["problems"] == []


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_fatal_code_is_told_and_not_asked_for_again(name: str, outcomes: Outcomes) -> None:
    judge(name, outcomes)
