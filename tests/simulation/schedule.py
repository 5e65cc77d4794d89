"""What happens in a simulated run, drawn from its seed, and what must be true of it afterwards."""

from __future__ import annotations

from typing import Any

from tests.simulation.sim import Agent, Sim, identity

STORED = ("m",)
"""Identities of events that some upstream interface can always still give: the four message kinds."""


class Schedule:
    """A workload and a list of faults for one simulation. `published`: identities in the order of publication."""

    def __init__(
        self, sim: Sim, *, events: int = 120, faults: int = 8, upstream: bool = True, local: bool = True, disk: bool = True
    ) -> None:
        self.sim = sim
        self.published: list[str] = []
        self.roots: list[Any] = []
        self.serial = 0
        self.dupes_allowed: dict[str, int] = {}
        self.jumped = False
        kinds: list[Any] = [self.publish]
        if upstream:
            kinds += [
                self.cut,
                self.away,
                self.restart,
                self.swallow,
                self.broken,
                self.hollow,
                self.lose,
                self.busy,
                self.flood,
                self.deaf,
            ]
        if local:
            kinds += [self.agent_cut, self.agent_crash, self.agent_freeze, self.kill, self.stop, self.kill_soon]
        if disk:
            kinds += [self.full]
        r = sim.random
        span = 60.0
        for _ in range(events):
            sim.clock.after(r.uniform(1.0, span), self.publish)
        for _ in range(r.randint(0, faults)):
            sim.clock.after(r.uniform(0.5, span), r.choice(kinds))
        self.span = span

    # --- workload ------------------------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """One event of any kind, for all agents."""
        r, world = self.sim.random, self.sim.world
        self.serial += 1
        kind = r.random()
        author = self.sim.author
        if kind < 0.5 or not self.roots:
            row = world.post(author, self.sim.channel, f"t{self.serial}")
            self.roots.append(row)
            self.published.append(f"m{row.id}")
        elif kind < 0.7:
            self.published.append(f"m{world.reply(author, r.choice(self.roots), f't{self.serial}').id}")
        elif kind < 0.85:
            row = world.dm(author, [a.who for a in self.sim.agents], f"t{self.serial}")
            self.published.append(f"m{row.id}")
        else:
            root = r.choice(self.roots)
            if world.react(author, root, f"e{self.serial}") is not None:
                self.published.append(f"r{root.id}e{self.serial}added")

    # --- faults --------------------------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        self.sim.world.cut_all()

    def away(self) -> None:
        sim = self.sim
        sim.upstream_away = True
        sim.world.cut_all()

        def back() -> None:
            sim.upstream_away = False

        sim.clock.after(sim.random.uniform(0.1, 20.0), back)

    def restart(self) -> None:
        # A counter that begins above 0 stands for events that nobody can give any more: then a gap is no false one.
        counter = self.sim.random.choice([0, 0, 0, 100_000])
        self.jumped = self.jumped or counter > 0
        self.sim.world.restart(counter)

    def swallow(self) -> None:
        self.sim.world.swallow_resync()
        self.cut()

    def broken(self) -> None:
        self.sim.world.break_resync(self.sim.random.randint(0, 30))
        self.away()

    def hollow(self) -> None:
        self.sim.world.hollow_resync()
        self.away()

    def lose(self) -> None:
        self.sim.world.lose_pushes(self.sim.random.randint(1, 5))

    def busy(self) -> None:
        self.sim.world.rate_limit(self.sim.random.randint(1, 4), self.sim.random.choice([None, "1", "3"]))

    def flood(self) -> None:
        for _ in range(self.sim.random.choice([50, 600])):
            self.publish()

    def deaf(self) -> None:
        sim = self.sim
        sim.world.deaf = True

        def back() -> None:
            sim.world.deaf = False

        sim.clock.after(sim.random.uniform(1.0, 40.0), back)

    def _agent(self) -> Agent:
        return self.sim.random.choice(self.sim.agents)

    def _may_repeat(self, agent: Agent) -> None:
        name = agent.who.name
        self.dupes_allowed[name] = self.dupes_allowed.get(name, 0) + self.sim.window

    def agent_cut(self) -> None:
        agent = self._agent()
        self._may_repeat(agent)
        agent.cut()

    def agent_crash(self) -> None:
        agent = self._agent()
        self._may_repeat(agent)
        agent.crash(self.sim.random.uniform(0.1, 10.0))

    def agent_freeze(self) -> None:
        agent = self._agent()
        agent.frozen = True

        def thaw() -> None:
            agent.frozen = False

        self.sim.clock.after(self.sim.random.uniform(1.0, 70.0), thaw)

    def kill(self) -> None:
        for agent in self.sim.agents:
            self._may_repeat(agent)
        if not self.sim.ports.dead:
            self.sim.kill(self.sim.random.uniform(0.05, 5.0))

    def kill_soon(self) -> None:
        """A kill at a step right behind a publication: between commit, send and receipt."""
        self.publish()
        self.sim.clock.after(self.sim.random.uniform(0.0, 0.06), self.kill)

    def stop(self) -> None:
        if not self.sim.ports.dead:
            if any(a.frozen or a.client is None for a in self.sim.agents) or self.sim.disk_full == "hard":
                for agent in self.sim.agents:
                    self._may_repeat(agent)
            self.sim.stop(self.sim.random.uniform(0.05, 2.0))

    def full(self) -> None:
        sim = self.sim
        sim.disk_full = sim.random.choice(["admits", "hard"])

        def free() -> None:
            sim.disk_full = ""

        sim.clock.after(sim.random.uniform(0.5, 10.0), free)


def run(seed: int, store: Any, **options: Any) -> tuple[Sim, Schedule]:
    """One simulated run to its quiet end."""
    sim = Sim(seed, store, held=seed % 4 != 0, agents=1 + seed % 2, window=[4, 16, 256][seed % 3])
    for agent in sim.agents:
        agent.connect()
    sim.run(0.9)
    schedule = Schedule(sim, **options)
    sim.run(schedule.span)
    # All faults end; whatever can still be had must come.
    sim.disk_full = ""
    sim.upstream_away = False
    sim.world.deaf = sim.world.half_open = False
    for who in sim.world.agents():
        who.lose = 0
    for agent in sim.agents:
        agent.frozen = False
    sim.run(100.0)
    schedule.publish()
    sim.run(20.0)
    # Where a replay was never acknowledged, the next open asks again for what it left in doubt (R9).
    sim.world.cut_all()
    sim.run(100.0)
    return sim, schedule


def check(sim: Sim, schedule: Schedule) -> None:
    """The promises, after a run."""
    wanted = schedule.published
    position = {event: i for i, event in enumerate(wanted)}
    for agent in sim.agents:
        who = f"seed {sim.clock.seed}, {agent.who.name}"
        records = sim.records(agent.who.id)
        gaps = [r.gap() for r in records if r.is_gap]
        late = sum(1 for r in records if r.flags & 0x04)
        journaled = [_identity(r.payload) for r in records if not r.is_gap]
        assert len(set(journaled)) == len(journaled), f"{who}: journaled twice: {_twice(journaled)}"
        missing = [e for e in wanted if e not in set(journaled)]
        assert not [e for e in missing if e[0] in STORED], f"{who}: lost though upstream has them: {missing[:5]} gaps {gaps}"
        if missing:
            assert gaps, f"{who}: {len(missing)} missing in silence: {missing[:5]}"
        got = list(dict.fromkeys(agent.handled))
        assert [e for e in journaled if e not in set(got)] == [], f"{who}: journaled but not delivered"
        assert got == journaled, f"{who}: delivered in another order than journaled"
        if not late:
            messages = [position[e] for e in journaled if e[0] in STORED]
            assert messages == sorted(messages), f"{who}: messages out of order"
        repeats = len(agent.handled) - len(got)
        allowed = schedule.dupes_allowed.get(agent.who.name, 0)
        assert repeats <= allowed, f"{who}: {repeats} repeats, {allowed} allowed: {_twice(agent.handled)[:5]}"
        # A gap that was filled late was none too many: when it was recorded, nothing more was to be had.
        if not missing and not late and not schedule.jumped:
            assert not gaps, f"{who}: a false gap {gaps}"


def _identity(payload: bytes) -> str:
    import json

    return identity(json.loads(payload))


def _twice(events: list[str]) -> list[str]:
    seen: set[str] = set()
    return [e for e in events if e in seen or seen.add(e)]  # type: ignore[func-returns-value]
