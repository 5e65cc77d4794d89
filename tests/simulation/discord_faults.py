"""The faults of a simulated Discord run, on every side, drawn from its seed."""

from __future__ import annotations

from collections.abc import Callable

from tests.discord.upstream.faults import Faults, Greeting, RestFault
from tests.simulation.discord_agents import Agent
from tests.simulation.discord_sim import DiscordSim
from tests.simulation.discord_workload import Workload

CALM, SILENT = "calm", "silent"


class Schedule(Workload):
    """A workload and faults, at random moments of `span` seconds. `done`: names of the faults that hit; `refusing`: when no dial could
    succeed, and how often the sidecar began anew meanwhile."""

    def __init__(self, sim: DiscordSim, family: str, span: float, events: int, faults: int) -> None:
        super().__init__(sim)
        self.family = family
        self.span = span
        self.begun = sim.world.now()
        self.done: list[str] = []
        self.refusing: list[tuple[float, float, int]] = []
        r = sim.random
        for _ in range(events):
            sim.clock.after(r.uniform(0.0, span), self.happen)
        upstream: list[Callable[[], None]] = [
            self.cut, self.cut_code, self.away, self.op7, self.invalid, self.silence, self.expire, self.poison, self.greet, self.dial,
            self.resume, self.refuse_resume, self.close_resume, self.identify, self.late, self.acks, self.twice, self.hole, self.metadata,
            self.calls, self.slow, self.shut, self.flood, self.outage, self.refuse, self.silently,
        ]  # fmt: skip
        local: list[Callable[[], None]] = [
            self.agent_cut, self.agent_crash, self.agent_busy, self.agent_exit, self.agent_freeze, self.kill, self.kill_soon,
            self.kill_held, self.stop, self.full,
        ]  # fmt: skip
        if family != SILENT:
            upstream.remove(self.silently)
        for _ in range(0 if family == CALM else r.randint(1, faults)):
            sim.clock.after(r.uniform(0.0, span), self._named(r.choice(r.choice([upstream, upstream, local]))))

    def _named(self, fault: Callable[[], None]) -> Callable[[], None]:
        def hit() -> None:
            self.done.append(fault.__name__)
            fault()

        return hit

    # --- faults of the upstream

    def cut(self) -> None:
        self.sim.world.cut(kind=self.sim.random.choice(["cut", "torn", "empty_close"]))

    def cut_code(self) -> None:
        codes = [1000, 1001, 4000, 4001, 4002, 4003, 4005, 4006, 4007, 4008, 4009]
        self.sim.world.cut(self.sim.random.choice(codes))

    def away(self) -> None:
        sim = self.sim
        sim.upstream_away = True
        sim.world.cut()
        sim.clock.after(sim.random.choice([0.5, 5.0, 40.0]), lambda: setattr(sim, "upstream_away", False))

    def op7(self) -> None:
        self.sim.world.reconnect(self.sim.random.choice([None, 0.01, 2.0]))

    def invalid(self) -> None:
        self.sim.world.invalidate(self.sim.random.random() < 0.5)

    def silence(self) -> None:
        self.sim.world.silence()

    def expire(self) -> None:
        self.sim.world.expire()
        self.cut()

    def poison(self) -> None:
        self.sim.world.poison(self.sim.random.choice(["cut", "empty_close", "silence"]))
        self.cut()

    def greet(self) -> None:
        r, faults = self.sim.random, self.sim.world.faults
        for _ in range(r.randint(1, 3)):
            kind = r.choice(["op7", "op9", "close", "empty_close", "cut"])
            faults.instead_of_hello.append(Greeting(kind, r.random() < 0.5, r.choice([1000, 4000, 4009])))
        self.cut()

    def dial(self) -> None:
        r, faults = self.sim.random, self.sim.world.faults
        faults.only_door = r.choice(["", "gateway", "resume"])
        setattr(faults, r.choice(["refuse_connect", "hang_connect", "swallow_hello"]), r.randint(1, 3))
        self.cut()

    def resume(self) -> None:
        r, faults = self.sim.random, self.sim.world.faults
        what = r.choice(["swallow_resume", "duplicate_replay", "cut_replay_after"])
        setattr(faults, what, r.randint(1, 3))
        if what == "cut_replay_after":
            # What happens before the cut still goes out, with the rest of the replay missing before it.
            self.done.append("hole")
        self._offline()

    def refuse_resume(self) -> None:
        r = self.sim.random
        self.sim.world.faults.refuse_resume.extend(r.random() < 0.5 for _ in range(r.randint(1, 2)))
        self._offline()

    def close_resume(self) -> None:
        r = self.sim.random
        self.sim.world.faults.close_resume.extend(r.choice([None, 1000, 4000, 4006, 4007, 4008, 4009]) for _ in range(r.randint(1, 3)))
        self._offline()

    def identify(self) -> None:
        r, faults = self.sim.random, self.sim.world.faults
        what = r.choice(["swallow_identify", "refuse_identify", "close_identify"])
        if what == "close_identify":
            faults.close_identify.extend(r.choice([None, 1000, 4000, 4009]) for _ in range(r.randint(1, 2)))
        else:
            setattr(faults, what, r.randint(1, 2))
        self.expire()

    def late(self) -> None:
        r, faults = self.sim.random, self.sim.world.faults
        what = r.choice(["late_hello_s", "late_ready_s", "late_guilds_s"])
        setattr(faults, what, r.choice([0.5, 5.0, 28.0]))
        self.sim.clock.after(60.0, lambda: setattr(faults, what, 0.0))
        if r.random() < 0.5:
            self.done.append("expire")
            self.expire()
        else:
            self.cut()

    def acks(self) -> None:
        r, faults = self.sim.random, self.sim.world.faults
        if r.random() < 0.5:
            faults.swallow_acks = r.randint(1, 3)
        else:
            faults.late_ack_s = r.choice([1.0, 15.0, 25.0])
            self.sim.clock.after(60.0, lambda: setattr(faults, "late_ack_s", 0.0))

    def twice(self) -> None:
        r = self.sim.random
        what = r.choice(["duplicate_live", "repeat_live", "again"])
        if what == "again":
            self.sim.world.again(r.randint(1, 10))
        else:
            setattr(self.sim.world.faults, what, r.randint(1, 5))
            self.done.append(what)

    def hole(self) -> None:
        """Numbers that never come: live, in a replay, or the whole of one."""
        r, faults = self.sim.random, self.sim.world.faults
        what = r.choice(["skip_live", "hole_in_replay", "resumed_without_replay"])
        setattr(faults, what, r.randint(1, 4))
        if what != "skip_live":
            self._offline()

    def silently(self) -> None:
        """What nothing in the gateway tells of."""
        r, faults = self.sim.random, self.sim.world.faults
        what = r.choice(["lose_live", "resumed_renumbered"])
        setattr(faults, what, r.randint(1, 3))
        if what != "lose_live":
            self._offline()

    def _offline(self) -> None:
        """A cut, and something to replay after it."""
        self.cut()
        for _ in range(self.sim.random.choice([0, 3, 12])):
            self.happen()

    def metadata(self) -> None:
        r, faults = self.sim.random, self.sim.world.faults
        faults.metadata_status.extend(r.choice([429, 500, 503]) for _ in range(r.randint(1, 3)))
        faults.metadata_delay_s = r.choice([0.0, 2.0, 7.0])
        self.done.append("expire")
        self.expire()

    def calls(self) -> None:
        """REST goes wrong, while it is needed."""
        r, faults = self.sim.random, self.sim.world.faults
        path = r.choice([r"/messages\?", r"^/guilds/", r"^/users/@me$", ""])
        what = r.choice([429, 500, 503, 0, 1])
        if what == 429:
            faults.rest.append(RestFault(path, status=429, headers={"Retry-After": r.choice(["1", "7"])}, times=r.randint(1, 3)))
        elif what > 1:
            faults.rest.append(RestFault(path, status=what, times=r.randint(1, 4)))
        else:
            faults.rest.append(RestFault(path, cut="before" if what else "", delay_s=r.choice([1.0, 12.0]), times=r.randint(1, 3)))
        if r.random() < 0.7:
            self.done.append("expire")
            self.expire()
            for _ in range(r.choice([0, 10])):
                self.happen()

    def slow(self) -> None:
        """History takes longer than live may be held."""
        r = self.sim.random
        self.sim.world.faults.rest.append(RestFault(r"/messages|^/guilds/", delay_s=r.choice([4.0, 9.5]), times=r.randint(4, 9)))
        self.done.append("expire")
        self.expire()
        for _ in range(12):
            self.happen()
            self.sim.clock.after(r.uniform(0.0, 40.0), self.happen)

    def refuse(self) -> None:
        """For a minute each socket is opened, and ended before HELLO."""
        sim, faults = self.sim, self.sim.world.faults
        greetings = [Greeting(sim.random.choice(["close", "cut", "empty_close"])) for _ in range(400)]
        faults.instead_of_hello.extend(greetings)
        sim.world.cut()
        start, before = sim.world.now(), sim.kills + sim.restarts

        def over() -> None:
            if sim.world.faults is faults:
                self.refusing.append((start, sim.world.now(), 1 + sim.kills + sim.restarts - before))
            faults.instead_of_hello.clear()

        sim.clock.after(60.0, over)

    def shut(self) -> None:
        """A channel of a guild that may not be read for a while."""
        r = self.sim.random
        channel = r.choice([channel for channel in self.sim.world.channels.values() if channel.guild is not None])
        what = r.choice(["denied", "history_hidden"])
        setattr(channel, what, True)
        self.closed.add(channel.id)
        self.sim.clock.after(r.uniform(1.0, 40.0), lambda: setattr(channel, what, False))

    def flood(self) -> None:
        for _ in range(self.sim.random.choice([40, 150])):
            self.post()

    def outage(self) -> None:
        world = self.sim.world
        guilds = [g for g in world.guilds.values() if not g.unavailable]
        if len(guilds) > 1:
            guild = self.sim.random.choice(guilds)
            world.guild_outage(guild)
            self.sim.clock.after(self.sim.random.uniform(1.0, 50.0), lambda: world.guild_back(guild) if guild.unavailable else None)

    # --- faults of agents and of the sidecar

    def _agent(self) -> Agent:
        return self.sim.random.choice(self.sim.agents)

    def agent_cut(self) -> None:
        self._agent().cut()

    def agent_crash(self) -> None:
        self._agent().crash(self.sim.random.choice([0.1, 3.0, 30.0]))

    def agent_busy(self) -> None:
        """It dies with its hands full."""
        agent, r = self._agent(), self.sim.random
        for _ in range(40):
            self.post()
        self.sim.clock.after(r.uniform(0.0, 0.4), lambda: agent.crash(r.choice([0.1, 3.0])))

    def agent_exit(self) -> None:
        self._agent().crash(self.sim.random.choice([0.1, 3.0]), code=1000)

    def agent_freeze(self) -> None:
        agent = self._agent()
        if not agent.weak:
            # A library that pongs ahead of its handler loses what it holds when it is frozen and then killed: known (engineering.md).
            agent.frozen = True
            self.sim.clock.after(self.sim.random.uniform(1.0, 70.0), lambda: setattr(agent, "frozen", False))

    def kill(self) -> None:
        if not self.sim.ports.dead:
            self.sim.kill(self.sim.random.choice([0.05, 1.0, 20.0]))

    def kill_soon(self) -> None:
        """A kill at a step right behind something: between commit, send and receipt, or in the middle of a new session."""
        r = self.sim.random
        if r.random() < 0.5:
            self.happen()
            self.sim.clock.after(r.uniform(0.0, 0.06), self.kill)
        else:
            self.done.append("expire")
            self.expire()
            self.sim.clock.after(r.uniform(0.0, 6.0), self.kill)

    def kill_held(self) -> None:
        """A kill while events are held: the guilds of a new session come late, and things happen meanwhile."""
        r, faults = self.sim.random, self.sim.world.faults
        faults.late_guilds_s = 20.0
        self.done.append("expire")
        self.expire()
        for _ in range(15):
            self.sim.clock.after(r.uniform(5.0, 15.0), self.happen)
        self.sim.clock.after(r.uniform(6.0, 20.0), self.kill)
        self.sim.clock.after(15.0, lambda: setattr(faults, "late_guilds_s", 0.0))

    def stop(self) -> None:
        if not self.sim.ports.dead and not self.sim.stopping:
            self.sim.stop(self.sim.random.choice([0.05, 2.0]))

    def full(self) -> None:
        sim = self.sim
        sim.disk_full = sim.random.choice(["admits", "hard"])

        def free() -> None:
            sim.disk_full = ""
            sim.disk_failed = sim.clock.now

        sim.clock.after(sim.random.choice([0.3, 4.0, 15.0]), free)

    # --- the end

    def heal(self) -> None:
        """All faults end."""
        sim, world = self.sim, self.sim.world
        if sim.disk_full:
            sim.disk_full, sim.disk_failed = "", sim.clock.now
        sim.upstream_away = False
        world.faults = Faults()
        for channel in world.channels.values():
            channel.denied = channel.history_hidden = False
        for guild in world.guilds.values():
            if guild.unavailable:
                world.guild_back(guild)
        for agent in sim.agents:
            agent.frozen = False
