"""The native stream: `/_sidecar/stream` over WebSocket and SSE, for anyone who wants cursors (contract: The native stream).

Theory of operation
-------------------
A downstream half like a dialect's, pure, that knows no dialect. A conn is told hello, then a gap if where it wants to start does
not exist, then records as they stand in the journal. Three ways of pacing:

| conn | window | cursor moves by |
|---|---|---|
| WebSocket with consumer | acks (SIDECAR_WINDOW) | acks |
| SSE with consumer | what left the process | Last-Event-ID of the next request |
| without consumer | what left the process | there is none |

Consumers are `native:<name>` in the journal, so that none is ever an agent's. Rubbish from a client closes with 4400 and says why; an
ack above the head counts as the head. An SSE client reconnects with the last `id` it saw, so hello carries where delivery
starts; before a `rewound` or `epoch` gap it carries none, so that a client cut between the two is told of the gap again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.record import Gap
from sidecar.dialects.base import StreamFacts, View
from sidecar.downstream import native_frames as frames
from sidecar.downstream.native_request import Wanted, Wrong, read

PREFIX = "native:"
KEEP_ALIVE_S = 15.0
RUBBISH, REPLACED, RESTART = 4400, 4409, 1012

JSON = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))

COUNTERS: Mapping[str, str] = {
    "native_rewound": "Native readers that asked for an offset above the head and were given a gap, then all that is kept.",
    "native_epoch": "Native readers that came from another epoch and were given a gap, then all that is kept.",
    "native_replaced": "Native readers closed because their consumer connected again.",
    "native_rubbish": "Native readers closed for a frame that is no ack.",
}


class _Ack(msgspec.Struct, tag_field="type", tag="ack"):
    offset: int


class Conn:
    """One reader. `drain`: token of the last AwaitDrain not yet answered."""

    __slots__ = ("consumer", "drain", "name", "sse", "stream")

    def __init__(self, name: str, wanted: Wanted) -> None:
        self.name = name
        self.sse = wanted.sse
        self.stream = wanted.stream
        self.consumer = PREFIX + wanted.consumer if wanted.consumer else ""
        self.drain = ""

    @property
    def paced(self) -> bool:
        """The transport alone opens its window."""
        return self.sse or not self.consumer


class NativeHalf:
    """One a process; see `sidecar.dialects.base.Half`."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._conns: dict[str, Conn] = {}
        self._beating = False
        self._draining = False

    def handle(self, moment: ev.Moment, event: ev.Input) -> Sequence[act.Action]:
        """One input."""
        handler = self._INPUTS.get(type(event))
        return handler(self, event) if handler else ()

    # --- opening -----------------------------------------------------------------------------------------------------------------

    def _opened(self, event: ev.ConnOpened) -> list[act.Action]:
        if self._draining or event.stopping:
            body = {"error": "the sidecar is stopping", "mend": "connect again in a moment"}
            return [_refuse(event.conn, 503, body, ("Retry-After", "1"))]
        wanted = read(event.head)
        if isinstance(wanted, Wrong):
            return [_refuse(event.conn, 400, msgspec.to_builtins(wanted) | self._offer(wanted.parameter == "stream"))]
        facts = self._view.facts(wanted.stream)
        if facts is None:
            body = {"error": "unknown stream", "parameter": "stream", "mend": "name one of `streams`; an agent's first connection makes it"}
            return [_refuse(event.conn, 404, body | self._offer(True))]
        conn = Conn(event.conn, wanted)
        actions = self._replace(conn)
        self._conns[conn.name] = conn
        actions.append(act.Accept(conn.name))
        actions += self._begin(conn, wanted, facts)
        if conn.sse and not self._beating:
            self._beating = True
            actions.append(act.StartTimer("beat", KEEP_ALIVE_S))
        return actions

    def _offer(self, really: bool) -> dict[str, Any]:
        return {"streams": sorted(self._view.streams())} if really else {}

    def _replace(self, conn: Conn) -> list[act.Action]:
        """The consumer's earlier connection goes."""
        if not conn.consumer:
            return []
        earlier = [c for c in self._conns.values() if (c.stream, c.consumer) == (conn.stream, conn.consumer)]
        actions: list[act.Action] = []
        for old in earlier:
            actions += self._close(old, REPLACED, "this consumer connected again")
            text = f"native consumer {conn.consumer.removeprefix(PREFIX)!r} of {conn.stream!r} came again: its earlier connection is closed"
            actions += [act.Count("native_replaced"), act.Log("info", text)]
        return actions

    def _begin(self, conn: Conn, wanted: Wanted, facts: StreamFacts) -> list[act.Action]:
        """Hello, the gap in front if there is one, and delivery."""
        after, consumer, kept = wanted.after, conn.consumer, facts.first - 1
        cursor = self._view.cursor(conn.stream, consumer) if consumer else None
        foreign = wanted.epoch is not None and wanted.epoch != facts.epoch
        lead: Gap | None = None
        if foreign and (after is not None or cursor is None):
            # How far the other epoch went behind that offset nobody knows any more.
            lead = Gap("epoch", "offset", after or 0, after or 0)
        elif after is not None and after > facts.head:
            lead = Gap("rewound", "offset", facts.head + 1, after)
        actions: list[act.Action] = []
        if lead is not None:
            actions.append(self._send(conn, [(None, frames.hello(conn.stream, facts, kept)), (kept, frames.gap(kept, lead))]))
            actions.append(act.Count(f"native_{lead.reason}"))
            after = kept
        else:
            start = after if after is not None else facts.head if cursor is None else min(cursor, facts.head)
            actions.append(self._send(conn, [(start, frames.hello(conn.stream, facts, start))]))
        actions.append(act.Attach(conn.name, conn.stream, consumer, fresh="head", after=after, paced=conn.paced))
        if wanted.stated and consumer and lead is None and after is not None:
            actions.append(act.ClientCursor(conn.name, after))
        return actions

    # --- delivery ------------------------------------------------------------------------------------------------------------------

    def _send(self, conn: Conn, out: Sequence[frames.Frame]) -> act.SendConn:
        return act.SendConn(conn.name, [frames.as_sse(out)] if conn.sse else [data for _, data in out])

    def _records(self, event: ev.RecordsReady) -> list[act.Action]:
        conn = self._conns.get(event.session)
        if conn is None:
            return []
        actions: list[act.Action] = [self._send(conn, frames.of_records(event.records))]
        if conn.paced:
            conn.drain = str(event.barrier)
            actions.append(act.AwaitDrain(conn.name, conn.drain))
        return actions

    def _drained(self, event: ev.ConnDrained) -> list[act.Action]:
        conn = self._conns.get(event.conn)
        if conn is None:
            return []
        if conn.drain == event.token:
            conn.drain = ""
        return [act.Receipt(conn.name, int(event.token))]

    def _frames(self, event: ev.ConnFrames) -> list[act.Action]:
        conn = self._conns.get(event.conn)
        if conn is None:
            return []
        highest = -1
        wrong = ""
        for data in event.frames:
            try:
                offset = msgspec.json.decode(data, type=_Ack).offset
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                wrong = 'not an ack: send {"type":"ack","offset":N}'
            else:
                highest = max(highest, offset)
                if offset < 0:
                    wrong = "ack: the offset is below 0"
                elif not conn.consumer:
                    # Let pass, it would look as if a cursor moved.
                    wrong = "ack without a consumer: connect with consumer=NAME"
            if wrong:
                break
        actions: list[act.Action] = []
        if highest >= 0 and conn.consumer:
            actions.append(act.ClientCursor(conn.name, highest))
        if wrong:
            actions += [*self._close(conn, RUBBISH, wrong), act.Count("native_rubbish")]
        return actions

    def _beat(self, _: ev.TimerFired) -> list[act.Action]:
        """A comment to every quiet SSE reader (WHATWG HTML 9.2.7): proxies keep the connection, and a vanished peer is noticed."""
        readers = [c for c in self._conns.values() if c.sse]
        self._beating = bool(readers)
        # One that has not taken what it was sent gets nothing more: no memory grows.
        actions: list[act.Action] = [act.SendConn(c.name, [frames.KEEP_ALIVE]) for c in readers if not c.drain]
        return [*actions, act.StartTimer("beat", KEEP_ALIVE_S)] if readers else []

    # --- ending --------------------------------------------------------------------------------------------------------------------

    def _close(self, conn: Conn, code: int, reason: str) -> list[act.Action]:
        self._conns.pop(conn.name, None)
        actions: list[act.Action] = [act.Detach(conn.name)]
        if conn.sse:
            actions.append(act.SendConn(conn.name, [frames.closing(code, reason)]))
        return [*actions, act.CloseConn(conn.name, code, reason)]

    def _closed(self, event: ev.ConnClosed) -> list[act.Action]:
        return [act.Detach(event.conn)] if self._conns.pop(event.conn, None) else []

    def _ousted(self, event: ev.Ousted) -> list[act.Action]:
        conn = self._conns.get(event.session)
        return self._close(conn, RESTART, event.reason) if conn else []

    def _drain(self, _: ev.Draining) -> list[act.Action]:
        """A planned stop (the engine sends this only when receipts are on disk, or time is up)."""
        self._draining = True
        return [action for conn in list(self._conns.values()) for action in self._close(conn, RESTART, "service restart")]

    _INPUTS: Mapping[type, Callable[[NativeHalf, Any], list[act.Action]]] = {
        ev.ConnOpened: _opened,
        ev.ConnFrames: _frames,
        ev.ConnDrained: _drained,
        ev.ConnClosed: _closed,
        ev.RecordsReady: _records,
        ev.TimerFired: _beat,
        ev.Ousted: _ousted,
        ev.Draining: _drain,
    }


def shown(consumer: str) -> tuple[str, str]:
    """A consumer's name as people see it, and its kind: `native`, or `agent` for one of the dialect's."""
    return (consumer.removeprefix(PREFIX), "native") if consumer.startswith(PREFIX) else (consumer, "agent")


def _refuse(conn: str, status: int, body: Mapping[str, Any], *headers: tuple[str, str]) -> act.Refuse:
    return act.Refuse(conn, status, [*JSON, *headers], msgspec.json.encode(body) + b"\n")
