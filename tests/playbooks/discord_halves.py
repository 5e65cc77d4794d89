"""Throw-away halves of the `discord` dialect: just enough to show that the seam carries R10 to R19 and R26.

One bot, shard 0/1, no compression, no intents filter, no guild state but what GUILD_CREATE said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.actions import Action, Admit, Commit, PutState
from sidecar.core.events import Input, Moment
from sidecar.dialects.base import View

ACCOUNT, STREAM, CONSUMER = "42", "discord:42:0/1", "agent"
GATEWAY = "wss://gateway.discord.gg/?v=10&encoding=json"
PING_EVERY = 64

dumps, loads = msgspec.json.encode, msgspec.json.decode


def frame(op: int, d: Any = None, s: int | None = None, t: str | None = None) -> bytes:
    """All four keys always (1.1)."""
    return dumps({"op": op, "d": d, "s": s, "t": t})


class Dispatch(msgspec.Struct):
    """A received frame; `d` keeps its bytes."""

    op: int
    d: msgspec.Raw = msgspec.Raw(b"null")
    s: int | None = None
    t: str | None = None


class DiscordUpstream:
    """One gateway socket; everything that must survive rides in the commit of the event it belongs to (R26)."""

    def __init__(self, view: View) -> None:
        self.token = ""
        self.seq: int | None = None
        self.ready: dict[str, Any] | None = None
        self.guilds: dict[str, bytes] = {}

    def handle(self, moment: Moment, event: Input) -> Sequence[Action]:
        match event:
            case ev.Started():
                self.ready = loads(event.state["ready"]) if "ready" in event.state else None
                self.seq = int(event.state["seq"]) if "seq" in event.state else None
                self.guilds = {k.removeprefix("guild/"): v for k, v in event.state.items() if k.startswith("guild/")}
                return self._tell()
            case ev.CredentialSeen() if not self.token:
                self.token = event.credential
                return [act.OpenLink("g", self.ready["resume_gateway_url"] if self.ready else GATEWAY)]
            case ev.FramesReceived():
                return [a for data in event.frames for a in self._frame(moment, loads(data, type=Dispatch))]
            case ev.TimerFired(timer="beat"):
                return [act.SendFrames("g", [frame(1, self.seq)]), act.StartTimer("beat", 41.25)]
            case ev.Committed(ticket="state"):
                return self._tell()
        return []

    def _tell(self) -> list[Action]:
        return [act.Tell((self.ready, tuple(self.guilds.values())))] if self.ready else []

    def _frame(self, moment: Moment, got: Dispatch) -> Sequence[Action]:
        if got.op == 10:
            beat = act.StartTimer("beat", 41.25 * moment.random)
            if self.ready:
                resume = {"token": self.token, "session_id": self.ready["session_id"], "seq": self.seq}
                return [act.SendFrames("g", [frame(6, resume)]), beat]
            return [act.SendFrames("g", [frame(2, {"token": self.token, "intents": 33281, "shard": [0, 1]})]), beat]
        if got.op != 0 or (self.seq is not None and got.s is not None and got.s <= self.seq and got.t != "READY"):
            return []  # R2: seen in this session
        self.seq = got.s
        kept = PutState("seq", b"%d" % (got.s or 0))
        d = bytes(got.d)
        if got.t == "READY":
            self.ready = loads(d)
            return [Commit([PutState("ready", d), kept], "state")]
        if got.t == "GUILD_CREATE":
            guild = loads(d)["id"]
            self.guilds[guild] = d
            return [Commit([PutState(f"guild/{guild}", d), kept], "state")]
        key = f"{got.t}:{loads(d)['id']}".encode() if got.t == "MESSAGE_CREATE" else b""
        event = b'{"op":0,"s":%d,"t":%b,"d":%b}' % (got.s or 0, dumps(got.t), d)
        return [Commit([Admit(STREAM, event, key, loads(d).get("channel_id", "")), kept])]


class Session(msgspec.Struct):
    """A downstream session: its `s` is k + (offset − base) (R15), so a seq is an offset, also after a restart."""

    id: str
    base: int
    k: int

    def seq(self, offset: int) -> int:
        return self.k + offset - self.base

    def offset(self, seq: Any) -> int:
        """The offset that a stated seq names; 0: none, it lies within the snapshot."""
        return self.base + seq - self.k if isinstance(seq, int) and seq > self.k else 0


class DiscordDownstream:
    """Every socket gets HELLO at once; an IDENTIFY waits for state without being forgotten."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.state: tuple[dict[str, Any], Sequence[bytes]] | None = None
        self.waiting: dict[str, int] = {}
        self.known: dict[str, Session] = {}
        self.live: dict[str, Session] = {}
        self.snapshots: dict[str, tuple[dict[str, Any], Sequence[bytes]]] = {}

    def handle(self, moment: Moment, event: Input) -> Sequence[Action]:
        match event:
            case ev.Started():
                self.known = {k: loads(v, type=Session) for k, v in event.state.items()}
            case ev.ConnOpened():
                return [act.Accept(event.conn), act.SendConn(event.conn, [frame(10, {"heartbeat_interval": 20000})])]
            case ev.ConnFrames():
                return [a for data in event.frames for a in self._frame(moment, event.conn, loads(data))]
            case ev.ConnPong() if session := self.live.get(event.conn):
                return [act.Receipt(event.conn, session.offset(int(event.payload)))]
            case ev.ConnClosed():
                self.waiting.pop(event.conn, None)
                return [act.Detach(event.conn)] if self.live.pop(event.conn, None) else []
            case ev.MessageFromUpstream():
                self.state = event.message
                waiting, self.waiting = self.waiting, {}
                return [a for conn in waiting for a in self._begin(moment, conn)]
            case ev.Committed() if event.ticket.startswith("session/"):
                return self._ready(event.ticket.removeprefix("session/"))
            case ev.RecordsReady():
                return self._events(event)
            case ev.SeekDone(mark="resume"):
                session = self.live[event.session]
                last = session.seq(self.view.facts(STREAM).head) if self.view.facts(STREAM) else session.k  # type: ignore[union-attr]
                return [act.SendConn(event.session, [frame(0, {}, last, "RESUMED")])]
        return []

    def _frame(self, moment: Moment, conn: str, got: dict[str, Any]) -> Sequence[Action]:
        op, d = got["op"], got["d"]
        if op == 1:  # acknowledged at once, whatever waits; `d` is a receipt for what was sent on this socket
            ack: list[Action] = [act.SendConn(conn, [frame(11)])]
            session = self.live.get(conn)
            return [*ack, act.Receipt(conn, session.offset(d))] if session and session.offset(d) else ack
        if op == 2:
            self.waiting[conn] = d["intents"]
            own: list[Action] = [act.Own(ACCOUNT, d["token"], hints=str(d["intents"]), streams=[STREAM])]
            return [*own, *self._begin(moment, conn)] if self.state else own
        if op == 6:
            return self._resume(conn, d)
        return []

    def _begin(self, moment: Moment, conn: str) -> list[Action]:
        """R19: the session's row is on disk before its READY, so that a RESUME is exact also after a restart of ours."""
        if self.state is None:
            return []
        facts = self.view.facts(STREAM)
        cursor = self.view.cursor(STREAM, CONSUMER)
        base = cursor if cursor is not None else facts.head if facts else 0
        name = self.view.keyed_hash(f"{conn}/{moment.mono}/{moment.random}")[:32]
        self.snapshots[conn] = self.state  # `k` counts this one, whatever comes while the row is written
        session = self.live[conn] = self.known[name] = Session(name, base, 1 + len(self.state[1]))
        return [Commit([PutState(name, dumps(session))], f"session/{conn}")]

    def _ready(self, conn: str) -> list[Action]:
        session = self.live.get(conn)
        ready, guilds = self.snapshots.pop(conn)
        if session is None:
            return []
        own = {
            "session_id": session.id,
            "resume_gateway_url": "ws://127.0.0.1:8787",
            "guilds": [{"id": loads(g)["id"], "unavailable": True} for g in guilds],
        }
        frames = [frame(0, ready | own, 1, "READY")]
        frames += [frame(0, loads(g) | {"unavailable": False}, 2 + i, "GUILD_CREATE") for i, g in enumerate(guilds)]
        return [act.SendConn(conn, frames), act.Attach(conn, STREAM, CONSUMER, ACCOUNT, fresh="head", after=session.base)]

    def _resume(self, conn: str, d: dict[str, Any]) -> list[Action]:
        session = self.known.get(d["session_id"] or "")
        facts = self.view.facts(STREAM)
        offset = session.offset(d["seq"]) if session else 0
        if session is None or facts is None or not facts.first - 1 <= offset <= facts.head or offset == 0:
            return [act.SendConn(conn, [frame(9, False)])]
        self.live[conn] = session
        return [
            act.Own(ACCOUNT, d["token"], streams=[STREAM]),
            act.Attach(conn, STREAM, CONSUMER, ACCOUNT, after=offset, mark="resume"),
            act.ClientCursor(conn, offset),
        ]

    def _events(self, event: ev.RecordsReady) -> list[Action]:
        """R18: a ping each ≤ 64 frames and one behind the last, its payload the `s` before it."""
        session = self.live[event.session]
        out: list[Action] = []
        for start in range(0, len(event.records), PING_EVERY):
            part = event.records[start : start + PING_EVERY]
            frames = []
            for record in part:
                if not record.is_gap:
                    head = b'{"op":0,"s":%d,"t":' % session.seq(record.offset)
                    frames.append(head + record.payload.partition(b'"t":')[2])
            out += [act.SendConn(event.session, frames), act.PingConn(event.session, b"%d" % session.seq(part[-1].offset))]
        return out
