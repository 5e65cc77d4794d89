"""A local connection on a real socket: what is ordered before the handshake is through still reaches the client."""

import asyncio
import os

import aiohttp
import pytest
from aiohttp import web

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.downstream import conn as conn_module
from sidecar.downstream.conn import Conn
from tests.downstream.raw import DEADLINE_S, agent, serving, until


def test_a_close_ordered_right_behind_accept_goes_out_behind_the_handshake_and_what_was_sent() -> None:
    async def scenario() -> None:
        told: list[ev.Input] = []

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            conn = Conn("c1", request, told.append)
            conn.decide(act.Accept("c1"))
            conn.send([b"hail", b"and"])
            conn.close(4004, "not you")
            conn.send([b"never"])
            conn.close(4000, "")
            return await conn.run(None)

        async with serving(handler) as port, aiohttp.ClientSession() as session, session.ws_connect(f"http://127.0.0.1:{port}") as line:
            assert [(await line.receive(timeout=20)).data for _ in range(3)] == ["hail", "and", 4004]
            assert line.close_code == 4004

    asyncio.run(scenario())


def masked(opcode: int, data: bytes) -> bytes:
    """A client's frame of up to 64 KiB (RFC 6455 section 5.2), masked with zeros."""
    size = bytes((0x80 | len(data),)) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return bytes((0x80 | opcode,)) + size + bytes(4) + data


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n"
)
KEY = b"AAAAAAAAAAAAAAAAAAAAAA=="


def test_a_client_that_still_speaks_gets_all_that_was_sent_and_the_close_code_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conn_module, "CLOSE_S", 1000.0)
    sent = os.urandom(60_000).hex().encode()[:60_000]

    async def scenario() -> None:
        told: list[ev.Input] = []
        conns: list[Conn] = []

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            conns.append(Conn("c1", request, told.append))
            conns[0].decide(act.Accept("c1"))
            return await conns[0].run(None)

        async with serving(handler) as port, agent(port) as peer:
            await peer.send(UPGRADE % KEY)
            await peer.head()
            await peer.send(masked(1, b"hail"))
            await until(lambda: bool(told))
            conns[0].send([sent] * 50)
            conns[0].close(4000, "come back")
            # What the client had on its way must not cost it the rest.
            for _ in range(50):
                await peer.send(masked(1, b"x" * 1000))
            for _ in range(50):
                assert await peer.exactly(4 + len(sent)) == b"\x81\x7e" + len(sent).to_bytes(2, "big") + sent
            assert await peer.exactly(2 + 2 + 9) == b"\x88\x0b" + (4000).to_bytes(2, "big") + b"come back"
            await peer.send(masked(8, (4000).to_bytes(2, "big")))
            assert await peer.rest() == b"", "one close frame, and the end"
            await until(lambda: isinstance(told[-1], ev.ConnClosed))
        assert told == [ev.ConnFrames("c1", [b"hail"]), ev.ConnClosed("c1", 4000)], "what came behind our close is nobody's"

    asyncio.run(scenario())


def test_a_client_that_closes_gets_its_code_back_once_and_the_end() -> None:
    async def scenario() -> None:
        told: list[ev.Input] = []

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            conn = Conn("c1", request, told.append)
            conn.decide(act.Accept("c1"))
            return await conn.run(None)

        for data, back in (((4321).to_bytes(2, "big"), 4321), (b"", 1000)):
            async with serving(handler) as port, agent(port) as peer:
                await peer.send(UPGRADE % KEY)
                await peer.head()
                await peer.send(masked(8, data))
                assert await asyncio.wait_for(peer.reader.read(), DEADLINE_S) == b"\x88\x02" + back.to_bytes(2, "big")

    asyncio.run(scenario())


def test_a_client_that_answers_no_close_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conn_module, "CLOSE_S", 0.05)

    async def scenario() -> None:
        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            conn = Conn("c1", request, lambda _: None)
            conn.decide(act.Accept("c1"))
            conn.close(4000, "")
            return await conn.run(None)

        async with serving(handler) as port, agent(port) as peer:
            await peer.send(UPGRADE % KEY)
            await peer.head()
            assert await peer.exactly(4) == b"\x88\x02" + (4000).to_bytes(2, "big")
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await peer.exactly(1)

    asyncio.run(scenario())


def test_one_event_larger_than_the_bound_arrives_and_a_client_that_reads_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conn_module, "MAX_OUT", 1 << 20)
    large = bytes(24 << 20)

    async def scenario() -> None:
        conns: list[Conn] = []

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            conns.append(Conn("c1", request, lambda _: None))
            conns[-1].decide(act.Accept("c1"))
            conns[-1].send([b"hail"])
            return await conns[-1].run(None)

        async with serving(handler) as port:
            async with agent(port) as peer:
                await peer.send(UPGRADE % KEY)
                await peer.head()
                assert await peer.exactly(6) == b"\x81\x04hail"
                conns[0].send([large])
                conns[0].ping(b"x")
                assert len(await peer.exactly(10 + len(large) + 3)) == 10 + len(large) + 3
            async with agent(port) as peer:
                await peer.send(UPGRADE % KEY)
                await peer.head()
                assert await peer.exactly(6) == b"\x81\x04hail"
                transport = conns[1].request.transport
                assert transport is not None
                for _ in range(200):
                    conns[1].send([bytes(1 << 18)])
                assert transport.is_closing()

    asyncio.run(scenario())
