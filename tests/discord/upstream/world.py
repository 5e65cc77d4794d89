"""The reference Discord upstream as a pure model: bots, places, sessions, sockets, the clock's timers, and what tests do to them.

Written from the wire page alone. `World` knows no I/O: the shell (server.py) brings it sockets, REST requests and time.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tests.discord.upstream.faults import Faults
from tests.discord.upstream.gateway import Socket
from tests.discord.upstream.ledger import Connect, Ledger
from tests.discord.upstream.places import Channel, Guild, Payload, Snowflakes, User, stamp
from tests.discord.upstream.session import MESSAGE_CONTENT, PRIVILEGED, Session, dumps

__all__ = ["HANG", "Bot", "Settings", "World"]

HANG = 0
"""Status of `connect` that leaves the upgrade unanswered."""
DAY_S = 86400.0


@dataclass
class Settings:
    """How strict and how large. Durations in seconds unless the name says otherwise."""

    heartbeat_interval_ms: int = 41250
    beat_grace: float = 1.5
    """Without a heartbeat for so many intervals: 4009."""
    resume_window_s: float = 180.0
    replay_limit: int | None = None
    """Frames kept per session; None: `max(100, min(3500, guilds * 75))`."""
    identify_spacing_s: float = 5.0
    max_concurrency: int = 1
    identify_total: int = 1000
    shards: int = 1
    """What /gateway/bot recommends."""
    shards_required: int = 1
    """IDENTIFY with fewer: 4011."""
    frames: int = 120
    frames_window_s: float = 60.0
    frame_bytes: int = 4096
    require_user_agent: bool = False
    """A gateway connect without User-Agent is closed 4002 (Spacebar)."""
    rest_per_s: int = 50
    rest_bucket: tuple[int, float] = (30, 1.0)
    """Calls and seconds of the bucket of each route and channel or guild."""
    cut_delay_s: float = 0.05
    """Between the last frame of a cut replay and the cut."""
    media: str = "https://cdn.discordapp.com"
    """Origin in attachment addresses."""
    uploads: str = "https://discord-attachments-uploads-prd.storage.googleapis.com"
    """Origin in upload addresses."""


class Bot:
    """An application: its token, its guilds, its privileged intents, its IDENTIFYs of 24 h."""

    def __init__(self, world: World, user: User, token: str) -> None:
        self.world = world
        self.user = user
        self.application_id = world.ids.next()
        self.token: str | None = token
        self.granted = PRIVILEGED
        self.guilds: set[int] = set()
        self.identified: deque[float] = deque()
        self._keys: dict[int, float] = {}
        self._lists: dict[int, float] = {}

    def count_identify(self) -> int:
        """Count one; how many there were within 24 h."""
        self.identified.append(self.world.now())
        return self.used()

    def used(self) -> int:
        while self.identified and self.identified[0] <= self.world.now() - DAY_S:
            self.identified.popleft()
        return len(self.identified)

    def reset_after_ms(self) -> int:
        return int((self.identified[0] + DAY_S - self.world.now()) * 1000) if self.used() else 0

    def may_identify(self, shard: int) -> bool:
        """One per `identify_spacing_s` and key `shard % max_concurrency`."""
        key, now = shard % self.world.settings.max_concurrency, self.world.now()
        last, self._keys[key] = self._keys.get(key), now
        # A client that waits exactly so long by its own clock may look a little early here.
        return last is None or now - last >= self.world.settings.identify_spacing_s * 0.98

    def may_list(self, guild: int) -> bool:
        now = self.world.now()
        if now - self._lists.get(guild, -1e9) < 30.0:
            return False
        self._lists[guild] = now
        return True

    def reset_token(self) -> None:
        """The token is void; every other socket of the bot is closed 4004."""
        self.token = None
        for socket in self.world.open():
            if socket.bot is self:
                socket.end(4004)


class World:
    """Everything a test needs: the state, the switches (`faults`), the records (`ledger`) and the actions.

    At first it has one bot (`bot`, token "reference-token"), one person (`person`), one guild (`guild`) with one channel (`channel`).

    Args:
        clock: seconds since 1970; tests of the model bring their own.
        token: the bot's token.
        seed: of session names.
    """

    def __init__(self, clock: Callable[[], float], token: str = "reference-token", settings: Settings | None = None, seed: int = 1) -> None:
        self.now = clock
        self.settings = settings or Settings()
        self.faults = Faults()
        self.ledger = Ledger()
        self.ids = Snowflakes(clock)
        self.gateway_url = "ws://gateway.test"
        self.resume_url = "ws://resume.test"
        self.sessions: dict[str, Session] = {}
        self.sockets: dict[int, Socket] = {}
        self.bots: list[Bot] = []
        self.users: dict[int, User] = {}
        self.guilds: dict[int, Guild] = {}
        self.channels: dict[int, Channel] = {}
        self.files: dict[str, tuple[bytes, str]] = {}
        self.on_timer: Callable[[], None] = lambda: None
        self._random = random.Random(seed)
        self._numbers = itertools.count(1)
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self.person = self.add_user("ada")
        self.bot = self.add_bot("sidebot", token)
        self.guild = self.add_guild("harbour")
        self.channel = self.add_channel("general")

    # -- time

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do it after a while; at once if the delay is 0."""
        if delay_s <= 0:
            action()
            return
        heapq.heappush(self._timers, (self.now() + delay_s, next(self._numbers), action))
        self.on_timer()

    def next_timer(self) -> float | None:
        """When `tick` has something to do."""
        return self._timers[0][0] if self._timers else None

    def tick(self) -> None:
        """Do what is due."""
        while self._timers and self._timers[0][0] <= self.now():
            heapq.heappop(self._timers)[2]()

    # -- sockets and sessions

    def open(self) -> list[Socket]:
        """The open sockets, oldest first."""
        return list(self.sockets.values())

    def connect(self, door: str, path: str, query: dict[str, str], headers: dict[str, str]) -> Socket | int:
        """A WebSocket upgrade. Returns the socket, or the status that refuses it (`HANG`: never answer)."""
        number = next(self._numbers)
        status = 101
        if self.faults.connect("hang_connect", door):
            status = HANG
        elif self.faults.connect("refuse_connect", door):
            status = self.faults.refuse_status
        self.ledger.connects.append(Connect(self.now(), number, door, path, query, headers, status, len(self.sockets)))
        if status != 101:
            return status
        socket = self.sockets[number] = Socket(self, number, door, query)
        socket.greet()
        if self.settings.require_user_agent and "user-agent" not in headers:
            socket.end(4002)
        return socket

    def new_session(self, bot: Bot, shard: tuple[int, int], intents: int, sharded: bool) -> Session:
        limit = self.settings.replay_limit
        if limit is None:
            limit = max(100, min(3500, len(bot.guilds) * 75))
        session = Session(f"{self._random.getrandbits(128):032x}", bot, shard, intents, limit, sharded)
        self.sessions[session.id] = session
        return session

    def detach(self, session: Session, *, drop: bool) -> None:
        """Its socket is gone; it lives on for `resume_window_s`, unless dropped."""
        session.socket = None
        if drop or not session.alive:
            self.drop(session)
            return
        mark = session.detached = object()

        def expire() -> None:
            if session.socket is None and session.detached is mark:
                self.drop(session)

        self.later(self.settings.resume_window_s, expire)

    def drop(self, session: Session) -> None:
        """It can't be resumed any more."""
        session.alive = False
        self.sessions.pop(session.id, None)
        if session.socket is not None:
            session.socket.session = None
            session.socket = None

    def ready(self, session: Session) -> Payload:
        bot = session.bot
        d: Payload = {
            "v": 10,
            "user_settings": {},
            "user": bot.user.shape() | {"verified": True, "mfa_enabled": True, "email": None, "flags": 0, "bio": ""},
            "session_type": "normal",
            "session_id": session.id,
            "resume_gateway_url": self.resume_url,
            "relationships": [],
            "private_channels": [],
            "presences": [],
            "guilds": [{"id": str(guild.id), "unavailable": True} for guild in self.guilds_of(session)],
            "guild_join_requests": [],
            "geo_ordered_rtc_regions": [],
            "auth": {},
            "application": {"id": str(bot.application_id), "flags": 27828224},
            "_trace": ["reference"],
        }
        return d | {"shard": list(session.shard)} if session.sharded else d

    def guilds_of(self, session: Session) -> list[Guild]:
        mine = (self.guilds[number] for number in sorted(session.bot.guilds))
        return [guild for guild in mine if guild.shard(session.shard[1]) == session.shard[0]]

    def send_guilds(self, session: Session) -> None:
        """GUILD_CREATE of every guild that is not in an outage."""
        if not session.alive or not session.wants("GUILD_CREATE", direct=False):
            return
        for guild in self.guilds_of(session):
            if not guild.unavailable:
                session.dispatch("GUILD_CREATE", dumps(guild.create_shape(session.bot.user)), live=False)

    # -- what exists

    def add_user(self, name: str, *, bot: bool = False) -> User:
        user = User(self.ids.next(), name, bot)
        self.users[user.id] = user
        return user

    def add_bot(self, name: str, token: str) -> Bot:
        bot = Bot(self, self.add_user(name, bot=True), token)
        self.bots.append(bot)
        return bot

    def bot_of(self, token: str) -> Bot | None:
        return next((bot for bot in self.bots if bot.token is not None and bot.token == token), None)

    def add_guild(self, name: str, bots: Iterable[Bot] | None = None) -> Guild:
        """A guild with the person and these bots (all) in it; living sessions get GUILD_CREATE."""
        bots = list(self.bots if bots is None else bots)
        guild = Guild(self.ids.next(), name, self.person, self.now(), [self.person, *(bot.user for bot in bots)])
        # Some milliseconds apart, or all would be of one shard when they are made in one moment.
        guild.id += len(self.guilds) << 22
        self.guilds[guild.id] = guild
        for bot in bots:
            bot.guilds.add(guild.id)
        self._guild_create(guild)
        return guild

    def add_channel(self, name: str, guild: Guild | None = None) -> Channel:
        guild = guild or self.guild
        channel = Channel(self.ids.next(), name, guild, made_at=self.now(), position=len(guild.channels))
        self.channels[channel.id] = guild.channels[channel.id] = channel
        self.emit("CHANNEL_CREATE", channel.shape(), guild)
        return channel

    def add_thread(self, name: str, parent: Channel | None = None) -> Channel:
        parent = parent or self.channel
        assert parent.guild is not None
        thread = Channel(self.ids.next(), name, parent.guild, parent=parent, owner=self.person, made_at=self.now())
        self.channels[thread.id] = parent.guild.channels[thread.id] = thread
        self.emit("THREAD_CREATE", thread.shape() | {"newly_created": True}, parent.guild)
        return thread

    def add_direct(self, bot: Bot | None = None, user: User | None = None) -> Channel:
        """The direct messages of a bot and a person; bots are not told of it."""
        channel = Channel(self.ids.next(), f"dm-{(bot or self.bot).user.name}", None, recipient=user or self.person, made_at=self.now())
        channel.owner = (bot or self.bot).user
        self.channels[channel.id] = channel
        return channel

    # -- events

    def emit(self, event: str, d: Payload, guild: Guild | None, *, only: Bot | None = None, hide: Payload | None = None) -> None:
        """Dispatch an event to every session that is to get it.

        Args:
            guild: its guild; None: a direct event, of shard 0.
            only: no other bot's.
            hide: `d` for sessions without MESSAGE_CONTENT.
        """
        whole: str | None = None
        hidden: str | None = None
        for session in list(self.sessions.values()):
            if (only is not None and session.bot is not only) or not session.wants(event, direct=guild is None):
                continue
            if guild is None:
                if session.shard[0] != 0:
                    continue
            elif guild.id not in session.bot.guilds or guild.shard(session.shard[1]) != session.shard[0]:
                continue
            if hide is not None and not session.intents & MESSAGE_CONTENT and str(session.bot.user.id) != d["author"]["id"]:
                hidden = hidden or dumps(hide)
                session.dispatch(event, hidden)
            else:
                whole = whole or dumps(d)
                session.dispatch(event, whole)

    def post(
        self,
        content: str = "",
        channel: Channel | None = None,
        author: User | None = None,
        *,
        nonce: Any = None,
        attachments: list[Payload] | None = None,
        reply_to: Payload | None = None,
        more: Payload | None = None,
    ) -> Payload:
        """A message is posted. Returns it as REST shows it."""
        channel, author = channel or self.channel, author or self.person
        message: Payload = {
            "type": 19 if reply_to else 0,
            "content": content,
            "mentions": [],
            "mention_roles": [],
            "attachments": attachments or [],
            "embeds": [],
            "timestamp": stamp(self.now()),
            "edited_timestamp": None,
            "flags": 0,
            "components": [],
            "id": str(self.ids.next()),
            "channel_id": str(channel.id),
            "author": author.shape(),
            "pinned": False,
            "mention_everyone": False,
            "tts": False,
        }
        if reply_to:
            reference = {"type": 0, "channel_id": str(channel.id), "message_id": reply_to["id"]}
            message |= {"message_reference": reference, "referenced_message": reply_to}
        message |= more or {}
        channel.add(message)
        told = message if nonce is None else message | {"nonce": nonce}
        self._tell_message("MESSAGE_CREATE", channel, author, told)
        return told

    def edit(self, message: Payload, content: str) -> Payload:
        channel = self.channels[int(message["channel_id"])]
        changed = channel.messages[int(message["id"])]
        changed |= {"content": content, "edited_timestamp": stamp(self.now())}
        self._tell_message("MESSAGE_UPDATE", channel, self.users[int(changed["author"]["id"])], changed)
        return changed

    def delete(self, message: Payload) -> None:
        channel = self.channels[int(message["channel_id"])]
        channel.remove(int(message["id"]))
        d = {"id": message["id"], "channel_id": str(channel.id)} | _guild_id(channel)
        self.emit("MESSAGE_DELETE", d, channel.guild, only=self._owner(channel))

    def react(self, message: Payload, emoji: str, user: User | None = None, *, add: bool = True) -> None:
        channel, user = self.channels[int(message["channel_id"])], user or self.person
        d: Payload = {"user_id": str(user.id), "type": 0, "message_id": message["id"], "channel_id": str(channel.id), "burst": False}
        d |= {"emoji": {"id": None, "name": emoji}} | _guild_id(channel)
        if add and channel.guild is not None:
            d |= {"member": channel.guild.member(user), "message_author_id": message["author"]["id"], "burst_colors": []}
        self.emit(f"MESSAGE_REACTION_{'ADD' if add else 'REMOVE'}", d, channel.guild, only=self._owner(channel))

    def typing(self, channel: Channel | None = None, user: User | None = None) -> None:
        channel, user = channel or self.channel, user or self.person
        d: Payload = {"user_id": str(user.id), "channel_id": str(channel.id), "timestamp": int(self.now())} | _guild_id(channel)
        if channel.guild is not None:
            d["member"] = channel.guild.member(user)
        self.emit("TYPING_START", d, channel.guild, only=self._owner(channel))

    def interact(self, name: str, channel: Channel | None = None, bot: Bot | None = None) -> Payload:
        """A person uses a slash command of the bot."""
        channel, bot = channel or self.channel, bot or self.bot
        number = str(self.ids.next())
        d: Payload = {
            "id": number,
            "application_id": str(bot.application_id),
            "type": 2,
            "data": {"id": str(self.ids.next()), "name": name, "type": 1},
            "channel_id": str(channel.id),
            "channel": channel.shape(),
            "token": f"interaction-{number}",
            "version": 1,
            "locale": "en-US",
            "entitlements": [],
            "authorizing_integration_owners": {"0": str(channel.guild.id if channel.guild else 0)},
            "context": 0 if channel.guild else 1,
            "attachment_size_limit": 10485760,
        } | _guild_id(channel)
        if channel.guild is None:
            d["user"] = self.person.shape()
        else:
            d["member"] = channel.guild.member(self.person) | {"permissions": str(0x7FFFFFFFFFFF)}
        self.emit("INTERACTION_CREATE", d, channel.guild, only=bot)
        return d

    def guild_outage(self, guild: Guild | None = None) -> None:
        guild = guild or self.guild
        guild.unavailable = True
        self.emit("GUILD_DELETE", {"id": str(guild.id), "unavailable": True}, guild)

    def guild_back(self, guild: Guild | None = None) -> None:
        guild = guild or self.guild
        guild.unavailable = False
        self._guild_create(guild)

    def leave_guild(self, guild: Guild, bot: Bot | None = None) -> None:
        bot = bot or self.bot
        self.emit("GUILD_DELETE", {"id": str(guild.id)}, guild, only=bot)
        bot.guilds.discard(guild.id)

    def rename_channel(self, channel: Channel, name: str) -> None:
        channel.name = name
        self.emit("THREAD_UPDATE" if channel.parent else "CHANNEL_UPDATE", channel.shape(), channel.guild)

    def remove_channel(self, channel: Channel) -> None:
        assert channel.guild is not None
        del self.channels[channel.id], channel.guild.channels[channel.id]
        self.emit("THREAD_DELETE" if channel.parent else "CHANNEL_DELETE", channel.shape(), channel.guild)

    def _guild_create(self, guild: Guild) -> None:
        for bot in self.bots:
            self.emit("GUILD_CREATE", guild.create_shape(bot.user), guild, only=bot)

    def _tell_message(self, event: str, channel: Channel, author: User, message: Payload) -> None:
        d = message | {"channel_type": channel.type} | _guild_id(channel)
        if channel.guild is None:
            self.emit(event, d, None, only=self._owner(channel))
            return
        d["member"] = channel.guild.member(author, with_user=False)
        self.emit(event, d, channel.guild, hide=d | {"content": "", "embeds": [], "attachments": [], "components": []})

    def _owner(self, channel: Channel) -> Bot | None:
        """The bot whose direct messages these are."""
        return next((bot for bot in self.bots if channel.guild is None and bot.user is channel.owner), None)

    # -- what tests do to living sockets and sessions

    def cut(self, code: int | None = None, *, kind: str = "", shard: int | None = None) -> int:
        """End open sockets: with a close code, without one (`kind` "cut" or none, "torn"), or "empty_close". Returns how many."""
        hit = [socket for socket in self.open() if shard is None or (socket.session is not None and socket.session.shard[0] == shard)]
        for socket in hit:
            socket.end(1005 if kind == "empty_close" else code, kind=kind)
        return len(hit)

    def reconnect(self, close_after_s: float | None = None) -> None:
        """op 7 to all; closed 4000 after a while if asked."""
        for socket in self.open():
            socket.op(7)
            if close_after_s is not None:
                self.later(close_after_s, lambda socket=socket: socket.end(4000))  # type: ignore[misc]

    def invalidate(self, resumable: bool) -> None:
        """op 9 to all; with `False` their sessions are gone."""
        for socket in self.open():
            socket.op(9, resumable)
            if socket.session is not None:
                session, socket.session = socket.session, None
                self.detach(session, drop=not resumable)

    def silence(self) -> None:
        """Every open socket falls silent and deaf, and stays open."""
        for socket in self.open():
            socket.muted = True

    def expire(self) -> None:
        """Forget every session; open sockets stay as they are until they are cut."""
        for session in list(self.sessions.values()):
            session.alive = False
            if session.socket is None:
                del self.sessions[session.id]

    def poison(self, kind: str = "cut") -> None:
        """RESUMEs of the present sessions are never answered: "cut", "empty_close" or "silence" (U6)."""
        for session in self.sessions.values():
            session.poison = kind

    def beat_now(self) -> None:
        """op 1 to all: the client is to send a heartbeat at once."""
        for socket in self.open():
            socket.op(1)

    def again(self, count: int) -> None:
        """The last frames of every connected session are sent once more (U15)."""
        for session in self.sessions.values():
            if session.socket is not None:
                for _, frame in list(session.buffer)[-count:]:
                    session.socket.send(frame)

    def wrong(self, what: str) -> None:
        """Record bad manners."""
        self.ledger.wrongs.append(what)


def _guild_id(channel: Channel) -> Payload:
    return {} if channel.guild is None else {"guild_id": str(channel.guild.id)}
