"""What happens in a simulated Discord run, drawn from its seed: the places, the workload, the faults on every side, and the quiet end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from sidecar.dialects.discord.settings import DiscordSettings
from tests.discord.upstream.faults import Faults, Greeting, RestFault
from tests.discord.upstream.places import Channel, Guild, Payload
from tests.discord.upstream.world import Bot
from tests.discord.upstream.world import Settings as WorldSettings
from tests.simulation.discord_agents import KINDS, Agent
from tests.simulation.discord_sim import DiscordSim

CALM, SILENT = "calm", "silent"


class Event(NamedTuple):
    """Something that happened at Discord. `at`: Unix seconds; `bit`: the intent that shows it; `bots`: those that could see it."""

    name: str
    at: float
    channel: int
    guild: Guild | None
    bit: int
    bots: tuple[Bot, ...]


class Schedule:
    """A workload and faults. `events`: all that happened, in order; `gone`: identities of messages that were deleted; `closed`: channels
    that REST did not give for a while, or that are gone; `done`: names of the faults that hit; `may_repeat`: fresh IDENTIFYs forced."""

    def __init__(self, sim: DiscordSim, family: str, span: float, events: int, faults: int) -> None:
        self.sim = sim
        self.family = family
        self.span = span
        self.begun = sim.world.now()
        self.events: list[Event] = []
        self.gone: set[str] = set()
        self.closed: set[int] = set()
        self.left: set[tuple[Bot, int]] = set()
        self.done: list[str] = []
        self._messages: list[Payload] = []
        self._serial = 0
        r = sim.random
        for _ in range(events):
            sim.clock.after(r.uniform(0.0, span), self.happen)
        upstream: list[Callable[[], None]] = [
            self.cut, self.cut_code, self.away, self.op7, self.invalid, self.silence, self.expire, self.poison, self.greet, self.dial,
            self.resume, self.refuse_resume, self.close_resume, self.identify, self.late, self.acks, self.twice, self.hole, self.metadata,
            self.calls, self.shut, self.flood, self.outage, self.silently,
        ]  # fmt: skip
        local: list[Callable[[], None]] = [
            self.agent_cut, self.agent_crash, self.agent_exit, self.agent_freeze, self.kill, self.kill_soon, self.stop, self.full,
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

    # --- workload

    def places(self) -> list[Channel]:
        """Channels that somebody can write in."""
        return [c for c in self.sim.world.channels.values() if c.guild is None or not c.guild.unavailable]

    def note(self, name: str, channel: Channel | None, guild: Guild | None, bits: tuple[int, int], only: Bot | None = None) -> None:
        """Remember what happened. `bits`: the intents in a guild and in direct messages."""
        world = self.sim.world
        if guild is not None:
            bots = tuple(bot for bot in world.bots if guild.id in bot.guilds and only in (None, bot))
        else:
            bots = tuple(bot for bot in world.bots if channel is not None and channel.owner is bot.user)
        self.events.append(Event(name, world.now(), channel.id if channel else 0, guild, bits[0] if guild else bits[1], bots))

    def post(self, channel: Channel | None = None) -> None:
        """A message."""
        r, world = self.sim.random, self.sim.world
        channel = channel or r.choice(self.places())
        self._serial += 1
        message = world.post(f"t{self._serial}", channel)
        self._messages.append(message)
        self.note(f"MESSAGE_CREATE {message['id']}", channel, channel.guild, (9, 12))

    def happen(self) -> None:
        """Anything that happens at Discord."""
        r, world = self.sim.random, self.sim.world
        places = self.places()
        recent = [m for m in self._messages[-30:] if m["id"] in {str(i) for c in places for i in c.messages}]
        what = r.random()
        if what < 0.6 or not recent:
            self.post(r.choice(places))
        elif what < 0.82:
            self._change(r.choice(recent))
        elif what < 0.87:
            world.typing(r.choice(places))
        elif what < 0.92:
            channel = r.choice(places)
            for bot in world.bots:
                if (channel.guild and channel.guild.id in bot.guilds) or channel.owner is bot.user:
                    d = world.interact("ping", channel, bot)
                    self.note(f"INTERACTION_CREATE {d['id']}", channel, channel.guild, (-1, -1), bot)
        else:
            self._place()

    def _change(self, message: Payload) -> None:
        """A message is edited, deleted, or reacted to."""
        r, world = self.sim.random, self.sim.world
        channel = world.channels[int(message["channel_id"])]
        what = r.random()
        if what < 0.35:
            changed = world.edit(message, f"{message['content']}'")
            self.note(f"MESSAGE_UPDATE {message['id']} {changed['edited_timestamp']}", channel, channel.guild, (9, 12))
        elif what < 0.55:
            world.delete(message)
            self.gone.add(f"MESSAGE_CREATE {message['id']}")
            self.note(f"MESSAGE_DELETE {message['id']}", channel, channel.guild, (9, 12))
        else:
            self._serial += 1
            world.react(message, f"e{self._serial}")
            self.note(f"MESSAGE_REACTION_ADD {message['id']} e{self._serial}", channel, channel.guild, (10, 13))

    def _place(self) -> None:
        """Channels, threads, guilds and direct messages come and go."""
        r, world = self.sim.random, self.sim.world
        guilds = [g for g in world.guilds.values() if not g.unavailable]
        guild = r.choice(guilds)
        what = r.random()
        self._serial += 1
        if what < 0.35 or not guild.plain():
            channel = world.add_channel(f"c{self._serial}", guild)
            self.note(f"CHANNEL_CREATE {channel.id}", None, guild, (0, 0))
        elif what < 0.6:
            channel = world.add_thread(f"c{self._serial}", r.choice(guild.plain()))
            self.note(f"THREAD_CREATE {channel.id}", None, guild, (0, 0))
        elif what < 0.75:
            channel = r.choice(list(guild.channels.values()))
            world.rename_channel(channel, f"c{self._serial}")
            kind = "THREAD_UPDATE" if channel.parent else "CHANNEL_UPDATE"
            self.note(f"{kind} {channel.id} {channel.name}", None, guild, (0, 0))
        elif what < 0.83:
            channel = r.choice([c for c in guild.channels.values() if c.parent or not any(t.parent is c for t in guild.channels.values())])
            kind = "THREAD_DELETE" if channel.parent else "CHANNEL_DELETE"
            self.closed.add(channel.id)
            world.remove_channel(channel)
            self.note(f"{kind} {channel.id}", None, guild, (0, 0))
        elif what < 0.9:
            new = world.add_guild(f"g{self._serial}", [bot for bot in world.bots if r.random() < 0.7] or world.bots)
            world.add_channel("general", new)
        elif what < 0.95:
            world.add_direct(r.choice(world.bots), world.add_user(f"p{self._serial}"))
        elif len(guilds) > 1:
            bot = r.choice(world.bots)
            if guild.id in bot.guilds:
                self.left.add((bot, guild.id))
                world.leave_guild(guild, bot)

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


def unrest(sim: DiscordSim) -> str:
    """What is not at rest yet, empty if all is."""
    for agent in sim.agents:
        if not agent.settled:
            return f"{agent.name} is not connected"
        consumer = sim.engine.courier.consumers.get((agent.stream, "agent"))
        if consumer is None or consumer.durable < sim.engine.admission.books[agent.stream].committed:
            return f"{agent.name} has not taken all"
    if sim.ports.dead or sim.engine.paused or sim.stopping:
        return "the sidecar is not up"
    if any(socket.muted for socket in sim.world.open()):
        return "a silent socket was not given up"
    for account in sim.engine.accounts.by_name.values():
        for shard in account.half.shards.values() if account.half else ():  # type: ignore[attr-defined]
            if shard.connection.phase != "live":
                return f"{account.name} {shard.name} is {shard.connection.phase}"
            if shard.search._now is not None or shard.search._suspect is not None:
                return f"{account.name} {shard.name} still searches"
    return ""


def settle(sim: DiscordSim, most: float) -> None:
    """Let time pass until all has been at rest for a while."""
    end, quiet = sim.clock.now + most, 0
    while quiet < 2:
        assert sim.clock.now < end, f"no rest after {most:g} s: {unrest(sim)}"
        sim.run(6.0)
        quiet = 0 if unrest(sim) else quiet + 1


def family_of(seed: int) -> str:
    """What kind of faults a seed has."""
    return {0: CALM, 1: SILENT}.get(seed % 10, "all")


def prepare(seed: int, store: Any) -> DiscordSim:
    """The world and the agents of a seed."""
    few = seed % 13 == 5
    knobs = DiscordSettings(
        compress="zlib-stream" if seed % 2 else "none",
        shards=("0/2", "1/2") if seed % 4 == 1 else (),
        backfill_max=4 if few else 1000,
    )
    world = WorldSettings(
        shards=2 if knobs.shards else 1,
        replay_limit=[None, 6, 30][seed % 3],
        resume_window_s=[180.0, 20.0][seed % 2],
        rest_bucket=(5, 2.0) if seed % 7 == 2 else (30, 1.0),
    )
    sim = DiscordSim(seed, store, window=[4, 16, 64, 256][seed // 2 % 4], knobs=knobs, world=world)
    r, w = sim.random, sim.world
    if seed % 6 == 4:
        w.add_bot("second", "second-token")
        w.bots[1].guilds.add(w.guild.id)
    for i in range(r.randint(0, 3)):
        guild = w.add_guild(f"more{i}")
        w.add_channel("general", guild)
    w.add_thread("aside")
    for bot in w.bots:
        w.add_direct(bot)
    for channel in [*w.channels.values()]:
        for _ in range(r.randint(0, 2)):
            # Never to be seen: it was before our time (R34).
            w.post("old", channel)
    for number, bot in enumerate(w.bots):
        shards = [(0, 2), (1, 2)] if knobs.shards else [(0, 1)]
        for shard in shards:
            for _ in range(1 + (seed % 5 == 3 and number == 0)):
                kind = r.choice(KINDS)
                pace = r.choice([0.0, 0.0, 0.0, 0.05])
                weak = r.random() < 0.15
                agent = Agent(sim, kind, bot, shard, zlib=kind.name == "discord.py" or r.random() < 0.3, weak=weak, pace=pace)
                sim.agents.append(agent)
    return sim


def run(seed: int, store: Any) -> tuple[DiscordSim, Schedule]:
    """One simulated run to its quiet end."""
    sim = prepare(seed, store)
    r = sim.random
    sim.start(str(sim.world.bots[0].token) if seed % 3 else None)
    for agent in sim.agents:
        sim.clock.after(r.uniform(0.0, 3.0), agent.connect)
    if seed % 8 and family_of(seed) != CALM:
        sim.run(r.uniform(0.0, 15.0))
    else:
        settle(sim, 60.0)
    schedule = Schedule(sim, family_of(seed), 100.0, events=90, faults=9)
    sim.run(schedule.span)
    schedule.heal()
    settle(sim, 1200.0)
    for _ in range(2):
        for channel in schedule.places():
            schedule.post(channel)
        sim.run(3.0)
    settle(sim, 400.0)
    return sim, schedule
