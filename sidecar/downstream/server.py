"""The local port: every request passes the guard, then goes to `/_sidecar/`, to a half as a conn, or to the upstream as it is."""

from __future__ import annotations

import asyncio
import itertools
import logging
from typing import Any

from aiohttp import web

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.engine import Engine
from sidecar.downstream.conn import Conn
from sidecar.downstream.exchange import Exchange
from sidecar.downstream.guard import Guard, is_own, refusal_response
from sidecar.downstream.passthrough import raw_headers, raw_target
from sidecar.downstream.relayed import reply
from sidecar.downstream.sse import SseConn
from sidecar.downstream.tunnel import tunnel, wants_websocket
from sidecar.driver import Driver
from sidecar.upstream.http import UpstreamHttp

log = logging.getLogger("sidecar")


class Server:
    """Dispatches requests. `own`: handles what lies under /_sidecar/ (sidecar.ops.pages); `dialect`: for its envelope and its rewrites."""

    def __init__(self, engine: Engine, driver: Driver, http: UpstreamHttp, guard: Guard, base: str, dialect: Any, own: Any) -> None:
        self.engine = engine
        self.driver = driver
        self.http = http
        self.guard = guard
        self.base = base
        self.rewrites = dialect.rewrites
        self._unavailable = dialect.unavailable
        self.own = own
        self.tunnels: dict[str, str] = {}
        self._serial = itertools.count(1)
        self._told: set[str] = set()

    def unavailable(self, message: str) -> tuple[int, bytes, str]:
        """The dialect's own envelope for an upstream that is away: status, body, content type."""
        status, headers, body = self._unavailable(message)
        return status, body, dict(headers)["Content-Type"]

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request, from its head on."""
        refusal = self.guard.inspect(request)
        if refusal is not None:
            return refusal_response(refusal)
        target = raw_target(request)
        if is_own(target):
            response: web.StreamResponse = await self.own(request, self)
            return response
        if wants_websocket(request):
            return await self.websocket(request, "dialect")
        return await self._exchange(request)

    def head(self, request: web.BaseRequest) -> ev.Head:
        """The request's head for a half."""
        return ev.Head(request.method, raw_target(request), raw_headers(request), request.host)

    async def websocket(self, request: web.BaseRequest, half: str, kind: type[Conn | SseConn] = Conn) -> web.StreamResponse:
        """A WebSocket upgrade, or (`kind`) a request for server-sent events, decided by a half."""
        name = f"c{next(self._serial)}"
        owner = "down:" + half
        conn = kind(name, request, lambda event: self.engine.feed(owner, event))
        self.driver.conns[name] = conn
        try:
            self.engine.feed(owner, ev.ConnOpened(name, self.head(request), self.engine.draining))
            decision = await self._decision(conn, request, owner)
            if isinstance(decision, act.Accept):
                try:
                    return await conn.run(decision.subprotocol)
                finally:
                    # Also when the handshake failed: no session may stay behind. To say it twice does no harm.
                    self.engine.feed(owner, ev.ConnClosed(name, None))
            if isinstance(decision, act.Tunnel):
                return await self._tunnel(request, name, decision)
            if isinstance(decision, act.Refuse):
                return await reply(request, decision.status, "", [*decision.headers, ("Connection", "close")], decision.body)
            return await reply(request, 503, "", [], b"")
        finally:
            self.driver.conns.pop(name, None)

    async def _decision(self, conn: Conn | SseConn, request: web.BaseRequest, owner: str) -> Any:
        """What the half decides; a client that goes away while it waits is told to the half as closed."""
        try:
            while not conn.decided.done():
                await asyncio.wait((conn.decided,), timeout=1.0)
                if request.transport is None or request.transport.is_closing():
                    break
            if conn.decided.done() and not conn.decided.cancelled():
                return conn.decided.result()
        except asyncio.CancelledError:
            self.engine.feed(owner, ev.ConnClosed(conn.name, None))
            raise
        self.engine.feed(owner, ev.ConnClosed(conn.name, None))
        return None

    async def _tunnel(self, request: web.BaseRequest, name: str, to: act.Tunnel) -> web.StreamResponse:
        path = raw_target(request).partition("?")[0]
        if path not in self._told:
            self._told.add(path)
            log.warning("socket is only tunnelled: its messages are not protected", extra={"path": path})
        self.tunnels[name] = path
        try:
            return await tunnel(request, self.http, to.base or self.base, unavailable=self.unavailable, target=to.target)
        finally:
            del self.tunnels[name]

    async def _exchange(self, request: web.BaseRequest) -> web.StreamResponse:
        """Plain HTTP: the half says where it goes."""
        name = f"x{next(self._serial)}"
        exchange = Exchange(name, request, self.head(request), lambda event: self.engine.feed("down:dialect", event), self.driver.held)
        self.driver.conns[name] = exchange
        try:
            return await exchange.run(self.http, self.base, self.unavailable, self.rewrites)
        finally:
            self.driver.conns.pop(name, None)
