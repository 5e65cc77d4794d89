"""WebSocket tunnel: an upgrade that no dialect protects is handed to the upstream and the two connections are spliced.

Bytes are copied, not frames, so that fragments, pings, close codes, compression and whatever else the ends agreed on are the
upstream's own (relaycast R31).
"""

import asyncio
import contextlib
from typing import Any, cast

from aiohttp import web

from sidecar.downstream.passthrough import (
    Unavailable,
    gone,
    raw_target,
    report,
    stream,
    upstream_headers,
    while_connected,
)
from sidecar.downstream.relayed import RelayedResponse
from sidecar.errors import UpstreamError
from sidecar.upstream import wire
from sidecar.upstream.dial import BUFFER
from sidecar.upstream.http import Exchange, UpstreamHttp


def wants_websocket(request: web.BaseRequest) -> bool:
    """Whether a request asks to become a WebSocket (RFC 6455 section 4.1); a connection offering h2c does not."""
    names = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers]
    asked = "upgrade" in wire.tokens(names, "connection") and "websocket" in wire.tokens(names, "upgrade")
    return asked and request.method == "GET"


async def tunnel(
    request: web.BaseRequest,
    http: UpstreamHttp,
    base_url: str,
    *,
    unavailable: Unavailable,
    target: str | None = None,
    map_origin: bool = True,
) -> web.StreamResponse:
    """Hand the upgrade to `base_url` + its raw target (or `target`) and copy bytes both ways until either end closes.

    A refusal by the upstream is passed on as it is; an upstream that cannot be reached is reported with `unavailable`. When
    one end is gone, what it sent is delivered and the other is closed. Never raises for what the peers do.
    """
    url = base_url.rstrip("/") + (raw_target(request) if target is None else target)
    headers = upstream_headers(request, base_url, map_origin=map_origin)
    async with contextlib.AsyncExitStack() as stack:
        try:
            exchange = http.exchange(request.method, url, headers, upgrade=True)
            answer = await while_connected(request, stack.enter_async_context(exchange))
            if answer.status != 101:
                return await while_connected(request, stream(request, answer))
            return await _splice(request, answer)
        except UpstreamError as error:
            return await report(request, unavailable, error)
        except ConnectionError:
            return gone(request)


async def _splice(request: web.BaseRequest, answer: Exchange) -> RelayedResponse:
    response = RelayedResponse(request, answer.status, answer.reason, answer.headers, "none")
    down = request.transport
    reader, writer = answer.upgraded()
    if down is None:
        writer.transport.abort()
        return gone(request)
    incoming = _Incoming(down)
    # Only the two methods below are called on it; what the agent sent behind its handshake is handed over here.
    request.protocol.set_parser(cast(Any, incoming))
    ways = (
        asyncio.create_task(_agent_to_upstream(incoming.reader, writer)),
        asyncio.create_task(_upstream_to_agent(reader, request, answer)),
    )
    broken = True
    try:
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        broken = any(way.exception() is not None for way in done)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.wait(ways)
        for way in ways:
            if not way.cancelled():
                way.exception()  # seen; a reset has no other reader
        for end in (writer.transport, down):
            if broken:
                end.abort()
            else:
                end.close()  # what is still buffered is sent first
        response.hand_over()
    return response


async def _agent_to_upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(BUFFER):
        writer.write(data)
        await writer.drain()


async def _upstream_to_agent(reader: asyncio.StreamReader, request: web.BaseRequest, answer: Exchange) -> None:
    head = wire.head_bytes(f"HTTP/1.1 {answer.status} {answer.reason}", answer.headers)
    await request.writer.write(head)
    while data := await reader.read(BUFFER):
        await request.writer.write(data)


class _Incoming:
    """What aiohttp's connection hands its bytes to once the handshake is done, in place of its own WebSocket parser."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.reader = asyncio.StreamReader(limit=BUFFER)
        self.reader.set_transport(transport)

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.reader.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self.reader.feed_eof()
