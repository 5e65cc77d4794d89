"""Seeded walks of the upstream half before the strict reference Discord, with every fault it knows at every turn (R2, R25 to R36).

At the end each message that is still there to be read is in the journal once, in the order of its channel unless it is marked late, or a
gap record covers it; the state of the guilds is the server's; and the server saw good manners only.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import pytest

from sidecar.core.record import LATE, Gap
from tests.dialects.discord.bench import SHARD
from tests.dialects.discord.joined import Joined
from tests.discord.upstream.faults import Faults, Greeting, RestFault
from tests.discord.upstream.places import EPOCH_MS, Channel, Guild
from tests.discord.upstream.world import Settings, World

STEPS = 120
Fault = Callable[["Walk"], Any]


class Walk:
    """One seed. `owed`: messages posted, with their channel; `story`: what was done, for the failure's text."""

    def __init__(self, seed: int, faults: Mapping[str, Fault]) -> None:
        lots = self.lots = random.Random(seed * 7 + 1)
        settings = Settings(
            heartbeat_interval_ms=lots.choice((3000, 10000, 41250)),
            replay_limit=lots.choice((5, 40, 1000)),
            resume_window_s=lots.choice((3.0, 30.0, 180.0)),
        )
        self.sim = Joined(seed, settings, backfill_max=lots.choice((1000, 1000, 30)))
        self.owed: dict[int, int] = {}
        self.story: list[str] = [f"seed {seed}"]
        self._faults = faults
        self._reactions = 0
        world = self.world
        for n in range(lots.randrange(4)):
            world.add_channel(f"room {n}")
        world.add_channel("room", world.add_guild("second"))
        world.add_thread("thread")
        world.add_direct()

    @property
    def world(self) -> World:
        return self.sim.world

    @property
    def faults(self) -> Faults:
        return self.world.faults

    def mine(self) -> list[Guild]:
        return [guild for guild in self.world.guilds.values() if guild.id in self.world.bot.guilds]

    def channels(self) -> list[Channel]:
        mine = self.world.bot.guilds
        return [channel for channel in self.world.channels.values() if channel.guild is None or channel.guild.id in mine]

    def run(self) -> None:
        self.sim.start()
        self.sim.run(3)
        # Of direct messages that the bot never saw nobody tells.
        self.post(next(channel for channel in self.channels() if channel.guild is None))
        self.sim.run(1)
        for _ in range(STEPS):
            self.step()
            self.sim.run(self.lots.choice((0.01, 0.1, 0.5, 1.0, 4.0, 15.0)))
        self.world.faults = Faults()
        for guild in self.world.guilds.values():
            if guild.unavailable:
                self.world.guild_back(guild)
        self.sim.run(120)
        self.sim.until_live()
        self.sim.run(400)

    # --- what happens

    def step(self) -> None:
        draw = self.lots.random()
        if draw < 0.55:
            for _ in range(self.lots.choice((1, 1, 3, 12))):
                self.post(self.lots.choice(self.channels()))
            if self.lots.random() < 0.02:
                channel = self.lots.choice(self.channels())
                for _ in range(130):
                    self.post(channel)
        elif draw < 0.66:
            self.touch(self.lots.choice(self.channels()))
        elif draw < 0.72:
            self.move(self.lots.choice(self.mine()))
        elif draw < 0.80:
            name = self.lots.choice(list(self._faults))
            self.story.append(f"{self.sim.bench.mono:.1f} {name}")
            self._faults[name](self)

    def post(self, channel: Channel) -> None:
        if channel.archived:
            # A message makes a thread active again, and all are told before it.
            channel.archived = False
            self.world.rename_channel(channel, channel.name)
        self.owed[int(self.world.post(f"message {len(self.owed)}", channel)["id"])] = channel.id

    def touch(self, channel: Channel) -> None:
        if not channel.ids:
            return
        message = channel.messages[self.lots.choice(channel.ids)]
        match self.lots.randrange(4):
            case 0:
                self.world.delete(message)
            case 1:
                self.world.edit(message, "edited")
            case 2:
                self.world.react(message, f"r{self._reactions}")
                self._reactions += 1
            case 3:
                self.world.typing(channel)

    def move(self, guild: Guild) -> None:
        """Places come, change and go."""
        world, lots = self.world, self.lots
        channel = lots.choice(self.channels())
        match lots.randrange(9):
            case 0:
                world.add_channel("new", guild)
            case 1 if guild.plain():
                world.add_thread("new thread", lots.choice(guild.plain()))
            case 2 if channel.guild and len(channel.guild.channels) > 1:
                if not any(each.parent is channel for each in channel.guild.channels.values()):
                    world.remove_channel(channel)
            case 3 if len(world.guilds) < 6:
                world.add_channel("room", world.add_guild("joined"))
            case 4 if len(self.mine()) > 1:
                world.leave_guild(guild)
            case 5 if not guild.unavailable:
                world.guild_outage(guild)
            case 6:
                for each in self.mine():
                    if each.unavailable:
                        world.guild_back(each)
            case 7 if channel.guild:
                channel.archived = not channel.archived if channel.parent else False
                world.rename_channel(channel, channel.name + "x")
            case 8:
                world.add_direct(user=world.add_user(f"user {len(world.users)}"))

    # --- what came of it

    def wrongs(self) -> list[str]:
        bench, world = self.sim.bench, self.world
        events = [entry for entry in bench.journal if entry.gap is None]
        messages = [entry for entry in events if entry.frame["t"] == "MESSAGE_CREATE"]
        counts = Counter(int(entry.frame["d"]["id"]) for entry in messages)
        gaps: dict[int, list[Gap]] = defaultdict(list)
        for entry in bench.journal:
            if entry.gap is not None and entry.domain:
                gaps[int(entry.domain)].append(entry.gap)
        found = [f"twice: {number}" for number, count in counts.items() if count > 1]
        for number, place in self.owed.items():
            channel = world.channels.get(place)
            is_there = channel is not None and channel in self.channels() and number in channel.messages
            if number in counts or not is_there or channel is None:
                continue
            if channel.guild is None and not any(each in counts for each in channel.ids if each < number):
                continue
            # Ids are dated to the millisecond: some of one moment are read and some are not.
            if not any(gap.from_ - 1 <= (number >> 22) + EPOCH_MS <= gap.to for gap in gaps[place]):
                found.append(f"lost: {number} in {channel.name}")
        order: dict[str, list[int]] = defaultdict(list)
        for entry in messages:
            if not entry.flags & LATE:
                order[entry.domain].append(int(entry.frame["d"]["id"]))
        found += [f"not in order: {place}" for place, numbers in order.items() if numbers != sorted(numbers)]
        found += [f"left open: {key}" for key in bench.state if key.startswith(("fill:", "suspect:"))]
        return found + world.ledger.wrongs

    def differences(self) -> list[str]:
        """Between the guilds' state and the server's."""
        shard, found = self.sim.bench.half.shards[SHARD], []
        if {int(guild) for guild in shard.guilds.ids()} != self.world.bot.guilds:
            found.append("other guilds")
        for guild in self.mine():
            snapshot = msgspec.json.decode(shard.guilds.snapshot(str(guild.id), shard.marks.get) or b"{}")
            have = {each["id"]: each["name"] for name in ("channels", "threads") for each in snapshot.get(name, ())}
            want = {str(each.id): each.name for each in guild.channels.values() if not (each.parent and each.archived)}
            if have != want:
                found.append(f"other channels in {guild.name}: {have.items() ^ want.items()}")
        return found


def switch(name: str, count: int = 1) -> Fault:
    """A switch of the reference, and a cut that leads to it."""
    return lambda walk: (setattr(walk.faults, name, count), walk.world.cut())


def renewed(name: str) -> Fault:
    return lambda walk: (setattr(walk.faults, name, 1), walk.world.invalidate(False))


def cut(*codes: int | None) -> Fault:
    return lambda walk: walk.world.cut(walk.lots.choice(codes))


def queued(name: str, values: Sequence[Any], *, is_resume: bool = True) -> Fault:
    def act(walk: Walk) -> None:
        getattr(walk.faults, name).append(walk.lots.choice(values))
        walk.world.cut() if is_resume else walk.world.invalidate(False)

    return act


def late(name: str, *values: float) -> Fault:
    return lambda walk: setattr(walk.faults, name, walk.lots.choice(values))


def expire(walk: Walk) -> None:
    # The reference sends no guilds to a session that expired before they came.
    if not walk.faults.late_guilds_s and not walk.faults.late_ready_s:
        walk.world.expire()


def rest(walk: Walk) -> None:
    lots = walk.lots
    path, status = lots.choice(("messages", "channels", "threads", "")), lots.choice((500, 502, 429, 403, None))
    delay, ended = lots.choice((0.0, 0.0, 3.0, 40.0)), lots.choice(("", "", "before"))
    walk.faults.rest.append(RestFault(path, status=status, delay_s=delay, cut=ended, times=lots.choice((1, 2, 12))))


def metadata(walk: Walk) -> None:
    walk.faults.metadata_delay_s = walk.lots.choice((0.0, 0.0, 7.0))
    walk.faults.metadata_status.append(walk.lots.choice((500, 429, 503)))


GREETINGS = [Greeting(kind, is_resumable) for kind in ("op7", "op9", "empty_close", "cut") for is_resumable in (True, False)]
GREETINGS += [Greeting("close", code=code) for code in (4000, 1000, 4009)]
HONEST: dict[str, Fault] = {
    "cut": cut(None, None, 1000, 1001, 4000, 4001, 4002, 1005, 4008),
    "cut again": cut(None),
    "torn": lambda walk: walk.world.cut(kind="torn"),
    "session closed": cut(4003, 4005, 4006, 4007, 4009),
    "op 7": lambda walk: walk.world.reconnect(walk.lots.choice((None, 0.1))),
    "op 9 true": lambda walk: walk.world.invalidate(True),
    "op 9 false": lambda walk: walk.world.invalidate(False),
    "expiry": expire,
    "silence": lambda walk: walk.world.silence(),
    "poison": lambda walk: walk.world.poison(walk.lots.choice(("cut", "empty_close", "silence"))),
    "once more": lambda walk: walk.world.again(5),
    "op 1": lambda walk: walk.world.beat_now(),
    "503": switch("refuse_connect", 2),
    "hang": switch("hang_connect"),
    "no HELLO": switch("swallow_hello"),
    "greeting": queued("instead_of_hello", GREETINGS),
    "no READY": renewed("swallow_identify"),
    "IDENTIFY op 9": renewed("refuse_identify"),
    "IDENTIFY closed": queued("close_identify", (None, 4000, 1000, 4009), is_resume=False),
    "READY late": late("late_ready_s", 0.0, 5.0, 20.0),
    "guilds late": late("late_guilds_s", 0.0, 2.0, 40.0),
    "no RESUMED": switch("swallow_resume"),
    "RESUME op 9": queued("refuse_resume", (True, False)),
    "RESUME closed": queued("close_resume", (None, 4000, 4007, 4009, 1000)),
    "replay cut": switch("cut_replay_after", 3),
    "replay twice": switch("duplicate_replay"),
    "no ACK": lambda walk: setattr(walk.faults, "swallow_acks", walk.lots.randrange(1, 3)),
    "ACK late": late("late_ack_s", 0.0, 0.5),
    "twice": lambda walk: setattr(walk.faults, "duplicate_live", 5),
    "repeated": lambda walk: setattr(walk.faults, "repeat_live", 3),
    "metadata": metadata,
    "REST": rest,
    "REST again": rest,
    "kill": lambda walk: walk.sim.crash(),
}
"""Faults after which everything can be had, or is known to be missing."""
HOLES: dict[str, Fault] = {
    "no replay": switch("resumed_without_replay"),
    "a hole in the replay": switch("hole_in_replay", 3),
}


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_nothing_is_lost_or_twice_and_the_state_is_the_servers(seed: int) -> None:
    walk = Walk(seed, HONEST)
    walk.run()
    assert walk.wrongs() + walk.differences() == [], "\n".join(walk.story + walk.sim.bench.said[-40:])


@pytest.mark.parametrize("seed", range(20))
def test_with_holes_in_replays_too_no_message_is_lost_or_twice(seed: int) -> None:
    walk = Walk(seed, HONEST | HOLES | {f"{name}, too": hole for name, hole in HOLES.items()})
    walk.run()
    assert walk.wrongs() == [], "\n".join(walk.story + walk.sim.bench.said[-40:])
