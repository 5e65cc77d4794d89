"""The Discord benchmarks in tiny sizes: their source and sink say what crossed the wire, and each measurement runs to its end."""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import aiohttp.web
import pytest

from benchmarks import discord_frames as load
from benchmarks.bench_discord import PACKED, PLAIN, SETUPS, Round, Setup, measure, shares
from benchmarks.bench_discord_return import logins, prepared, replay
from benchmarks.discord_route import discord_through, sidecar
from benchmarks.errors import BenchError
from benchmarks.harness import Options, Peer


@pytest.fixture
def source() -> Iterator[Peer]:
    peer = Peer("discord_source", "3", "12")
    yield peer
    peer.stop()


def options(folder: Path) -> Options:
    return Options(quick=True, directory=str(folder))


# --- load ------------------------------------------------------------------------------------------------------------------------------


def test_a_guild_is_of_realistic_size() -> None:
    found = load.guild(7, 50, 20)
    assert len(found["channels"]) == 50
    assert len(found["roles"]) == 20
    assert 20_000 <= len(json.dumps(found)) <= 60_000


def test_messages_are_numbered_spread_and_rise() -> None:
    messages = load.Messages(100, 400)
    built = messages.build(3_000, 5, 1_790_000_000_000) + messages.build(10, 3_005, 1_790_000_000_000)
    events = [json.loads(frame) for frame in built]
    assert [event["s"] for event in events] == list(range(5, 3_015))
    assert [int(event["d"]["content"].split()[0][1:]) for event in events] == list(range(1, 3_011))
    ids = [int(event["d"]["id"]) for event in events]
    assert ids == sorted(set(ids))
    assert 800 <= sum(map(len, built)) / len(built) <= 1_100
    places = [event["d"]["channel_id"] for event in events]
    busiest = sorted(set(places), key=places.count)[-100:]
    assert len(set(places)) > 300
    assert sum(map(places.count, busiest)) > 0.55 * len(places)


# --- source and sink -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", ["", "&compress=zlib-stream"])
def test_source_speaks_the_wire_page_with_acks_among_messages(source: Peer, compress: str) -> None:
    async def talk() -> list[dict[str, Any]]:
        inflate = zlib.decompressobj()
        came: list[dict[str, Any]] = []
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{source.port}") as http,
            http.ws_connect(f"/?v=10&encoding=json{compress}") as ws,
        ):

            async def until(done: Any) -> None:
                while not came or not done(came[-1]):
                    message = await ws.receive(10)
                    text = message.data if message.type is aiohttp.WSMsgType.TEXT else inflate.decompress(message.data)
                    came.append(json.loads(text))

            async with http.get("/api/v10/gateway/bot") as answer:
                assert (await answer.json())["url"] == f"ws://127.0.0.1:{source.port}"
            await until(lambda frame: frame["op"] == 10)
            await ws.send_json({"op": 2, "d": {"token": "t", "intents": 1}})
            await until(lambda frame: frame["s"] == 4)
            for _ in range(2):
                await asyncio.to_thread(source.ask, "prepare", count=150)
                await ws.send_json({"op": 1, "d": 4})  # its ACK comes between what is prepared and what was sent before
                await until(lambda frame: frame["op"] == 11)
                await asyncio.to_thread(source.ask, "blast")
                await until(lambda frame: frame["s"] and frame["s"] % 150 == 4)
                came.append({"op": -1, "s": None, "t": None})
        return came

    came = asyncio.run(talk())
    assert [frame["t"] for frame in came[1:5]] == ["READY", "GUILD_CREATE", "GUILD_CREATE", "GUILD_CREATE"]
    assert [frame["s"] for frame in came if frame["op"] == 0] == list(range(1, 305))


def test_sink_says_which_message_came_out_of_place() -> None:
    async def serve() -> None:
        async def gateway(request: aiohttp.web.BaseRequest) -> aiohttp.web.WebSocketResponse:
            ws = aiohttp.web.WebSocketResponse()
            await ws.prepare(request)
            await ws.send_json({"t": None, "s": None, "op": 10, "d": {"heartbeat_interval": 60000}})
            await ws.receive()
            await ws.send_str(load.dispatch("READY", 1, {"session_id": "x"}).decode())
            await ws.send_str(load.dispatch("GUILD_CREATE", 2, {}).decode())
            built = load.Messages(1, 1).build(4, 3, int(time.time() * 1000))
            for frame in (built[0], built[1], built[3]):
                await ws.send_str(frame.decode())
            await ws.receive()
            return ws

        server = aiohttp.web.ServerRunner(aiohttp.web.Server(gateway))
        await server.setup()
        site = aiohttp.web.TCPSite(server, "127.0.0.1", 0)
        await site.start()
        sink = Peer("discord_sink")
        try:
            await asyncio.to_thread(sink.ask, "expect", count=4)
            await asyncio.to_thread(sink.ask, "connect", port=server.addresses[0][1])
            await asyncio.to_thread(sink.ask, "login", token="t", guilds=1)
            with pytest.raises(BenchError, match="message 4 came where 3 was next"):
                await asyncio.to_thread(sink.ask, "result", timeout=20)
        finally:
            sink.stop()
            await server.cleanup()

    asyncio.run(serve())


# --- measurements ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setup", [PLAIN, PACKED, Setup("sidecar", False, False), Setup("sidecar", True, True)], ids=lambda s: s.name)
def test_every_message_passes_the_relay_and_the_sidecar(setup: Setup, tmp_path: Path) -> None:
    way = discord_through(setup.kind, options(tmp_path), upstream_zlib=setup.upstream, zlib_stream=setup.client, guilds=3, channels=12)
    with way as route:
        route.connect()
        for _ in range(2):
            got = measure(route, 500)
            assert got.cpu_us >= 0
            assert got.total_us > 0
            assert got.rate > 0


def test_ready_and_guilds_come_with_the_upstream_away_and_a_resume_is_exact(tmp_path: Path) -> None:
    with discord_through("sidecar", options(tmp_path), guilds=3, channels=12) as route:
        route.connect()
        assert replay(route, 300).rate > 0
        route.sink.ask("close")
        prepared(route)
        route.proxy = sidecar(route.source.port, route.directory, upstream_zlib=True)
        (login,) = logins([route.sink], route.proxy.port, False, 3)
        assert 0 < login.ready <= login.guilds


def test_each_setup_is_compared_with_the_relay_that_gives_the_client_the_same() -> None:
    assert all(beside is None or (beside.kind, beside.client) == ("relay", setup.client) for setup, beside in SETUPS.items())
    assert len({setup.name for setup in SETUPS}) == len(SETUPS)
    setup = Setup("sidecar", True, True)
    (row,) = shares(setup, [Round(2, 2, 100), Round(4, 4, 100)], [Round(10, 10, 25), Round(10, 10, 25)])
    assert row.measured == "0.30 (rounds 0.20 to 0.40); of its rate 0.25"
