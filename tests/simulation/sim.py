"""A seeded, deterministic world: the real engine and both Relaycast halves under a fake clock, network, disk and crash.

One heap of events in virtual time is the only scheduler. The upstream is the reference model (sidecar.demo.world), local agents are
small models of the SDKs, the journal is the model store or the real one. Everything random comes from one `random.Random(seed)`.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.engine import Engine
from sidecar.core.layout import Batch
from sidecar.demo.sockets import Socket
from sidecar.demo.world import World
from sidecar.dialects.relaycast.downstream import DownstreamHalf
from sidecar.dialects.relaycast.settings import RelaycastSettings
from sidecar.dialects.relaycast.upstream import UpstreamHalf
from sidecar.downstream.native import NativeHalf
from sidecar.errors import JournalFull

START = 1_790_000_000.0


class Settings:
    """What the halves read of sidecar.config.Settings."""

    def __init__(self, window: int, token: str | None, linger_s: float = 300.0) -> None:
        self.window = window
        self.upstream_token = token
        self.linger_s = linger_s
        self.knobs = RelaycastSettings()
        self.upstream = "http://upstream"


class Clock:
    """Virtual time and the heap of what is to happen."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0

    def wall(self) -> float:
        return START + self.now

    def after(self, delay: float, call: Callable[[], None]) -> list[Any]:
        """Schedule a call; clearing the returned entry's last item cancels it."""
        self._serial += 1
        entry = [self.now + delay, self._serial, call]
        heapq.heappush(self._heap, entry)  # type: ignore[arg-type]
        return entry

    def step(self) -> bool:
        """Let the next thing happen; False if there is none."""
        while self._heap:
            at, _, call = heapq.heappop(self._heap)
            if call is None:
                continue
            self.now = max(self.now, at)
            call()
            return True
        return False


class SimPorts:
    """Ports of one incarnation of the sidecar process. `dead`: it was killed; nothing of it happens any more."""

    engine: Engine

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        self.dead = False
        self.timers: dict[tuple[str, str], list[Any]] = {}
        self.sockets: dict[tuple[str, str], Socket] = {}
        self.requests: dict[tuple[str, str], int] = {}
        self.conns: dict[str, Client] = {}
        self.counts: dict[str, int] = {}
        self.logs: list[tuple[str, str]] = []

    def _later(self, delay: float, call: Callable[[], None]) -> list[Any]:
        def guarded() -> None:
            if not self.dead:
                call()

        return self.sim.clock.after(delay, guarded)

    def _lag(self, low: float = 0.0005, high: float = 0.02) -> float:
        return self.sim.random.uniform(low, high)

    def now(self) -> ev.Moment:
        return ev.Moment(self.sim.clock.now + 1000.0, self.sim.clock.wall(), self.sim.random.random())

    def start_timer(self, key: tuple[str, str], seconds: float) -> None:
        self.cancel_timer(key)

        def fire() -> None:
            self.timers.pop(key, None)
            self.engine.timer(key)

        self.timers[key] = self._later(seconds, fire)

    def cancel_timer(self, key: tuple[str, str]) -> None:
        if entry := self.timers.pop(key, None):
            entry[2] = None

    # --- disk ------------------------------------------------------------------------------------------------------------------

    def write(self, batch: Batch) -> None:
        def apply() -> None:
            error: BaseException | None = None
            try:
                if self.sim.disk_full and (batch.admits or self.sim.disk_full == "hard"):
                    raise OSError("disk full")
                self.sim.store.apply(batch)
                self.sim.note(batch)
            except (OSError, JournalFull) as caught:
                error = caught
            # Between the commit and the process hearing of it there is room for a crash.
            self._later(self._lag(0.0, 0.005), lambda: self.engine.written(error))

        self._later(self._lag(0.0002, 0.01), apply)

    def read(self, session: str, sid: int, after: int, count: int, size: int) -> None:
        def done() -> None:
            self.engine.records(session, self.sim.store.read(sid, after, count, size))

        self._later(self._lag(), done)

    def prune(self) -> None:
        self._later(self._lag(), lambda: self.engine.pruned(self.sim.store.prune(self.sim.clock.wall())))

    # --- upstream ----------------------------------------------------------------------------------------------------------------

    def open_link(self, account: str, generation: int, action: act.OpenLink) -> None:
        key = (account, action.link)

        def dial() -> None:
            if self.sim.upstream_away:
                return answered(ev.LinkRefused(action.link, 0, b"", "connection refused"))
            socket = self.sim.world.connect(action.target)
            if not isinstance(socket, Socket):
                return answered(ev.LinkRefused(action.link, socket.status, socket.body))
            self.sockets[key] = socket
            wire: list[float] = [self.sim.clock.now]
            told = False

            def output(_: Socket) -> None:
                nonlocal told
                frames = [f.encode() for f in socket.outbox]
                socket.outbox.clear()
                # In order, whatever the lag: nothing overtakes on one connection.
                at = max(wire[0], self.sim.clock.now + self._lag())
                wire[0] = at
                if frames:
                    self._later(at - self.sim.clock.now, lambda: arrive(ev.FramesReceived(action.link, frames)))
                if socket.closed is not None and not told:
                    told = True
                    code, reason = socket.closed
                    self._later(at - self.sim.clock.now, lambda: arrive(ev.LinkClosed(action.link, code, reason)))

            def arrive(event: Any) -> None:
                if self.sockets.get(key) is socket:
                    if isinstance(event, ev.LinkClosed):
                        del self.sockets[key]
                    self.engine.link(account, generation, event)

            socket.on_output = output
            answered(ev.LinkOpened(action.link))
            output(socket)
            return None

        def answered(event: Any) -> None:
            self._later(self._lag(), lambda: self.engine.link(account, generation, event))

        self._later(self._lag(), dial)

    def send_link(self, account: str, link: str, frames: Sequence[bytes]) -> None:
        socket = self.sockets.get((account, link))
        if socket is not None:
            for frame in frames:
                self._later(self._lag(0.001, 0.001), lambda f=frame: socket.receive(bytes(f)))  # type: ignore[misc]

    def ping_link(self, account: str, link: str, payload: bytes) -> None:
        pass

    def close_link(self, account: str, link: str, code: int | None) -> None:
        socket = self.sockets.pop((account, link), None)
        if socket is not None:
            socket.on_output = None
            socket.close(code)

    def pause_links(self, paused: bool) -> None:
        pass

    def request(self, owner: str, action: act.Request) -> None:
        key = (owner, action.request)
        serial = self.requests[key] = self.requests.get(key, 0) + 1

        def ask() -> None:
            if self.sim.upstream_away:
                return self._answer(key, serial, ev.RequestFailed(action.request, "connection refused"))
            answer = self.sim.world.http(action.method, action.target, action.headers, action.body)
            event = ev.ResponseReceived(action.request, answer.status, list(answer.headers), answer.body)
            return self._answer(key, serial, event)

        self._later(self._lag(), ask)

    def _answer(self, key: tuple[str, str], serial: int, event: ev.Input) -> None:
        def done() -> None:
            if self.requests.get(key) == serial:
                self.engine.feed(key[0], event)

        self._later(self._lag(), done)

    def cancel_request(self, owner: str, request: str) -> None:
        if (owner, request) in self.requests:
            self.requests[owner, request] += 1

    # --- local -------------------------------------------------------------------------------------------------------------------

    def conn(self, action: act.Action) -> None:
        client = self.conns.get(getattr(action, "conn", ""))
        if client is not None:
            client.take(action)

    def release_exchange(self, ticket: str) -> None:
        pass

    def log(self, level: str, text: str, **fields: Any) -> None:
        self.logs.append((level, f"{text} {fields}"))

    def count(self, name: str, by: int = 1, **labels: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + by


class Client:
    """One socket of a local agent: frames and pings arrive in order with some lag; a pong goes back once everything before it was
    handled, or as `Agent.pongs` says. `frozen`: the process is stopped (SIGSTOP): nothing is read, nothing answered."""

    def __init__(self, agent: Agent, name: str) -> None:
        self.agent = agent
        self.sim = agent.sim
        self.ports = agent.sim.ports
        self.name = name
        self.inbox: list[tuple[str, Any]] = []
        self.open = False
        self.over = False
        self.reading = False

    def take(self, action: act.Action) -> None:
        if self.over:
            return
        match action:
            case act.Accept():
                self._put(("open", None))
            case act.SendConn(frames=frames):
                for frame in frames:
                    self._put(("frame", bytes(frame)))
            case act.PingConn(payload=payload):
                if self.agent.pongs == "early":
                    self.send(ev.ConnPong(self.name, payload))
                else:
                    self._put(("ping", payload))
            case act.AwaitDrain(token=token):
                self.send(ev.ConnDrained(self.name, token))
            case act.CloseConn(code=code):
                self._put(("close", code))
            case act.Refuse(status=status):
                self._put(("refused", status))
            case _:
                raise AssertionError(f"unexpected {action}")

    def _put(self, item: tuple[str, Any]) -> None:
        self.inbox.append(item)
        if not self.reading:
            self.reading = True
            self.sim.clock.after(self.sim.random.uniform(0.0005, 0.01), self._read)

    def _read(self) -> None:
        if self.agent.frozen and not self.over:
            self.sim.clock.after(0.05, self._read)
            return
        self.reading = False
        while self.inbox and not self.over:
            kind, what = self.inbox.pop(0)
            if kind == "open":
                self.open = True
                self.agent.opened(self)
            elif kind == "frame":
                self.agent.handle(what)
            elif kind == "ping":
                if self.agent.pongs in ("right", "wrong"):
                    self.send(ev.ConnPong(self.name, what if self.agent.pongs == "right" else b"nonsense"))
            else:
                self.drop(told=kind == "refused")
                self.agent.again()
            if self.inbox and self.sim.random.random() < 0.02:
                # The handler takes a while: whoever kills it now finds some frames handled and some not.
                self.reading = True
                self.sim.clock.after(self.sim.random.uniform(0.001, 0.05), self._read)
                return

    def send(self, event: ev.Input) -> None:
        ports = self.ports
        if not ports.dead and not self.over:
            ports._later(0.002, lambda: None if self.over else ports.engine.feed(self.agent.door, event))

    def drop(self, told: bool = False) -> None:
        """The connection ends from the client's side or under it."""
        if self.over:
            return
        self.over = True
        ports = self.ports
        ports.conns.pop(self.name, None)
        if not ports.dead and not told:
            ports._later(0.001, lambda: ports.engine.feed(self.agent.door, ev.ConnClosed(self.name, None)))


class Agent:
    """An agent program. `resyncs`: it is of the kind that sends resync after a reconnect (SDK 3.1 to 4.x). `pongs`: `right`: once what
    came before is handled; `early`: from the library's parser, ahead of the handler; `wrong`: another payload; `none`: never."""

    door = "down:dialect"

    def __init__(self, sim: Sim, who: Any, resyncs: bool, pongs: str = "right") -> None:
        self.sim = sim
        self.who = who
        self.resyncs = resyncs
        self.pongs = pongs
        self.crashes = 0
        self.handled: list[str] = []
        self.seqs: list[int] = []
        self.last_seq: int | None = None
        self.client: Client | None = None
        self.frozen = False
        self.down = False
        self.acks: list[dict[str, Any]] = []

    def connect(self) -> None:
        if self.client is not None or self.down:
            return
        if self.sim.ports.dead or self.frozen:
            self.again()
            return
        name = self.sim.name()
        self.client = client = Client(self, name)
        self.sim.ports.conns[name] = client
        head = self.head()
        self.sim.ports._later(0.001, lambda: self.sim.ports.engine.feed(self.door, ev.ConnOpened(name, head)))

    def head(self) -> ev.Head:
        """Its upgrade request."""
        origin = "&origin_client=@relaycast/sdk&origin_version=4.2.0" if self.resyncs else ""
        stack = "Python/3.11 websockets/14.2" if self.pongs == "early" else "node"
        return ev.Head("GET", f"/v1/ws?token={self.who.token}{origin}", [("User-Agent", stack)])

    def opened(self, client: Client) -> None:
        if self.resyncs and self.last_seq is not None:
            frame = json.dumps({"type": "resync", "last_seen_seq": self.last_seq}).encode()
            client.send(ev.ConnFrames(client.name, [frame]))

    def handle(self, data: bytes) -> None:
        frame = json.loads(data)
        if frame["type"] in ("pong", "resync_ack"):
            self.acks.append(frame)
            return
        self.handled.append(identity(frame))
        self.seqs.append(frame["agent_seq"])
        self.last_seq = frame["agent_seq"]

    def again(self) -> None:
        """Dial again after a while."""
        self.client = None
        if not self.down:
            self.sim.clock.after(self.sim.random.uniform(0.05, 1.5), self.connect)

    def cut(self) -> None:
        """Its socket breaks."""
        if self.client is not None:
            self.client.drop()
            self.again()

    def crash(self, back_after: float) -> None:
        """kill -9 and a new process: what was in its buffers is gone, and so is its memory of a seq."""
        if self.client is not None:
            self.client.drop()
        self.client = None
        self.last_seq = None
        self.crashes += 1
        self.frozen = False
        self.down = True

        def back() -> None:
            self.down = False
            self.connect()

        self.sim.clock.after(back_after, back)


class Sim:
    """The whole: one upstream, one sidecar, its agents."""

    def __init__(self, seed: int, store: Any, *, window: int = 16, held: bool = True, agents: int = 1) -> None:
        self.clock = Clock(seed)
        self.random = self.clock.random
        self.world = World(self.clock.wall)
        self.workspace = self.world.add_workspace()
        self.author = self.world.add_agent(self.workspace, "author")
        self.store = store
        self.disk_full = ""
        self.upstream_away = False
        self._names = 0
        self.window = window
        people = [self.world.add_agent(self.workspace, f"bot{i}") for i in range(agents)]
        self.channel = self.world.add_channel(self.workspace, "general", [self.author, *people])
        self.held = people[0].token if held else None
        self.settings = Settings(window, self.held)
        self.agents = [Agent(self, who, resyncs=bool(i % 2)) for i, who in enumerate(people)]
        self.restarts = 0
        self.kills = 0
        self.totals: dict[str, int] = {}
        self.log: dict[int, list[Any]] = {}
        self.ports = SimPorts(self)
        self.boot()

    def name(self) -> str:
        self._names += 1
        return f"c{self._names}"

    # --- the sidecar -----------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        self.ports = SimPorts(self)
        settings = self.settings
        self.ports.engine = self.engine = Engine(
            self.store,
            self.ports,  # type: ignore[arg-type]
            upstream=lambda account, view: UpstreamHalf(account, settings, view),
            downstream={"dialect": lambda view: DownstreamHalf(settings, view), "native": NativeHalf},
            window=self.window,
            capacity=100_000,
            keyed_hash=lambda secret: hashlib.blake2b(secret.encode(), digest_size=8).hexdigest(),
            strict=True,
        )
        self.engine.start(self.held)

    def kill(self, back_after: float) -> None:
        """kill -9 of the sidecar; it starts again later. Agents see their sockets end."""
        self.kills += 1
        self._end()
        self.clock.after(back_after, self.boot)

    def _end(self) -> None:
        old = self.ports
        old.dead = True
        for key, value in old.counts.items():
            self.totals[key] = self.totals.get(key, 0) + value
        for socket in list(old.sockets.values()):
            socket.on_output = None
            socket.close(None)
        for client in list(old.conns.values()):
            client.over = True
            if client.agent.client is client:
                client.agent.again()

    def stop(self, back_after: float, drain_s: float = 5.0) -> None:
        """SIGTERM: drain, goodbye, start again later."""
        self.restarts += 1
        ports = self.ports
        ports.engine.drain()
        deadline = self.clock.now + drain_s

        def poll() -> None:
            if ports.dead:
                return
            if not ports.engine.drained() and self.clock.now < deadline:
                self.clock.after(0.02, poll)
                return
            ports.engine.close()
            self.clock.after(0.2, finish)

        def finish() -> None:
            if not ports.dead:
                self._end()
                self.clock.after(back_after, self.boot)

        poll()

    # --- running -------------------------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        end = self.clock.now + seconds
        done = False

        def stop() -> None:
            nonlocal done
            done = True

        self.clock.after(seconds, stop)
        while not done and self.clock.step():
            pass
        assert self.clock.now <= end + 1e-6

    def records(self, name: str) -> list[Any]:
        """All records that were ever journaled for an agent's stream, also those that retention dropped since."""
        book = self.engine.admission.books.get(name)
        return self.log.get(book.sid, []) if book else []

    def note(self, batch: Batch) -> None:
        """A batch is on disk."""
        for sid, run in batch.runs:
            self.log.setdefault(sid, []).extend(run.records())


def identity(frame: dict[str, Any]) -> str:
    """What makes an event this one and no other in the simulation (the workload sees to it that this is unique)."""
    kind = frame["type"]
    if kind in ("message.created", "thread.reply", "dm.received", "group_dm.received"):
        return "m" + frame["message"]["id"]
    if kind == "message.reacted":
        return f"r{frame['message_id']}{frame['emoji']}{frame['action']}"
    if kind == "message.updated":
        return "u" + frame["message"]["text"]
    return f"{kind}{json.dumps(frame.get('timestamp') or frame.get('agent_name'))}"
