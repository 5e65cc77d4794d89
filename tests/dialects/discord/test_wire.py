"""The downstream half on real sockets, in the whole sidecar: what only the wire can show (discord R1, R3, R4, R6, R8 to R12, R24)."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
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
from tests.downstream import raw
from tests.downstream.raw import Peer, Serve


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


def on_stage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, play: Callable[[Stage], Awaitable[None]], *, serve: Serve | None = None, **knobs: Any
) -> None:
    """`serve`: answers the upstream's requests by hand, byte for byte; it hears of no token then."""
    monkeypatch.setattr(registry, "dialect", lambda name: DIALECT)
    monkeypatch.setattr("sidecar.app.find_dialect", lambda name: DIALECT)

    async def upstream(request: web.Request) -> web.Response:
        if request.path == "/api/v10/users/@me":
            known = request.headers.get("Authorization") == f"Bot {TOKEN}"
            return web.Response(status=200 if known else 401, body=msgspec.json.encode({"id": BOT}), content_type="application/json")
        body = msgspec.json.encode({"icon": "https://cdn.discordapp.com/x", "path": request.raw_path})
        return web.Response(body=body, headers={"Content-Type": request.headers.get("X-Want", "application/json")})

    @contextlib.asynccontextmanager
    async def served() -> AsyncIterator[int]:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", upstream)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()

    async def main() -> None:
        if serve is not None:
            async with raw.upstream(serve) as up:
                await played(up.port)
        else:
            async with served() as port:
                await played(port)

    async def played(port: int) -> None:
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


ASKED = [
    b"Authorization: Bot MTk4.other",
    b"User-Agent: DiscordBot (https://x, 1)",
    b"X-Audit-Log-Reason: %F0%9F%98%80 because",
    b"content-type: multipart/form-data; boundary=b",
    b"Accept-Encoding: gzip, br",
    b"Via: 1.1 mine",
    b'If-None-Match: "e"',
    b"Cookie: a=b",
    b"Content-Length: 62",
]
FORM = b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n\x00\xff\r\n--b--\r\n'[:62]
ANSWERED = [
    b"Content-Type: application/json",
    b"Set-Cookie: __dcfduid=1; Path=/",
    b"Set-Cookie: __sdcfduid=2; Path=/",
    b"X-RateLimit-Bucket: abc",
    b"x-ratelimit-remaining: 0",
    b"X-RateLimit-Reset-After: 1.5",
    b"Retry-After: 2",
    b"Via: 1.1 google",
    b'ETag: W/"e"',
    b"Content-Encoding: gzip",
    b"Location: https://discord.com/elsewhere",
    b"Content-Length: 6",
]


@pytest.mark.parametrize("status", [b"200 OK", b"201 ", b"302 Found", b"401 Unauthorized", b"403 Forbidden", b"429 Too Many", b"500 No"])
@pytest.mark.parametrize("target", [b"/api/v10/channels/1/messages/2/reactions/%F0%9F%98%80%2F+/@me?a=b%2Fc+d&nonce=5", b"/api/v9/x"])
def test_r7_bytes_go_both_ways_once_whatever_the_answer_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: bytes, status: bytes
) -> None:
    body = b'\x1f\x8b\x00{"}'
    seen: list[tuple[bytes, list[bytes], bytes]] = []

    async def serve(peer: Peer) -> None:
        start, lines = await peer.head()
        seen.append((start, lines, await peer.exactly(len(FORM))))
        await peer.send(b"HTTP/1.1 " + status + b"\r\n" + b"".join(line + b"\r\n" for line in ANSWERED) + b"\r\n" + body)

    async def play(stage: Stage) -> None:
        port = int(stage.sidecar.url.rpartition(":")[2])
        async with raw.agent(port) as agent:
            fields = [b"Host: 127.0.0.1:%d" % port, *ASKED, b"Connection: keep-alive", b"Keep-Alive: timeout=5"]
            await agent.send(b"PUT " + target + b" HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in fields) + b"\r\n" + FORM)
            start, lines = await agent.head()
            assert start == b"HTTP/1.1 " + status
            assert lines == ANSWERED
            assert await agent.exactly(len(body)) == body
        await asyncio.sleep(0)
        ((asked, sent, form),) = seen
        assert (asked, form) == (b"PUT " + target + b" HTTP/1.1", FORM)
        host = stage.sidecar.settings.upstream.removeprefix("http://").encode()
        assert sent == [b"Host: " + host, *ASKED]

    on_stage(monkeypatch, tmp_path, play, serve=serve)


def test_r7_an_upstream_that_cannot_be_reached_or_says_nothing_is_told_in_its_own_envelope(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[bytes] = []

    async def serve(peer: Peer) -> None:
        asked.append((await peer.head())[0])

    async def play(stage: Stage) -> None:
        async with stage.http.get(stage.sidecar.url + "/api/v10/users/@me") as answer:
            told = msgspec.json.decode(await answer.read())
            assert (answer.status, answer.headers["Content-Type"]) == (503, "application/json")
            assert told.keys() == {"message", "code"} and told["code"] == 0 and told["message"]
        assert asked == [b"GET /api/v10/users/@me HTTP/1.1"]

    on_stage(monkeypatch, tmp_path, play, serve=serve)
