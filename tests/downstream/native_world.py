"""A real local port before a real engine and an in-memory journal: the native stream end to end, with events admitted by hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import aiohttp
from aiohttp import web

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.engine import Engine
from sidecar.core.layout import Batch
from sidecar.core.record import Gap
from sidecar.dialects.base import View
from sidecar.dialects.registry import dialect as find_dialect
from sidecar.downstream.guard import Guard
from sidecar.downstream.native import NativeHalf
from sidecar.downstream.passthrough import RUNNER_OPTIONS
from sidecar.downstream.server import Server
from sidecar.driver import Driver
from sidecar.journal.model import ModelStore
from sidecar.ops.counters import Counters
from sidecar.ops.pages import Pages
from sidecar.upstream.http import UpstreamHttp

DEADLINE_S = 20.0


class Feeder:
    """An upstream half that admits what it is told and nothing else; its link is said to be live."""

    def handle(self, moment: ev.Moment, event: ev.Input) -> Sequence[act.Action]:
        if isinstance(event, ev.Started):
            return [act.Status({"upstream": "live", "seq": 7})]
        if isinstance(event, ev.MessageFromDownstream):
            message: Sequence[act.Action] = event.message
            return message
        return []


class Agents:
    """A dialect's downstream half in one page: tunnels, and one consumer `agent` a socket that never gives a receipt."""

    def handle(self, moment: ev.Moment, event: ev.Input) -> Sequence[act.Action]:
        if isinstance(event, ev.ConnOpened):
            attach = act.Attach(event.conn, "alice", "agent", account="alice")
            return [act.Accept(event.conn), attach]
        if isinstance(event, ev.ConnClosed):
            return [act.Detach(event.conn)]
        if isinstance(event, ev.Ousted):
            return [act.CloseConn(event.session, 1012, event.reason)]
        return []


class InlineWriter:
    """The journal's threads without threads: answers come in the loop's next turn."""

    def __init__(self, store: ModelStore) -> None:
        self.store = store
        self.held = False

    def submit(self, batch: Batch, done: Callable[[BaseException | None], None]) -> None:
        async def write() -> None:
            while self.held:
                await asyncio.sleep(0.005)
            try:
                self.store.apply(batch)
            except Exception as error:
                done(error)
            else:
                done(None)

        self.task = asyncio.get_running_loop().create_task(write())

    def submit_prune(self, wall: float, done: Callable[[Any], None]) -> None:
        asyncio.get_running_loop().call_soon(done, self.store.prune(wall))

    def read(self, sid: int, after: int, count: int, size: int, done: Callable[[Any], None]) -> None:
        asyncio.get_running_loop().call_soon(done, self.store.read(sid, after, count, size))


class FakeSettings:
    """What operations read of sidecar.config.Settings."""

    dialect = "relaycast"
    upstream = "http://upstream.example"
    durability = "power"


class World:
    """One running sidecar without upstream. `store` outlives it: start another on it for a restart."""

    def __init__(self, store: ModelStore, *, window: int = 256, token: str | None = None, origins: Sequence[str] = ()) -> None:
        self.store = store
        self.settings: Any = FakeSettings()
        self.counters = Counters()
        self.url = ""
        self._window = window
        self._guard = Guard(allowed_origins=origins, local_token=token)
        self._random = random.Random(1)
        self.logged: list[tuple[str, str]] = []

    async def start(self) -> None:
        self.writer = InlineWriter(self.store)
        self.driver = Driver("http://127.0.0.1:9", self.writer, None, self.counters)  # type: ignore[arg-type]
        real = self.driver.log

        def log(level: str, text: str, **fields: Any) -> None:
            self.logged.append((level, text))
            real(level, text, **fields)

        self.driver.log = log  # type: ignore[method-assign]
        halves: dict[str, Callable[[View], Any]] = {"dialect": lambda _: Agents(), "native": NativeHalf}
        self.engine = Engine(
            self.store,
            self.driver,
            upstream=lambda account, view: Feeder(),
            downstream=halves,
            window=self._window,
            capacity=1000,
            strict=True,
        )
        self.driver.engine = self.engine
        pages = Pages(self)
        dialect = find_dialect("relaycast")
        self.server = Server(self.engine, self.driver, UpstreamHttp(), self._guard, "http://127.0.0.1:9", dialect, pages.handle)
        self.runner = web.ServerRunner(web.Server(self.server.handle, **RUNNER_OPTIONS), handle_signals=False, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"
        self.session = aiohttp.ClientSession()

    async def stop(self) -> None:
        await self.session.close()
        await self.driver.close()
        await self.runner.cleanup()

    def begin(self) -> None:
        """engine.start, and an account that owns the stream `alice`."""
        self.engine.start(None)
        self.do(act.Own("alice", "at_live_x", "", ["alice"]))

    def do(self, *actions: act.Action) -> None:
        """Carry out actions as the dialect's downstream half."""
        for action in actions:
            self.engine._ACTIONS[type(action)](self.engine, "down:dialect", None, action)
        self.engine._settle()

    def tell(self, *actions: act.Action) -> None:
        """Have the account's upstream half do something."""
        self.engine.feed("up:alice", ev.MessageFromDownstream(list(actions)))

    def admit(self, *payloads: bytes, flags: int = 0) -> None:
        self.tell(act.Commit([act.Admit("alice", p, flags=flags) for p in payloads]))

    def gap(self, gap: Gap, domain: str = "") -> None:
        self.tell(act.Commit([act.RecordGap("alice", gap, domain)]))

    async def admitted(self, *payloads: bytes) -> None:
        """Admit, and wait until it is on disk."""
        head = self.head + len(payloads)
        self.admit(*payloads)
        await until(lambda: self.head == head)

    @property
    def head(self) -> int:
        return self.engine.admission.books["alice"].committed

    def cursor(self, consumer: str) -> int | None:
        found = self.engine.courier.consumers.get(("alice", "native:" + consumer))
        return found.durable if found else None

    async def ws(self, query: str) -> Reader:
        return Reader(await self.session.ws_connect(f"{self.url}/_sidecar/stream?{query}", max_msg_size=0))

    async def sse(self, query: str, **headers: str) -> SseReader:
        response = await self.session.get(f"{self.url}/_sidecar/stream?{query}", headers={"Accept": "text/event-stream", **headers})
        assert response.status == 200, await response.text()
        return SseReader(response)

    async def get(self, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
        async with self.session.get(self.url + path, headers=headers, allow_redirects=False) as response:
            return response.status, await response.text(), dict(response.headers)


class Reader:
    """A native WebSocket reader."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def text(self) -> str:
        message = await asyncio.wait_for(self.ws.receive(), DEADLINE_S)
        assert message.type is aiohttp.WSMsgType.TEXT, message
        return str(message.data)

    async def next(self) -> Any:
        return json.loads(await self.text())

    async def take(self, count: int) -> list[Any]:
        return [await self.next() for _ in range(count)]

    async def ack(self, offset: int) -> None:
        await self.ws.send_str(json.dumps({"type": "ack", "offset": offset}))

    async def closed(self) -> tuple[int | None, str]:
        message = await asyncio.wait_for(self.ws.receive(), DEADLINE_S)
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED), message
        return (message.data if message.type is aiohttp.WSMsgType.CLOSE else self.ws.close_code), str(message.extra or "")

    async def leave(self) -> None:
        await self.ws.close()


class SseReader:
    """An SSE reader that keeps the last id as WHATWG HTML section 9.2.6 says."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.last_id = ""
        self.comments = 0

    async def event(self) -> tuple[str, str]:
        """The next event: its name and data."""
        name, data, seen = "message", [], False
        while True:
            raw = await asyncio.wait_for(self.response.content.readline(), DEADLINE_S)
            assert raw, "the answer ended"
            line = raw.decode().rstrip("\n")
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line:
                if seen:
                    return name, "\n".join(data)
            elif not field:
                self.comments += 1
            elif field == "id":
                self.last_id = value
            elif field == "event":
                name = value
            elif field == "data":
                seen = True
                data.append(value)

    async def next(self) -> Any:
        return json.loads((await self.event())[1])

    async def take(self, count: int) -> list[Any]:
        return [await self.next() for _ in range(count)]

    def leave(self) -> None:
        self.response.close()


@contextlib.asynccontextmanager
async def world(store: ModelStore | None = None, **options: Any) -> AsyncIterator[World]:
    """A started world on a journal (a new one by default)."""
    w = World(store or ModelStore(), **options)
    await w.start()
    w.begin()
    try:
        yield w
    finally:
        await w.stop()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most DEADLINE_S."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.005)


def offsets(frames: Sequence[Any]) -> list[int]:
    """The offsets of frames."""
    return [frame["offset"] for frame in frames]
