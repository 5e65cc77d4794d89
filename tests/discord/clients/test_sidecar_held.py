"""What the operator decides: who holds the upstream session and for how long, where a consumer stands, and what a lost journal means."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar.journal.directory import JOURNAL
from tests.clients.processes import ROOT, until
from tests.crash.discord_stage import CrashStage
from tests.crash.test_damage import cut_short, emptied, overwritten
from tests.discord.clients.bots import BotClients
from tests.discord.clients.stage import TOKEN
from tests.discord.upstream.world import Settings


def together(play: Callable[..., Awaitable[None]], cases: Iterable[tuple[Any, ...]]) -> None:
    """Several cases side by side: what they do is mostly waiting."""

    async def all_of_them() -> None:
        await asyncio.gather(*(play(*case) for case in cases))

    asyncio.run(all_of_them())


async def native(at: CrashStage, after: int = 0) -> list[dict[str, Any]]:
    """What the native stream has behind an offset."""
    name = (await at.stream())["name"]
    address = f"{at.sidecar.url}/_sidecar/stream?stream={name}&after={after}"
    frames: list[dict[str, Any]] = []
    async with aiohttp.ClientSession() as session, session.ws_connect(address) as line:
        hello = json.loads(await line.receive_str(timeout=10))
        while (frames[-1]["offset"] if frames else after) < hello["head"]:
            frames.append(json.loads(await line.receive_str(timeout=10)))
    return frames


async def gaps(at: CrashStage) -> list[str]:
    return [frame["reason"] for frame in await native(at) if frame["type"] == "gap"]


def test_C7_a_damaged_journal_is_set_aside_and_a_resume_of_its_sessions_becomes_an_identify(
    bot_clients: BotClients, kinds: list[str], tmp_path: Path
) -> None:
    """Op 9 false, IDENTIFY, READY; a new epoch that begins with the gap `journal_lost`; what is posted from then on comes."""
    damages = (cut_short, overwritten, emptied)

    async def play(kind: str, damage: Callable[[Path], None]) -> None:
        # What was spent stood in the journal, too.
        settings = Settings(heartbeat_interval_ms=3000, identify_spacing_s=0.5)
        (tmp_path / kind).mkdir()
        async with CrashStage(bot_clients, kind, tmp_path / kind, settings=settings) as at:
            await at.connect()
            at.post(50)
            await at.has_all()
            epoch, before = (await at.stream())["epoch"], at.bot.states["guild_available"]
            await at.sidecar.kill()
            damage(at.sidecar.data_dir / JOURNAL)
            await at.sidecar.start()
            # discord.js tells of its first READY only.
            await at.states("guild_available", before + 1)
            at.post(50)
            await at.has_all()
            assert len(list(at.sidecar.data_dir.glob(f"{JOURNAL}.damaged-*"))) == 1
            assert (await at.stream())["epoch"] != epoch
            assert (await gaps(at))[0] == "journal_lost"
            assert 'reason="journal_lost"' in await at.metrics()
            assert len(at.world.ledger.identifies) == 2
            assert at.world.ledger.wrongs == []

    together(play, zip(kinds, damages, strict=True))


@pytest.mark.parametrize("kind", ["djs"], indirect=True)
def test_the_operators_token_holds_the_session_before_any_client_and_across_restarts(
    bot_clients: BotClients, kind: str, tmp_path: Path
) -> None:
    async def play() -> None:
        knobs = {"upstream_token": TOKEN, "discord_intents": "46601"}
        async with CrashStage(bot_clients, kind, tmp_path, **knobs) as at:
            await at.connected()
            assert [i.intents for i in at.world.ledger.identifies] == [46601]
            at.post(10)
            await until(lambda: head(at, 10), "nobody journals")
            at.posted.clear()  # an agent that was never here starts at the head
            await at.connect()
            at.post(20)
            await at.has_all()
            await at.known()
            await at.bot.kill()
            at.post(20)
            # Receipts are on disk with what follows them.
            await until(lambda: head(at, 50), "nobody journals")
            await at.sidecar.kill()
            at.post(20)
            await at.sidecar.start()
            # Before the bot comes back.
            await at.connected()
            at.post(20)
            await at.connect()
            await at.has_all()
            assert len(at.world.ledger.identifies) == 1
            assert at.world.ledger.wrongs == []

    asyncio.run(play())


@pytest.mark.parametrize("kind", ["carbon"], indirect=True)
def test_linger_lets_the_session_go_and_nothing_that_can_be_had_is_lost(bot_clients: BotClients, kind: str, tmp_path: Path) -> None:
    """Back within the resume window: RESUME, and no gap. Later: history, and the gap `released` for what has none."""

    async def play(lost: bool) -> None:
        (folder := tmp_path / str(lost)).mkdir()
        async with CrashStage(bot_clients, kind, folder, linger_s="1") as at:
            await at.connect()
            at.post(20)
            await at.has_all()
            await at.known()
            await at.bot.kill()
            await until(lambda: not at.world.open(), "the upstream is held for ever")
            assert at.world.ledger.closes[-1].code in (None, 4000), "1000 would end the session"
            if lost:
                at.world.expire()
            at.post(120)
            await at.connect()
            at.post(20)
            await at.has_all()
            assert len(at.world.ledger.identifies) == (2 if lost else 1)
            assert at.world.ledger.wrongs == []
            assert await gaps(at) == (["released"] if lost else [])

    together(play, [(False,), (True,)])


@pytest.mark.parametrize("kind", ["carbon"], indirect=True)
def test_consumer_reset_reaches_the_bot_connected_away_and_with_the_sidecar_stopped(
    bot_clients: BotClients, kind: str, tmp_path: Path
) -> None:
    """Back by ten: it gets these again, once. Away: its RESUME, which states its own cursor, does not undo it."""

    async def play(where: str) -> None:
        (tmp_path / where).mkdir()
        async with CrashStage(bot_clients, kind, tmp_path / where) as at:
            await at.connect()
            at.post(30)
            await at.has_all()
            await at.known()
            if where == "away":
                # The sidecar sees its socket close; the bot knows nothing of what follows.
                assert at.door is not None
                at.door.shut = True
                at.door.cut()
                await until(lambda: nobody(at), "its session lives on")
            elif where == "stopped":
                await at.sidecar.kill()
            await reset(at, 20)
            if where == "away":
                assert at.door is not None
                at.door.shut = False
            elif where == "stopped":
                await at.sidecar.start()
            await at.states("ready", 2)
            at.post(5)
            await until(lambda: len(at.bot.contents()) >= 45, lambda: f"{len(at.bot.contents())} came")
            assert at.bot.contents() == at.posted[:30] + at.posted[20:]
            assert len(at.world.ledger.identifies) == 1

    together(play, [("connected",), ("away",), ("stopped",)])


async def head(at: CrashStage, least: int) -> bool:
    return bool((await at.stream()).get("head", 0) >= least)


async def nobody(at: CrashStage) -> bool:
    return (await at.stream())["consumers"][0]["sessions"] == 0


async def reset(at: CrashStage, offset: int) -> None:
    """`sidecar consumer reset agent --offset N`, as an operator would."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SIDECAR_")} | {
        "SIDECAR_DIALECT": "discord",
        "SIDECAR_UPSTREAM": at.upstream.url,
        "SIDECAR_DATA_DIR": str(at.sidecar.data_dir),
        "SIDECAR_LISTEN": at.sidecar.url.removeprefix("http://"),
    }
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar", "consumer", "reset", "agent", "--offset", str(offset),
        env=environment, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await done.communicate()
    assert done.returncode == 0, said.decode()
