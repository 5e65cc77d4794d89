"""One socket of a model agent: frames and pings arrive in order with some lag, and a pong goes back once everything before it was
handled, or as soon as it arrives, as a weak library does. What arrives is shown to `watch` first."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import msgspec

from sidecar.core import actions as act
from sidecar.core import events as ev

if TYPE_CHECKING:
    from tests.simulation.discord_agents import Agent

encode = msgspec.json.encode
decode = msgspec.json.decode


class Client:
    """One socket of an agent. `asked`: "identify" or "resume" once that arrived; `answered`: something came back for
    it; `head`: of the journal at that moment; `k`: numbers of its session's snapshot."""

    def __init__(self, agent: Agent, name: str) -> None:
        self.agent = agent
        self.sim = agent.sim
        self.ports = agent.sim.ports
        self.name = name
        self.inbox: list[tuple[str, Any]] = []
        self.open = False
        self.over = False
        self.leaving = False
        self.reading = False
        self.closed = False
        self.asked = ""
        self.answered = False
        self.head = 0
        self.k = 0
        self.last_s = 0
        self.acks = 0
        self.hellos = 0
        self._inflate = zlib.decompressobj() if agent.zlib else None

    # --- from the sidecar

    def take(self, action: act.Action) -> None:
        """What the sidecar does with this socket."""
        if self.over or self.closed:
            return
        match action:
            case act.Accept():
                self._put(("open", None))
            case act.SendConn(frames=frames, droppable=droppable):
                if droppable and len(self.inbox) > 100:
                    return
                for frame in frames:
                    plain = self._plain(frame)
                    found = decode(plain)
                    self.sim.watch.sent(self, found)
                    self._put(("frame", found))
            case act.PingConn(payload=payload):
                if self.agent.weak:
                    self.send(ev.ConnPong(self.name, payload))
                else:
                    self._put(("ping", payload))
            case act.AwaitDrain(token=token):
                self.send(ev.ConnDrained(self.name, token))
            case act.CloseConn(code=code):
                self.closed = True
                self.sim.watch.closed(self, code)
                self._put(("close", code))
            case _:
                raise AssertionError(f"unexpected {action}")

    def _plain(self, frame: bytes) -> bytes:
        if self._inflate is None:
            assert type(frame) is not ev.Binary, "compressed without having been asked"
            return frame
        assert type(frame) is ev.Binary and frame.endswith(b"\0\0\xff\xff"), "zlib-stream was asked for"
        return self._inflate.decompress(frame)

    def _put(self, item: tuple[str, Any]) -> None:
        self.inbox.append(item)
        if not self.reading:
            self.reading = True
            self.sim.clock.after(self.sim.random.uniform(0.0005, 0.01), self._read)

    def _read(self) -> None:
        agent = self.agent
        if agent.frozen and not self.over:
            self.sim.clock.after(0.1, self._read)
            return
        self.reading = False
        while self.inbox and not self.over and not self.leaving:
            kind, what = self.inbox.pop(0)
            if kind == "open":
                self.open = True
            elif kind == "frame":
                agent.handle(self, what)
            elif kind == "ping":
                self.send(ev.ConnPong(self.name, what))
            else:
                self.drop(told=True)
                agent.closed(what)
            pause = agent.pace or (0.03 if self.sim.random.random() < 0.02 else 0.0)
            if self.inbox and pause:
                # The handler takes a while: whoever kills it now finds some frames handled and some not.
                self.reading = True
                self.sim.clock.after(self.sim.random.uniform(0.001, pause), self._read)
                return

    # --- to the sidecar

    def say(self, op: int, d: Any) -> None:
        """Send a frame."""
        self.send(ev.ConnFrames(self.name, [encode({"op": op, "d": d})]))

    def send(self, event: ev.Input) -> None:
        """Let the sidecar have an input, in order."""
        ports = self.ports
        if not ports.dead and not self.over and not self.leaving:
            ports._later(0.002, lambda: None if self.over else self.sim.deliver(self, event))

    def leave(self, code: int) -> None:
        """Close it with a code: what was sent before still arrives."""
        if self.over or self.leaving:
            return
        self.leaving = True
        self.ports._later(0.002, lambda: None if self.over else self._gone(code))

    def _gone(self, code: int) -> None:
        self.over = True
        self.ports.conns.pop(self.name, None)
        self.ports.engine.feed("down:dialect", ev.ConnClosed(self.name, code))

    def drop(self, told: bool = False) -> None:
        """The connection ends under it. `told`: the sidecar closed it."""
        if self.over:
            return
        self.over = True
        ports = self.ports
        ports.conns.pop(self.name, None)
        if not ports.dead:
            ports._later(0.001, lambda: ports.engine.feed("down:dialect", ev.ConnClosed(self.name, 4000 if told else None)))
