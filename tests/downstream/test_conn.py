"""A local connection on a real socket: what is ordered before the handshake is through still reaches the client."""

import asyncio

import aiohttp
from aiohttp import web

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.downstream.conn import Conn
from tests.downstream.raw import serving


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
