"""The upstream half on the bench against the strict reference Discord, both on one simulated clock: hours of outages in a second.

    sim = Joined(seed=1)
    sim.start()
    sim.world.post("a")
    sim.run(5)

The bench plays the engine with a disk that takes its time: what is not on disk is lost by `crash`. The reference plays Discord with all
its faults. Frames and answers travel for a random while.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.dialects.discord import frames
from tests.dialects.discord.bench import SHARD, TOKEN, Bench, Link
from tests.discord.upstream.gateway import Socket
from tests.discord.upstream.rest import Rest
from tests.discord.upstream.world import HANG, Settings, World


class Disk(Bench):
    """A bench whose commits take a while; a crash loses what is not on disk."""

    def __init__(self, sim: Joined, **knobs: Any) -> None:
        self.sim = sim
        self._durable: tuple[int, dict[str, bytes]] = (0, {})
        self._tickets: list[ev.Committed] = []
        self._flushing = False
        super().__init__(**knobs)

    def _act(self, action: act.Action) -> None:
        if isinstance(action, act.Commit):
            offsets = self._commit(action.ops)
            if action.ticket:
                self._tickets.append(ev.Committed(action.ticket, offsets))
            if not self._flushing:
                self._flushing = True
                self.sim.soon(self._flush, 0.0, 0.02)
            return
        super()._act(action)

    def _flush(self) -> None:
        self._flushing = False
        self._durable = (len(self.journal), dict(self.state))
        tickets, self._tickets = self._tickets, []
        for ticket in tickets:
            self.feed(ticket)

    def crash(self, token: str = TOKEN) -> Bench:
        count, state = self._durable
        del self.journal[count:]
        self.state = dict(state)
        self.keys = {(e.stream, e.domain, key) for e in self.journal if e.gap is None and (key := frames.key_of(frames.read(e.payload)))}
        self._tickets, self._flushing = [], False
        return super().crash(token)

    def answer(self, name: str) -> None:
        """Requests go to the reference's REST side, and take their time."""
        self.sim.request(name, self.requests[name])

    def _admit(self, op: Any, domain: str, payload: bytes, key: bytes | int) -> int:
        place = (op.stream, domain, key)
        if key and place in self.keys:
            return 0
        super()._admit(op, domain, payload, key)
        return len(self.journal)


class Joined:
    """`bench` and `world`, joined. `lots`: what is drawn for the way of frames and answers."""

    def __init__(self, seed: int = 0, settings: Settings | None = None, **knobs: Any) -> None:
        self.lots = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        self.bench = Disk(self, identify_budget=1000, **knobs)
        self.bench.random = random.Random(seed + 1)
        self.world = World(lambda: self.bench.wall, TOKEN, settings)
        self.rest = Rest(self.world)
        self.sockets: dict[int, Socket] = {}
        self._links: dict[int, Link] = {}
        self._dialled: dict[int, Link] = {}
        self._seen: dict[int, int] = {}
        self._at: dict[str, float] = {}
        self._life = 0

    # --- time

    def soon(self, what: Callable[[], None], low: float, high: float, order: str = "") -> None:
        """Do something a random while later; what has the same `order` keeps its order."""
        when = self.bench.mono + self.lots.uniform(low, high)
        if order:
            when = self._at[order] = max(when, self._at.get(order, 0.0))
        heapq.heappush(self._events, (when, next(self._serial), what))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.bench.mono + seconds
        while self.bench.mono < end - 1e-9:
            self._serve()
            timers = list(self.bench.timers.values())
            if self._events:
                timers.append(self._events[0][0])
            if (due := self.world.next_timer()) is not None:
                timers.append(due - self.bench.wall + self.bench.mono)
            self.bench.run(max(0.0, min([end, *timers]) - self.bench.mono) + 1e-6)
            self.world.tick()
            while self._events and self._events[0][0] <= self.bench.mono:
                heapq.heappop(self._events)[2]()

    # --- the wire

    def _serve(self) -> None:
        bench = self.bench
        link = bench.current.get(SHARD)
        for number, socket in list(self.sockets.items()):
            if number != id(link):
                # Left by the half: TCP tells the server.
                del self.sockets[number]
                ended = self._links.pop(number).ended
                socket.gone(ended if isinstance(ended, int) else None)
        if link is None:
            return
        if id(link) not in self.sockets:
            if id(link) not in self._dialled:
                self._dial(link)
            return
        socket = self.sockets[id(link)]
        seen = self._seen.get(id(link), 0)
        self._seen[id(link)] = len(link.sent)
        for frame in link.sent[seen:]:
            self.soon(lambda frame=frame: socket.receive(msgspec.json.encode(frame).decode()), 0.0, 0.01, f"up{id(link)}")

    def _dial(self, link: Link) -> None:
        self._dialled[id(link)] = link
        life = self._life

        def open_() -> None:
            if self._life != life or self.bench.current.get(SHARD) is not link:
                return
            parts = urlsplit(link.action.target)
            door = "resume" if parts.hostname == "resume.test" else "gateway"
            found = self.world.connect(door, parts.path, dict(parse_qsl(parts.query)), {k.lower(): v for k, v in link.action.headers})
            if isinstance(found, Socket):
                self.sockets[id(link)], self._links[id(link)] = found, link
                self.bench.open()
                found.on_output = lambda: self.soon(lambda: self._down(found, link), 0.0, 0.01, f"down{id(link)}")
                self._down(found, link)
            elif found == HANG:
                self.soon(lambda: self._refuse(link, 0), 10.0, 10.0)
            else:
                self._refuse(link, found)

        self.soon(open_, 0.0, 0.05)

    def _refuse(self, link: Link, status: int) -> None:
        if self.bench.current.get(SHARD) is link:
            self.bench.refuse(status)

    def _down(self, socket: Socket, link: Link) -> None:
        if self.bench.current.get(SHARD) is not link:
            return
        out = list(socket.outbox)
        socket.outbox.clear()
        while out:
            count = self.lots.choice((1, 3, 1000))
            part, out = out[:count], out[count:]
            if self.bench.current.get(SHARD) is link:
                self.bench.say(*(f.encode() if isinstance(f, str) else f for f in part))
        if socket.ending is not None and self.bench.current.get(SHARD) is link:
            self.sockets.pop(id(link), None)
            self._links.pop(id(link), None)
            kind = socket.ending.kind
            self.bench.close(socket.ending.code if kind == "close" else 1005 if kind == "empty_close" else None)

    def request(self, name: str, action: act.Request) -> None:
        """A call of the half goes to the reference's REST side."""
        life = self._life

        def ask() -> None:
            if self._life != life or self.bench.requests.get(name) is not action:
                return
            headers = {k.lower(): v for k, v in action.headers}
            found = self.rest.answer(action.method, action.target, headers, b"")

            def answer() -> None:
                if self._life == life and self.bench.requests.get(name) is action:
                    del self.bench.requests[name]
                    if found.cut or found.delay_s >= action.timeout:
                        self.bench.feed(ev.RequestFailed(name, "cut"))
                    else:
                        self.bench.feed(ev.ResponseReceived(name, found.status, list(found.headers.items()), found.body))

            self.soon(answer, min(found.delay_s, action.timeout), min(found.delay_s, action.timeout) + 0.05)

        self.soon(ask, 0.0, 0.05)

    # --- beginning and crash

    def start(self) -> None:
        """Up to the first live session."""
        self.bench.start()
        self.until_live()

    def crash(self) -> None:
        """kill -9 of the sidecar, and a new start."""
        self._life += 1
        self.bench.crash()

    def until_live(self, seconds: float = 1200.0) -> None:
        """AssertionError if there is no live session by then."""
        end = self.bench.mono + seconds
        while self.bench.phase() != "live":
            assert self.bench.mono < end, "never live\n" + "\n".join(self.bench.said[-30:])
            self.run(0.25)
