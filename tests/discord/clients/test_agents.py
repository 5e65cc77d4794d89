"""Unmodified bots over the sidecar, and what happens to the bots themselves: restarts, stops, two of one token, slow handlers."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.clients.processes import until
from tests.discord.clients.bots import BotClients
from tests.discord.clients.stage import Stage
from tests.discord.upstream.world import Settings

WINDOW = 256


def in_order(runs: Sequence[Sequence[str]], posted: Sequence[str]) -> list[int]:
    """Each run got a piece of what was posted, without a hole, and begins no later than behind the one before; the last one got the
    end. Returns how many messages each run got that one before it had."""
    known, repeats = 0, []
    for run in runs:
        if not run:
            repeats.append(0)
            continue
        start = posted.index(run[0])
        assert list(run) == list(posted[start : start + len(run)])
        assert start <= known, f"{known - start} lost"
        repeats.append(known - start)
        known = max(known, start + len(run))
    assert known == len(posted)
    return repeats


def folder(base: Path, name: str) -> Path:
    """A new folder."""
    found = base / name
    found.mkdir()
    return found


def at_once(play: Callable[[str], Coroutine[Any, Any, None]], kinds: Sequence[str]) -> None:
    """With all clients at the same time, each on a stage of its own."""

    async def all_of_them() -> None:
        await asyncio.gather(*map(play, kinds))

    asyncio.run(all_of_them())


@asynccontextmanager
async def posting(at: Stage) -> AsyncIterator[None]:
    """Messages flow while the block runs."""

    async def post() -> None:
        while True:
            at.post(3)
            await asyncio.sleep(0.01)

    task = asyncio.get_running_loop().create_task(post())
    try:
        yield
    finally:
        task.cancel()


def test_R18_R19_R20_C9_C10_restarted_while_messages_flow_it_goes_on_behind_its_last_receipt(
    bot_clients: BotClients, kind: str, tmp_path: Path
) -> None:
    async def play() -> None:
        async with Stage(bot_clients, kind, tmp_path) as at:
            await at.connect()
            async with posting(at):
                await until(lambda: len(at.bot.contents(0)) >= 100, "nothing came")
                await at.bot.kill()
                await at.connect()
                await until(lambda: len(at.bot.contents(1)) >= 100, "nothing came after kill -9")
                at.bot.signal(signal.SIGTERM)
                assert await at.bot.ended() == 0, at.bot.tail()
                await at.connect()
                await until(lambda: len(at.bot.contents(2)) >= 100, "nothing came after its own close")
            await until(lambda: bool(at.bot.contents(2)) and at.bot.contents(2)[-1] == at.posted[-1], "the end did not come")
            await at.known()
            # A quiet bot: what it had does not come again.
            await at.bot.kill()
            await at.connect()
            at.post(10)
            await until(lambda: len(at.bot.contents(3)) >= 10, "nothing came to the last run")
            repeats = in_order([at.bot.contents(run) for run in range(4)], at.posted)
            assert max(repeats) <= WINDOW
            assert repeats[3] == 0
            assert (len(at.world.ledger.identifies), len(at.world.ledger.connects)) == (1, 1)
            assert at.world.ledger.wrongs == []

    asyncio.run(play())


def test_stopped_for_many_intervals_the_upstream_session_lives_and_nothing_is_lost_or_twice(
    bot_clients: BotClients, kind: str, tmp_path: Path
) -> None:
    async def play() -> None:
        settings = Settings(heartbeat_interval_ms=500)
        async with Stage(bot_clients, kind, tmp_path, settings=settings, discord_heartbeat_ms="1000") as at:
            await at.connect()
            at.post(50)
            await at.has_all()
            await at.known()
            at.bot.signal(signal.SIGSTOP)
            before = len(at.world.ledger.beats)
            async with posting(at):
                await until(lambda: len(at.world.ledger.beats) >= before + 8 and len(at.posted) > 3 * WINDOW, "no beats")
                at.bot.signal(signal.SIGCONT)
                await until(lambda: len(at.bot.contents()) > 3 * WINDOW, lambda: f"{len(at.bot.contents())} came\n{at.bot.tail()}")
            await at.has_all()
            assert (len(at.world.ledger.identifies), len(at.world.ledger.connects)) == (1, 1)
            assert at.world.ledger.wrongs == []

    asyncio.run(play())


def test_R18_stopped_for_sixty_seconds_with_all_as_it_is_by_default(bot_clients: BotClients, kinds: list[str], tmp_path: Path) -> None:
    async def play(kind: str) -> None:
        async with Stage(bot_clients, kind, folder(tmp_path, kind), settings=Settings()) as at:
            await at.connect()
            at.post(50)
            await at.has_all()
            await at.known()
            at.bot.signal(signal.SIGSTOP)
            before = len(at.world.ledger.beats)
            for _ in range(60):
                at.post(10)
                await asyncio.sleep(1)
            at.bot.signal(signal.SIGCONT)
            assert len(at.world.ledger.beats) > before
            at.post(10)
            await at.has_all()
            await at.known()
            at.post(10)
            await at.has_all()
            assert (len(at.world.ledger.identifies), len(at.world.ledger.connects)) == (1, 1)
            assert at.world.ledger.wrongs == []

    at_once(play, kinds)


def test_R11_R18_C12_a_slow_handler_keeps_its_connection_and_gets_everything(
    bot_clients: BotClients, kinds: list[str], tmp_path: Path
) -> None:
    async def play(kind: str) -> None:
        async with Stage(bot_clients, kind, folder(tmp_path, kind), discord_heartbeat_ms="8000") as at:
            await at.connect(busy_ms=10)
            at.post(600)
            await at.has_all()
            await at.known()
            # Carbon takes what comes into a queue of its own, and its loop does not turn before that is empty: it may miss an ACK.
            drops = at.bot.states["disconnect"] + at.bot.states["resumed"]
            assert (drops if kind != "carbon" else 0, at.bot.states["ready"]) == (0, 1)
            assert len(at.world.ledger.connects) == 1

    at_once(play, kinds)


def test_R18_R19_C12_twenty_thousand_messages_wait_for_a_bot_that_was_away(
    bot_clients: BotClients, kinds: list[str], tmp_path: Path
) -> None:
    async def play(kind: str) -> None:
        # All three upstreams live in this process, which is busy with posting: they are in no hurry.
        settings = Settings(heartbeat_interval_ms=60000, replay_limit=30000)
        async with Stage(bot_clients, kind, folder(tmp_path, kind), settings=settings) as at:
            await at.connect()
            await at.known()
            await at.bot.kill()
            for _ in range(100):
                at.post(200)
                await asyncio.sleep(0.01)
            await at.connect()
            await at.has_all()
            await at.known()
            assert at.bot.states["disconnect"] == at.bot.states["resumed"] == 0
            assert at.bot.contents(1) == at.posted

    at_once(play, kinds)
