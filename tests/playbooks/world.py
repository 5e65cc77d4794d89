"""A world of dictionaries and lists around the real engine: what the halves' playbooks say, seen from both ends of the sidecar.

A write lies still until the test says `disk()`, so a test sees what happened before a commit and what after. Links and conns are
names; `sent` and `asked` hold what went out. `crash` starts a new engine on what is on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from sidecar.core import actions as act
from sidecar.core.engine import Engine
from sidecar.core.events import FramesReceived, Input, LinkOpened, Moment
from sidecar.core.layout import Batch
from sidecar.dialects.base import Half, View
from sidecar.journal.model import ModelStore


class World:
    """An engine, one dialect's halves, and everything around them (ports.Ports)."""

    def __init__(self, upstream: Callable[[View], Half], downstream: Callable[[View], Half], *, window: int = 256) -> None:
        self.halves = (upstream, downstream)
        self.window = window
        self.rows = ModelStore()
        self.mono = 1000.0
        self.crash()

    def crash(self) -> None:
        """SIGKILL, and a new process on the same disk."""
        self.batch: Batch | None = None
        self.reads: list[tuple[str, int, int, int, int]] = []
        self.links: dict[str, tuple[str, int, act.OpenLink]] = {}
        self.sent: list[tuple[str, bytes]] = []
        self.asked: list[tuple[str, act.Request]] = []
        self.did: list[act.Action] = []
        self.forwarded: list[str] = []
        self.timers: dict[tuple[str, str], float] = {}
        self.logged: list[str] = []
        self.counted: dict[str, int] = {}
        up, down = self.halves
        self.engine = Engine(
            self.rows,
            self,
            upstream=lambda _, view: up(view),
            downstream={"dialect": down},
            window=self.window,
            capacity=1000,
            keyed_hash=lambda text: hashlib.sha256(text.encode()).hexdigest(),
            strict=True,
        )
        self.engine.start(None)
        self.run()

    # --- what a test does ----------------------------------------------------------------------------------------------------------

    def down(self, *events: Input) -> None:
        """Inputs from local conns and exchanges."""
        for event in events:
            self.engine.feed("down:dialect", event)

    def open(self, link: str) -> None:
        """The upstream accepts the link."""
        owner, generation, _ = self.links[link]
        self.engine.link(owner, generation, LinkOpened(link))

    def frames(self, link: str, *frames: bytes) -> None:
        """Frames from upstream, one read each."""
        for frame in frames:
            owner, generation, _ = self.links[link]
            self.engine.link(owner, generation, FramesReceived(link, [frame]))

    def disk(self, error: Exception | None = None) -> None:
        """The write under way is done, or failed."""
        batch, self.batch = self.batch, None
        assert batch is not None, "no write is under way"
        if error is None:
            self.rows.apply(batch)
        self.engine.written(error)

    def run(self) -> None:
        """Writes, reads and the engine's own timers until nothing is left to do."""
        for _ in range(1000):
            if self.batch is not None:
                self.disk()
            elif self.reads:
                session, *wanted = self.reads.pop(0)
                self.engine.records(session, self.rows.read(*wanted))
            elif ("engine", "receipts") in self.timers:
                del self.timers["engine", "receipts"]
                self.engine.timer(("engine", "receipts"))
            else:
                return
        raise AssertionError("the world does not come to rest")

    def took(self, name: str) -> list[bytes]:
        """Frames that went out to a link or conn since last asked."""
        out = [frame for to, frame in self.sent if to == name]
        self.sent = [(to, frame) for to, frame in self.sent if to != name]
        return out

    def answered(self, kind: type[act.Action]) -> Any:
        """The oldest action of a kind on conns and exchanges not yet taken."""
        found = next(a for a in self.did if type(a) is kind)
        self.did.remove(found)
        return found

    # --- ports ---------------------------------------------------------------------------------------------------------------------

    def now(self) -> Moment:
        return Moment(self.mono, 1_750_000_000.0 + self.mono, 0.5)

    def start_timer(self, key: tuple[str, str], seconds: float) -> None:
        self.timers[key] = seconds

    def cancel_timer(self, key: tuple[str, str]) -> None:
        self.timers.pop(key, None)

    def write(self, batch: Batch) -> None:
        assert self.batch is None, "two writes at once"
        self.batch = batch

    def read(self, session: str, sid: int, after: int, count: int, size: int) -> None:
        self.reads.append((session, sid, after, count, size))

    def prune(self) -> None: ...

    def open_link(self, account: str, generation: int, action: act.OpenLink) -> None:
        self.links[action.link] = (account, generation, action)

    def send_link(self, account: str, link: str, frames: Sequence[bytes]) -> None:
        self.sent += [(link, frame) for frame in frames]

    def ping_link(self, account: str, link: str, payload: bytes) -> None: ...

    def close_link(self, account: str, link: str, code: int | None) -> None:
        self.links.pop(link, None)

    def pause_links(self, paused: bool) -> None: ...

    def request(self, owner: str, action: act.Request) -> None:
        self.asked.append((owner, action))

    def cancel_request(self, owner: str, request: str) -> None:
        self.asked = [(o, a) for o, a in self.asked if (o, a.request) != (owner, request)]

    def conn(self, action: act.Action) -> None:
        if isinstance(action, act.SendConn):
            self.sent += [(action.conn, frame) for frame in action.frames]
        elif isinstance(action, act.PingConn):
            self.sent.append((action.conn, b"ping " + action.payload))
        else:
            self.did.append(action)

    def release_exchange(self, ticket: str, *_: Any) -> None:
        self.forwarded.append(ticket)

    def log(self, level: str, text: str, **fields: Any) -> None:
        self.logged.append(f"{level}: {text} {fields}")

    def count(self, name: str, by: int = 1, **labels: str) -> None:
        self.counted[name] = self.counted.get(name, 0) + by
