"""A plain HTTP exchange: the half says whether it is answered here, read first, or passed on, tapped, held or rewritten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.downstream.passthrough import Unavailable, forward, gone, while_connected
from sidecar.downstream.relayed import reply
from sidecar.upstream.http import UpstreamHttp

Rewrites = Mapping[str, Callable[..., bytes]]


class Exchange:
    """One exchange, named by the server. `feed`: takes inputs for the half; `held`: tickets that exchanges wait for, by name."""

    def __init__(
        self, name: str, request: web.BaseRequest, head: ev.Head, feed: Callable[[ev.Input], None], held: dict[str, asyncio.Event]
    ) -> None:
        self.name = name
        self._request = request
        self._head = head
        self._feed = feed
        self._held = held
        self._decision: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    # --- orders (sidecar.driver.LocalConn) ---------------------------------------------------------------------------------------

    def decide(self, action: Any) -> None:
        """ReadBody, Respond or Route; what comes after the answer is ignored."""
        if not self._decision.done():
            self._decision.set_result(action)

    def send(self, frames: Sequence[bytes], droppable: bool = False) -> None:
        """An exchange has no frames."""

    def ping(self, payload: bytes) -> None:
        """An exchange has no pings."""

    def await_drain(self, token: str) -> None:
        """An exchange is answered once: there is nothing to wait for."""

    def close(self, code: int | None, reason: str) -> None:
        """The half gave up on it."""
        self.decide(act.Respond(self.name, 502))

    # --- life ------------------------------------------------------------------------------------------------------------------

    async def run(self, http: UpstreamHttp, base: str, unavailable: Unavailable, rewrites: Rewrites) -> web.StreamResponse:
        """From the half's first look to the end; the half hears of the end."""
        response: web.StreamResponse | None = None
        try:
            self._feed(ev.HttpRequested(self.name, self._head))
            response = await while_connected(self._request, self._decided(http, base, unavailable, rewrites))
        except (ConnectionError, web.RequestPayloadError):
            return gone(self._request)
        finally:
            transport = self._request.transport
            alive = transport is not None and not transport.is_closing()
            self._feed(ev.ExchangeClosed(self.name, response is not None and alive and response.status < 502))
        return response

    async def _decided(self, http: UpstreamHttp, base: str, unavailable: Unavailable, rewrites: Rewrites) -> web.StreamResponse:
        decision = await self._decision
        while isinstance(decision, act.ReadBody):
            self._decision = asyncio.get_running_loop().create_future()
            body = await self._body(decision.limit)
            if body is None:
                return await reply(self._request, 413, "", [("Connection", "close")], b"")
            self._feed(ev.ExchangeSeen(self.name, self._head, body))
            decision = await self._decision
        if isinstance(decision, act.Respond):
            return await reply(self._request, decision.status, "", decision.headers, decision.body)
        return await self._forward(decision, http, base, unavailable, rewrites)

    async def _body(self, limit: int) -> bytes | None:
        body = bytearray()
        async for piece in self._request.content.iter_any():
            body += piece
            if len(body) > limit:
                return None
        return bytes(body)

    async def _forward(
        self, route: act.Route, http: UpstreamHttp, base: str, unavailable: Unavailable, rewrites: Rewrites
    ) -> web.StreamResponse:
        def tap(asked: bytes | None, status: int, answered: bytes | None) -> None:
            if not route.hold:
                self._feed(ev.ExchangeSeen(self.name, self._head, asked))
            self._feed(ev.ExchangeSeen(self.name, self._head, answered, status))

        async def hold(body: bytes | None) -> None:
            released = self._held[route.hold] = asyncio.Event()
            try:
                self._feed(ev.ExchangeSeen(self.name, self._head, body))
                await released.wait()
            finally:
                self._held.pop(route.hold, None)

        def rewrite(status: int, headers: Sequence[tuple[str, str]], body: bytes) -> bytes:
            return rewrites[route.rewrite](self._head, status, headers, body)

        return await forward(
            self._request,
            http,
            route.base or base,
            unavailable=unavailable,
            target=route.target,
            tap=tap if route.tap else None,
            hold=hold if route.hold else None,
            rewrite=rewrite if route.rewrite else None,
            only=route.only,
            drop=route.drop,
            retype=route.retype,
        )
