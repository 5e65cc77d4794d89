"""The benchmark's source, relay and sink: what they report must be what crossed the wire."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websockets

from benchmarks.baseline import bare_lmdb, require_disk
from benchmarks.errors import BenchError
from benchmarks.harness import TOKEN, Options, Peer, through
from benchmarks.peers import FrameReader, cpu_ns, unmasked, ws_frame


@pytest.fixture
def source() -> Iterator[Peer]:
    peer = Peer("source")
    yield peer
    peer.stop()


@pytest.fixture
def sink() -> Iterator[Peer]:
    peer = Peer("sink")
    yield peer
    peer.stop()


def test_every_frame_of_the_source_reaches_the_sink_through_the_relay(tmp_path: Path) -> None:
    with through("relay", Options(quick=True, directory=str(tmp_path))) as route:
        pids = [route.source.pid, route.proxy.pid, route.sink.pid]
        route.connect()
        for _ in range(2):  # the second round shows that counters start afresh and seqs go on
            route.source.ask("prepare", count=2_000)
            route.sink.ask("expect", count=2_000, pid=route.proxy.pid)
            route.source.ask("blast")
            got = route.sink.ask("result", timeout=20)
            assert (got["frames"], got["seq_span"], got["bytes"]) == (2_000, 2_000, 1_000_000)
            assert 0 < got["counted"] < 2_000
            assert got["cpu_ns"] > 0
    assert [pid for pid in pids if os.path.exists(f"/proc/{pid}")] == []


def test_paced_frames_are_matched_one_by_one(tmp_path: Path) -> None:
    with through("relay", Options(quick=True, directory=str(tmp_path))) as route:
        route.connect()
        route.source.ask("prepare", count=20)
        route.sink.ask("expect", count=20, record=True)
        sent = route.source.ask("pace", rate=500.0)["times"]
        arrived = route.sink.ask("result", timeout=20)["times"]
    assert len(sent) == len(arrived) == 20
    assert all(left < came for left, came in zip(sent, arrived, strict=True))


def test_source_speaks_the_wire_page(source: Peer) -> None:
    async def talk() -> list[Any]:
        base = f"http://127.0.0.1:{source.port}"
        async with aiohttp.ClientSession(base) as session:
            async with session.get("/v1/agent") as answer:
                assert answer.headers["Date"].endswith("GMT")
                assert (await answer.json())["data"]["id"] == "1001"
            async with session.get("/v1/channels") as answer:
                assert await answer.json() == {"ok": True, "data": []}
            async with session.get("/v1/messages/1/replies") as answer:
                assert await answer.json() == {"ok": True, "data": {"parent": None, "replies": []}}
            async with session.post("/v1/agents/heartbeat", json={"a": 1}) as answer:
                assert answer.status == 200
            async with session.ws_connect(f"/v1/ws?token={TOKEN}") as ws:
                await ws.send_str('{"type":"ping"}')
                assert await ws.receive_json(timeout=10) == {"type": "pong"}
                await asyncio.to_thread(source.ask, "prepare", count=300)
                await asyncio.to_thread(source.ask, "blast")
                events = [await ws.receive_json(timeout=10) for _ in range(300)]
                await ws.send_str("junk")
                await ws.send_json({"type": "resync", "last_seen_seq": 9007199254740991, "since": "x"})
                assert await ws.receive_json(timeout=10) == {
                    "type": "resync_ack",
                    "last_seen_seq": 9007199254740991,
                    "current_seq": 300,
                    "replayed": 0,
                    "gap_detected": False,
                }
                return events

    before_ms = time.time_ns() // 1_000_000
    events = asyncio.run(talk())
    assert [event["agent_seq"] for event in events] == list(range(1, 301))
    assert len({event["id"] for event in events}) == len({event["message"]["id"] for event in events}) == 300
    # R4: a sidecar admits nothing older than its birth, so ids must be of the moment they were prepared.
    assert all((int(event["message"]["id"]) >> 22) + 1735689600000 >= before_ms for event in events)


def test_source_echoes_websocket_pings(source: Peer) -> None:
    async def talk() -> None:
        async with websockets.connect(f"ws://127.0.0.1:{source.port}/v1/ws?token={TOKEN}") as ws:
            await asyncio.wait_for(await ws.ping(b"42"), 10)

    asyncio.run(talk())


def test_sink_echoes_pings_and_counts_only_data(sink: Peer) -> None:
    async def serve() -> dict[str, Any]:
        ponged = asyncio.Event()

        async def agent(ws: websockets.ServerConnection) -> None:
            assert ws.request is not None
            assert ws.request.path == f"/v1/ws?token={TOKEN}"
            for seq in (5, 6, 7):
                await ws.send(json.dumps({"agent_seq": seq, "text": "é" * seq * 20_000}))  # spans the 64-bit length
                await asyncio.wait_for(await ws.ping(f"to {seq}".encode()), 10)
            ponged.set()
            await ws.wait_closed()

        async with websockets.serve(agent, "127.0.0.1", 0, max_size=None) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            await asyncio.to_thread(sink.ask, "expect", count=3)
            await asyncio.to_thread(sink.ask, "connect", port=port, token=TOKEN)
            await asyncio.wait_for(ponged.wait(), 20)
            got = await asyncio.to_thread(sink.ask, "result", timeout=10)
            await asyncio.to_thread(sink.ask, "close")
            return got

    got = asyncio.run(serve())
    assert (got["frames"], got["seq_span"]) == (3, 3)


def test_sink_says_what_is_missing(sink: Peer) -> None:
    async def serve() -> None:
        async def agent(ws: websockets.ServerConnection) -> None:
            await ws.send('{"agent_seq":1}')
            await ws.close()

        async with websockets.serve(agent, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            await asyncio.to_thread(sink.ask, "expect", count=2)
            await asyncio.to_thread(sink.ask, "connect", port=port, token=TOKEN)
            with pytest.raises(BenchError, match="1 of 2 frames arrived: the proxy closed the socket"):
                await asyncio.to_thread(sink.ask, "result", timeout=20)

    asyncio.run(serve())


def test_sink_reports_a_refused_upgrade(source: Peer, sink: Peer) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Unauthorized\r\n\r\n")
        writer.close()

    async def serve() -> None:
        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(BenchError, match="401"):
                await asyncio.to_thread(sink.ask, "connect", port=port, token=TOKEN)

    asyncio.run(serve())


@pytest.mark.parametrize("mask", [False, True])
def test_frames_survive_any_cut_of_the_byte_stream(mask: bool) -> None:
    payloads = [b"", b"a" * 125, b"b" * 126, b"c" * 65_535, b"d" * 65_536]
    stream = b"".join(ws_frame(2, payload, mask) for payload in payloads)
    for step in (1, 3, 1_000, len(stream)):
        reader = FrameReader()
        got = [
            unmasked(buf, start, end, mask_at)
            for at in range(0, len(stream), step)
            for _, buf, start, end, mask_at in reader.feed(stream[at : at + step])
        ]
        assert got == payloads


def test_cpu_clock_is_that_of_the_whole_process() -> None:
    before = time.process_time_ns()
    read = cpu_ns(os.getpid())
    assert before <= read <= time.process_time_ns()


def test_a_directory_without_a_disk_is_refused() -> None:
    if not os.path.isdir("/dev/shm"):
        pytest.skip("no tmpfs here")
    with pytest.raises(BenchError, match="fsync costs nothing"):
        require_disk("/dev/shm")


def test_the_bare_append_syncs(tmp_path: Path) -> None:
    with bare_lmdb(str(tmp_path)) as env:
        assert env.flags()["sync"]
        assert env.flags()["metasync"]
