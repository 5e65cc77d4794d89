"""Throw-away halves of the `fabric` dialect: just enough to show that the seam carries R4, R24, R27 and R28.

Packets are handled as bytes; a channel's durable state is its cursor alone; there is one guild (g1), one user (u1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.actions import Action, Admit, Commit, PutState
from sidecar.core.events import Head, Input, Moment
from sidecar.core.record import REPLAYED
from sidecar.dialects.base import View

STREAM, CONSUMER, ACCOUNT, NODE = "g1:u1", "u1@g1", "u1", "http://127.0.0.1:7002"
PER_ANSWER, PER_READ, AT_ONCE, ACK_S = 16, 200, 4, 1.0
SEP = b"\x1e"

dumps, loads = msgspec.json.encode, msgspec.json.decode


class Channel:
    """ABSENT -> JOINING -> LIVE (R4); `held`: pushes that wait for history, by seq."""

    def __init__(self, cursor: int) -> None:
        self.cursor = cursor
        self.state = "absent"
        self.held: list[tuple[int, bytes, bytes]] = []


class FabricUpstream:
    """One link to one guild."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.token = ""
        self.generation = self.emits = 0
        self.channels: dict[str, Channel] = {}
        self.heads: dict[str, int] = {}
        self.waiting: list[str] = []
        self.acks: dict[int, str] = {}

    def handle(self, moment: Moment, event: Input) -> Sequence[Action]:
        match event:
            case ev.Started():
                self.channels = {k.removeprefix("channel/"): Channel(int(v)) for k, v in event.state.items()}
            case ev.CredentialSeen():
                self.token = event.credential
                return [act.OpenLink("g1", f"{NODE}/socket.io/?EIO=4&transport=websocket")]
            case ev.FramesReceived():
                return [a for frame in event.frames for a in self._packet(frame)]
            case ev.ResponseReceived():
                return self._answer(event)
            case ev.TimerFired() if event.timer.startswith("ack/"):
                return [self._read(event.timer.removeprefix("ack/"), "confirm")]
        return []

    def _packet(self, frame: bytes) -> Sequence[Action]:
        if frame.startswith(b"0"):
            return [act.SendFrames("g1", [b"40/realtime," + dumps({"token": self.token})])]
        if frame == b"2":
            return [act.SendFrames("g1", [b"3"])]
        if frame.startswith(b"40/realtime,"):
            self.generation += 1
            return [self._request("list", "/api/channels?guildId=g1")]
        if frame.startswith(b"43/realtime,"):
            channel = self.acks.pop(int(frame[12:].split(b"[")[0]), None)
            return [act.CancelTimer(f"ack/{channel}"), self._read(channel, "confirm")] if channel else []
        if frame.startswith(b"42/realtime,"):
            name, data = loads(frame[12:])
            if name == "message.created":
                return self._push(data["channelId"], data["seq"], data["id"].encode(), frame[12:])
        return []

    def _push(self, name: str, seq: int, key: bytes, payload: bytes) -> Sequence[Action]:
        channel = self.channels.setdefault(name, Channel(0))
        self.heads[name] = max(self.heads.get(name, 0), seq)
        if channel.state != "live":
            channel.held.append((seq, key, payload))
            return []
        if self.view.seen(STREAM, name, key) or seq <= channel.cursor:
            return []
        return self._release(name, [], [(seq, key, payload)])

    def _request(self, request: str, target: str) -> act.Request:
        return act.Request(f"{request}#{self.generation}", "GET", NODE + target, [("Authorization", f"Bearer {self.token}")])

    def _read(self, name: str, why: str) -> act.Request:
        low = self.channels[name].cursor + 1
        high = min(low + PER_READ - 1, max(low, self.heads.get(name, 0)))
        return self._request(f"{why}/{name}", f"/api/channels/{name}/messages?seqFrom={low}&seqTo={high}")

    def _join_next(self) -> list[Action]:
        out: list[Action] = []
        while self.waiting and sum(c.state == "joining" for c in self.channels.values()) < AT_ONCE:
            name = self.waiting.pop(0)
            self.channels[name].state = "joining"  # (1) pushes are held from here on
            self.emits += 1
            self.acks[self.emits] = name
            emit = b"42/realtime,%d" % self.emits + dumps(["join_channel", {"channelId": name}])
            out += [act.SendFrames("g1", [emit]), self._read(name, "history"), act.StartTimer(f"ack/{name}", ACK_S)]
        return out

    def _answer(self, event: ev.ResponseReceived) -> Sequence[Action]:
        what, _, generation = event.request.rpartition("#")
        if int(generation) != self.generation or event.status != 200:  # R12: of a link that is over
            return []
        rows = loads(event.body)
        if what == "list":
            self.heads.update({row["id"]: row["lastSeq"] for row in rows})
            for row in rows:
                self.channels.setdefault(row["id"], Channel(0))
            behind = sorted(rows, key=lambda row: self.channels[row["id"]].cursor - row["lastSeq"])
            self.waiting = [row["id"] for row in behind]
            return self._join_next()
        why, _, name = what.partition("/")
        history = [(r["seq"], r["id"].encode(), dumps(["message.created", r | {"wakeup": False}])) for r in rows]
        channel = self.channels[name]
        held, channel.held = channel.held, []
        out = self._release(name, sorted(history), sorted(held))
        if why == "history":
            channel.state = "live"
            out += self._join_next()
        return out

    def _release(self, name: str, history: Sequence[tuple[int, bytes, bytes]], live: Sequence[tuple[int, bytes, bytes]]) -> list[Action]:
        """History ascending, then the buffer; the core drops what it knows. The cursor rides in the same commit."""
        channel = self.channels[name]
        ops: list[act.Op] = [Admit(STREAM, payload, key, name, REPLAYED) for _, key, payload in history]
        ops += [Admit(STREAM, payload, key, name) for _, key, payload in live]
        if not ops:
            return []
        channel.cursor = max([channel.cursor, *(seq for seq, _, _ in (*history, *live))])
        return [Commit([*ops, PutState(f"channel/{name}", b"%d" % channel.cursor)])]


class Engine:
    """An Engine.IO session: a queue of packets, and whichever transport may take them now."""

    def __init__(self, sid: str) -> None:
        self.sid = sid
        self.queue: deque[bytes] = deque()
        self.poll = ""  # the long-poll GET that waits
        self.conn = ""  # the WebSocket, from its probe on
        self.upgraded = False
        self.fence = self.owed = 0  # barrier of the `2` that is out; barrier not yet asked for

    def flush(self) -> list[Action]:
        """Hand queued packets to the transport; a packet leaves the queue when an answer or a send took it."""
        if not self.fence and self.owed:
            self.fence, self.owed = self.owed, 0
            self.queue.append(b"2")
        if self.upgraded:
            frames = list(self.queue)
            self.queue.clear()
            return [act.SendConn(self.conn, frames)] if frames else []
        if self.poll and self.queue:
            packets = [self.queue.popleft() for _ in range(min(PER_ANSWER, len(self.queue)))]
            return self.answer(SEP.join(packets))
        return []

    def answer(self, body: bytes) -> list[Action]:
        """Answer the waiting GET."""
        poll, self.poll = self.poll, ""
        return [text(poll, body)] if poll else []


def text(exchange: str, body: bytes, status: int = 200) -> act.Respond:
    return act.Respond(exchange, status, [("Content-Type", "text/plain; charset=UTF-8")], body)


class FabricDownstream:
    """Engine.IO sessions over polling and WebSocket, one namespace each."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.sessions: dict[str, Engine] = {}
        self.conns: dict[str, Engine] = {}

    def handle(self, moment: Moment, event: Input) -> Sequence[Action]:
        match event:
            case ev.HttpRequested():
                return self._request(moment, event)
            case ev.ExchangeSeen(status=None):
                engine = self.sessions[query(event.head)["sid"]]
                out = [a for packet in event.body.split(SEP) for a in self._packet(engine, packet)]
                return [text(event.exchange, b"ok"), *out, *engine.flush()]
            case ev.ConnOpened():
                engine = self.conns[event.conn] = self.sessions[query(event.head)["sid"]]
                return [act.Accept(event.conn)]
            case ev.ConnFrames():
                engine = self.conns[event.conn]
                out = [a for frame in event.frames for a in self._packet(engine, frame, event.conn)]
                return [*out, *engine.flush()]
            case ev.ConnClosed() if event.conn in self.conns:
                engine = self.conns.pop(event.conn)
                if engine.upgraded and engine.conn == event.conn:
                    self.sessions.pop(engine.sid)
                    return [act.Detach(engine.sid)]
            case ev.RecordsReady():
                engine = self.sessions[event.session]
                engine.queue.extend(b"42/realtime," + r.payload for r in event.records if not r.is_gap)
                engine.owed = event.barrier
                return engine.flush()
        return []

    def _request(self, moment: Moment, event: ev.HttpRequested) -> Sequence[Action]:
        if not event.head.target.startswith("/socket.io/"):
            return [act.Route(event.exchange)]
        sid = query(event.head).get("sid")
        if sid is None:
            sid = self.view.keyed_hash(f"{moment.mono}/{moment.random}/{len(self.sessions)}")
            self.sessions[sid] = Engine(sid)
            hello: Mapping[str, Any] = {
                "sid": sid,
                "upgrades": ["websocket"],
                "pingInterval": 25000,
                "pingTimeout": 20000,
                "maxPayload": 1000000,
            }
            return [text(event.exchange, b"0" + dumps(hello))]
        engine = self.sessions.get(sid)
        if engine is None or engine.upgraded:
            return [text(event.exchange, b'{"code":%d,"message":"Bad request"}' % (3 if engine else 1), 400)]
        if event.head.method == "POST":
            # The seam's way to a body: tap it and hold it on a ticket that nobody commits; Respond ends the exchange.
            return [act.Route(event.exchange, tap=True, hold=f"never/{event.exchange}")]
        engine.poll = event.exchange
        return engine.flush()

    def _packet(self, engine: Engine, packet: bytes, conn: str = "") -> Sequence[Action]:
        if packet == b"2probe":
            engine.conn = conn
            # What is queued goes with the GET that waits, or stays until `5`: never on both transports.
            return [act.SendConn(conn, [b"3probe"]), *engine.answer(b"6")]
        if packet == b"5":
            engine.upgraded = True
            return engine.answer(b"6")
        if packet == b"3":
            fence, engine.fence = engine.fence, 0
            return [act.Receipt(engine.sid, fence)] if fence else []
        if packet.startswith(b"40/realtime,"):
            engine.queue.append(b"40/realtime," + dumps({"sid": "n" + engine.sid}))
            token = loads(packet[12:])["token"]
            return [
                act.Own(ACCOUNT, token, streams=[STREAM]),
                act.Attach(engine.sid, STREAM, CONSUMER, ACCOUNT, fresh="head"),
            ]
        if packet.startswith(b"42/realtime,") and b'["join_channel"' in packet:
            ack = packet[12:].split(b"[")[0]
            if ack:
                engine.queue.append(b"43/realtime," + ack + b'[{"ok":true}]')
        return []


def query(head: Head) -> dict[str, str]:
    return {k: v[0] for k, v in parse_qs(urlsplit(head.target).query).items()}
