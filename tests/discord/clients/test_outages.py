"""Unmodified bots over the sidecar, while Discord drops them: 0 lost, 0 twice, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.discord.clients.bots import CLIENTS, BotClients
from tests.discord.clients.outage import Act, Outage, Outcomes, Scenario, judge, play_all
from tests.discord.clients.stage import Stage
from tests.discord.upstream.faults import Greeting, RestFault
from tests.discord.upstream.world import Settings

SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, **more: Any) -> Callable[[Act], Act]:
    """This is played under that name."""

    def named(act: Act) -> Act:
        SCENARIOS[name] = Scenario(act, **more)
        return act

    return named


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, bot_clients: BotClients, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What the selected scenarios came to."""
    return play_all(SCENARIOS, request, bot_clients, tmp_path_factory.mktemp("outages"))


def test_login_ready_and_a_thousand_messages(bot_clients: BotClients, kind: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with Stage(bot_clients, kind, tmp_path) as at:
            await at.connect()
            at.post(1000)
            await at.has_all()
            await at.known()
            assert at.world.ledger.wrongs == []

    asyncio.run(play())


def test_five_cuts_in_a_burst_of_a_thousand(bot_clients: BotClients, kind: str, tmp_path: Path) -> None:
    async def play() -> None:
        async with Stage(bot_clients, kind, tmp_path, settings=Settings(heartbeat_interval_ms=3000, replay_limit=1000)) as at:
            await at.connect()
            for cut in range(5):
                at.post(100)
                await at.connected()
                at.world.cut((None, 4000, 1000, 1001, None)[cut])
                for _ in range(10):
                    at.post(10)
                    await asyncio.sleep(0.01)
            await at.has_all()
            assert len(at.world.ledger.identifies) == 1
            assert at.world.ledger.wrongs == []

    asyncio.run(play())


# --- a session that is lost (R33, R36) ---------------------------------------------------------------------------------------------


async def _lost(o: Outage) -> None:
    """Three ways of losing it; meanwhile messages in a channel, a second one, a thread and a direct message."""
    world = o.world
    places = [world.channel, world.add_channel("second"), world.add_thread("thread"), world.add_direct()]
    o.post(2, *places)
    await o.came()

    def expire() -> None:
        world.expire()
        world.cut()

    for count, lose in enumerate((lambda: world.invalidate(False), expire, lambda: world.cut(4009)), 1):
        (message,) = o.post()
        await o.came()
        lose()
        o.post(5, *places)
        world.edit(message, "edited")
        world.react(message, "👋")
        await o.answered({"identify ready": 1 + count})
        o.post(5, *places)
        await o.came()
    assert not o.at.bot.seen("MESSAGE_UPDATE") and not o.at.bot.seen("MESSAGE_REACTION_ADD")
    # What cannot be had is told: in the status, the metrics, and at its place on the native stream.
    gaps = await o.gaps()
    assert [(gap["reason"], gap["unit"]) for gap in gaps] == [("lost", "time")] * 3
    assert all("numbers from" in gap["detail"] for gap in gaps)
    assert 'reason="lost"' in await o.at.metrics()
    native = await o.native()
    assert [frame["reason"] for frame in native if frame["type"] == "gap"] == ["lost"] * 3
    first = next(at for at, frame in enumerate(native) if frame["type"] == "gap")
    assert native[first + 1]["replayed"] and not native[first - 1]["replayed"]


for client in CLIENTS:
    scenario(f"R33 R36 the session is lost three times, {client}", kind=client, first=True)(_lost)


@scenario("R33 the outage is longer than a session lives", settings={"resume_window_s": 0.5}, kind="python")
async def _(o: Outage) -> None:
    o.faults.refuse_connect = 3
    o.world.cut()
    o.post(20)
    await o.came()
    assert o.answers() == {"identify ready": 2, "resume op9": 1}


@scenario("R33 more than the session's replay holds", settings={"replay_limit": 10})
async def _(o: Outage) -> None:
    o.world.cut()
    o.post(50)
    await o.came()
    assert o.answers() == {"identify ready": 2, "resume op9": 1}


@scenario("R33 more than a page of history, and live messages behind it", kind="djs")
async def _(o: Outage) -> None:
    o.world.invalidate(False)
    o.post(350)
    await o.answered({"identify ready": 2})
    for _ in range(10):
        o.post(5)
        await asyncio.sleep(0.01)
    await o.came()
    assert len([call for call in o.ledger.calls if call.path.endswith("/messages")]) >= 4


@scenario("R33 more than BACKFILL_MAX is a gap record", knobs={"discord_backfill_max": "150"})
async def _(o: Outage) -> None:
    o.world.invalidate(False)
    o.post(150)
    for _ in range(30):
        o.world.post("beyond the bound")
    await o.came()
    assert await o.reasons() == ["lost", "limit"]


@scenario("R33 channels made, removed and emptied during the outage", kind="python")
async def _(o: Outage) -> None:
    world = o.world
    gone, old = world.add_channel("gone"), world.add_thread("old")
    o.post(2, gone, old)
    await o.came()
    world.invalidate(False)
    world.post("gone with its channel", gone)
    world.remove_channel(gone)
    o.post(3, world.add_channel("new"), world.add_thread("new thread"), old)
    deleted = world.post("deleted")
    world.delete(deleted)
    o.post(3)
    # Archived with messages in it: no list names it any more.
    old.archived = True
    world.rename_channel(old, "archived")
    await o.came()
    assert await o.reasons() == ["lost"]


@scenario("R33 R14 a guild joined during the outage", kind="python", is_noticed=True)
async def _(o: Outage) -> None:
    o.world.invalidate(False)
    guild = o.world.add_guild("new guild")
    o.post(3, o.world.add_channel("new", guild))
    await o.came()
    assert o.at.bot.states["guild_available"] + o.at.bot.states["guild_join"] == 2


@scenario("R33 the link is cut during the backfill", kind="djs")
async def _(o: Outage) -> None:
    o.faults.rest.append(RestFault("messages", delay_s=1.0))
    o.world.invalidate(False)
    o.post(250)
    await o.once(lambda: any(call.path.endswith("/messages") for call in o.ledger.calls), "no backfill")
    o.world.cut()
    o.post(20)
    await o.came()
    assert o.answers() == {"identify ready": 2, "resume resumed": 1}


@scenario("R33 the session is lost twice more during the backfill", first=True)
async def _(o: Outage) -> None:
    other = o.world.add_channel("other")
    o.post(2, other)
    await o.came()
    for count in (2, 3):
        o.faults.rest.append(RestFault("messages", delay_s=5.0))
        calls = len(o.ledger.calls)
        o.world.invalidate(False)
        o.post(120, o.world.channel, other)
        await o.answered({"identify ready": count})
        await o.once(lambda calls=calls: any(c.path.endswith("/messages") for c in o.ledger.calls[calls:]), "no backfill")
    o.world.cut(4009)
    o.post(5, o.world.channel, other)
    await o.came()
    assert await o.reasons() == ["lost"] * 3


@scenario("R33 thirty guilds, each with a message", kind="djs", is_noticed=True)
async def _(o: Outage) -> None:
    rooms = [o.world.add_channel("room", o.world.add_guild(f"guild {n}")) for n in range(29)]
    o.post(1, *rooms)
    await o.came()
    o.world.invalidate(False)
    o.post(3, *rooms)
    await o.answered({"identify ready": 2})
    o.post(3, *rooms)
    await o.came()
    assert o.at.bot.states["guild_join"] == 29 and o.ledger.wrongs == []


# --- the budget (R29) ----------------------------------------------------------------------------------------------------------------


@scenario("R29 twenty forced reconnects of mixed kinds cost at most two IDENTIFYs", first=True, settings={"heartbeat_interval_ms": 500})
async def _(o: Outage) -> None:
    world, faults = o.world, o.faults

    def greeted(kind: str, *, resumable: bool = False) -> None:
        faults.instead_of_hello.append(Greeting(kind, resumable))
        world.cut()

    kinds: list[Callable[[], Any]] = [
        world.cut, lambda: world.cut(1000), lambda: world.cut(1001), lambda: world.cut(4000), lambda: world.cut(1005),
        lambda: world.cut(kind="torn"), world.reconnect, lambda: world.reconnect(0.05), lambda: world.invalidate(True),
        lambda: greeted("op7"), lambda: greeted("close"), lambda: greeted("cut"), lambda: greeted("op9", resumable=True),
        world.silence, lambda: (world.cut(), setattr(faults, "refuse_connect", 1)),
        lambda: (world.cut(), faults.close_resume.append(None)), lambda: (world.cut(), faults.refuse_resume.append(True)),
        lambda: (world.cut(), setattr(faults, "cut_replay_after", 1)), lambda: world.cut(4001), lambda: world.cut(4009),
    ]  # fmt: skip
    assert len(kinds) == 20
    for reconnect in kinds:
        await o.live()
        before = {socket.id for socket in world.open()}
        o.post(2)
        reconnect()
        o.post(3)
        await o.once(lambda before=before: any(s.session and s.id not in before for s in world.open()), "no new session's socket")
        await o.came()
    assert len(o.ledger.identifies) == 2 and len(o.ledger.connects) >= 21


@pytest.mark.parametrize("name", SCENARIOS)
def test_an_outage_loses_nothing_that_can_be_had(name: str, outcomes: Outcomes) -> None:
    judge(name, outcomes)
