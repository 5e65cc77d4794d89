"""Agents before the downstream half, in memory: a clock that stands still, a disk that keeps what is committed, an upstream that a test
speaks for. What the half did is sorted by what it was for; frames are shown as an agent reads them."""

from __future__ import annotations

import zlib
from types import SimpleNamespace
from typing import Any

import msgspec

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.record import Gap, Run
from sidecar.dialects.discord.downstream import DownstreamHalf
from tests.playbooks.playbook import FakeView

HOST = "127.0.0.1:8787"
TOKEN, BOT, STREAM = "MTk4.se.cret", "42", "discord:42:0/1"
ALL = (1 << 26) - 1
READY = {
    "v": 10,
    "user": {"id": BOT, "username": "bot", "discriminator": "0", "avatar": None},
    "session_id": "upstream's",
    "resume_gateway_url": "wss://elsewhere.example/",
    "guilds": [{"id": "g1", "unavailable": True}],
    "application": {"id": BOT, "flags": 0},
    "shard": [0, 1],
}


def guild(name: str, **more: Any) -> dict[str, Any]:
    """GUILD_CREATE's d."""
    return {"id": name, "name": name, "channels": [], "unavailable": False, **more}


def payload(kind: str, d: Any, s: int | None = 9000) -> bytes:
    """A frame as it came from upstream."""
    return msgspec.json.encode({"t": kind, "s": s, "op": 0, "d": d})


def message(n: int, **more: Any) -> bytes:
    """A MESSAGE_CREATE in a guild, numbered by its content."""
    return payload("MESSAGE_CREATE", {"id": str(n), "channel_id": "c1", "guild_id": "g1", "content": f"m{n}", **more})


def run(first: int, payloads: list[bytes]) -> Run:
    """Events from this offset on."""
    return Run(first, first, 0, payloads)


def gap_at(offset: int) -> Run:
    """A gap record."""
    return Run(offset, offset - 1, 1, [msgspec.json.encode(Gap("lost", "seq", 1, 2))])


class Scene:
    """`who`: what `GET /users/@me` says of a token: a bot id, a status, or None (no answer; `pending` holds the request);
    `metadata`: the same of `GET /gateway/bot`, else the upstream is away. `ready`: the upstream half's state, None before there is one;
    `away`: guilds in an outage. `disk`: commits come through at once."""

    def __init__(self, state: dict[str, bytes] | None = None, credential: str | None = None, **knobs: Any) -> None:
        self.knobs = {"heartbeat_ms": 20000, "media": "keep", "shards": ()} | knobs
        self.view = FakeView().stream(STREAM)
        self.state = dict(state or {})
        self.mono, self.wall = 1000.0, 1_750_000_000.0
        self.who: dict[str, str | int | None] = {TOKEN: BOT}
        self.metadata: dict[str, int | bytes | None] = {}
        self.metadata_asked = 0
        self.ready: dict[str, Any] | None = READY
        self.guilds: list[dict[str, Any]] = [guild("g1")]
        self.away: list[str] = []
        self.offset = 0
        self.disk = True
        self.restart(credential)

    def restart(self, credential: str | None = None) -> None:
        """A new process on the same disk."""
        self.half = DownstreamHalf(SimpleNamespace(knobs=SimpleNamespace(**self.knobs), retention_s=86400.0), self.view)  # type: ignore[arg-type]
        self.sent: dict[str, list[bytes]] = {}
        self.readers: dict[str, Any] = {}
        self.droppable: list[bytes] = []
        self.closed: dict[str, int | None] = {}
        self.told: list[dict[str, Any]] = []
        self.did: list[act.Action] = []
        self.pings: dict[str, list[bytes]] = {}
        self.timers: dict[str, float] = {}
        self.pending: list[act.Request] = []
        self.tickets: list[str] = []
        self.drains: list[tuple[str, str]] = []
        self.counted: dict[str, int] = {}
        self.logged: list[str] = []
        self.inbox: list[ev.Input] = [ev.Started(dict(self.state), credential)]
        self._settle()

    # --- inputs

    def send(self, event: ev.Input) -> Scene:
        self.inbox.append(event)
        self._settle()
        return self

    def wait(self, seconds: float) -> Scene:
        """Let time pass, with its timers."""
        end = self.mono + seconds
        while True:
            due = [(at, name) for name, at in self.timers.items() if at <= end]
            if not due:
                break
            at, name = min(due)
            self.wall += max(0.0, at - self.mono)
            self.mono = max(self.mono, at)
            del self.timers[name]
            self.send(ev.TimerFired(name))
        self.wall += end - self.mono
        self.mono = end
        return self

    def open(self, conn: str, target: str = "/?v=10&encoding=json", headers: Any = (), host: str = HOST) -> Scene:
        return self.send(ev.ConnOpened(conn, ev.Head("GET", target, headers, host)))

    def say(self, conn: str, op: int, d: Any = None) -> Scene:
        return self.send(ev.ConnFrames(conn, [msgspec.json.encode({"op": op, "d": d})]))

    def identify(self, conn: str, token: str = TOKEN, intents: int = ALL, **more: Any) -> Scene:
        return self.say(conn, 2, {"token": token, "intents": intents, "properties": {}, **more})

    def agent(self, conn: str, target: str = "/?v=10&encoding=json", **identify: Any) -> Scene:
        """A socket that opens and identifies; what it was sent is forgotten."""
        self.open(conn, target).identify(conn, **identify)
        assert self.types(conn)[:2] == ["HELLO", "READY"], self.types(conn)
        self.sid = next(f["d"]["session_id"] for f in self.frames(conn) if f["t"] == "READY")
        self.forget()
        return self

    def resume(self, conn: str, session: Any, seq: Any, token: Any = TOKEN) -> Scene:
        return self.say(conn, 6, {"token": token, "session_id": session, "seq": seq})

    def events(self, conn: str, *runs: Run) -> Scene:
        """The core hands over records."""
        self.view.stream(STREAM, max(runs[-1].last, self.view.streams_[STREAM].head))
        return self.send(ev.RecordsReady(conn, runs, runs[-1].last))

    def upstream(self, **said: Any) -> Scene:
        """The upstream half tells something."""
        return self.send(ev.MessageFromUpstream(BOT, said))

    def pong(self, conn: str) -> Scene:
        """The agent answers its latest ping."""
        return self.send(ev.ConnPong(conn, self.pings[conn][-1]))

    def disk_done(self) -> Scene:
        """What waited for the disk is there."""
        self.disk = True
        tickets, self.tickets = self.tickets, []
        for ticket in tickets:
            self.send(ev.Committed(ticket))
        return self

    def drained(self) -> Scene:
        """All sockets took in what was sent."""
        drains, self.drains = self.drains, []
        for conn, token in drains:
            self.send(ev.ConnDrained(conn, token))
        return self

    # --- what came of it

    def frames(self, conn: str) -> list[dict[str, Any]]:
        """What a socket was sent, as its agent reads it."""
        found = [msgspec.json.decode(data) for data in self.sent.get(conn, [])]
        assert all(frame.keys() == {"op", "s", "t", "d"} for frame in found), "all four keys, always"
        return found

    def types(self, conn: str) -> list[str]:
        names = {1: "BEAT", 7: "RECONNECT", 9: "INVALID", 10: "HELLO", 11: "ACK"}
        return [f["t"] if f["op"] == 0 else names[f["op"]] for f in self.frames(conn)]

    def numbers(self, conn: str) -> list[tuple[str, int]]:
        """(content of the message, or type of the event; s)."""
        return [(f["d"].get("content", f["t"]), f["s"]) for f in self.frames(conn) if f["op"] == 0]

    def of(self, kind: type[act.Action]) -> list[Any]:
        """Actions of a kind so far."""
        return [action for action in self.did if type(action) is kind]

    def receipts(self) -> list[int]:
        return [action.offset for action in self.did if isinstance(action, act.Receipt | act.ClientCursor)]

    def forget(self) -> Scene:
        """What was done so far is of no interest."""
        self.sent.clear()
        self.did.clear()
        self.told.clear()
        self.pings.clear()
        self.droppable.clear()
        return self

    # --- the world

    def _settle(self) -> None:
        while self.inbox:
            event = self.inbox.pop(0)
            for action in self.half.handle(ev.Moment(self.mono, self.wall, 0.5), event):
                self._act(action)

    def _act(self, action: act.Action) -> None:
        match action:
            case act.SendConn(conn=conn, frames=frames, droppable=droppable):
                assert conn not in self.closed, "sent behind a close"
                read = [self._read(conn, frame) for frame in frames]
                self.sent.setdefault(conn, []).extend(read)
                if droppable:
                    self.droppable += read
            case act.PingConn(conn=conn, payload=data):
                self.pings.setdefault(conn, []).append(data)
                self.did.append(action)
            case act.CloseConn(conn=conn, code=code):
                self.closed[conn] = code
            case act.StartTimer(timer=name, seconds=seconds):
                self.timers[name] = self.mono + seconds
            case act.CancelTimer(timer=name):
                self.timers.pop(name, None)
            case act.Tell(message=said):
                self.told.append(said)
                if "snapshot" in said:
                    listed = {"guilds": [{"id": each, "unavailable": True} for each in [*(g["id"] for g in self.guilds), *self.away]]}
                    ready = None if self.ready is None else msgspec.json.encode(self.ready | listed)
                    guilds = [msgspec.json.encode(each) for each in self.guilds]
                    answer = {"snapshot": said["snapshot"], "ready": ready, "guilds": guilds, "offset": self.offset}
                    self.inbox.append(ev.MessageFromUpstream(BOT, answer))
            case act.Request(request=name, headers=headers):
                self._who(action, name, dict(headers)["Authorization"].removeprefix("Bot "))
            case act.Commit(ops=ops, ticket=ticket):
                self.did.append(action)
                for op in ops:
                    assert isinstance(op, act.PutState)
                    if op.value is None:
                        self.state.pop(op.key, None)
                    else:
                        self.state[op.key] = op.value
                if ticket and self.disk:
                    self.inbox.append(ev.Committed(ticket))
                elif ticket:
                    self.tickets.append(ticket)
            case act.AwaitDrain(conn=conn, token=token):
                self.drains.append((conn, token))
            case act.Count(name=name):
                self.counted[name] = self.counted.get(name, 0) + 1
            case act.Log(text=text):
                self.logged.append(text)
            case _:
                self.did.append(action)

    def _who(self, action: act.Request, name: str, token: str) -> None:
        answer: str | int | bytes | None
        if action.target == "/api/v10/gateway/bot":
            self.metadata_asked += 1
            answer = self.metadata.get(token, 0)
        else:
            assert action.target == "/api/v10/users/@me"
            self.did.append(action)
            answer = self.who.get(token, 401)
        self._answer(action, name, answer)

    def _answer(self, action: act.Request, name: str, answer: str | int | bytes | None) -> None:
        if answer is None:
            self.pending.append(action)
        elif isinstance(answer, int):
            self.inbox.append(ev.RequestFailed(name, "away") if not answer else ev.ResponseReceived(name, answer, [], b"{}"))
        elif isinstance(answer, bytes):
            self.inbox.append(ev.ResponseReceived(name, 200, [], answer))
        else:
            self.inbox.append(ev.ResponseReceived(name, 200, [], msgspec.json.encode({"id": answer})))

    def _read(self, conn: str, frame: bytes) -> bytes:
        if not isinstance(frame, ev.Binary):
            assert conn not in self.readers, "a text frame on a compressed socket"
            return frame
        assert frame.endswith(b"\x00\x00\xff\xff"), "a client finds the end of a message by these bytes"
        return bytes(self.readers.setdefault(conn, zlib.decompressobj()).decompress(frame))
