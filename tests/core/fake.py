"""A world of which the test is the clock, the disk and the network: the engine with ports that only record, on the journal's model.

Writes and reads lie still until the test completes them (`disk`, `read`, `run`); timers run out when the test says so. `Script` is a
half that does what it is told: an action given to `do` is what its next input returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.engine import Engine
from sidecar.core.layout import Batch, CursorRow, Table, cursor_key
from sidecar.core.record import Record
from sidecar.dialects.base import View
from sidecar.errors import JournalFull
from sidecar.journal.model import ModelStore

WALL = 1_790_000_000.0
DOWN = "down:dialect"


class Go(ev.Input, frozen=True):
    """An input of the tests: what it holds is what the half answers."""

    actions: Sequence[act.Action]


class Script:
    """A half that records its inputs and does what Go says. `on`: what it answers to inputs of a type."""

    def __init__(self, name: str, view: View) -> None:
        self.name = name
        self.view = view
        self.inputs: list[ev.Input] = []
        self.on: dict[type, Callable[[Any], Sequence[act.Action]]] = {}

    def handle(self, moment: ev.Moment, event: ev.Input) -> Sequence[act.Action]:
        if isinstance(event, Go):
            return event.actions
        self.inputs.append(event)
        answer = self.on.get(type(event))
        return answer(event) if answer else ()

    def got(self, kind: type) -> list[Any]:
        """Inputs of a type so far."""
        return [event for event in self.inputs if type(event) is kind]


class FakePorts:
    """Ports that record. `seconds`: since the test began."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.batch: Batch | None = None
        self.reads: list[tuple[str, int, int, int, int]] = []
        self.timers: dict[tuple[str, str], float] = {}
        self.links: list[tuple[str, int, act.OpenLink]] = []
        self.closed_links: list[tuple[str, str, int | None]] = []
        self.sent: list[tuple[str, str, Sequence[bytes]]] = []
        self.requests: dict[tuple[str, str], act.Request] = {}
        self.cancelled: list[tuple[str, str]] = []
        self.did: list[act.Action] = []
        self.released: list[str] = []
        self.paused_links: list[bool] = []
        self.logs: list[tuple[str, str, dict[str, Any]]] = []
        self.counts: dict[str, int] = {}
        self.prunes = 0
        self.written_batches = 0

    def now(self) -> ev.Moment:
        return ev.Moment(1000.0 + self.seconds, WALL + self.seconds, 0.5)

    def start_timer(self, key: tuple[str, str], seconds: float) -> None:
        self.timers[key] = self.seconds + seconds

    def cancel_timer(self, key: tuple[str, str]) -> None:
        self.timers.pop(key, None)

    def write(self, batch: Batch) -> None:
        assert self.batch is None, "two batches under way"
        self.batch = batch
        self.written_batches += 1

    def read(self, session: str, sid: int, after: int, count: int, size: int) -> None:
        self.reads.append((session, sid, after, count, size))

    def prune(self) -> None:
        self.prunes += 1

    def open_link(self, account: str, generation: int, action: act.OpenLink) -> None:
        self.links.append((account, generation, action))

    def send_link(self, account: str, link: str, frames: Sequence[bytes]) -> None:
        self.sent.append((account, link, frames))

    def ping_link(self, account: str, link: str, payload: bytes) -> None:
        self.sent.append((account, link, [payload]))

    def close_link(self, account: str, link: str, code: int | None) -> None:
        self.closed_links.append((account, link, code))

    def pause_links(self, paused: bool) -> None:
        self.paused_links.append(paused)

    def request(self, owner: str, action: act.Request) -> None:
        self.requests[owner, action.request] = action

    def cancel_request(self, owner: str, request: str) -> None:
        self.cancelled.append((owner, request))
        self.requests.pop((owner, request), None)

    def conn(self, action: act.Action) -> None:
        self.did.append(action)

    def release_exchange(self, ticket: str) -> None:
        self.released.append(ticket)

    def log(self, level: str, text: str, **fields: Any) -> None:
        self.logs.append((level, text, fields))

    def count(self, name: str, by: int = 1, **labels: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + by


class Fake:
    """An engine on a modelled journal with scripted halves. `reboot` is a kill -9 and a new process on what is on disk."""

    def __init__(
        self,
        store: ModelStore | None = None,
        *,
        window: int = 8,
        capacity: int = 1000,
        strict: bool = True,
        halves: Callable[[View], dict[str, Any]] | None = None,
        lost: bool = False,
        retention_s: float = 7 * 86400.0,
    ) -> None:
        self.store = store or ModelStore()
        self.options: dict[str, Any] = {
            "window": window,
            "capacity": capacity,
            "strict": strict,
            "lost": lost,
            "retention_s": retention_s,
        }
        self.seconds = 0.0
        self.ports = FakePorts()
        self.boot()

    def boot(self) -> None:
        ports = FakePorts()
        ports.seconds = self.ports.seconds
        self.ports = ports
        self.ups: dict[str, Script] = {}

        def upstream(account: str, view: View) -> Script:
            self.ups[account] = Script(account, view)
            return self.ups[account]

        def downstream(view: View) -> Script:
            self.down = Script("dialect", view)
            return self.down

        self.engine = Engine(self.store, ports, upstream=upstream, downstream={"dialect": downstream}, **self.options)
        self.engine.start(None)

    def reboot(self) -> None:
        """kill -9, and a new process on the same disk."""
        self.store.crash()
        self.boot()

    # --- what the halves do --------------------------------------------------------------------------------------------------------

    def do(self, *actions: act.Action) -> None:
        """The downstream half does this."""
        self.engine.feed(DOWN, Go(actions))

    def up(self, account: str, *actions: act.Action) -> None:
        """An account's upstream half does this."""
        self.engine.feed("up:" + account, Go(actions))

    def own(self, account: str = "A", stream: str = "S", credential: str = "t1") -> None:
        self.do(act.Own(account, credential, "", [stream]))

    def admit(self, *names: str, account: str = "A", stream: str = "S", ticket: str = "", state: tuple[str, bytes] | None = None) -> None:
        """Events whose names are key and payload."""
        ops: list[act.Op] = [act.Admit(stream, name.encode(), b"k" + name.encode()) for name in names]
        if state is not None:
            ops.append(act.PutState(*state))
        self.up(account, act.Commit(ops, ticket))

    def attach(self, session: str, consumer: str = "agent", **options: Any) -> None:
        self.do(act.Attach(session, "S", consumer, "A", **options))

    def receipt(self, session: str, offset: int) -> None:
        self.do(act.Receipt(session, offset))

    # --- the world -----------------------------------------------------------------------------------------------------------------

    def disk(self, error: Exception | None = None) -> None:
        """The write under way is done, or has failed."""
        batch, self.ports.batch = self.ports.batch, None
        assert batch is not None, "no write is under way"
        if error is None:
            try:
                self.store.apply(batch)
            except (OSError, JournalFull) as caught:
                error = caught
        self.engine.written(error)

    def read(self) -> None:
        """The oldest read is answered."""
        session, sid, after, count, size = self.ports.reads.pop(0)
        self.engine.records(session, self.store.read(sid, after, count, size))

    def fire(self, *key: str) -> None:
        """A timer runs out now."""
        del self.ports.timers[key]  # type: ignore[arg-type]
        self.engine.timer(key)  # type: ignore[arg-type]

    def wait(self, seconds: float) -> None:
        """Time passes; timers run out in order, the world answers at once."""
        end = self.ports.seconds + seconds
        self.run()
        while self.ports.timers:
            key, at = min(self.ports.timers.items(), key=lambda item: item[1])
            if at > end:
                break
            self.ports.seconds = max(self.ports.seconds, at)
            self.fire(*key)
            self.run()
        self.ports.seconds = end

    def run(self) -> None:
        """Writes and reads until nothing is left to do."""
        for _ in range(10_000):
            if self.ports.batch is not None:
                self.disk()
            elif self.ports.reads:
                self.read()
            else:
                return
        raise AssertionError("the world does not come to rest")

    # --- what is seen ----------------------------------------------------------------------------------------------------------------

    def handed(self, session: str) -> list[Record]:
        """All records handed to a session so far."""
        return [r for e in self.down.got(ev.RecordsReady) if e.session == session for r in e.records]

    def names(self, session: str) -> list[str]:
        """The events handed to a session so far, by name."""
        return [r.payload.decode() for r in self.handed(session) if not r.is_gap]

    def durable(self, consumer: str = "agent", stream: str = "S") -> int | None:
        """The cursor on disk."""
        sid = self.engine.admission.books[stream].sid
        row = self.store.get(Table.CURSORS, cursor_key(sid, consumer))
        return None if row is None else msgspec.json.decode(row, type=CursorRow).offset

    def cursor(self, consumer: str = "agent", stream: str = "S") -> int:
        return self.engine.courier.consumers[stream, consumer].cursor

    def journaled(self, stream: str = "S") -> list[Record]:
        """All records of a stream on disk."""
        book = self.engine.admission.books[stream]
        return [r for run in self.store.read(book.sid, 0, 1 << 30, 1 << 40) for r in run.records()]

    def logged(self, part: str) -> list[str]:
        return [text for _, text, _ in self.ports.logs if part in text]
