"""The driver: carries out what the engine asks for, and tells it what happened. The asyncio side of `sidecar.core.ports`.

It knows no dialect and decides nothing. Everything of the engine runs in the event loop; the disk is the journal writer's threads' job.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import aiohttp

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.engine import Engine
from sidecar.core.layout import Batch
from sidecar.core.record import Run
from sidecar.errors import JournalDamaged, SidecarError
from sidecar.ops.counters import Counters
from sidecar.upstream.http import UpstreamHttp
from sidecar.upstream.link import Link

log = logging.getLogger("sidecar")


class LocalConn(Protocol):
    """What the driver needs of a conn or an exchange (sidecar.downstream)."""

    def decide(self, action: Any) -> None: ...
    def send(self, frames: Sequence[bytes], droppable: bool = False) -> None: ...
    def ping(self, payload: bytes) -> None: ...
    def close(self, code: int | None, reason: str) -> None: ...
    def await_drain(self, token: str) -> None: ...


class JournalWriter(Protocol):
    """What the driver needs of the journal's owner thread (sidecar.journal.writer)."""

    def submit(self, batch: Batch, done: Callable[[BaseException | None], None]) -> None: ...
    def submit_prune(self, wall: float, done: Callable[[dict[int, int] | BaseException], None]) -> None: ...
    def read(self, sid: int, after: int, count: int, size: int, done: Callable[[list[Run] | BaseException], None]) -> None: ...


class Driver:
    """The ports of one process. `engine` is set right after construction (they need each other)."""

    engine: Engine

    def __init__(self, base: str, writer: JournalWriter, http: UpstreamHttp, counters: Counters) -> None:
        self.base = base
        self.writer = writer
        self.http = http
        self.counters = counters
        self.conns: dict[str, LocalConn] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.on_damage: Callable[[JournalDamaged], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._random = random.Random()
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._requests: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._session = aiohttp.ClientSession(
            trust_env=True,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            auto_decompress=False,
        )

    def now(self) -> ev.Moment:
        """One input's moment."""
        return ev.Moment(time.monotonic(), time.time(), self._random.random())

    # --- timers ------------------------------------------------------------------------------------------------------------------

    def start_timer(self, key: tuple[str, str], seconds: float) -> None:
        running = self._timers.pop(key, None)
        if running is not None:
            running.cancel()
        self._timers[key] = self._loop.call_later(seconds, self._fire, key)

    def cancel_timer(self, key: tuple[str, str]) -> None:
        running = self._timers.pop(key, None)
        if running is not None:
            running.cancel()

    def _fire(self, key: tuple[str, str]) -> None:
        self._timers.pop(key, None)
        self.engine.timer(key)

    # --- the journal ---------------------------------------------------------------------------------------------------------------

    def write(self, batch: Batch) -> None:
        def done(error: BaseException | None) -> None:
            if isinstance(error, JournalDamaged) and self.on_damage is not None:
                # Nothing can be written into a damaged journal: the next start sets it aside and begins a new one.
                self.on_damage(error)
            self.engine.written(error)

        self.writer.submit(batch, done)

    def prune(self) -> None:
        def done(first: dict[int, int] | BaseException) -> None:
            if isinstance(first, BaseException):
                log.error("journal: retention could not be applied", extra={"error": str(first)})
            else:
                self.engine.pruned(first)

        self.writer.submit_prune(time.time(), done)

    def read(self, session: str, sid: int, after: int, count: int, size: int) -> None:
        def done(rows: list[Run] | BaseException) -> None:
            if isinstance(rows, BaseException):
                log.error("journal: read failed", extra={"error": str(rows)})
                self.engine.unreadable(session, rows)
            else:
                self.engine.records(session, rows)

        self.writer.read(sid, after, count, size, done)

    # --- upstream ------------------------------------------------------------------------------------------------------------------

    def open_link(self, account: str, generation: int, action: act.OpenLink) -> None:
        def sink(event: Any) -> None:
            if isinstance(event, ev.LinkClosed | ev.LinkRefused) and self._links.get((account, action.link)) is link:
                del self._links[account, action.link]
            self.engine.link(account, generation, event)

        link = Link(self._session, self.http, self.base, action, sink)
        self._links[account, action.link] = link

    def send_link(self, account: str, link: str, frames: Sequence[bytes]) -> None:
        if found := self._links.get((account, link)):
            found.send(frames)

    def ping_link(self, account: str, link: str, payload: bytes) -> None:
        if found := self._links.get((account, link)):
            found.ping(payload)

    def close_link(self, account: str, link: str, code: int | None) -> None:
        if found := self._links.pop((account, link), None):
            found.close(code)

    def pause_links(self, paused: bool) -> None:
        for link in self._links.values():
            link.pause(paused)

    def request(self, owner: str, action: act.Request) -> None:
        self.cancel_request(owner, action.request)
        self._requests[owner, action.request] = self._loop.create_task(self._fetch(owner, action))

    def cancel_request(self, owner: str, request: str) -> None:
        task = self._requests.pop((owner, request), None)
        if task is not None:
            task.cancel()

    async def _fetch(self, owner: str, action: act.Request) -> None:
        url = action.target if "://" in action.target else self.base + action.target
        event: ev.Input
        try:
            status, headers, body = await self.http.fetch(
                action.method, url, action.headers, timeout=action.timeout, body=action.body or None, lane=action.lane, urgent=action.urgent
            )
            event = ev.ResponseReceived(action.request, status, headers, body)
        except (SidecarError, OSError, TimeoutError, ValueError) as error:
            event = ev.RequestFailed(action.request, f"{type(error).__name__}: {error}")
        self._requests.pop((owner, action.request), None)
        self.engine.feed(owner, event)

    # --- local ---------------------------------------------------------------------------------------------------------------------

    def conn(self, action: act.Action) -> None:
        name = getattr(action, "conn", None) or getattr(action, "exchange", "")
        conn = self.conns.get(str(name))
        if conn is not None:
            self._CONN[type(action)](conn, action)

    _CONN: dict[type, Callable[[LocalConn, Any], None]] = {
        act.SendConn: lambda c, a: c.send(a.frames, a.droppable),
        act.PingConn: lambda c, a: c.ping(a.payload),
        act.CloseConn: lambda c, a: c.close(a.code, a.reason),
        act.AwaitDrain: lambda c, a: c.await_drain(a.token),
        act.Accept: lambda c, a: c.decide(a),
        act.Refuse: lambda c, a: c.decide(a),
        act.Tunnel: lambda c, a: c.decide(a),
        act.ReadBody: lambda c, a: c.decide(a),
        act.Respond: lambda c, a: c.decide(a),
        act.Route: lambda c, a: c.decide(a),
    }

    def release_exchange(self, ticket: str) -> None:
        if event := self.held.get(ticket):
            event.set()

    # --- telling -------------------------------------------------------------------------------------------------------------------

    def log(self, level: str, text: str, **fields: Any) -> None:
        log.log(getattr(logging, level.upper()), text, extra={k: v for k, v in fields.items() if v is not None})

    def count(self, name: str, by: int = 1, **labels: str) -> None:
        self.counters.add(name, by, **labels)

    async def close(self) -> None:
        """Stop timers, requests and links."""
        for timer in self._timers.values():
            timer.cancel()
        for task in self._requests.values():
            task.cancel()
        for link in list(self._links.values()):
            link.close(None)
        await self._session.close()
