"""The disk full under unmodified bots: they stay connected and acknowledged, nothing is lost, and it heals like an upstream outage."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

from sidecar.journal.directory import JOURNAL
from tests.clients.processes import until
from tests.crash.discord_stage import CrashStage
from tests.discord.clients.bots import BotClients
from tests.discord.clients.raw import IDENTIFY, Raw

CASES = {"python": "heals", "djs": "killed", "carbon": "session-lost"}
"""Each client, and what happens while the disk is full: nothing, SIGKILL of the sidecar, the end of the upstream's resume window."""


def limit(at: CrashStage, size: int) -> None:
    """No file of the sidecar's may grow beyond `size` bytes from now on."""
    resource.prlimit(at.crashable.pids[-1], resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def paused(at: CrashStage) -> bool:
    return bool((await at.status())["paused"])


async def fill(at: CrashStage) -> None:
    """Post until the journal takes no more."""
    limit(at, (at.sidecar.data_dir / JOURNAL).stat().st_size)
    while not await paused(at):
        assert len(at.posted) < 30_000, "the limit has no effect"
        at.post(100)
        await asyncio.sleep(0.02)


async def acknowledged(raw: Raw) -> None:
    """Wait for the ACK of one more beat."""
    before = raw.ops().count(11)
    await raw.send(1, None)
    await until(lambda: raw.ops().count(11) > before, "a heartbeat is not acknowledged")


async def play(clients: BotClients, kind: str, folder: Path) -> None:
    case = CASES[kind]
    folder.mkdir()
    async with CrashStage(clients, kind, folder, discord_heartbeat_ms="1000") as at:
        await at.connect()
        at.post(300)
        await at.has_all()
        raw = Raw(at.sidecar.url)
        await raw.open(IDENTIFY)
        await until(lambda: "GUILD_CREATE" in raw.types(), "not served")
        states = dict(at.bot.states)
        await fill(at)
        at.post(200)
        for _ in range(3):
            await acknowledged(raw)
        # The bots look at the ACKs of their own heartbeats, one a second.
        await until(lambda: paused(at), "it is not full any more")
        assert at.bot.states["disconnect"] == states.get("disconnect", 0)
        if case == "killed":
            await raw.cut()
            await at.sidecar.kill()
            await at.sidecar.start()
        else:
            if case == "session-lost":
                at.world.expire()
            limit(at, resource.RLIM_INFINITY)
        at.post(200)
        await at.has_all()
        assert not await paused(at)
        assert at.bot.states["ready"] == 1
        if case != "killed":
            assert at.bot.states["disconnect"] == states.get("disconnect", 0)
            await acknowledged(raw)
            await raw.cut()
        lost = case == "session-lost"
        assert [i.answer for i in at.world.ledger.identifies] == ["ready"] * (2 if lost else 1)
        assert at.world.ledger.wrongs == []
        assert (await at.stream())["gaps"] == (1 if lost else 0)
        assert await at.sidecar.stop() == 0


def test_disk_full_agents_stay_connected_and_acknowledged_and_nothing_is_lost(clients: BotClients, tmp_path: Path) -> None:
    async def all_of_them() -> None:
        await asyncio.gather(*(play(clients, kind, tmp_path / kind) for kind in CASES))

    asyncio.run(all_of_them())


def test_a_bot_that_starts_while_the_disk_is_full_is_served_when_there_is_room_again(clients: BotClients, tmp_path: Path) -> None:
    async def body() -> None:
        async with CrashStage(clients, "carbon", tmp_path) as at:
            await at.connect()
            at.post(300)
            await at.has_all()
            await fill(at)
            await at.bot.kill()
            opened = at.bot.states["opened"]
            await at.bot.start("reference-token", at.address)
            await at.states("opened", opened + 1)
            at.post(100)
            await until(lambda: paused(at), "it is not full any more")
            limit(at, resource.RLIM_INFINITY)
            await at.states("ready", 2)
            await until(lambda: at.bot.contents()[-1:] == at.posted[-1:], lambda: f"{len(at.bot.contents())} of {len(at.posted)} came")
            # What it was sent and had no time to receipt before its end may come again.
            got = at.bot.contents()
            assert set(got) == set(at.posted) and len(got) - len(at.posted) <= 256
            assert len(at.world.ledger.identifies) == 1
            assert at.world.ledger.wrongs == []

    asyncio.run(body())
