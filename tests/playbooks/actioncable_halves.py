"""Throw-away halves of the `actioncable` dialect: just enough to show that the seam carries R9, R12, R14 and R26.

One token, two links to it (R2), subs named by their canonical identifier, no linger, no timers but the awaits' age.
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

ACCOUNT, NOTIFY = "t1", "/api/v1/agent/notify"
AWAIT_S, AFTER_CONFIRM_S = 10.0, 1.0

dumps, loads = msgspec.json.encode, msgspec.json.decode


class Frame(msgspec.Struct):
    """A cable frame; identifier and message keep their bytes."""

    type: str = ""
    command: str = ""
    identifier: msgspec.Raw = msgspec.Raw(b"null")
    message: msgspec.Raw = msgspec.Raw(b"")
    data: str = ""


def canonical(identifier: bytes) -> str:
    """The key for sharing (R26): parsed, keys sorted, no blanks."""
    return msgspec.json.encode(loads(loads(identifier)), order="sorted").decode()


def key_of(message: dict[str, Any]) -> bytes:
    """R8: what an event is known by; empty if it has no key."""
    if message.get("type") == "permission_decision":
        return f"decision/{message['request_id']}".encode()
    if message.get("type") == "dispatch" and message.get("task_id") and message.get("execution_generation"):
        return f"dispatch/{message['task_id']}/{message['execution_generation']}".encode()
    return b""


class Seen:
    """One admission of an event without a key, and the other links that may still bring their copy (R9); a link's value: was it
    only subscribing at that moment?"""

    def __init__(self, payload: bytes, at: float, awaited: dict[str, bool]) -> None:
        self.payload = payload
        self.at = at
        self.awaited = awaited


class CableUpstream:
    """Links `a` and `b`; a redialled link is a new one (`a2`). `confirmed`: when each link confirmed each sub (None: asked)."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.token = ""
        self.dialled = 0
        self.links: dict[str, dict[str, float | None]] = {}
        self.subs: dict[str, bytes] = {}
        self.pending: dict[str, list[str]] = {}
        self.awaits: dict[str, list[Seen]] = {}

    def handle(self, moment: Moment, event: Input) -> Sequence[Action]:
        match event:
            case ev.Started():
                return [act.Tell("started")]
            case ev.CredentialSeen():
                self.token = event.credential
                return [self._dial("a"), self._dial("b")] if not self.dialled else []
            case ev.MessageFromDownstream(message=("subscribe", sub, identifier)):
                self.subs.setdefault(sub, identifier)
                return [self._subscribe(link, sub) for link in self.links if sub not in self.links[link]]
            case ev.MessageFromDownstream(message=("pending", sub, ids)):
                self.pending[sub] = list(ids)
            case ev.LinkClosed():
                self.links.pop(event.link, None)
                return [self._dial(event.link[0])]
            case ev.FramesReceived():
                return [a for frame in event.frames for a in self._frame(moment, event.link, frame)]
        return []

    def _dial(self, name: str) -> act.OpenLink:
        self.dialled += 1
        link = name if self.dialled <= 2 else f"{name}{self.dialled}"
        return act.OpenLink(link, f"/cable?token={self.token}", subprotocols=["actioncable-v1-json"])

    def _subscribe(self, link: str, sub: str) -> act.SendFrames:
        self.links[link][sub] = None
        return act.SendFrames(link, [b'{"command":"subscribe","identifier":%b}' % self.subs[sub]])

    def _frame(self, moment: Moment, link: str, data: bytes) -> Sequence[Action]:
        frame = loads(data, type=Frame)
        if frame.type == "welcome":
            self.links[link] = {}
            return [self._subscribe(link, sub) for sub in self.subs]
        if frame.type == "confirm_subscription":
            sub = canonical(bytes(frame.identifier))
            self.links[link][sub] = moment.mono
            out: list[Action] = [act.Tell(("confirmed", sub))]
            if ids := self.pending.get(sub):  # R14: after each confirm, on that link
                data = dumps({"action": "replay_permissions", "request_ids": ids})
                out.append(
                    act.SendFrames(
                        link,
                        [b'{"command":"message","identifier":%b,"data":%b}' % (self.subs[sub], dumps(data.decode()))],
                    )
                )
            return out
        if frame.message:
            sub = canonical(bytes(frame.identifier))
            payload = bytes(frame.message)
            key = key_of(loads(payload))
            if key or not self._is_copy(moment, link, sub, payload):
                return [Commit([Admit(sub, payload, key)])]
        return []

    def _is_copy(self, moment: Moment, link: str, sub: str, payload: bytes) -> bool:
        """R9: does an earlier admission await these bytes from this link? If none does, it is an event of its own."""
        links = {name: subs[sub] for name, subs in self.links.items() if sub in subs}
        known = self.awaits[sub] = [s for s in self.awaits.get(sub, []) if moment.mono - s.at < AWAIT_S and s.awaited]
        for seen in known:
            confirmed = links.get(link)
            over = seen.awaited.get(link) and confirmed is not None and moment.mono - confirmed >= AFTER_CONFIRM_S
            if seen.payload == payload and link in seen.awaited and not over:
                del seen.awaited[link]
                return True
        known.append(Seen(payload, moment.mono, {name: at is None for name, at in links.items() if name != link}))
        return False


class CableDownstream:
    """Local cable sockets and the tap on notify. A session is one (conn, identifier bytes)."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.pending: dict[str, list[str]] = {}
        self.confirmed: set[str] = set()
        self.tokens: dict[str, str] = {}
        self.wanted: dict[str, tuple[str, str, bytes]] = {}  # session: conn, sub, the client's identifier bytes

    def handle(self, moment: Moment, event: Input) -> Sequence[Action]:
        match event:
            case ev.Started():
                self.pending = {k.removeprefix("pending/"): loads(v) for k, v in event.state.items()}
            case ev.ConnOpened():
                welcome = [act.Accept(event.conn, "actioncable-v1-json"), act.SendConn(event.conn, [b'{"type":"welcome"}'])]
                self.tokens[event.conn] = event.head.target.partition("token=")[2]
                return [*welcome, act.Own(ACCOUNT, self.tokens[event.conn])]
            case ev.ConnFrames():
                return [a for frame in event.frames for a in self._command(event.conn, loads(frame, type=Frame))]
            case ev.MessageFromUpstream(message="started"):
                # An upstream half begins from nothing: it is told again what it cannot know.
                out: list[Action] = [act.Tell(("pending", s, ids), event.account) for s, ids in self.pending.items()]
                return [*out, *(act.Tell(("subscribe", s, i), event.account) for _, s, i in self.wanted.values())]
            case ev.MessageFromUpstream(message=("confirmed", sub)) if sub not in self.confirmed:
                self.confirmed.add(sub)
                return [a for session in self.wanted for a in self._confirm(session) if self.wanted[session][1] == sub]
            case ev.RecordsReady():
                conn, _, identifier = self.wanted[event.session]
                frames = [b'{"identifier":%b,"message":%b}' % (identifier, r.payload) for r in event.records if not r.is_gap]
                return [act.SendConn(conn, frames), act.PingConn(conn, f"{event.session}:{event.barrier}".encode())]
            case ev.ConnPong():
                session, _, barrier = event.payload.decode().rpartition(":")
                return [act.Receipt(session, int(barrier))]
            case ev.HttpRequested():
                # R12: forwarded once the pending id in its body is on disk, not before.
                held = event.head.method == "POST" and event.head.target == NOTIFY
                return [act.Route(event.exchange, tap=held, hold=f"notify/{event.exchange}" if held else "")]
            case ev.ExchangeSeen(status=None):
                return self._notify(event)
            case ev.ExchangeSeen() if event.status in {400, 401, 403, 404, 422}:
                return self._note(loads(event.body).get("permission_request_id", ""), drop=True)
        return []

    def _command(self, conn: str, frame: Frame) -> Sequence[Action]:
        if frame.command != "subscribe":
            return []
        identifier = bytes(frame.identifier)
        sub = canonical(identifier)
        session = f"{conn}/{len(self.wanted)}"
        self.wanted[session] = (conn, sub, identifier)
        ask = [act.Own(ACCOUNT, self.tokens[conn], streams=[sub]), act.Tell(("subscribe", sub, identifier), ACCOUNT)]
        return self._confirm(session) if sub in self.confirmed else ask

    def _confirm(self, session: str) -> list[Action]:
        conn, sub, identifier = self.wanted[session]
        confirm = b'{"identifier":%b,"type":"confirm_subscription"}' % identifier
        return [act.SendConn(conn, [confirm]), act.Attach(session, sub, "t1", ACCOUNT, fresh="head")]

    def _notify(self, event: ev.ExchangeSeen) -> Sequence[Action]:
        ticket = f"notify/{event.exchange}"
        try:
            request_id = str(loads(event.body)["permission_request_id"])
        except (msgspec.DecodeError, KeyError, TypeError):
            return [Commit([], ticket)]  # R32: what does not parse changes nothing, and is forwarded
        return self._note(request_id, ticket)

    def _note(self, request_id: str, ticket: str = "", *, drop: bool = False) -> Sequence[Action]:
        """R13: whose id it is is ambiguous here, so every sub of the token gets it."""
        ops, told = [], []
        for sub in {sub for _, sub, _ in self.wanted.values()}:
            kept = [i for i in self.pending.get(sub, []) if i != request_id]
            ids = self.pending[sub] = kept if drop else [*kept, request_id][-1024:]
            ops.append(PutState(f"pending/{sub}", dumps(ids)))
            told.append(act.Tell(("pending", sub, tuple(ids)), ACCOUNT))
        return [*told, Commit(ops, ticket)]
