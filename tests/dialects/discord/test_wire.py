"""The downstream half on real sockets, in the whole sidecar: what only the wire can show (discord R1, R3, R4, R6, R8 to R12, R24)."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from sidecar.app import Sidecar
from sidecar.config import Settings
from sidecar.dialects import registry
from sidecar.dialects.discord import rest
from sidecar.dialects.discord.downstream import DownstreamHalf
from tests.dialects.discord.scene import ALL, BOT, TOKEN
from tests.dialects.discord.test_engine import Upstream


class Knobs(msgspec.Struct, frozen=True):
    heartbeat_ms: int = 20000
    media: str = "keep"
    shards: tuple[str, ...] = ()


DIALECT = SimpleNamespace(
    name="discord",
    rewrites=rest.REWRITES,
    counters={},
    unavailable=rest.unavailable,
    upstream=lambda account, settings, view: Upstream(view),
    downstream=DownstreamHalf,
)


class Stage:
    """A running sidecar before an upstream that knows one bot."""

    def __init__(self, sidecar: Sidecar, http: aiohttp.ClientSession) -> None:
        self.sidecar = sidecar
        self.http = http
        self.stopped = False

    async def stop(self) -> None:
        """A planned stop, once."""
        if not self.stopped:
            self.stopped = True
            await self.sidecar.stop()

    async def connect(self, path: str = "/?v=10&encoding=json") -> aiohttp.ClientWebSocketResponse:
        return await self.http.ws_connect(self.sidecar.url + path, max_msg_size=0)


def on_stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, play: Callable[[Stage], Awaitable[None]], **knobs: Any) -> None:
    monkeypatch.setattr(registry, "dialect", lambda name: DIALECT)
    monkeypatch.setattr("sidecar.app.find_dialect", lambda name: DIALECT)

    async def upstream(request: web.Request) -> web.Response:
        if request.path == "/api/v10/users/@me":
            known = request.headers.get("Authorization") == f"Bot {TOKEN}"
            return web.Response(status=200 if known else 401, body=msgspec.json.encode({"id": BOT}), content_type="application/json")
        body = msgspec.json.encode({"icon": "https://cdn.discordapp.com/x", "path": request.raw_path})
        return web.Response(body=body, headers={"Content-Type": request.headers.get("X-Want", "application/json")})

    async def main() -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", upstream)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        sidecar = Sidecar(
            Settings(
                dialect="discord",
                upstream=f"http://127.0.0.1:{port}",
                listen_host="127.0.0.1",
                listen_port=0,
                data_dir=tmp_path / "data",
                upstream_token=None,
                local_token=None,
                allowed_origins=(),
                allowed_hosts=(),
                durability="process",
                retention_bytes=1 << 28,
                retention_s=3600.0,
                dedupe_events=1000,
                linger_s=60.0,
                window=256,
                drain_s=1.0,
                log_format="text",
                log_level="error",
                knobs=Knobs(**knobs),
            )
        )
        await sidecar.start()
        async with asyncio.timeout(20), aiohttp.ClientSession(auto_decompress=False) as http:
            stage = Stage(sidecar, http)
            try:
                await play(stage)
            finally:
                await stage.stop()
                await runner.cleanup()

    asyncio.run(main())


async def frame(ws: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode((await ws.receive()).data)
    return found


IDENTIFY = {"op": 2, "d": {"token": TOKEN, "intents": ALL, "properties": {}}}


def test_r10_r12_r24_from_hello_to_a_planned_stop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        ws = await stage.connect()
        assert (await frame(ws))["op"] == 10
        await ws.send_json({"op": 1, "d": None})
        assert (await frame(ws))["op"] == 11
        await ws.send_json(IDENTIFY)
        ready, guild = await frame(ws), await frame(ws)
        assert (ready["t"], guild["t"]) == ("READY", "GUILD_CREATE")
        assert ready["d"]["resume_gateway_url"] == stage.sidecar.url.replace("http", "ws")
        stop = asyncio.ensure_future(stage.stop())
        assert (await frame(ws))["op"] == 7
        assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
        assert ws.close_code == 4000
        await stop

    on_stage(monkeypatch, tmp_path, play)


def test_r3_r9_closes_reach_the_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        etf = await stage.connect("/?v=10&encoding=etf")
        await etf.receive()
        assert etf.close_code == 4012
        wrong = await stage.connect("/any/path")
        await wrong.receive()
        await wrong.send_json({"op": 2, "d": {"token": "wrong", "intents": 1}})
        await wrong.receive()
        assert wrong.close_code == 4004

    on_stage(monkeypatch, tmp_path, play)


def test_r1_zlib_stream_on_the_wire(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        ws = await stage.connect("/?v=10&encoding=json&compress=zlib-stream")
        reader = zlib.decompressobj()
        kinds = []
        await ws.send_json(IDENTIFY)
        while len(kinds) < 3:
            message = await ws.receive()
            assert message.type is aiohttp.WSMsgType.BINARY
            found = msgspec.json.decode(reader.decompress(message.data))
            kinds.append(found["t"] or found["op"])
        assert kinds == [10, "READY", "GUILD_CREATE"]

    on_stage(monkeypatch, tmp_path, play)


def test_r4_r6_r8_rest_on_the_wire(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        url = stage.sidecar.url
        async with stage.http.get(url + "/api/v10/gateway/bot") as answer:
            assert answer.headers["Content-Type"] == "application/json"
            assert msgspec.json.decode(await answer.read())["url"] == url.replace("http", "ws")
        async with stage.http.get(url + "/api/v10/channels/1") as answer:
            assert msgspec.json.decode(await answer.read()) == {"icon": url + "/_media/cdn.discordapp.com/x", "path": "/api/v10/channels/1"}
            assert int(answer.headers["Content-Length"]) == len(await answer.read())

    on_stage(monkeypatch, tmp_path, play, media="local")


@pytest.mark.parametrize("media", ["keep", "local"])
def test_r6_a_charset_that_the_upstream_adds_is_left_out_and_other_types_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, media: str
) -> None:
    async def play(stage: Stage) -> None:
        for theirs, ours in {
            "application/json; charset=utf-8": "application/json",
            "application/json;charset=UTF-8": "application/json",
            "application/problem+json; charset=utf-8": "application/problem+json; charset=utf-8",
            "text/plain; charset=utf-8": "text/plain; charset=utf-8",
        }.items():
            async with stage.http.get(stage.sidecar.url + "/api/v10/users/7", headers={"X-Want": theirs}) as answer:
                assert answer.headers.getall("Content-Type") == [ours]
                assert msgspec.json.decode(await answer.read())["path"] == "/api/v10/users/7"

    on_stage(monkeypatch, tmp_path, play, media=media)
