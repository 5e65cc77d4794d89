"""The upstream half against the reference model, in memory: fake clock, list-based journal, faults at will.

What the real engine promises is modelled in a few lines: commits are atomic and keyed, a crash throws the half away and a new one
starts from the committed state, requests go one at a time, a link is a socket of the `World`.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.record import LATE, REPLAYED, Gap
from sidecar.demo.rows import Agent, Pushed
from sidecar.demo.sockets import Socket
from sidecar.demo.world import World
from sidecar.dialects.relaycast.settings import RelaycastSettings
from sidecar.dialects.relaycast.upstream import UpstreamHalf

STREAM = "s"
START = 1_760_000_000.0


class Entry(msgspec.Struct):
    """One journal record: an event's payload, or a gap."""

    payload: bytes = b""
    flags: int = 0
    gap: Gap | None = None


def identity(payload: bytes | str) -> tuple[Any, ...]:
    """What makes two copies of an event the same, whatever the path."""
    frame = msgspec.json.decode(payload)
    kind = frame.get("type")
    if kind in ("message.created", "thread.reply", "dm.received", "group_dm.received"):
        return (kind, frame["message"]["id"])
    if kind == "message.reacted":
        return (kind, frame["message_id"], frame["emoji"], frame["agent_name"], frame["action"])
    plain = {k: v for k, v in frame.items() if k not in ("agent_seq", "channel_seq", "replayed", "workspaceId", "agentId")}
    return (kind, msgspec.json.encode(plain, order="sorted"))


class Harness:
    """One sidecar account and one world. `step` hands over one pending thing; `run` lets time pass."""

    def __init__(self, world: World, agent: Agent, *, seed: int = 0, batch: int = 1000, **knobs: Any) -> None:
        self.world = world
        self.agent = agent
        self.random = random.Random(seed)
        self.batch = batch
        self.now = START
        self.settings = SimpleNamespace(knobs=RelaycastSettings(**knobs), upstream_token=None, linger_s=300.0)
        self.journal: list[Entry] = []
        self.keys: set[int | bytes] = set()
        self.state: dict[str, bytes] = {}
        self.said: list[str] = []
        self.told: list[Any] = []
        self.requests: list[str] = []
        self.fatal: list[act.Fatal] = []
        self.commits = 0
        self.sessions = 0
        self.rest_delay = 0.0
        self.facts: dict[str, Any] = {}
        self._fresh()

    # the world's clock is ours
    def clock(self) -> float:
        return self.now

    def _fresh(self) -> None:
        self.inbox: deque[Callable[[], ev.Input | None]] = deque()
        self.timers: dict[str, float] = {}
        self.queue: deque[tuple[float, act.Request]] = deque()
        self.socket: Socket | None = None
        self.half = UpstreamHalf(STREAM, self.settings, self)  # type: ignore[arg-type]

    # --- View

    def seen(self, stream: str, domain: str, key: int | bytes) -> bool:
        return key in self.keys

    # --- inputs

    def start(self, token: str | None = None) -> Harness:
        """The half begins, with the agent's token from the environment unless another way is wanted."""
        self.settings.upstream_token = self.agent.token if token is None else token
        self.half = UpstreamHalf(STREAM, self.settings, self)  # type: ignore[arg-type]
        self.handle(ev.Started(dict(self.state), self.settings.upstream_token or None))
        return self

    def crash(self) -> None:
        """kill -9 and a new start from the committed state."""
        if self.socket is not None:
            self.socket.on_output = None
            self.socket.close(None)
        self._fresh()
        self.start(self.settings.upstream_token)

    def handle(self, event: ev.Input) -> None:
        for action in self.half.handle(ev.Moment(self.now, self.now, self.random.random()), event):
            self._act(action)

    def _act(self, action: act.Action) -> None:
        match action:
            case act.Commit(ops=ops):
                self._commit(ops)
            case act.OpenLink(target=target):
                self._abort()
                self.inbox.append(lambda: self._dial(target))
            case act.SendFrames(frames=sent):
                if self.socket is not None:
                    for frame in sent:
                        self.socket.receive(frame)
            case act.CloseLink(code=code):
                self._abort(code)
            case act.Request():
                assert not self.queue, "one request at a time"
                self.queue.append((self.now + self.rest_delay, action))
            case act.CancelRequest(request=name):
                self.queue = deque(item for item in self.queue if item[1].request != name)
            case act.StartTimer(timer=name, seconds=seconds):
                self.timers[name] = self.now + seconds
            case act.CancelTimer(timer=name):
                self.timers.pop(name, None)
            case act.Log(text=text):
                self.said.append(f"{self.now - START:8.2f} {text}")
            case act.Tell(message=message):
                self.told.append(message)
            case act.Fatal():
                self.fatal.append(action)
            case act.Status(facts=facts):
                self.facts |= facts
            case _:
                pass

    def _abort(self, code: int | None = None) -> None:
        if self.socket is not None:
            self.socket.on_output = None
            self.socket.close(code)
            self.socket = None

    def _dial(self, target: str) -> ev.Input:
        found = self.world.connect(target)
        if not isinstance(found, Socket):
            return ev.LinkRefused("ws", found.status, found.body)
        self.socket = found
        return ev.LinkOpened("ws")

    def _commit(self, ops: Sequence[act.Op]) -> None:
        self.commits += 1
        for op in ops:
            match op:
                case act.Admit(payload=payload, key=key, flags=flags):
                    self._admit(payload, key, flags)
                case act.AdmitRun(payloads=payloads, keys=keys, flags=flags):
                    for payload, key in zip(payloads, keys, strict=True):
                        self._admit(payload, key, flags)
                case act.RecordGap(gap=gap):
                    self.journal.append(Entry(gap=gap))
                case act.PutState(key=key, value=value):
                    self.state[key] = value or b""

    def _admit(self, payload: bytes, key: int | bytes, flags: int) -> None:
        if key and key in self.keys:
            return
        if key:
            self.keys.add(key)
        self.journal.append(Entry(payload, flags))

    # --- time

    def step(self) -> bool:
        """Hand over the next pending thing at this moment, False if there is none."""
        if self.inbox:
            event = self.inbox.popleft()()
            if event is not None:
                self.handle(event)
            return True
        if self.socket is not None and self.socket.outbox:
            count = min(len(self.socket.outbox), self.random.randint(1, self.batch))
            texts = [self.socket.outbox.popleft().encode() for _ in range(count)]
            self.handle(ev.FramesReceived("ws", texts))
            return True
        if self.socket is not None and self.socket.closed is not None:
            code, reason = self.socket.closed
            self.socket = None
            self.handle(ev.LinkClosed("ws", code, reason))
            return True
        if self.queue and self.queue[0][0] <= self.now:
            _, request = self.queue.popleft()
            self.requests.append(request.target)
            answer = self.world.http(request.method, request.target, list(request.headers), request.body)
            self.handle(ev.ResponseReceived(request.request, answer.status, answer.headers, answer.body))
            return True
        due = sorted((at, name) for name, at in self.timers.items() if at <= self.now)
        if due:
            del self.timers[due[0][1]]
            self.handle(ev.TimerFired(due[0][1]))
            return True
        return False

    def settle(self, limit: int = 100_000) -> Harness:
        """Hand over all that is pending now."""
        for _ in range(limit):
            if not self.step():
                return self
        raise AssertionError("the half never comes to rest:\n" + "\n".join(self.said[-20:]))

    def run(self, seconds: float) -> Harness:
        """Let time pass, stopping at each timer."""
        end = self.now + seconds
        while True:
            self.settle()
            due = [at for at in self.timers.values() if at > self.now] + [at for at, _ in self.queue if at > self.now]
            at = min(due, default=end + 1)
            if at > end:
                break
            self.now = at
        self.now = end
        return self.settle()

    # --- what came of it

    @property
    def events(self) -> list[Entry]:
        return [entry for entry in self.journal if entry.gap is None]

    @property
    def gaps(self) -> list[Gap]:
        return [entry.gap for entry in self.journal if entry.gap is not None]

    def admitted(self) -> list[tuple[Any, ...]]:
        return [identity(entry.payload) for entry in self.events]

    def published(self, start: int = 0) -> list[tuple[Any, ...]]:
        """What the server pushed to the agent, from the start-th event on."""
        return [identity(pushed.frame) for pushed in self.agent.history[start:]]

    def check_whole(self, start: int = 0, *, ordered: bool = True) -> None:
        """Everything published was admitted, once, in order, without a gap."""
        wanted, found = self.published(start), self.admitted()
        assert not self.gaps, f"false gaps {self.gaps}\n" + self.story()
        missing, extra = Counter(wanted) - Counter(found), Counter(found) - Counter(wanted)
        assert not missing, f"lost {len(missing)}: {list(missing)[:5]}\n" + self.story()
        assert not extra, f"twice or strange {len(extra)}: {list(extra)[:5]}\n" + self.story()
        if ordered:
            assert found == wanted, "out of order\n" + self.story()

    def story(self) -> str:
        return "\n".join(self.said[-60:])


__all__ = ["LATE", "REPLAYED", "START", "STREAM", "Entry", "Harness", "Pushed", "identity", "town"]


class Town(msgspec.Struct):
    """A small world: Ann posts, Bob is the agent under the sidecar."""

    world: World
    ann: Agent
    bob: Agent
    sidecar: Harness
    roots: list[Any] = []


def town(seed: int = 0, **options: Any) -> Town:
    """A world with a channel `general` of Ann and Bob, and a sidecar for Bob that is not started."""
    holder: list[Harness] = []
    world = World(lambda: holder[0].now if holder else START)
    team = world.add_workspace()
    ann, bob = world.add_agent(team, "Ann"), world.add_agent(team, "Bob")
    world.add_channel(team, "general", [ann, bob])
    sidecar = Harness(world, bob, seed=seed, **options)
    holder.append(sidecar)
    return Town(world, ann, bob, sidecar)
