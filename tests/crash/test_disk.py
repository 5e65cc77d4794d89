"""The disk full while it runs: agents stay connected, nothing is lost, and it heals by itself when there is room again."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

import pytest

from sidecar.journal.directory import JOURNAL
from tests.crash.stage import Stage, opened, until

COUNT = 1500


def limit(stage: Stage, size: int) -> None:
    """No file of the sidecar's may grow beyond `size` bytes from now on. (CPython ignores SIGXFSZ: the write fails with EFBIG.)"""
    resource.prlimit(stage.sidecar.pids[-1], resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def paused(stage: Stage) -> bool:
    return bool((await stage.sidecar.get("status"))["paused"])


@pytest.mark.parametrize("killed", [False, True], ids=["heals", "killed-while-full"])
def test_disk_full(tmp_path: Path, killed: bool) -> None:
    async def body() -> None:
        async with opened(tmp_path) as stage:
            sidecar = stage.sidecar
            await sidecar.start()
            await stage.connect()
            await stage.post(COUNT, 1500)
            await stage.caught_up()
            limit(stage, (sidecar.data_dir / JOURNAL).stat().st_size)
            while not await paused(stage):
                await stage.post(300, 1500)
                assert stage.published < 20 * COUNT, "the limit has no effect"
            await stage.post(300, 1500)

            assert await paused(stage)
            assert sidecar.alive
            assert stage.sdk.states["open"] == 1
            assert stage.sdk.states["close"] == 0
            assert (stage.stating.opens, stage.stating.closes) == (1, 0)
            assert any("takes no writes" in line or "does not take writes" in line for line in sidecar.lines)

            if killed:
                await sidecar.kill()
                await sidecar.start()
                await until(lambda: stage.sdk.states["open"] >= 2, "the agent did not come back")
            else:
                limit(stage, resource.RLIM_INFINITY)
            await stage.post(100)
            await stage.caught_up()
            assert not await paused(stage)
            assert stage.stating.handled == list(range(stage.published))
            if not killed:
                assert stage.numbers() == list(range(stage.published))
                assert (stage.sdk.states["open"], stage.stating.opens) == (1, 1)
            assert set(stage.numbers()) == set(range(stage.published))
            assert [stream["gaps"] for stream in (await sidecar.streams()).values()] == [0, 0]
            assert await sidecar.stop() == 0

    asyncio.run(body())
