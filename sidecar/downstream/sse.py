"""A local connection that is a stream of server-sent events: one HTTP answer without end (WHATWG HTML, section 9.2).

Towards the driver it is a conn like `sidecar.downstream.conn.Conn`; the half sends it events ready made. What waits in the process is
bounded by the session's window, which opens only as bytes leave.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web

from sidecar.core import events as ev
from sidecar.downstream.relayed import RelayedResponse
from sidecar.upstream import wire

LOOK_S = 0.5
CLOSE_S = 2.0
DRAIN_POLL_S = 0.01

HEADERS = (("Content-Type", "text/event-stream"), ("Cache-Control", "no-store"), ("X-Accel-Buffering", "no"))


def wants_events(request: web.BaseRequest) -> bool:
    """Whether a request accepts text/event-stream by name (RFC 9110 section 12.5.1)."""
    values = ",".join(request.headers.getall("Accept", ()))
    return any(item.partition(";")[0].strip().lower() == "text/event-stream" for item in values.split(","))


class SseConn:
    """One SSE answer, from its request on. The half decides: `decided` resolves to what to do with the request."""

    def __init__(self, name: str, request: web.BaseRequest, sink: Callable[[Any], None]) -> None:
        self.name = name
        self.request = request
        self.decided: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._sink: Callable[[Any], None] | None = sink
        self._early: list[bytes] = []
        self._running = False
        self._ended = asyncio.Event()
        self._chunked = request.version >= (1, 1)
        self._loop = asyncio.get_running_loop()

    # --- orders --------------------------------------------------------------------------------------------------------------

    def decide(self, action: Any) -> None:
        """Accept or Refuse; the first counts."""
        if not self.decided.done():
            self.decided.set_result(action)

    def send(self, frames: Sequence[bytes], droppable: bool = False) -> None:
        """Send events, ready made; droppable ones only to a client that keeps up."""
        data = b"".join(frames)
        if not self._running:
            self._early.append(data)
            return
        transport = self.request.transport
        if transport is None or self._ended.is_set() or (droppable and transport.get_write_buffer_size()):
            return
        transport.write(wire.chunk(data) if self._chunked else data)

    def ping(self, payload: bytes) -> None:
        """SSE has none."""

    def close(self, code: int | None, reason: str) -> None:
        """End the answer, or abort it (`code` None). What was sent before goes out first."""
        if not self.decided.done():
            self.decided.cancel()
        if code is None and self.request.transport is not None:
            self.request.transport.abort()
        self._ended.set()

    def await_drain(self, token: str) -> None:
        """Tell ConnDrained once the process holds nothing for this client any more."""
        # The loop may write only at the end of its turn, so the first look is in the next one.
        self._loop.call_soon(self._look, token)

    def _look(self, token: str) -> None:
        transport = self.request.transport
        if transport is None or self._sink is None:
            return
        if self._running and transport.get_write_buffer_size() == 0:
            self._sink(ev.ConnDrained(self.name, token))
        else:
            self._loop.call_later(DRAIN_POLL_S, self._look, token)

    # --- life ------------------------------------------------------------------------------------------------------------------

    async def run(self, _: str | None = None) -> web.StreamResponse:
        """Write the head and stay until either side ends."""
        headers = list(HEADERS)
        if origin := self.request.headers.get("Origin"):
            # The guard let this origin in; without this line a browser would not show it what it gets.
            headers += [("Access-Control-Allow-Origin", origin), ("Vary", "Origin")]
        response = RelayedResponse(self.request, 200, "OK", headers, "chunked")
        try:
            await response.start()
            self._running = True
            self.send(self._early)
            self._early.clear()
            await self._stay()
            async with asyncio.timeout(CLOSE_S):
                await response.finish()
        except (OSError, TimeoutError):
            response.break_off()
        finally:
            sink, self._sink = self._sink, None
            if sink is not None:
                sink(ev.ConnClosed(self.name, None))
        return response

    async def _stay(self) -> None:
        """Until it is ended, or the client is gone: aiohttp itself tells a handler only when it writes."""
        while not self._ended.is_set():
            try:
                await asyncio.wait_for(self._ended.wait(), LOOK_S)
            except TimeoutError:
                transport = self.request.transport
                if transport is None or transport.is_closing():
                    raise ConnectionResetError("the client went away") from None
