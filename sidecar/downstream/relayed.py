"""An answer written to the agent exactly as it is to appear on the wire.

aiohttp's own StreamResponse adds Content-Type, Date and Server, re-encodes header bytes and knows no empty reason phrase; this
one writes the head itself, in the order and spelling given, and frames the body as the upstream did.
"""

import socket
import struct
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from sidecar.upstream import wire
from sidecar.upstream.wire import Framing, Header

_STATUSES: Final = frozenset(int(status) for status in HTTPStatus)
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: on, zero seconds."""


class RelayedResponse(web.StreamResponse):
    """A response whose bytes are the caller's: start(), send() each piece, then finish() or break_off().

    Works with any aiohttp request (Application or low-level Server); `on_response_prepare` signals do not fire for it, so nothing
    can be added on the way. Raises ConnectionError (from aiohttp's writer) when the agent is gone.
    """

    def __init__(self, request: web.BaseRequest, status: int, reason: str, headers: Sequence[Header], framing: Framing):
        super().__init__(status=status, reason=reason)
        self._request = request
        self._fields = headers
        self._framing: Framing = framing
        # HTTP/1.0 knows no chunks: the end of the connection ends the body.
        self._chunks = framing == "chunked" and request.version >= (1, 1)
        self._visible_end = framing in {"none", "length"} or self._chunks
        self._stays = request.keep_alive and request.version >= (1, 1) and framing != "eof"
        self._over = False
        self._began = False

    @property
    def keep_alive(self) -> bool:
        """Whether the agent's connection may carry another request."""
        return self._stays

    async def start(self) -> None:
        """Write the head."""
        fields = wire.end_to_end(self._fields, chunked=self._chunks)
        if not self._stays and self._framing != "eof":
            fields.append(("Connection", "close"))
        self._began = True
        await self._wire().write(wire.head_bytes(f"HTTP/1.1 {self.status} {self.reason}", fields))

    async def send(self, data: bytes) -> None:
        """Write a piece of the body; waits while the agent does not read."""
        if data:
            await self._wire().write(wire.chunk(data) if self._chunks else data)

    async def finish(self, trailers: bytes = b"") -> None:
        """End the body."""
        if self._over:
            return
        self._over = True
        if self._chunks:
            await self._wire().write(wire.last_chunk(trailers))
        await self._wire().drain()

    def break_off(self) -> None:
        """Close the agent's connection in the middle, so that what it got cannot be taken for the whole."""
        self._over = True
        self._stays = False
        transport = self._request.transport
        sock = transport.get_extra_info("socket") if transport is not None else None
        if sock is not None and not self._visible_end:
            # The connection's end is the only end this body has: make it a reset.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._request.protocol.force_close()

    def be_last(self) -> None:
        """The agent's connection ends behind this answer."""
        self._stays = False

    def hand_over(self) -> None:
        """The connection was switched to another protocol and is used up."""
        self._began = self._over = True
        self._stays = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Called by aiohttp behind the handler: nothing is left to do."""
        return self._wire()

    async def write_eof(self, data: Any = b"") -> None:
        """Called by aiohttp behind the handler: nothing is left to do."""

    def _wire(self) -> AbstractStreamWriter:
        return self._request.writer


async def reply(request: web.BaseRequest, status: int, reason: str, headers: Sequence[Header], body: bytes = b"") -> RelayedResponse:
    """Answer from here with exactly these header fields and a Content-Length (a HEAD request gets no body). With `Connection: close`
    among them the agent's connection ends behind the answer. `reason` empty: the status's own phrase, if it has one."""
    fields = [*headers, ("Content-Length", str(len(body)))]
    phrase = reason or (HTTPStatus(status).phrase if status in _STATUSES else "")
    response = RelayedResponse(request, status, phrase, fields, "none" if request.method == "HEAD" else "length")
    if "close" in wire.tokens(headers, "connection"):
        response.be_last()
    await response.start()
    if request.method != "HEAD":
        await response.send(body)
    await response.finish()
    return response
