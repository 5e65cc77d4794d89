"""A local connection: a WebSocket (or an SSE answer) to one client. Carries out the half's orders, tells what arrives.

Frames are written straight to the transport, many in one write: no compression, no masking, so a server frame is a head and the
payload (RFC 6455 section 5.2). What goes out is bounded by the session's window; a client that makes us answer without reading is cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from aiohttp import WSMsgType, web

from sidecar.core import events as ev

MAX_FRAME = 4 << 20
MAX_OUT = 16 << 20
MAX_DROPPABLE = 256 << 10
CLOSE_S = 2.0
DRAIN_POLL_S = 0.02

Sink = Callable[[Any], None]


@lru_cache(maxsize=4096)
def head(opcode: int, length: int) -> bytes:
    """The head of an unmasked, unfragmented frame."""
    first = 0x80 | opcode
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return bytes((first, 126)) + length.to_bytes(2, "big")
    return bytes((first, 127)) + length.to_bytes(8, "big")


def close_frame(code: int, reason: str) -> bytes:
    """A close frame (RFC 6455 section 5.5.1)."""
    data = code.to_bytes(2, "big") + reason.encode()[:120]
    return head(8, len(data)) + data


def join_frames(frames: Sequence[bytes]) -> bytes:
    """Frames as they go over the wire, in one piece."""
    parts: list[bytes] = [b""] * (2 * len(frames))
    parts[::2] = [head(2 if type(frame) is ev.Binary else 1, len(frame)) for frame in frames]
    parts[1::2] = frames
    return b"".join(parts)


class Conn:
    """One WebSocket conn, from its upgrade request on. The half decides: `decided` resolves to what to do with the request."""

    def __init__(self, name: str, request: web.BaseRequest, sink: Sink) -> None:
        self.name = name
        self.request = request
        self.decided: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._sink: Sink | None = sink
        self._ws: web.WebSocketResponse | None = None
        self._early: list[bytes] = []
        self._frames: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._largest = 0
        self._last: tuple[int, str] | None = None

    # --- orders --------------------------------------------------------------------------------------------------------------

    def decide(self, action: Any) -> None:
        """Accept, Refuse or Tunnel; the first counts."""
        if not self.decided.done():
            self.decided.set_result(action)

    def send(self, frames: Sequence[bytes], droppable: bool = False) -> None:
        """Send frames in order; droppable ones only to a client that keeps up."""
        transport = self.request.transport
        if droppable and transport is not None and transport.get_write_buffer_size() > MAX_DROPPABLE:
            return
        self._put(join_frames(frames))

    def ping(self, payload: bytes) -> None:
        """Send a ping behind everything sent before."""
        self._put(head(9, len(payload)) + payload)

    def _put(self, data: bytes) -> None:
        if self._ws is None:
            if self._last is None:
                self._early.append(data)
            return
        transport = self.request.transport
        if transport is None or self._closing:
            return
        transport.write(data)
        # One event may be larger than the bound: whoever were cut for it could never get past it.
        self._largest = max(self._largest, len(data))
        if transport.get_write_buffer_size() > MAX_OUT + self._largest:
            transport.abort()

    def close(self, code: int | None, reason: str) -> None:
        """Close with a code, or abort at once."""
        if self._closing:
            return
        if self._ws is None and code is not None and self.decided.done():
            # The handshake is not through: the close goes out behind it, and behind what was sent already.
            self._last = self._last or (code, reason)
            return
        if code is not None:
            self._put(close_frame(code, reason))
        self._closing = True
        if not self.decided.done():
            self.decided.cancel()
        transport = self.request.transport
        if transport is not None and code is None:
            transport.abort()
        elif transport is not None:
            # The client has so long to answer: a connection that ends before it does may cost it our code, and what came before.
            self._loop.call_later(CLOSE_S, transport.abort)

    def await_drain(self, token: str) -> None:
        """Tell ConnDrained once the process holds nothing for this client any more."""
        transport = self.request.transport
        if transport is None or self._sink is None:
            return
        if self._ws is not None and transport.get_write_buffer_size() == 0:
            self._loop.call_soon(self._say, ev.ConnDrained(self.name, token))
        else:
            self._loop.call_later(DRAIN_POLL_S, self.await_drain, token)

    # --- life ------------------------------------------------------------------------------------------------------------------

    async def run(self, subprotocol: str | None) -> web.StreamResponse:
        """Complete the handshake and read until the end."""
        ws = web.WebSocketResponse(
            timeout=CLOSE_S,
            autoping=False,
            autoclose=False,
            compress=False,
            max_msg_size=MAX_FRAME,
            decode_text=False,
            protocols=(subprotocol,) if subprotocol else (),
        )
        await ws.prepare(self.request)
        self._ws = ws
        if self._early:
            self._put(b"".join(self._early))
            self._early.clear()
        if self._last is not None:
            self.close(*self._last)
        code: int | None = None
        try:
            code = await self._read(ws)
        finally:
            self._flush()
            self._say(ev.ConnClosed(self.name, code))
            self._sink = None
        if not ws.closed:
            if not self._closing:
                # The client closes: its own code back (RFC 6455 section 5.5.1).
                self.close(code if code and code not in (1005, 1006) else 1000, "")
            if transport := self.request.transport:
                transport.close()
        return ws

    async def _read(self, ws: web.WebSocketResponse) -> int | None:
        while True:
            message = await ws.receive()
            kind, data = message.type, message.data
            if kind in (WSMsgType.TEXT, WSMsgType.BINARY):
                if self._closing:
                    continue
                if not self._frames:
                    self._loop.call_soon(self._flush)
                self._frames.append(data if kind is WSMsgType.TEXT else ev.Binary(data))
            elif kind is WSMsgType.PONG:
                self._flush()
                self._say(ev.ConnPong(self.name, bytes(data)))
            elif kind is WSMsgType.PING:
                self._put(head(10, len(data)) + bytes(data))
            else:
                return ws.close_code

    def _flush(self) -> None:
        if self._frames:
            frames, self._frames = self._frames, []
            self._say(ev.ConnFrames(self.name, frames))

    def _say(self, event: Any) -> None:
        if self._sink is not None:
            self._sink(event)
