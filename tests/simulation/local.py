"""Runs that press on the local side: twins of one agent, native readers, clients with poor pongs, windows of one, tiny retention,
tokens that are rotated or refused for a while, stops while somebody is frozen. The upstream stays well but for tokens and cuts.
"""

from __future__ import annotations

import json
from typing import Any

from sidecar.core import events as ev
from tests.simulation.schedule import Schedule
from tests.simulation.schedule import _identity as identity_of
from tests.simulation.sim import Agent, Client, Sim

WINDOWS = [1, 2, 4, 16, 64, 256]


class Reader(Agent):
    """A native consumer with acks. `states`: it says where it is when it comes back, else it goes on at its cursor."""

    door = "down:native"

    def __init__(self, sim: Sim, who: Any, name: str, states: bool) -> None:
        super().__init__(sim, who, resyncs=False)
        self.name = name
        self.states = states
        self.position = 0
        self.owes = False
        self.started = False
        self.repeats = 0
        self.got: dict[int, str] = {}
        self.gaps: list[tuple[int, int]] = []
        self.fresh = True

    def head(self) -> ev.Head:
        target = f"/_sidecar/stream?stream={self.who.id}&consumer={self.name}"
        if not self.started or (self.states and not self.fresh):
            target += f"&after={self.position}"
        return ev.Head("GET", target, [("Upgrade", "websocket")])

    def opened(self, client: Client) -> None:
        pass

    def crash(self, back_after: float) -> None:
        super().crash(back_after)
        self.fresh = True

    def handle(self, data: bytes) -> None:
        frame = json.loads(data)
        if frame["type"] == "hello":
            if self.started:
                assert frame["after"] <= self.position, "it would skip"
            self.started, self.fresh = True, False
            self.position = frame["after"]
            return
        offset = frame["offset"]
        if frame["type"] == "gap" and frame["reason"] == "retention":
            assert (frame["from"], frame["to"]) == (self.position + 1, offset), f"a gap {frame} at {self.position}"
            self.gaps.append((frame["from"], frame["to"]))
        else:
            assert offset == self.position + 1, f"{offset} after {self.position}"
            if offset in self.got:
                self.repeats += 1
            self.got[offset] = identity_of(json.dumps(frame["event"]).encode()) if frame["type"] == "event" else ""
        self.position = offset
        if self.sim.random.random() < 0.3:
            self.settle()
        elif not self.owes:
            # Sooner or later an ack comes, also for what is no round number of frames.
            self.owes = True
            self.sim.clock.after(0.3, self.settle)

    def settle(self) -> None:
        """An ack for all of it."""
        self.owes = self.frozen
        if self.frozen:
            self.sim.clock.after(0.3, self.settle)
        elif self.client is not None and self.client.open:
            self.client.send(ev.ConnFrames(self.client.name, [b'{"type":"ack","offset":%d}' % self.position]))


class LocalSchedule(Schedule):
    """Local faults, and tokens."""

    def __init__(self, sim: Sim, *, events: int, faults: int) -> None:
        super().__init__(sim, events=events, faults=0)
        r = sim.random
        kinds = [self.kill, self.stop, self.kill_soon, self.full, self.cut, self.rotate, self.refuse]
        kinds += 2 * [self.agent_cut, self.agent_crash, self.agent_freeze]
        for _ in range(r.randint(0, faults)):
            sim.clock.after(r.uniform(0.5, self.span), r.choice(kinds))

    def rotate(self) -> None:
        self.sim.world.rotate_token(self._agent().who)
        for agent in self.sim.agents:
            self._may_repeat(agent)

    def refuse(self) -> None:
        """The server refuses a good token a few times, then accepts it again."""
        self.sim.world.refuse_token(self._agent().who, self.sim.random.randint(1, 3))
        for agent in self.sim.agents:
            self._may_repeat(agent)
        self.sim.world.cut_all()

    def agent_freeze(self) -> None:
        # A library that pongs ahead of its handler loses what it holds when it is frozen and then killed: known (engineering.md).
        agent = self._agent()
        if agent.pongs == "right":
            agent.frozen = True
            self.sim.clock.after(self.sim.random.uniform(1.0, 70.0), lambda: setattr(agent, "frozen", False))


def run(seed: int, store: Any) -> tuple[Sim, LocalSchedule]:
    """One run to its quiet end."""
    sim = Sim(seed, store, held=seed % 3 != 0, agents=1, window=WINDOWS[seed % 6])
    who = sim.agents[0].who
    poor = seed % 7 == 3
    if poor:
        # What left the process counts as taken: nothing local may break, else frames on their way are lost (and shown as such).
        sim.agents[0].pongs = ["none", "wrong"][seed % 2]
    elif seed % 5 == 1:
        sim.agents[0].pongs = "early"
    elif seed % 2:
        sim.agents += [Agent(sim, who, resyncs=bool(seed % 4 == 1)) for _ in range(1 + seed % 3)]
    readers = [Reader(sim, who, f"r{i}", states=bool(i)) for i in range(2)] if seed % 4 else []
    for agent in sim.agents:
        agent.connect()
    sim.run(0.9)
    sim.agents += readers
    for reader in readers:
        reader.connect()
    schedule = LocalSchedule(sim, events=150, faults=0 if poor else 10)
    sim.run(schedule.span)
    sim.disk_full = ""
    for agent in sim.agents:
        agent.frozen = False
    sim.run(100.0)
    schedule.publish()
    sim.run(100.0)
    for reader in readers:
        reader.settle()
    sim.run(1.0)
    sim.agents = [a for a in sim.agents if not isinstance(a, Reader)]
    sim.readers = readers  # type: ignore[attr-defined]
    return sim, schedule


def check(sim: Sim, schedule: LocalSchedule) -> None:
    """The promises of the contract's table, after a run."""
    seed = sim.clock.seed
    book = sim.engine.admission.books[sim.agents[0].who.id]
    records = sim.records(sim.agents[0].who.id)
    assert [r.offset for r in records] == list(range(1, len(records) + 1)), f"seed {seed}: not dense"
    journaled = [identity_of(r.payload) for r in records if not r.is_gap]
    assert len(set(journaled)) == len(journaled), f"seed {seed}: journaled twice"
    missing = [e for e in schedule.published if e not in set(journaled)]
    assert not missing, f"seed {seed}: lost: {missing[:5]}"
    dropped = {identity_of(r.payload) for r in records[: book.first - 1] if not r.is_gap}
    taken: set[str] = set()
    place = {event: i for i, event in enumerate(journaled)}
    for i, agent in enumerate(sim.agents):
        who = f"seed {seed}, agent {i} ({agent.pongs}{', resyncs' if agent.resyncs else ''})"
        got = list(dict.fromkeys(agent.handled))
        taken.update(got)
        if agent.crashes == 0 or len(sim.agents) == 1:
            assert [place[e] for e in got] == sorted(place[e] for e in got), f"{who}: out of order"
        repeats = len(agent.handled) - len(got)
        # Older sockets of one agent go at their own pace: the bound is one consumer's with one socket.
        if len(sim.agents) == 1:
            assert repeats <= schedule.dupes_allowed.get(agent.who.name, 0), f"{who}: {repeats} repeats"
    lost = [e for e in journaled if e not in taken and e not in dropped]
    assert not lost, f"seed {seed}: journaled but not delivered: {lost[:5]}"
    for reader in sim.readers:  # type: ignore[attr-defined]
        who = f"seed {seed}, reader {reader.name}"
        covered = set(reader.got) | {n for low, high in reader.gaps for n in range(low, high + 1)}
        assert covered == set(range(1, len(records) + 1)), f"{who}: neither shown nor a gap: {set(range(1, len(records) + 1)) - covered}"
        for offset, event in reader.got.items():
            record = records[offset - 1]
            assert event == ("" if record.is_gap else identity_of(record.payload)), f"{who}: another event at {offset}"
        if reader.states and not reader.crashes:
            assert reader.repeats == 0, f"{who}: {reader.repeats} repeats for one that states its cursor"
        consumer = sim.engine.courier.consumers[reader.who.id, "native:" + reader.name]
        assert consumer.durable == len(records), f"{who}: its ack is not on disk"
    settled = sim.engine.courier.consumers[sim.agents[0].who.id, "agent"]
    assert settled.durable == len(records), f"seed {seed}: cursor {settled.durable} of {len(records)}"
    if sim.agents[0].pongs in ("none", "wrong"):
        assert settled.quality == "written" and sim.totals.get("downgrades", 0) + sim.ports.counts.get("downgrades", 0) == 1, f"seed {seed}"
