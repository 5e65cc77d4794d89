"""SIGTERM under load, and two sidecars on one data directory."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from tests.clients.processes import SidecarProcess
from tests.crash.stage import Stage, opened, until

STOPS = 4


async def come_back(stage: Stage, opens: int) -> None:
    """Wait until the SDK agent has connected `opens` times and been handed something since."""
    await until(lambda: stage.sdk.states["open"] >= opens, "the agent did not come back")
    got = len(stage.numbers())
    await until(lambda: len(stage.numbers()) > got, "nothing flows")


def test_a_planned_restart_under_load_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path, SIDECAR_DRAIN_S="20") as stage:
            await stage.sidecar.start()
            await stage.connect()
            stage.flow()
            for number in range(STOPS):
                await come_back(stage, number + 1)
                assert await stage.sidecar.stop() == 0, stage.sidecar.tail()
                await stage.sidecar.start()
            await come_back(stage, STOPS + 1)
            await stage.ebb()
            await stage.caught_up()
            assert stage.numbers() == list(range(stage.published))
            assert stage.stating.handled == list(range(stage.published))
            streams = await stage.sidecar.streams()
            assert [stream["gaps"] for stream in streams.values()] == [0, 0]

    asyncio.run(body())


def test_a_second_sidecar_on_the_same_directory_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as stage:
            await stage.sidecar.start()
            await stage.connect()
            await stage.post(10)
            second = SidecarProcess(stage.reference.url, stage.sidecar.data_dir, stage.sidecar.env)
            try:
                try:
                    await second.start()
                except AssertionError:
                    pass  # it ended at its start, as it should
                assert await second.ended() == 3
            finally:
                await second.kill()
            said = second.tail()
            assert f"in use by process {stage.sidecar.pids[0]}" in said
            assert "mend:" in said
            await stage.post(10)
            await stage.caught_up()
            assert stage.numbers() == list(range(20))

    asyncio.run(body())


def test_after_a_kill_the_directory_is_free_again(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path) as stage:
            await stage.sidecar.start()
            await stage.sidecar.kill()
            await stage.sidecar.start()
            await stage.connect()
            await stage.post(5)
            await stage.caught_up()
            assert await stage.sidecar.stop() == 0

    asyncio.run(body())


def test_behind_the_goodbye_nobody_is_taken_in_any_more(tmp_path: Path) -> None:
    """A client that answers no close holds the process for two seconds: who reconnects at once meanwhile would be sent away each time."""

    async def play() -> None:
        sidecar = SidecarProcess("http://127.0.0.1:9", tmp_path / "data", {}, "discord")
        await sidecar.start()
        port = int(sidecar.url.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
            writer.write(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
            await asyncio.wait_for(reader.readuntil(b'"op":10'), 20)
            sidecar.signal(signal.SIGTERM)
            await asyncio.wait_for(reader.readuntil(b'"op":7'), 20)

            async def refused() -> bool:
                try:
                    _, another = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionRefusedError:
                    return True
                another.close()
                return False

            await until(refused, "new connections are still taken")
            assert sidecar.alive, "it still waits for the one that does not answer"
        finally:
            writer.transport.abort()
            await sidecar.kill()

    asyncio.run(play())
