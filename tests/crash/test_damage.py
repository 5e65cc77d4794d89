"""A start with a damaged journal: set aside, a new epoch, told as a gap, and agents with an old cursor get everything that is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sidecar.journal.directory import JOURNAL
from tests.crash.stage import Stage, opened, until

BEFORE, AFTER = 300, 40
PAGE = 4096


def cut_short(journal: Path) -> None:
    """As after a copy that broke off."""
    with journal.open("r+b") as file:
        file.truncate(journal.stat().st_size // 2)


def overwritten(journal: Path) -> None:
    """Every page behind the two meta pages holds something else."""
    with journal.open("r+b") as file:
        file.seek(2 * PAGE)
        file.write(b"\xa5" * (journal.stat().st_size - 2 * PAGE))


def emptied(journal: Path) -> None:
    journal.write_bytes(b"")


async def native(stage: Stage, stream: str) -> list[dict[str, Any]]:
    """What a reader of the native stream gets, from the beginning to the head."""
    frames: list[dict[str, Any]] = []
    address = f"{stage.sidecar.url}/_sidecar/stream?stream={stream}&after=0"
    async with aiohttp.ClientSession() as session, session.ws_connect(address) as line:
        hello = json.loads(await line.receive_str(timeout=10))
        while not frames or frames[-1]["offset"] < hello["head"]:
            frames.append(json.loads(await line.receive_str(timeout=10)))
    return [hello, *frames]


@pytest.mark.parametrize("clean", [True, False], ids=["stopped", "killed"])
@pytest.mark.parametrize("damage", [cut_short, overwritten, emptied])
def test_a_damaged_journal_is_set_aside_and_told(tmp_path: Path, damage: Callable[[Path], None], clean: bool) -> None:
    async def body() -> None:
        async with opened(tmp_path) as stage:
            sidecar, stating = stage.sidecar, stage.stating
            await sidecar.start()
            await stage.connect()
            await stage.post(BEFORE)
            await stage.caught_up()
            epoch = (await sidecar.streams())[stage.stating_id]["epoch"]
            old = stating.last_seq
            await stating.stop()
            assert await sidecar.stop() == 0 if clean else await sidecar.kill() is None
            damage(sidecar.data_dir / JOURNAL)

            await sidecar.start()
            await until(lambda: stage.sdk.states["open"] >= 2, "the SDK's agent did not come back")
            holder = await asyncio.wait_for(hold(stage), 30)
            await stage.post(AFTER)
            await until(lambda: head(stage, AFTER + 1), sidecar.tail)
            await holder.close()

            assert len(list(sidecar.data_dir.glob(f"{JOURNAL}.damaged-*"))) == 1
            assert any("damaged" in line and "set aside" in line for line in sidecar.lines), sidecar.tail()
            streams = await sidecar.streams()
            assert streams[stage.stating_id]["epoch"] != epoch
            assert [stream["gaps"] for stream in streams.values()] == [1, 1]
            assert 'reason="journal_lost"' in await sidecar.get("metrics")

            hello, first, *events = await native(stage, stage.stating_id)
            assert hello["epoch"] != epoch
            assert (first["type"], first["reason"]) == ("gap", "journal_lost")
            assert [frame["type"] for frame in events] == ["event"] * AFTER

            # The agent still has its cursor of the lost journal: lower than all that is kept now (R22).
            stating.start()
            await until(lambda: len(stating.acks) > 0, sidecar.tail)
            assert stating.acks[-1]["last_seen_seq"] == old
            assert stating.acks[-1]["gap_detected"] is True
            assert stating.handled == list(range(BEFORE + AFTER))
            assert stage.numbers() == list(range(BEFORE + AFTER))

    asyncio.run(body())


async def hold(stage: Stage) -> aiohttp.ClientSession:
    """A second socket of the stating agent, that states nothing: from its baseline on the new journal is filled. Returns what closes it."""
    session = aiohttp.ClientSession()
    await session.ws_connect(f"{stage.sidecar.url}/v1/ws?token={stage.stating.token}")
    while True:
        streams = await stage.sidecar.streams()
        if len(streams) == 2 and all(stream["upstream"] == "live" for stream in streams.values()):
            return session
        await asyncio.sleep(0.02)


async def head(stage: Stage, offset: int) -> bool:
    return (await stage.sidecar.streams())[stage.stating_id]["head"] >= offset
