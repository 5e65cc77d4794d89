"""A bench for the upstream half: a fake clock, an in-memory journal, and a gateway that says only what the test says.

    bench = Bench().start()
    bench.open()                                  # /gateway/bot answered, the socket accepted
    bench.hello().ready(guilds=[guild("1")])      # IDENTIFY is checked by whoever wants to
    bench.message(101, "11")
    bench.close(1006).run(1)                      # time passes, timers fire

What the engine promises is modelled in a few lines: commits are atomic, keyed and told in order; `crash` starts a new half from them.
REST answers come from `rest`, a function of the target; one that returns None lets the request hang.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.record import Gap
from sidecar.dialects.base import StreamFacts
from sidecar.dialects.discord.settings import DiscordSettings
from sidecar.dialects.discord.upstream import UpstreamHalf

BOT, TOKEN, SHARD = "42", "tok", "0/1"
STREAM = f"discord:{BOT}:{SHARD}"
RESUME_URL = "wss://resume.example"
GATEWAY_URL = "wss://gw.example"
BOT_METADATA = {
    "url": GATEWAY_URL,
    "shards": 1,
    "session_start_limit": {"total": 1000, "remaining": 999, "reset_after": 1000, "max_concurrency": 1},
}
WALL = 1_750_000_000.0

dumps, loads = msgspec.json.encode, msgspec.json.decode
Answer = tuple[int, Any, dict[str, str]]


def at(seconds: float, low: int = 0) -> int:
    """A snowflake made so many seconds after the bench's start."""
    return (int((WALL + seconds) * 1000) - 1_420_070_400_000) << 22 | low


def channel(number: str | int, last: int | None = None, **more: Any) -> dict[str, Any]:
    return {"id": str(number), "type": 0, "last_message_id": None if last is None else str(last), **more}


def guild(number: str | int, *channels: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": str(number), "name": f"g{number}", "unavailable": False, "channels": list(channels), "threads": [], "roles": [], **more}


def row(number: int, channel: str, author: str = "7") -> dict[str, Any]:
    """A message as REST has it."""
    return {"id": str(number), "channel_id": channel, "content": f"m{number}", "author": {"id": author, "username": "u"}}


class Entry(msgspec.Struct):
    """One journal record."""

    domain: str
    payload: bytes = b""
    flags: int = 0
    gap: Gap | None = None
    stream: str = STREAM

    @property
    def frame(self) -> dict[str, Any]:
        found: dict[str, Any] = loads(self.payload)
        return found

    @property
    def name(self) -> str:
        """`MESSAGE_CREATE 101`, for assertions that can be read."""
        frame = self.frame
        return f"{frame['t']} {frame['d'].get('id') or frame['d'].get('message_id') or ''}".strip()


class Link:
    """One dial."""

    def __init__(self, action: act.OpenLink) -> None:
        self.action = action
        self.sent: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.is_open = False
        self.ended: int | str | None = ""
        self.s = 0


class Bench:
    def __init__(self, *, upstream: str = "https://discord.com", operators: bool = True, linger_s: float = 86400.0, **knobs: Any) -> None:
        knobs = {"compress": "none", **knobs}
        self.settings = SimpleNamespace(
            knobs=DiscordSettings(**knobs),
            upstream=upstream,
            upstream_token=TOKEN if operators else None,
            linger_s=linger_s,
            retention_s=7 * 86400.0,
        )
        self.mono, self.wall = 1000.0, WALL
        self.draw = 0.5
        self.random: random.Random | None = None
        self.journal: list[Entry] = []
        self.keys: set[tuple[str, str, bytes | int]] = set()
        self.state: dict[str, bytes] = {}
        self.links: list[Link] = []
        self.asked: list[str] = []
        self.told: list[Any] = []
        self.said: list[str] = []
        self.fatal: list[act.Fatal] = []
        self.counted: dict[str, int] = {}
        self.facts_: dict[str, Any] = {}
        self.disk_works = True
        self.rest: Callable[[str], Answer | None] = lambda target: (200, BOT_METADATA, {}) if "gateway" in target else (404, {}, {})
        self._fresh()

    def _fresh(self) -> None:
        self.timers: dict[str, float] = {}
        self.inbox: deque[ev.Input] = deque()
        self.requests: dict[str, act.Request] = {}
        self.waiting: deque[ev.Input] = deque()
        self.current: dict[str, Link] = {}
        self.half = UpstreamHalf(BOT, self.settings, self)  # type: ignore[arg-type]

    # --- the view

    def seen(self, stream: str, domain: str, key: bytes | int) -> bool:
        return (stream, domain, key) in self.keys

    def facts(self, stream: str) -> StreamFacts | None:
        count = sum(1 for entry in self.journal if entry.stream == stream)
        return StreamFacts(count, count, 1, 0, "e") if count else None

    # --- inputs

    def start(self, token: str = TOKEN) -> Bench:
        self.feed(ev.Started(dict(self.state)))
        self.feed(ev.CredentialSeen(token))
        return self

    def crash(self, token: str = TOKEN) -> Bench:
        """kill -9 and a new start from what is on disk."""
        for link in self.current.values():
            link.ended = None
        self._fresh()
        self.disk_works = True
        return self.start(token)

    def feed(self, event: ev.Input) -> Bench:
        self.inbox.append(event)
        return self._settle()

    def _settle(self) -> Bench:
        while self.inbox:
            self._handle(self.inbox.popleft())
        return self

    def let(self) -> Bench:
        """The requests that hang are answered now."""
        for name in list(self.requests):
            self.answer(name)
        return self._settle()

    def tell(self, **message: Any) -> Bench:
        return self.feed(ev.MessageFromDownstream(message))

    def _handle(self, event: ev.Input) -> None:
        draw = self.random.random() if self.random else self.draw
        for action in self.half.handle(ev.Moment(self.mono, self.wall, draw), event):
            self._act(action)

    def _act(self, action: act.Action) -> None:
        match action:
            case act.Commit(ops=ops, ticket=ticket):
                # What a half commits it may count on in this life; the disk has it at once or, if it does not work, never.
                offsets = self._commit(ops) if self.disk_works else []
                if ticket:
                    (self.inbox if self.disk_works else self.waiting).append(ev.Committed(ticket, offsets))
            case act.OpenLink(link=name):
                assert name not in self.current, "two sockets of one shard"
                link = self.current[name] = Link(action)
                self.links.append(link)
            case act.CloseLink(link=name, code=code):
                if found := self.current.pop(name, None):
                    found.ended = code
            case act.SendFrames(link=name, frames=sent):
                assert self.current[name].is_open, "sent on a socket that is not open"
                self.current[name].sent += [loads(frame) for frame in sent]
                self.current[name].times += [self.mono] * len(sent)
            case act.Request(request=name, target=target):
                assert name not in self.requests, "asked twice at once"
                self.requests[name] = action
                self.asked.append(target)
                self.answer(name)
            case act.CancelRequest(request=name):
                self.requests.pop(name, None)
            case act.StartTimer(timer=name, seconds=seconds):
                self.timers[name] = self.mono + seconds
            case act.CancelTimer(timer=name):
                self.timers.pop(name, None)
            case act.Tell(message=message):
                self.told.append(message)
            case act.Log(text=text):
                self.said.append(text)
            case act.Fatal():
                self.fatal.append(action)
            case act.Count(name=name, by=by):
                self.counted[name] = self.counted.get(name, 0) + by
            case act.Status(facts=facts):
                self.facts_ |= facts
            case _:
                raise AssertionError(f"nobody expected {action}")

    def answer(self, name: str) -> None:
        """Answer a request that hangs, if `rest` has an answer now."""
        found = self.rest(self.requests[name].target)
        if found is not None:
            del self.requests[name]
            status, body, headers = found
            raw = body if isinstance(body, bytes) else dumps(body)
            if status == 0:
                self.inbox.append(ev.RequestFailed(name, "no route"))
            else:
                self.inbox.append(ev.ResponseReceived(name, status, list(headers.items()), raw))

    def _commit(self, ops: Sequence[act.Op]) -> list[int]:
        offsets = []
        for op in ops:
            match op:
                case act.Admit(payload=payload, key=key):
                    offsets.append(self._admit(op, op.domain, payload, key))
                case act.AdmitRun(payloads=payloads, keys=keys):
                    domains = op.domains or [op.domain] * len(keys)
                    offsets += [self._admit(op, d, p, k) for d, p, k in zip(domains, payloads, keys, strict=True)]
                case act.RecordGap():
                    self.journal.append(Entry(op.domain, gap=op.gap, stream=op.stream))
                case act.PutState(key=key, value=value):
                    if value is None:
                        self.state.pop(key, None)
                    else:
                        self.state[key] = value
        return offsets

    def _admit(self, op: Any, domain: str, payload: bytes, key: bytes | int) -> int:
        place = (op.stream, domain, key)
        if key and place in self.keys:
            return 0
        if key:
            self.keys.add(place)
        self.journal.append(Entry(domain, payload, op.flags, stream=op.stream))
        return sum(1 for entry in self.journal if entry.stream == op.stream)

    # --- time

    def run(self, seconds: float) -> Bench:
        """Let time pass; timers fire at their moment."""
        end = self.mono + seconds
        for _ in range(100_000):
            due = min(((when, name) for name, when in self.timers.items() if when <= end + 1e-9), default=None)
            if due is None:
                break
            self._pass(max(0.0, due[0] - self.mono))
            del self.timers[due[1]]
            self.feed(ev.TimerFired(due[1]))
        else:
            raise AssertionError("timers without end")
        self._pass(max(0.0, end - self.mono))
        return self

    def _pass(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += seconds

    # --- the gateway

    @property
    def link(self) -> Link:
        """The present socket of the first shard."""
        return self.current[SHARD]

    def open(self, name: str = SHARD) -> Bench:
        self.current[name].is_open = True
        return self.feed(ev.LinkOpened(name))

    def refuse(self, status: int = 503, **more: Any) -> Bench:
        del self.current[SHARD]
        return self.feed(ev.LinkRefused(SHARD, status, **more))

    def say(self, *payloads: dict[str, Any] | bytes, name: str = SHARD) -> Bench:
        return self.feed(ev.FramesReceived(name, [p if isinstance(p, bytes) else dumps(p) for p in payloads]))

    def op(self, op: int, d: Any = None, name: str = SHARD) -> Bench:
        return self.say({"t": None, "s": None, "op": op, "d": d}, name=name)

    def hello(self, interval_ms: int = 41250, name: str = SHARD) -> Bench:
        return self.op(10, {"heartbeat_interval": interval_ms}, name)

    def event(self, kind: str, d: dict[str, Any], s: int | None = None, name: str = SHARD) -> Bench:
        return self.say(self.dispatch(kind, d, s, name), name=name)

    def dispatch(self, kind: str, d: dict[str, Any], s: int | None = None, name: str = SHARD) -> dict[str, Any]:
        link = self.current[name]
        link.s = link.s + 1 if s is None else s
        return {"t": kind, "s": link.s, "op": 0, "d": d}

    def ready(self, *guilds: dict[str, Any], session: str = "up1", name: str = SHARD, **more: Any) -> Bench:
        """READY and the GUILD_CREATEs behind it."""
        listed = [{"id": each["id"], "unavailable": True} for each in guilds]
        d = {"v": 10, "user": {"id": BOT, "username": "bot"}, "application": {"id": BOT, "flags": 0}, "session_id": session}
        self.event("READY", {**d, "resume_gateway_url": RESUME_URL, "guilds": listed, **more}, name=name)
        for each in guilds:
            self.event("GUILD_CREATE", each, name=name)
        return self

    def resumed(self, s: int | None = None) -> Bench:
        return self.event("RESUMED", {}, s)

    def message(self, number: int, channel: str, s: int | None = None, guild: str | None = "1") -> Bench:
        d = row(number, channel)
        return self.event("MESSAGE_CREATE", {**d, "guild_id": guild} if guild else d, s)

    def close(self, code: int | None = None, name: str = SHARD) -> Bench:
        self.current.pop(name).ended = code
        return self.feed(ev.LinkClosed(name, code))

    def live(self, *guilds: dict[str, Any]) -> Bench:
        """A first session up to its guilds."""
        return self.open().hello().ready(*guilds)

    def again(self, s: int) -> Bench:
        """The next socket up to HELLO; its numbers go on behind `s`."""
        self.open().hello()
        self.link.s = s
        return self

    # --- what came of it

    def sent(self, op: int, link: Link | None = None) -> list[Any]:
        """`d` of all frames of one op, on one socket or on all."""
        return [f["d"] for each in ([link] if link else self.links) for f in each.sent if f["op"] == op]

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.journal if entry.gap is None]

    @property
    def messages(self) -> list[int]:
        """Ids of the messages in the journal, in its order."""
        return [int(name.split()[1]) for name in self.names if name.startswith("MESSAGE_CREATE ")]

    @property
    def gaps(self) -> list[Entry]:
        return [entry for entry in self.journal if entry.gap is not None]

    def committed(self) -> dict[str, Any]:
        """The session row on disk."""
        found: dict[str, Any] = loads(self.state[f"shard:{SHARD}"])
        return found

    def link_gone(self) -> bool:
        """Was the last socket left with 4000?"""
        return not self.current and self.links[-1].ended == 4000

    def phase(self, name: str = SHARD) -> str:
        return self.half.shards[name].connection.phase


class History:
    """Channels' messages as REST gives them. `newest`: `after` is answered with the newest instead of the next; `deaf`: `before` is not
    heeded."""

    def __init__(self, newest: bool = False, deaf: bool = False) -> None:
        self.newest = newest
        self.deaf = deaf
        self.channels: dict[str, list[dict[str, Any]]] = {}
        self.guilds: dict[str, list[dict[str, Any]]] = {}
        self.threads: dict[str, list[dict[str, Any]]] = {}
        self.special: dict[str, list[Answer | None]] = {}

    def put(self, channel: str, *numbers: int) -> History:
        self.channels.setdefault(channel, []).extend(row(n, channel) for n in numbers)
        return self

    def __call__(self, target: str) -> Answer | None:
        path, _, query = target.partition("?")
        for part, answers in self.special.items():
            if part in target and answers:
                return answers.pop(0)
        parts = path.split("/")
        if path.endswith("/gateway/bot"):
            return 200, BOT_METADATA, {}
        if parts[3] == "guilds":
            return (
                (200, self.guilds.get(parts[4], []), {})
                if parts[-1] == "channels"
                else (200, {"threads": self.threads.get(parts[4], [])}, {})
            )
        found = {key: int(value) for key, value in (pair.split("=") for pair in query.split("&"))}
        low, high = found.get("after", 0), found.get("before", 1 << 63) if not self.deaf else 1 << 63
        rows = sorted((r for r in self.channels.get(parts[4], []) if low < int(r["id"]) < high), key=lambda r: int(r["id"]))
        rows = rows[-found["limit"] :] if self.newest or "before" in found else rows[: found["limit"]]
        return 200, list(reversed(rows)), {}
