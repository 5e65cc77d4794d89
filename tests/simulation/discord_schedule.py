"""A simulated Discord run from its seed: the world and its agents, faults for a while, and the quiet end."""

from __future__ import annotations

from typing import Any

from sidecar.dialects.discord.settings import DiscordSettings
from tests.discord.upstream.world import Settings as WorldSettings
from tests.simulation.discord_agents import KINDS, Agent
from tests.simulation.discord_faults import CALM, SILENT, Schedule
from tests.simulation.discord_sim import DiscordSim


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
