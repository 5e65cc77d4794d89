"""The sidecar is stopped or killed under unmodified bots, in the moments that matter: 0 lost, 0 twice (discord R10, R24, C8, C15)."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.clients.processes import until
from tests.crash.discord_stage import CrashStage
from tests.discord.clients.bots import BotClients
from tests.discord.clients.raw import IDENTIFY, Raw
from tests.discord.clients.stage import TOKEN
from tests.discord.upstream.faults import RestFault

SEED = 7
WINDOW = 256


async def each(clients: BotClients, kinds: list[str], folder: Path, play: Callable[[CrashStage], Awaitable[None]], **more: Any) -> None:
    """The same with each client, side by side."""

    async def one(kind: str) -> None:
        (folder / kind).mkdir()
        async with CrashStage(clients, kind, folder / kind, **more) as at:
            await play(at)

    await asyncio.gather(*map(one, kinds))


def closes(at: CrashStage) -> set[int | None]:
    """How our side closed its upstream sockets."""
    return {closed.code for closed in at.world.ledger.closes if closed.by == "client"}


# --- SIGTERM ---------------------------------------------------------------------------------------------------------------------------


def test_R24_three_sigterms_under_load_lose_nothing_and_bring_nothing_twice(
    bot_clients: BotClients, kinds: list[str], tmp_path: Path
) -> None:
    """Upstream is left with 4000, never 1000 or 1001, and RESUMEd; the agents RESUME, too."""

    async def play(at: CrashStage) -> None:
        drawn = random.Random(SEED)
        await at.connect()
        at.flow()
        for stop in range(1, 4):
            await at.served(drawn)
            assert await at.sidecar.stop() == 0, at.sidecar.tail()
            await at.sidecar.start()
            await at.states("resumed", stop)
        await at.served(drawn)
        await at.ebb()
        await at.has_all()
        at.check()
        assert closes(at) <= {None, 4000}
        assert len(at.world.ledger.resumes) == 3
        assert (await at.stream())["gaps"] == 0

    asyncio.run(each(bot_clients, kinds, tmp_path, play, drain_s="20"))


@pytest.mark.parametrize("query", ["", "&compress=zlib-stream"])
def test_R24_a_planned_stop_says_op_7_and_then_4000_to_all(bot_clients: BotClients, tmp_path: Path, query: str) -> None:
    """Also to sockets that have not identified, and to one whose IDENTIFY waits for an upstream that does not answer."""

    async def play() -> None:
        async with CrashStage(bot_clients, "djs", tmp_path) as at:
            mute, held, served = (Raw(at.sidecar.url, f"v=10&encoding=json{query}") for _ in range(3))
            await served.open(IDENTIFY)
            await until(lambda: "GUILD_CREATE" in served.types(), "not ready")
            await mute.open()
            await held.open(IDENTIFY | {"d": IDENTIFY["d"] | {"shard": [0, 2]}})  # type: ignore[operator]
            assert await at.sidecar.stop() == 0
            for raw in (mute, held, served):
                await raw.over()
                assert (raw.ops()[-1], raw.code) == (7, 4000)
            assert closes(at) <= {None, 4000}

    asyncio.run(play())


def test_R24_sigterm_with_a_frozen_bot_ends_within_the_drain_and_the_bot_goes_on_where_it_was(
    bot_clients: BotClients, tmp_path: Path
) -> None:
    """And R10: an agent that connects while the sidecar drains gets HELLO, and with all others op 7 and 4000."""

    async def play() -> None:
        async with CrashStage(bot_clients, "djs", tmp_path, drain_s="2") as at:
            await at.connect()
            at.post(100)
            await at.has_all()
            at.bot.signal(signal.SIGSTOP)
            at.post(400)
            await until(lambda: head(at, 500), "the events do not reach the journal")
            ending = asyncio.ensure_future(at.sidecar.stop())
            await until(lambda: any("waiting for receipts" in line for line in at.sidecar.lines), "it does not stop")
            late = Raw(at.sidecar.url)
            await late.open(IDENTIFY)
            await late.over()
            assert (late.ops()[-1], late.code) == (7, 4000)
            # The frozen bot still holds the stop up; an agent that comes back at once is refused, or it would do so again and again.
            async with aiohttp.ClientSession() as session:
                with pytest.raises(aiohttp.ClientConnectorError):
                    await session.ws_connect(at.sidecar.url)
            assert await ending == 0, at.sidecar.tail()
            at.post(100)
            await at.sidecar.start()
            at.bot.signal(signal.SIGCONT)
            at.post(100)
            await at.has_all()
            at.check()

    asyncio.run(play())


async def head(at: CrashStage, least: int) -> bool:
    return bool((await at.stream()).get("head", 0) >= least)


def test_R24_sigterm_and_a_new_start_while_the_upstream_is_down(bot_clients: BotClients, tmp_path: Path) -> None:
    """The bot is served from the journal, RESUMEs over it, and gets what was posted meanwhile when the upstream is back."""

    async def play() -> None:
        async with CrashStage(bot_clients, "carbon", tmp_path, door=False) as at:
            await at.connect()
            at.post(100)
            await at.has_all()
            for door in ("gateway", "resume"):
                at.upstream.stop_listening(door)
            at.world.cut()
            at.post(100)
            assert await at.sidecar.stop() == 0, at.sidecar.tail()
            at.post(100)
            await at.sidecar.start()
            await at.states("resumed", 1)
            for door in ("gateway", "resume"):
                await at.upstream.listen(door)
            at.post(100)
            await at.has_all()
            at.check()

    asyncio.run(play())


# --- the upgrade -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_C9_the_sidecar_is_restarted_while_the_bot_is_away_and_brings_all_it_missed(
    bot_clients: BotClients, kinds: list[str], tmp_path: Path, how: str
) -> None:
    """The upstream session outlives both: one IDENTIFY. Nobody is connected when the sidecar is stopped."""

    async def play(at: CrashStage) -> None:
        await at.connect()
        at.post(100)
        await at.has_all()
        await at.known()
        await at.bot.kill()
        at.post(100)
        await until(lambda: head(at, 200), "the events do not reach the journal")
        if how == "stopped":
            assert await at.sidecar.stop() == 0
            assert closes(at) <= {None, 4000}
        else:
            await at.sidecar.kill()
        at.post(100)
        await at.sidecar.start()
        await at.connect()
        at.post(100)
        await at.has_all()
        assert [i.answer for i in at.world.ledger.identifies] == ["ready"]
        assert at.world.ledger.wrongs == []

    asyncio.run(each(bot_clients, kinds, tmp_path, play))


def test_C9_bot_and_sidecar_killed_together_lose_nothing_and_repeat_at_most_a_window(
    bot_clients: BotClients, kinds: list[str], tmp_path: Path
) -> None:
    async def play(at: CrashStage) -> None:
        drawn = random.Random(SEED)
        await at.connect()
        at.flow()
        await at.served(drawn)
        at.bot.signal(signal.SIGKILL)
        at.sidecar.signal(signal.SIGKILL)
        await at.bot.ended()
        await at.sidecar.ended()
        before = at.bot.contents()
        await at.sidecar.start()
        await at.connect()
        await at.served(drawn)
        await at.ebb()
        await until(lambda: at.bot.contents()[-1:] == at.posted[-1:], lambda: f"the last did not come\n{at.bot.tail()}")
        after = at.bot.contents(1)
        assert before == at.posted[: len(before)]
        assert after == at.posted[-len(after) :]
        repeated = len(before) + len(after) - len(at.posted)
        assert 0 <= repeated <= WINDOW
        assert [i.answer for i in at.world.ledger.identifies] == ["ready"]
        assert at.world.ledger.wrongs == []

    asyncio.run(each(bot_clients, kinds, tmp_path, play))


# --- killed while the upstream session is made --------------------------------------------------------------------------------------------


def test_U17_killed_while_it_reads_history_back_it_goes_on_and_brings_everything_once(bot_clients: BotClients, tmp_path: Path) -> None:
    """The session was lost with messages in it; the sidecar dies in the middle of the backfill, twice."""

    async def play() -> None:
        async with CrashStage(bot_clients, "carbon", tmp_path) as at:
            await at.connect()
            at.post(50)
            await at.has_all()
            await at.sidecar.kill()
            at.world.expire()
            for _ in range(450):
                at.post()
            slow = RestFault("/messages", delay_s=0.4, times=100)
            at.world.faults.rest.append(slow)
            for pages in (2, 3):
                await at.sidecar.start()
                asked = 100 - slow.times
                await until(lambda asked=asked, pages=pages: 100 - slow.times >= asked + pages, "no history is read")  # type: ignore[misc]
                at.post(10)
                await at.sidecar.kill()
            slow.times = 0
            await at.sidecar.start()
            at.post(10)
            await at.has_all()
            assert [i.answer for i in at.world.ledger.identifies] == ["ready", "ready"]
            assert at.world.ledger.wrongs == []
            assert at.bot.states["ready"] == 1

    asyncio.run(play())


def test_U16_killed_between_ready_and_the_last_guild_create(bot_clients: BotClients, kinds: list[str], tmp_path: Path) -> None:
    """The agents' IDENTIFYs wait for the guilds; after the kill they identify again and find them. One IDENTIFY upstream."""

    async def play(at: CrashStage) -> None:
        at.world.faults.late_guilds_s = 4.0
        await at.bot.start(TOKEN, at.address)
        await at.connected()
        beats = at.world.ledger.beats
        while not any(beat.d for beat in beats):
            # A beat names what is on disk: READY, when it is.
            asked = len(beats)
            at.world.beat_now()
            await until(lambda asked=asked: len(beats) > asked, "no heartbeat")  # type: ignore[misc]
        assert at.bot.states["ready"] == 0
        await at.sidecar.kill()
        at.post(10)
        await at.sidecar.start()
        raw = Raw(at.sidecar.url)
        await raw.open(IDENTIFY)
        await at.states("ready", 1)
        ready = next(told for told in at.bot.told if told["type"] == "ready")
        assert ready["guilds"] == [str(at.world.guild.id)]
        await until(lambda: len(raw.types()) >= 2, "not served")
        assert raw.types()[:2] == ["READY", "GUILD_CREATE"], "it was not known to be on its way"
        await raw.cut()
        at.post(10)
        await until(lambda: at.bot.contents()[-10:] == at.posted[-10:], lambda: f"{at.bot.contents()}")
        # A consumer that was never seen starts at the head; what it is handed has no hole.
        assert at.bot.contents() == at.posted[-len(at.bot.contents()) :]
        assert [i.answer for i in at.world.ledger.identifies] == ["ready"]
        assert at.world.ledger.wrongs == []

    asyncio.run(each(bot_clients, kinds, tmp_path, play))


def test_U17_killed_right_after_the_agents_identify_went_upstream(bot_clients: BotClients, kinds: list[str], tmp_path: Path) -> None:
    """READY never came: a second IDENTIFY, five seconds behind the first by the attempt on disk (R29), and every bot gets READY."""

    async def play(at: CrashStage) -> None:
        at.world.faults.late_ready_s = 0.5
        await at.bot.start(TOKEN, at.address)
        await until(lambda: len(at.world.ledger.identifies) == 1, "no IDENTIFY")
        await at.sidecar.kill()
        await at.sidecar.start()
        await at.states("ready", 1)
        at.post(10)
        await at.has_all()
        assert [i.answer for i in at.world.ledger.identifies] == ["ready", "ready"]
        assert at.world.ledger.wrongs == []

    asyncio.run(each(bot_clients, kinds, tmp_path, play))


def test_R29_a_session_lost_in_a_kill_right_behind_its_ready_costs_one_identify_in_its_time(
    bot_clients: BotClients, kinds: list[str], tmp_path: Path
) -> None:
    """And all that was posted meanwhile comes over REST, once."""

    async def play(at: CrashStage) -> None:
        await at.connect()
        at.post(20)
        await at.has_all()
        await at.sidecar.kill()
        at.world.expire()
        at.post(120)
        await at.sidecar.start()
        at.post(20)
        await at.has_all()
        assert [i.answer for i in at.world.ledger.identifies] == ["ready", "ready"]
        assert at.world.ledger.wrongs == []
        assert at.bot.states["ready"] == 1
        assert (await at.stream())["gaps"] == 1

    asyncio.run(each(bot_clients, kinds, tmp_path, play))
