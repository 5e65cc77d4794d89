"""The shell of the reference upstream: what the model decides is what a socket sees."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from tests.discord.upstream.faults import RestFault
from tests.discord.upstream.server import ReferenceDiscord
from tests.discord.upstream.world import Settings

TOKEN = "reference-token"
HEADERS = {"Authorization": f"Bot {TOKEN}"}
QUERY = "/?v=10&encoding=json"
PATIENCE_S = 10.0
Opened = tuple[ReferenceDiscord, aiohttp.ClientSession]


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[Opened]:
    async with ReferenceDiscord(settings=Settings(**settings)) as upstream, aiohttp.ClientSession() as http:
        yield upstream, http


def play(scene: Callable[[ReferenceDiscord, aiohttp.ClientSession], Awaitable[None]], **settings: Any) -> None:
    async def run() -> None:
        async with opened(**settings) as (upstream, http):
            await asyncio.wait_for(scene(upstream, http), PATIENCE_S)

    asyncio.run(run())


async def identified(upstream: ReferenceDiscord, http: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
    """A socket that has READY and its guild."""
    line = await http.ws_connect(upstream.gateway_url + QUERY)
    assert (await line.receive_json())["op"] == 10
    properties = {"os": "linux", "browser": "test", "device": "test"}
    await line.send_json({"op": 2, "d": {"token": TOKEN, "properties": properties, "intents": 33281}})
    assert [(await line.receive_json())["t"] for _ in range(2)] == ["READY", "GUILD_CREATE"]
    return line


ENDINGS = [
    ({"code": 4009}, WSMsgType.CLOSE, 4009),
    ({"code": 1000}, WSMsgType.CLOSE, 1000),
    ({"kind": "empty_close"}, WSMsgType.CLOSE, 0),
    ({}, WSMsgType.CLOSED, None),
    ({"kind": "torn"}, WSMsgType.CLOSED, None),
]


@pytest.mark.parametrize(("how", "kind", "code"), ENDINGS)
def test_every_way_a_socket_ends(how: dict[str, Any], kind: WSMsgType, code: int | None) -> None:
    async def scene(upstream: ReferenceDiscord, http: aiohttp.ClientSession) -> None:
        line = await http.ws_connect(upstream.gateway_url + QUERY, autoclose=False)
        assert (await line.receive_json())["op"] == 10
        assert upstream.world.cut(**how) == 1
        try:
            message = await line.receive()
        except ConnectionError:
            assert kind is WSMsgType.CLOSED
            return
        lost = message.type in (WSMsgType.CLOSED, WSMsgType.ERROR)
        assert lost if kind is WSMsgType.CLOSED else (message.type, message.data or 0) == (kind, code)

    play(scene)


def test_what_the_client_closes_with_reaches_the_model() -> None:
    async def scene(upstream: ReferenceDiscord, http: aiohttp.ClientSession) -> None:
        for code, left in ((4000, 1), (1000, 0)):
            upstream.world.settings.identify_spacing_s = 0
            upstream.world.sessions.clear()
            line = await identified(upstream, http)
            await line.close(code=code)
            while upstream.world.open():
                await asyncio.sleep(0.01)
            assert (upstream.world.ledger.closes[-1].code, upstream.world.ledger.closes[-1].by) == (code, "client")
            assert len(upstream.world.sessions) == left

    play(scene)


def test_timers_of_the_model_run_on_the_loop() -> None:
    async def scene(upstream: ReferenceDiscord, http: aiohttp.ClientSession) -> None:
        line = await identified(upstream, http)
        message = await line.receive()
        assert (message.type, message.data) == (WSMsgType.CLOSE, 4009)

    play(scene, heartbeat_interval_ms=200)


def test_silence_keeps_the_connection_open_and_answers_no_ping() -> None:
    async def scene(upstream: ReferenceDiscord, http: aiohttp.ClientSession) -> None:
        line = await identified(upstream, http)
        await line.ping(b"first")
        await line.send_json({"op": 1, "d": 2})
        assert (await line.receive_json())["op"] == 11
        upstream.world.silence()
        await line.send_json({"op": 1, "d": 2})
        upstream.world.post("unheard")
        with pytest.raises(TimeoutError):
            await line.receive(timeout=0.3)
        assert not line.closed
        assert len(upstream.world.ledger.beats) == 1

    play(scene)


def test_connects_are_refused_left_hanging_or_not_taken_at_all() -> None:
    async def scene(upstream: ReferenceDiscord, http: aiohttp.ClientSession) -> None:
        upstream.world.faults.refuse_connect = 1
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(upstream.gateway_url + QUERY)
        assert refused.value.status == 503
        upstream.world.faults.hang_connect = 1
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(http.ws_connect(upstream.gateway_url + QUERY), 0.3)
        upstream.stop_listening("resume")
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.ws_connect(upstream.resume_url + QUERY)
        await upstream.listen("resume")
        await http.ws_connect(upstream.resume_url + QUERY)
        await http.ws_connect(upstream.gateway_url + QUERY)
        assert [(c.door, c.status) for c in upstream.world.ledger.connects][2:] == [("resume", 101), ("gateway", 101)]

    play(scene)


def test_zlib_stream_over_the_wire() -> None:
    async def scene(upstream: ReferenceDiscord, http: aiohttp.ClientSession) -> None:
        line = await http.ws_connect(f"{upstream.gateway_url}{QUERY}&compress=zlib-stream")
        data = await line.receive_bytes()
        assert data.endswith(b"\x00\x00\xff\xff")
        assert json.loads(zlib.decompressobj().decompress(data))["op"] == 10

    play(scene)


def test_rest_over_the_wire() -> None:
    async def scene(upstream: ReferenceDiscord, http: aiohttp.ClientSession) -> None:
        async with http.get(f"{upstream.url}/api/v10/gateway/bot", headers=HEADERS) as answer:
            assert answer.headers["Content-Type"] == "application/json"
            assert (await answer.json())["url"] == upstream.gateway_url
        path = f"{upstream.url}/api/v10/channels/{upstream.world.channel.id}/typing"
        async with http.post(path, headers=HEADERS) as answer:
            assert (answer.status, await answer.read(), "Content-Type" in answer.headers) == (204, b"", False)
        form = aiohttp.FormData({"payload_json": '{"content":"see"}'})
        form.add_field("files[0]", b"\x00\x01", filename="a.bin")
        async with http.post(path.replace("typing", "messages"), data=form, headers=HEADERS) as answer:
            assert (await answer.json())["attachments"][0]["size"] == 2
        upstream.world.faults.rest.append(RestFault("/users/@me", cut="within"))
        with pytest.raises(aiohttp.ClientPayloadError):
            async with http.get(f"{upstream.url}/api/v10/users/@me", headers=HEADERS) as answer:
                await answer.read()
        upstream.world.faults.rest.append(RestFault("/typing", "POST", cut="before"))
        with pytest.raises(aiohttp.ClientError):
            await http.post(path, headers=HEADERS)

    play(scene)


def test_a_burst_arrives_whole_and_in_order() -> None:
    async def scene(upstream: ReferenceDiscord, http: aiohttp.ClientSession) -> None:
        line = await identified(upstream, http)
        for n in range(2000):
            upstream.world.post(str(n))
        heard = [(await line.receive_json())["d"]["content"] for _ in range(2000)]
        assert heard == [str(n) for n in range(2000)]

    play(scene)
