"""Models of the unmodified agents on the sidecar's gateway sockets: the habits of three libraries and of OpenClaw (discord section 6).

An `Agent` is the process: it identifies, beats, resumes, times out, dies and comes back. What it handled is logged by downstream session.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sidecar.core import events as ev
from tests.simulation.discord_client import Client

if TYPE_CHECKING:
    from tests.simulation.discord_sim import DiscordSim

HOST = "127.0.0.1:8787"
FULL, OPENCLAW, PLAIN = 53608189, 46601, 33281
"""Intents that discord.py, OpenClaw and a plain discord.js or Carbon bot ask for (section 1.7)."""
UNSTORED = frozenset(["READY", "RESUMED", "TYPING_START", "GUILD_MEMBERS_CHUNK", "RATE_LIMITED", "VOICE_STATE_UPDATE"])
"""Dispatches that are not journaled."""


@dataclass(frozen=True)
class Kind:
    """A library's habits. Times in seconds, 0: it waits for ever. `fresh`: close codes after which it identifies instead of resuming;
    `invalid`: how long it waits after op 9, and whether on the same socket; `again`: delay before the next dial, from and to."""

    name: str
    fresh: frozenset[int] = frozenset()
    beats_first: bool = False
    names_shard: bool = False
    presence: bool = False
    ready_s: float = 0.0
    resumed_s: float = 0.0
    silence_s: float = 0.0
    invalid: tuple[float, float, bool] = (1.0, 5.0, False)
    again: tuple[float, float] = (0.3, 1.5)
    intents: int = PLAIN


KINDS = (
    Kind("discord.py", beats_first=True, silence_s=60.0, invalid=(5.0, 5.0, False), again=(0.0, 2.0), intents=FULL),
    Kind("discord.js", frozenset([1000, 4007]), names_shard=True, ready_s=15.0, invalid=(0.5, 0.5, False), again=(0.5, 0.5)),
    Kind("carbon", frozenset([4007, 4009]), invalid=(1.0, 5.0, True), again=(1.0, 2.0)),
    Kind(
        "openclaw",
        frozenset([4007, 4009]),
        presence=True,
        ready_s=15.0,
        resumed_s=30.0,
        invalid=(2.0, 5.0, False),
        again=(2.0, 4.0),
        intents=OPENCLAW,
    ),
)


@dataclass
class SessionLog:
    """One downstream session as its agent saw it. `base`, `k`: where its numbers begin (discord R15); `taken`: (s, identity) of journaled
    events in the order they were handled; `resumed`: at each RESUMED, (head of the journal when RESUME arrived, last s handled)."""

    id: str
    base: int
    k: int
    life: int
    taken: list[tuple[int, str]] = field(default_factory=list)
    resumed: list[tuple[int, int]] = field(default_factory=list)


class Agent:
    """An agent process of one bot and shard. `zlib`: it asks for zlib-stream; `weak`: its library answers pings as it parses, ahead of
    the handler; `pace`: seconds that a frame may take in the handler, at most."""

    def __init__(
        self, sim: DiscordSim, kind: Kind, bot: Any, shard: tuple[int, int], *, zlib: bool = False, weak: bool = False, pace: float = 0.0
    ) -> None:
        self.sim = sim
        self.kind = kind
        self.bot = bot
        self.shard = shard
        self.token = str(bot.token)
        self.stream = f"discord:{bot.user.id}:{shard[0]}/{shard[1]}"
        self.zlib = zlib
        self.weak = weak
        self.pace = pace
        self.intents = kind.intents
        self.sessions: list[SessionLog] = []
        self.client: Client | None = None
        self.frozen = False
        self.down = False
        self.lives = 1
        self.chunks: set[str] = set()
        self.nonces: set[str] = set()
        self.errors: list[str] = []
        self._session: SessionLog | None = None
        self._knows = False
        self._seq: int | None = None
        self._serial = 0
        self._acked = True
        self._heard = 0.0
        self._tried = False

    @property
    def name(self) -> str:
        return f"{self.kind.name} of {self.stream}"

    @property
    def settled(self) -> bool:
        """Is it connected and answered?"""
        return not self.down and self.client is not None and self.client.open and self._knows and self.client.answered

    # --- dialling

    def connect(self) -> None:
        """Dial the sidecar."""
        if self.client is not None or self.down:
            return
        if self.sim.ports.dead or self.frozen:
            self.again()
            return
        name = self.sim.name()
        self.client = client = Client(self, name)
        self.sim.ports.conns[name] = client
        self._acked = True
        self._heard = self.sim.clock.now
        query = "?v=10&encoding=json" + ("&compress=zlib-stream" if self.zlib else "")
        stack = "Python/3.12 websockets/14.2" if self.weak else "DiscordBot"
        head = ev.Head("GET", "/" + query, [("User-Agent", stack)], HOST)
        self.sim.ports._later(0.001, lambda: self.sim.opened(client, head))

    def again(self, delay: float | None = None) -> None:
        """Dial again after a while."""
        self.client = None
        if not self.down:
            pause = self.sim.random.uniform(*self.kind.again) if delay is None else delay
            self.sim.clock.after(pause + 0.05, self.connect)

    def closed(self, code: int | None) -> None:
        """The sidecar closed the socket, or it was lost."""
        if code is not None and code != 4000:
            self.errors.append(f"closed with {code}")
        if code in self.kind.fresh:
            self._knows = False
        self.again()

    def _leave(self, code: int, delay: float | None = None) -> None:
        if self.client is not None:
            self.client.leave(code)
        self.again(delay)

    # --- what comes

    def handle(self, client: Client, frame: Mapping[str, Any]) -> None:
        """A frame from the sidecar."""
        self._heard = self.sim.clock.now
        op, d = frame["op"], frame["d"]
        if op == 10:
            self._hello(client, d["heartbeat_interval"] / 1000)
        elif op == 11:
            self._acked = True
        elif op == 1:
            client.say(1, self._seq)
        elif op == 7:
            self._leave(4000)
        elif op == 9:
            assert d is False, "op 9 true would lose the replay"
            self._knows, self._session, self._seq = False, None, None
            low, high, same = self.kind.invalid
            pause = self.sim.random.uniform(low, high)
            if same:
                self.sim.clock.after(pause, lambda: self._identify(client))
            else:
                self._leave(1000, pause)
        elif op == 0:
            self._dispatch(client, frame)

    def _hello(self, client: Client, interval: float) -> None:
        self._beat_later(client, interval, interval * self.sim.random.random())
        if self.kind.beats_first:
            client.say(1, self._seq)
        if self._knows:
            self._resume(client)
        elif self.kind.beats_first and self._tried and self.sim.random.random() < 0.5:
            # discord.py, when a socket was killed before READY (C7).
            self._resume(client)
        else:
            self._identify(client)

    def _identify(self, client: Client) -> None:
        if client.over or client.leaving or client is not self.client:
            return
        self._knows, self._session, self._seq = False, None, None
        d: dict[str, Any] = {"token": self.token, "intents": self.intents, "properties": {"os": "linux", "browser": "b", "device": "d"}}
        if self.kind.names_shard or self.shard[1] > 1:
            d["shard"] = list(self.shard)
        if self.kind.beats_first:
            d["compress"] = True
        self._tried = True
        client.say(2, d)
        if self.kind.presence:
            client.say(3, {"since": None, "activities": [], "status": "online", "afk": False})
        self._patience(client, "identify", self.kind.ready_s)

    def _resume(self, client: Client) -> None:
        session = self._session.id if self._session else None
        client.say(6, {"token": self.token, "session_id": session, "seq": self._seq})
        self._patience(client, "resume", self.kind.resumed_s)

    def _patience(self, client: Client, what: str, seconds: float) -> None:
        """READY or RESUMED is waited for so long; then a fresh IDENTIFY."""
        self._serial += 1
        mine = self._serial
        if not seconds:
            return

        def over() -> None:
            if client is self.client and mine == self._serial and not client.over:
                self._knows = False
                self._leave(1000 if what == "identify" else 4000)

        self.sim.clock.after(seconds, over)

    def _beat_later(self, client: Client, interval: float, first: float) -> None:
        def beat() -> None:
            if client is not self.client or client.over:
                return
            if self.frozen:
                self.sim.clock.after(0.5, beat)
                return
            if not self._acked and not self.kind.silence_s:
                self._leave(4200)
                return
            if self.kind.silence_s and self.sim.clock.now - self._heard > self.kind.silence_s:
                self._leave(4000)
                return
            self._acked = False
            client.say(1, self._seq)
            self.sim.clock.after(interval, beat)

        self.sim.clock.after(first, beat)

    def _dispatch(self, client: Client, frame: Mapping[str, Any]) -> None:
        kind, d, s = frame["t"], frame["d"], frame["s"]
        if kind == "READY":
            self._serial += 1
            assert d["resume_gateway_url"] == "ws://" + HOST, "R5"
            assert all(guild["unavailable"] for guild in d["guilds"])
            self._session = self.sim.watch.sessions[d["session_id"]]
            self._session.life = self.lives
            self.sessions.append(self._session)
            self._knows, self._tried = True, False
        elif self._session is None:
            raise AssertionError(f"{kind} without a session")
        elif kind == "RESUMED":
            self._serial += 1
            assert isinstance(d, dict)
            self._session.resumed.append((client.head, self._seq or 0))
        elif kind == "GUILD_MEMBERS_CHUNK":
            self.chunks.add(d["nonce"])
        elif kind not in UNSTORED and s > self._session.k:
            self._session.taken.append((s, identity(kind, d)))
            high = self.sim.watch.high
            high[self.stream] = max(high.get(self.stream, 0), s - self._session.k + self._session.base)
        self._seq = s

    # --- what happens to it

    def ask_members(self, guild: int) -> None:
        """op 8."""
        if self.settled and self.client is not None:
            nonce = f"n{self.sim.name()}"
            self.nonces.add(nonce)
            self.client.say(8, {"guild_id": str(guild), "query": "", "limit": 5, "nonce": nonce})

    def cut(self) -> None:
        """Its socket breaks."""
        if self.client is not None:
            self.client.drop()
            self.again()

    def crash(self, back_after: float, code: int | None = None) -> None:
        """kill -9 and a new process, which knows nothing; or, with a code, an orderly end (C10)."""
        if self.client is not None:
            if code is None:
                self.client.drop()
            else:
                self.client.leave(code)
        self.client = None
        self._knows, self._session, self._seq, self._tried = False, None, None, False
        self._serial += 1
        self.lives += 1
        self.frozen = False
        self.down = True

        def back() -> None:
            self.down = False
            self.connect()

        self.sim.clock.after(back_after, back)


def identity(kind: str, d: Mapping[str, Any]) -> str:
    """What makes an event this one and no other in the simulation."""
    number = d.get("id") or d.get("message_id") or ""
    if kind.startswith("MESSAGE_REACTION"):
        return f"{kind} {number} {d['emoji']['name']}"
    if kind == "MESSAGE_UPDATE":
        return f"{kind} {number} {d['edited_timestamp']}"
    if kind in ("CHANNEL_UPDATE", "THREAD_UPDATE"):
        return f"{kind} {number} {d['name']}"
    return f"{kind} {number}"
