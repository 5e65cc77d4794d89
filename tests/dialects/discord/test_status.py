"""What a person sees of a bot: each shard's state, its session's age, the IDENTIFY budget, and a fatal answer with its mend (discord R29,
R31), in the real sidecar before the reference upstream."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from tests.clients.processes import SidecarProcess, until
from tests.discord.upstream.server import ReferenceDiscord
from tests.discord.upstream.world import Settings

TOKEN = "reference-token"
CONTENT = 1 << 15


class Stage:
    def __init__(self, up: ReferenceDiscord, sidecar: SidecarProcess, http: aiohttp.ClientSession) -> None:
        self.world = up.world
        self.sidecar = sidecar
        self.http = http

    async def get(self, path: str) -> str:
        async with self.http.get(f"{self.sidecar.url}/_sidecar/{path}") as answer:
            return await answer.text()

    async def status(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(await self.get("status"))
        return found

    async def table(self) -> str:
        """What `sidecar status` prints."""
        env = {**os.environ, "SIDECAR_DIALECT": "discord", "SIDECAR_LISTEN": self.sidecar.url.removeprefix("http://")}
        command = (sys.executable, "-m", "sidecar", "status")
        child = await asyncio.create_subprocess_exec(*command, env=env, cwd=Path(__file__).parents[3], stdout=asyncio.subprocess.PIPE)
        return (await child.communicate())[0].decode()

    async def identify(self, intents: int) -> tuple[list[str], int | None]:
        """What a new agent is told, up to READY or the socket's end: events, and the close code."""
        kinds = []
        async with self.http.ws_connect(self.sidecar.url) as ws:
            await ws.send_json({"op": 2, "d": {"token": TOKEN, "intents": intents, "properties": {}}})
            async for got in ws:
                kinds.append(msgspec.json.decode(got.data)["t"])
                if kinds[-1] == "READY":
                    return kinds, None
            return kinds, ws.close_code


@contextlib.asynccontextmanager
async def on_stage(folder: Path, settings: Settings, **env: str) -> AsyncIterator[Stage]:
    async with ReferenceDiscord(settings=settings) as up, aiohttp.ClientSession() as http, asyncio.timeout(90):
        sidecar = SidecarProcess(up.url, folder / "journal", env, "discord")
        try:
            await sidecar.start()
            yield Stage(up, sidecar, http)
        finally:
            await sidecar.kill()


def test_r29_status_page_and_table_show_each_shard_its_sessions_age_and_the_budget(tmp_path: Path) -> None:
    knobs = {"SIDECAR_UPSTREAM_TOKEN": TOKEN, "SIDECAR_DISCORD_SHARDS": "0/2,1/2"}

    async def play() -> None:
        async with on_stage(tmp_path, Settings(heartbeat_interval_ms=1000, shards=2, max_concurrency=2), **knobs) as at:
            names = [f"discord:{at.world.bot.user.id}:{n}/2" for n in (0, 1)]

            async def shown() -> bool:
                rows = (await at.status())["streams"]
                return [row["upstream"] for row in rows] == ["live", "live"] and all("seq" in row["details"] for row in rows)

            await until(shown, "two shards are never shown live")
            rows = (await at.status())["streams"]
            assert [row["name"] for row in rows] == names
            for n, row in enumerate(rows):
                details = row["details"]
                assert details["shard"] == f"{n}/2" and 0 <= details["session_age_s"] < 60
                assert details["identify_budget"] == {"used": 2, "ceiling": 200, "window_s": 86400, "left_upstream": 1000}
            # The other shard's outage is not this one's.
            at.world.faults.refuse_connect = 10**6
            at.world.cut(shard=1)
            await until(lambda: lost(at, names[1]), "the lost shard is shown live")
            first, second = (await at.status())["streams"]
            assert first["upstream"] == "live" and second["upstream"] in ("waiting", "connecting", "resync")
            table = await at.table()
            assert f"{names[0]}: identify budget (used 2, ceiling 200, window 24 h, left upstream 1000), shard 0/2, session age " in table
            metrics = await at.get("metrics")
            assert f'sidecar_upstream_state{{state="live",stream="{names[0]}"}} 1.0' in metrics
            assert "sidecar_identifies_upstream_total 2.0" in metrics

    asyncio.run(play())


async def lost(at: Stage, name: str) -> bool:
    return next(row for row in (await at.status())["streams"] if row["name"] == name)["upstream"] != "live"


def test_r22_r31_a_fatal_answer_is_told_to_agents_and_shown_with_its_mend_until_it_is_mended(tmp_path: Path) -> None:
    async def play() -> None:
        async with on_stage(tmp_path, Settings(heartbeat_interval_ms=3000)) as at:
            at.world.bot.granted = 0
            assert await at.identify(513 | CONTENT) == ([None], 4014)
            status = await at.status()
            (problem,) = status["problems"]
            assert (
                "4014" in problem["what"] and "grant the privileged intents" in problem["mend"] and "restart the sidecar" in problem["mend"]
            )
            assert status["streams"][0]["upstream"] == "refused"
            assert 'sidecar_fatal_total{code="4014"} 1.0' in await at.get("metrics")
            assert [line for line in at.sidecar.lines if "error" in line and "4014" in line]
            # New ones are told the same, and the upstream is not asked again for it.
            assert await at.identify(513 | CONTENT) == ([None], 4014)
            assert len(at.world.ledger.identifies) == 1
            # An agent that was mended is served, and the problem is gone.
            assert (await at.identify(513))[0][-1] == "READY"
            assert len(at.world.ledger.identifies) == 2
            assert (await at.status())["problems"] == []

    asyncio.run(play())


def test_r31_an_operators_token_that_is_refused_is_shown_with_its_mend_and_asked_for_once(tmp_path: Path) -> None:
    async def play() -> None:
        async with on_stage(tmp_path, Settings(), SIDECAR_UPSTREAM_TOKEN="not-the-bots") as at:

            async def told() -> bool:
                return bool((await at.status())["problems"])

            await until(told, "the refused token is no problem")
            (problem,) = (await at.status())["problems"]
            assert "4004" in problem["what"] and "SIDECAR_UPSTREAM_TOKEN" in problem["mend"]
            assert 'sidecar_fatal_total{code="4004"} 1.0' in await at.get("metrics")
            assert len(at.world.ledger.calls) == 1 and at.world.ledger.connects == []

    asyncio.run(play())
