"""The local port during a planned stop: the half decides about a socket that comes now, and knows that it does."""

import asyncio
from collections.abc import Sequence

import aiohttp

from sidecar.core import actions as act
from sidecar.core import events as ev
from tests.downstream.native_world import Agents, world


class Greeter(Agents):
    """Takes whoever comes; greets those that come late in its own way."""

    def handle(self, moment: ev.Moment, event: ev.Input) -> Sequence[act.Action]:
        if isinstance(event, ev.ConnOpened):
            return [act.Accept(event.conn), act.SendConn(event.conn, [b"late" if event.stopping else b"hail"])]
        return []


def test_a_planned_stop_leaves_a_new_socket_to_its_half_and_the_native_stream_refuses() -> None:
    async def scenario() -> None:
        async with world() as w, aiohttp.ClientSession() as session:
            w.engine.halves["dialect"] = Greeter()
            async with session.ws_connect(f"{w.url}/socket") as line:
                assert await line.receive_str(timeout=20) == "hail"
                w.engine.drain()
                async with session.ws_connect(f"{w.url}/socket") as later:
                    assert await later.receive_str(timeout=20) == "late"
                try:
                    await session.ws_connect(f"{w.url}/_sidecar/stream?stream=alice")
                except aiohttp.WSServerHandshakeError as error:
                    assert error.status == 503
                else:
                    raise AssertionError("the native stream took a reader")

    asyncio.run(scenario())
