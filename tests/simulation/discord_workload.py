"""What happens at Discord in a simulated run: messages, edits, deletes, reactions, commands, and places that come and go."""

from __future__ import annotations

from typing import NamedTuple

from tests.discord.upstream.places import Channel, Guild, Payload, stamp
from tests.discord.upstream.world import Bot
from tests.simulation.discord_sim import DiscordSim


class Event(NamedTuple):
    """Something that happened at Discord. `at`: Unix seconds; `bit`: the intent that shows it; `bots`: those that could see it."""

    name: str
    at: float
    channel: int
    guild: Guild | None
    bit: int
    bots: tuple[Bot, ...]


class Workload:
    """`events`: all that happened, in order; `gone`: identities of messages that were deleted; `closed`: channels that REST did not give
    for a while, or that are gone; `left`: guilds that bots left."""

    def __init__(self, sim: DiscordSim) -> None:
        self.sim = sim
        self.events: list[Event] = []
        self.gone: set[str] = set()
        self.closed: set[int] = set()
        self.left: set[tuple[Bot, int]] = set()
        self._messages: list[Payload] = []
        self._serial = 0

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
        if what < 0.35 and channel.messages[int(message["id"])]["edited_timestamp"] != stamp(world.now()):
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
