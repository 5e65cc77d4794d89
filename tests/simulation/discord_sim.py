"""The real engine and both Discord halves in virtual time, between the reference world (tests.discord.upstream) and models of agents.

As in `sim`, one heap of events is the only scheduler and everything random comes from one seed. What is Discord's own stands here: how
dials, frames, cuts and REST calls travel to and from `World`. `watch` looks on while it runs (discord_watch).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.engine import Engine
from sidecar.core.layout import Batch
from sidecar.dialects.discord.downstream import DownstreamHalf
from sidecar.dialects.discord.settings import DiscordSettings
from sidecar.dialects.discord.upstream import UpstreamHalf
from tests.discord.upstream.gateway import Socket
from tests.discord.upstream.rest import Answer, Rest
from tests.discord.upstream.world import HANG, World
from tests.discord.upstream.world import Settings as WorldSettings
from tests.simulation.discord_agents import Agent
from tests.simulation.discord_client import Client
from tests.simulation.discord_watch import Watch
from tests.simulation.sim import Clock, Sim, SimPorts

ENDINGS = {"empty_close": 1005, "cut": None, "torn": None}


class Settings:
    """What the halves read of sidecar.config.Settings."""

    def __init__(self, window: int, token: str | None, knobs: DiscordSettings) -> None:
        self.window = window
        self.upstream_token = token
        self.linger_s = 86400.0
        self.retention_s = 7 * 86400.0
        self.knobs = knobs
        self.upstream = "http://upstream.test"


class Wire:
    """One upstream socket between the world and the sidecar: frames arrive in order, several at once if they come close together; a cut
    may take with it what is on its way."""

    def __init__(self, ports: DiscordPorts, key: tuple[str, str], generation: int, socket: Socket) -> None:
        self.ports = ports
        self.key = key
        self.generation = generation
        self.socket = socket
        self._at = ports.sim.clock.now
        self._pending: list[bytes] = []
        self._due = False
        self._told = False
        self._torn = False
        socket.on_output = self.output

    def output(self) -> None:
        """The world put something out, or ended the socket."""
        socket = self.socket
        for frame in socket.outbox:
            self._pending.append(frame.encode() if isinstance(frame, str) else ev.Binary(frame))
        socket.outbox.clear()
        if self._pending and not self._due:
            self._due = True
            self._later(self.flush)
        if socket.ending is not None and not self._told:
            self._told = True
            code = ENDINGS.get(socket.ending.kind, socket.ending.code)
            if code is None and self.ports.sim.random.random() < 0.5:
                self._torn = True
            self._later(lambda: self.over(code))

    def _later(self, call: Callable[[], None]) -> None:
        now = self.ports.sim.clock.now
        self._at = max(self._at, now + self.ports._lag())
        self.ports._later(self._at - now, call)

    def flush(self) -> None:
        """What is on its way arrives."""
        self._due = False
        frames, self._pending = self._pending, []
        if frames and not self._torn and self.ports.wires.get(self.key) is self:
            self.ports.engine.link(self.key[0], self.generation, ev.FramesReceived(self.key[1], frames))

    def over(self, code: int | None) -> None:
        """The end arrives."""
        if self.ports.wires.get(self.key) is self:
            del self.ports.wires[self.key]
            self.ports.engine.link(self.key[0], self.generation, ev.LinkClosed(self.key[1], code))

    def release(self, code: int | None) -> None:
        """The sidecar lets go of it."""
        self.socket.on_output = lambda: None
        self.ports.sim.clock.after(0.0004, lambda: self.socket.gone(code))


class DiscordPorts(SimPorts):
    """Ports of one incarnation of the sidecar process."""

    sim: DiscordSim  # type: ignore[assignment]

    def __init__(self, sim: DiscordSim) -> None:
        super().__init__(sim)  # type: ignore[arg-type]
        self.wires: dict[tuple[str, str], Wire] = {}
        self.dials: dict[tuple[str, str], int] = {}
        self._lanes: dict[str, deque[tuple[str, act.Request, int]]] = {}
        self._busy: set[str] = set()

    # --- links

    def open_link(self, account: str, generation: int, action: act.OpenLink) -> None:
        key = (account, action.link)
        self.dials[key] = generation
        place = urlsplit(action.target)
        door = "resume" if place.hostname == "resume.test" else "gateway"

        def told(event: ev.Input) -> None:
            self._later(self._lag(), lambda: self.engine.link(account, generation, event))

        def dial() -> None:
            if self.dials.get(key) != generation:
                return
            if self.sim.upstream_away:
                told(ev.LinkRefused(action.link, 0, b"", "connection refused"))
                return
            headers = {name.lower(): value for name, value in action.headers}
            opened = self.sim.world.connect(door, place.path, dict(parse_qsl(place.query)), headers)
            if opened == HANG:
                refusal = ev.LinkRefused(action.link, 0, b"", "timeout")
                self._later(action.timeout, lambda: self.engine.link(account, generation, refusal))
            elif isinstance(opened, int):
                told(ev.LinkRefused(action.link, opened))
            else:
                wire = self.wires[key] = Wire(self, key, generation, opened)
                wire._later(lambda: self.engine.link(account, generation, ev.LinkOpened(action.link)))
                wire.output()

        self._later(self._lag(), dial)

    def send_link(self, account: str, link: str, frames: Sequence[bytes]) -> None:
        wire = self.wires.get((account, link))
        for frame in frames if wire is not None else ():
            self.sim.watch.going_up(account, link, frame)
            self._later(0.001, lambda f=frame: wire.socket.receive(bytes(f).decode()))  # type: ignore[misc]

    def close_link(self, account: str, link: str, code: int | None) -> None:
        self.dials.pop((account, link), None)
        wire = self.wires.pop((account, link), None)
        if wire is not None:
            wire.release(code)

    def log(self, level: str, text: str, **fields: Any) -> None:
        super().log(level, text, **fields)
        self.sim.watch.log(text)

    # --- own requests

    def request(self, owner: str, action: act.Request) -> None:
        key = (owner, action.request)
        serial = self.requests[key] = self.requests.get(key, 0) + 1
        if not action.lane:
            self._later(self._lag(), lambda: self._ask(owner, action, serial))
            return
        self._lanes.setdefault(action.lane, deque()).append((owner, action, serial))
        self._next(action.lane)

    def _next(self, lane: str) -> None:
        """One at a time in a lane; those that were cancelled are passed over."""
        queue = self._lanes[lane]
        while queue and lane not in self._busy:
            item = queue.popleft()
            if self.requests.get((item[0], item[1].request)) == item[2]:
                self._busy.add(lane)
                self._later(self._lag(), lambda item=item: self._ask(*item))  # type: ignore[misc]

    def _ask(self, owner: str, action: act.Request, serial: int) -> None:
        place = urlsplit(action.target)
        target = place.path + (f"?{place.query}" if place.query else "")
        headers = {name.lower(): value for name, value in action.headers}
        answer = Answer(0) if self.sim.upstream_away else self.sim.rest.answer(action.method, target, headers, action.body)
        event: ev.Input = ev.ResponseReceived(action.request, answer.status, list(answer.headers.items()), answer.body)
        if answer.delay_s >= action.timeout or not answer.status or answer.cut:
            event = ev.RequestFailed(action.request, "no answer")

        def done() -> None:
            if action.lane:
                self._busy.discard(action.lane)
                self._next(action.lane)
            if self.requests.get((owner, action.request)) == serial:
                self.engine.feed(owner, event)

        self._later(self._lag() + min(answer.delay_s, action.timeout), done)


class DiscordSim(Sim):
    """The whole: one reference Discord, one sidecar, its agents. `held`: the operator's token, None: agents bring theirs."""

    agents: list[Agent]  # type: ignore[assignment]
    ports: DiscordPorts
    world: World  # type: ignore[assignment]

    def __init__(self, seed: int, store: Any, *, window: int, knobs: DiscordSettings, world: WorldSettings) -> None:
        self.clock = Clock(seed)
        self.random = self.clock.random
        self.world = World(self.clock.wall, settings=world, seed=seed)
        self.world.on_timer = self._set_alarm
        self.rest = Rest(self.world)
        self.store = store
        self.disk_full = ""
        self.disk_failed = -1e9
        self.upstream_away = False
        self.window = window
        self.held: str | None = None
        self.knobs = knobs
        self.agents = []
        self.kills = self.restarts = 0
        self.boots: list[float] = []
        self.totals: dict[str, int] = {}
        self.log: dict[int, list[Any]] = {}
        self.stopping = False
        self.watch = Watch(self)
        self._names = 0
        self._alarm: list[Any] | None = None

    def start(self, held: str | None) -> None:
        """Boot it for the first time."""
        self.held = held
        self.boot()

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm[2] = None
        due = self.world.next_timer()
        self._alarm = None if due is None else self.clock.after(max(0.0, due - self.clock.wall()), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self.world.tick()
        if self._alarm is None:
            self._set_alarm()

    # --- the sidecar

    def boot(self) -> None:
        self.stopping = False
        self.boots.append(self.world.now())
        self.ports = DiscordPorts(self)
        settings = Settings(self.window, self.held, self.knobs)
        self.ports.engine = self.engine = Engine(
            self.store,
            self.ports,  # type: ignore[arg-type]
            upstream=lambda account, view: UpstreamHalf(account, settings, view),
            downstream={"dialect": lambda view: DownstreamHalf(settings, view)},
            window=self.window,
            capacity=100_000,
            keyed_hash=lambda secret: hashlib.blake2b(secret.encode(), digest_size=20).hexdigest(),
            strict=True,
        )
        self.engine.start(self.held)

    def stop(self, back_after: float, drain_s: float = 5.0) -> None:
        self.stopping = True
        super().stop(back_after, drain_s)

    def _end(self) -> None:
        old = self.ports
        old.dead = True
        for name, value in old.counts.items():
            self.totals[name] = self.totals.get(name, 0) + value
        for wire in list(old.wires.values()):
            wire.socket.on_output = lambda: None
            wire.socket.gone(None)
        for client in list(old.conns.values()):
            client.over = True
            if client.agent.client is client:  # type: ignore[comparison-overlap]
                client.agent.again()

    def note(self, batch: Batch) -> None:
        super().note(batch)
        self.watch.written(batch)

    # --- agents' sockets

    def opened(self, client: Client, head: ev.Head) -> None:
        """An upgrade arrives: HELLO is there at once (R10)."""
        self.ports.engine.feed("down:dialect", ev.ConnOpened(client.name, head))
        assert client.hellos == 1 or client.over, "no HELLO at once"

    def deliver(self, client: Client, event: ev.Input) -> None:
        """An input of an agent's socket arrives: a beat is acknowledged at once (R11), an IDENTIFY or RESUME is answered in time."""
        op = 0
        if isinstance(event, ev.ConnFrames):
            op = msgspec.json.decode(event.frames[0])["op"]
            if op in (2, 6):
                self.watch.asked(client, "identify" if op == 2 else "resume")
        acks = client.acks
        self.ports.engine.feed("down:dialect", event)
        self.watch.receipted(client)
        assert op != 1 or client.acks > acks or client.closed, "a heartbeat was not acknowledged at once"
