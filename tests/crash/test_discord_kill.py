"""SIGKILL of the sidecar fifty times under load, before unmodified bots: 0 lost, 0 twice, and the upstream session lives on (issue 3)."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

from tests.clients.processes import until
from tests.crash.discord_stage import CrashStage
from tests.crash.failpoints import POINTS
from tests.discord.clients.bots import BotClients

SHARES = {"python": 16, "djs": 17, "carbon": 17}
SEED = int(os.environ.get("CRASH_SEED", "20"))
KINDS = [*POINTS, "none"]


def plan(kills: int, seed: int) -> list[tuple[str, ...]]:
    """How each life of the sidecar ends: at a point, in every second round only while the window is full; or at any moment."""
    drawn = random.Random(seed)
    lives: list[tuple[str, ...]] = []
    for number in range(kills):
        point = KINDS[(number + seed) % len(KINDS)]
        if point == "none":
            lives.append((point, "1", "one"))
        elif number % 2:
            lives.append((point, str(drawn.randint(1, 40)), "one"))
        else:
            lives.append((point, str(drawn.randint(1, 4)), "full", "one"))
    return lives


async def lives(clients: BotClients, kind: str, folder: Path, kills: int, seed: int) -> None:
    drawn = random.Random(seed)
    folder.mkdir()
    async with CrashStage(clients, kind, folder) as at:
        sidecar = at.crashable
        await at.connect()
        at.flow()
        await at.served(drawn)
        # The life so far ends at some moment, too.
        sidecar.signal(signal.SIGKILL)
        await sidecar.ended()
        arms = iter(plan(kills, seed))
        armed: list[str] = []
        before = -1
        for _ in range(kills - 1):
            resumed = at.bot.states["resumed"]
            # Carbon throws its session away after three RESUMEs in a row without a RESUMED, which is its own choice: after a life that
            # ended in the middle of a replay comes one that ends at some moment behind it.
            sidecar.arm = () if resumed == before else next(arms)
            before = resumed
            await sidecar.start()
            if not sidecar.arm:
                await at.states("resumed", resumed + 1)
                await at.served(drawn)
                sidecar.signal(signal.SIGKILL)
            elif sidecar.arm[0] == "none":
                await at.served(drawn)
                sidecar.signal(signal.SIGKILL)
            else:
                armed.append(sidecar.arm[0])
            await until(lambda: not sidecar.alive, lambda: f"{sidecar.arm} never happened; the sidecar said:\n{sidecar.tail()}")
            assert await sidecar.ended() == -signal.SIGKILL, sidecar.tail()
        assert len(sidecar.pids) == kills
        sidecar.arm = ()
        await sidecar.start()
        await at.served(drawn)
        await at.ebb()
        await at.has_all()
        at.check()
        assert len(at.world.ledger.resumes) >= kills // 2
        assert (await at.stream())["gaps"] == 0
        said = [line for line in sidecar.said() if "point" in line]
        assert [line["point"] for line in said] == armed
        full = sum(line["out"] >= line["window"] for line in said)
        assert full >= kills // 6
        print(f"{kind}: {kills} kills, {len(armed)} at {len(set(armed))} points, {full} with the window full, {len(at.posted)} messages")


def test_fifty_kills_at_300_messages_a_second_lose_nothing_bring_nothing_twice_and_the_upstream_is_resumed(
    clients: BotClients, tmp_path: Path
) -> None:
    assert sum(SHARES.values()) >= 50

    async def play() -> None:
        each = enumerate(SHARES.items())
        await asyncio.gather(*(lives(clients, kind, tmp_path / kind, kills, SEED + n) for n, (kind, kills) in each))

    asyncio.run(play())


def test_killed_under_load_with_the_session_lost_meanwhile_everything_is_read_back_once_and_in_order(
    clients: BotClients, tmp_path: Path
) -> None:
    """The resume window passed while the sidecar was dead; live messages go on coming while it reads history."""

    async def play(kind: str) -> None:
        drawn = random.Random(SEED)
        (tmp_path / kind).mkdir()
        async with CrashStage(clients, kind, tmp_path / kind, discord_backfill_max="100000") as at:
            await at.connect()
            at.flow(bursts=False)
            await at.served(drawn)
            at.sidecar.signal(signal.SIGKILL)
            await at.sidecar.ended()
            at.world.expire()
            await at.sidecar.start()
            await until(lambda: len(at.world.ledger.identifies) == 2, "no new session")
            await at.served(drawn)
            await at.ebb()
            await at.has_all()
            assert [i.answer for i in at.world.ledger.identifies] == ["ready", "ready"]
            assert at.world.ledger.wrongs == []
            assert at.bot.states["ready"] == 1
            # What history does not have: edits, deletes, reactions of that time.
            assert (await at.stream())["gaps"] == 1

    async def all_of_them() -> None:
        await asyncio.gather(*map(play, SHARES))

    asyncio.run(all_of_them())
