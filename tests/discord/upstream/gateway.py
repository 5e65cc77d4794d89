"""One gateway socket of the reference upstream: HELLO, heartbeats, IDENTIFY, RESUME, commands, and the close codes that punish mistakes.

Pure: what comes in is `receive`, `gone` and the world's clock, what goes out stands in `outbox` until the shell sends it.
"""

from __future__ import annotations

import json
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.discord.upstream.ledger import Beat, Closed, Command, Identify, Resume
from tests.discord.upstream.session import KNOWN_INTENTS, PRIVILEGED, Session, dumps

if TYPE_CHECKING:
    from tests.discord.upstream.faults import Greeting
    from tests.discord.upstream.world import Bot, World

__all__ = ["Ending", "Socket"]

COMMANDS = frozenset({3, 4, 8, 31, 43})
SESSION_ENDS = frozenset({1000, 1001, 4003, 4004, 4005, 4006, 4007, 4009, 4010, 4011, 4012, 4013, 4014})
"""Codes after which a session can't be resumed: the first two when the client sends them, the others when the server does."""
MEMBERS_A_CHUNK = 1000


@dataclass(frozen=True)
class Ending:
    """How the server ends a socket.

    Args:
        kind: "close" with `code`, "empty_close" (1005), "cut" (no close frame), "torn" (cut in the middle of a frame).
    """

    kind: str
    code: int = 4000


class Socket:
    """A socket that the shell has accepted.

    Attributes:
        outbox: frames to send, in order; bytes are binary frames.
        ending: set: the server ends the socket once the outbox is empty.
        over: nothing more goes in or out.
        muted: silence: nothing is sent and nothing that comes is heard, the connection stays open.
        on_output: called whenever outbox or ending changed.
        sent: how many frames went into the outbox.
    """

    def __init__(self, world: World, number: int, door: str, query: dict[str, str]) -> None:
        self.world = world
        self.id = number
        self.door = door
        self.outbox: deque[str | bytes] = deque()
        self.ending: Ending | None = None
        self.over = False
        self.muted = False
        self.session: Session | None = None
        self.bot: Bot | None = None
        self.greeted = False
        self.waiting = False
        self.sent = 0
        self.on_output: Callable[[], None] = lambda: None
        self._compress = zlib.compressobj() if query.get("compress") == "zlib-stream" else None
        self._frames: deque[float] = deque()
        self._beaten_at = 0.0
        self._version = (query.get("v", "10"), query.get("encoding", "json"))

    # -- out

    def send(self, frame: str) -> None:
        """Queue a frame, compressed if the client asked for zlib-stream."""
        if self.over or self.ending or self.muted:
            return
        self.sent += 1
        if self._compress is None:
            self.outbox.append(frame)
        else:
            self.outbox.append(self._compress.compress(frame.encode()) + self._compress.flush(zlib.Z_SYNC_FLUSH))
        self.on_output()

    def op(self, op: int, d: Any = None) -> None:
        self.send(f'{{"t":null,"s":null,"op":{op},"d":{dumps(d)}}}')

    def end(self, code: int | None, *, kind: str = "") -> None:
        """End it from the server's side: with a close code, or without a close frame (None)."""
        if self.over or self.ending:
            return
        if kind in ("cut", "torn"):
            code = None
        elif code == 1005:
            kind = "empty_close"
        self.ending = Ending(kind or ("cut" if code is None else "close"), code or 4000)
        if code is None:
            self.outbox.clear()
        self._left(code, "server")
        self.on_output()

    def gone(self, code: int | None) -> None:
        """The client closed (its code), or the connection was lost (None, 1006)."""
        if self.over:
            return
        self._left(None if code == 1006 else code, "client")

    def _left(self, code: int | None, by: str) -> None:
        self.over = True
        self.world.sockets.pop(self.id, None)
        self.world.ledger.closes.append(Closed(self.world.now(), self.id, code, by))
        if self.session is not None:
            fatal = code in SESSION_ENDS and ((by == "client") == (code in (1000, 1001)))
            self.world.detach(self.session, drop=fatal)
            self.session = None

    # -- the beginning

    def greet(self) -> None:
        """HELLO, or what the switches put in its place."""
        faults = self.world.faults
        if self._version[0] not in ("9", "10") or self._version[1] != "json":
            self.end(4012)
            return
        if faults.instead_of_hello:
            self._instead(faults.instead_of_hello.popleft())
        elif faults.take("swallow_hello"):
            return
        else:
            self.world.later(faults.late_hello_s, self._hello)

    def _instead(self, greeting: Greeting) -> None:
        if greeting.kind == "op7":
            self.op(7)
        elif greeting.kind == "op9":
            self.op(9, greeting.resumable)
        else:
            self.end(greeting.code, kind=greeting.kind)

    def _hello(self) -> None:
        if self.over:
            return
        self.greeted = True
        self.op(10, {"heartbeat_interval": self.world.settings.heartbeat_interval_ms, "_trace": ["reference"]})
        self._beaten_at = self.world.now()
        self._watch()

    def _watch(self) -> None:
        """Missed beats: 4009."""
        allowed = self.world.settings.heartbeat_interval_ms / 1000 * self.world.settings.beat_grace
        if self.over:
            return
        left = self._beaten_at + allowed - self.world.now()
        if left > 0:
            self.world.later(left, self._watch)
        elif not self.muted:
            self.world.wrong(f"socket {self.id}: no heartbeat for {allowed:g} s")
            self.end(4009)

    # -- in

    def receive(self, data: str | bytes) -> None:
        """A frame of the client."""
        if self.over or self.muted:
            return
        limits = self.world.settings
        now = self.world.now()
        self._frames.append(now)
        while self._frames[0] <= now - limits.frames_window_s:
            self._frames.popleft()
        if len(self._frames) > limits.frames:
            self.world.wrong(f"socket {self.id}: more than {limits.frames} frames in {limits.frames_window_s:g} s")
            self.end(4008)
            return
        if isinstance(data, bytes) or len(data.encode()) > limits.frame_bytes:
            self.end(4002)
            return
        try:
            frame = json.loads(data)
            op, d = frame["op"], frame.get("d")
        except (ValueError, KeyError, TypeError, AttributeError):
            self.end(4002)
            return
        if op == 1:
            self._beat(d)
        elif op == 2:
            self._identify(d)
        elif op == 6:
            self._resume(d)
        elif op not in COMMANDS:
            self.end(4001)
        elif self.session is None:
            self.end(4003)
        else:
            self._command(op, d)

    def _beat(self, d: Any) -> None:
        if d is not None and (not isinstance(d, int) or isinstance(d, bool)):
            self.end(4002)
            return
        self._beaten_at = self.world.now()
        if self.session is not None:
            if d is not None and d > self.session.seq:
                self.world.wrong(f"socket {self.id}: heartbeat with {d}, only {self.session.seq} was sent")
            if d is not None and d < self.session.told:
                self.world.wrong(f"socket {self.id}: heartbeat went back from {self.session.told} to {d}")
            self.session.told = max(self.session.told, d or 0)
        acked = not self.world.faults.take("swallow_acks")
        self.world.ledger.beats.append(Beat(self.world.now(), self.id, d, acked))
        if acked:
            self.world.later(self.world.faults.late_ack_s, lambda: self.op(11))

    def _identify(self, d: Any) -> None:
        if self.session is not None or self.waiting:
            self.end(4005)
            return None
        if not _well_formed(d):
            self.end(4002)
            return None
        world, faults = self.world, self.world.faults
        bot = world.bot_of(d["token"])
        shard = d.get("shard") or [0, 1]
        counted = 0 if bot is None else bot.count_identify()

        def told(answer: str) -> None:
            numbers = (shard[0], shard[1]) if _two_numbers(shard) else (-1, -1)
            intents = d.get("intents") if isinstance(d.get("intents"), int) else -1
            world.ledger.identifies.append(Identify(world.now(), self.id, d["token"], numbers, intents, d, answer, counted))

        def closed(code: int | None) -> None:
            told("cut" if code is None else str(code))
            self.end(code)

        if bot is None:
            return closed(4004)
        if counted > world.settings.identify_total:
            world.wrong(f"{counted} IDENTIFYs within 24 h: the token is reset")
            bot.reset_token()
            return closed(4004)
        wrong = self._refusal(bot, shard, d.get("intents"))
        if wrong:
            return closed(wrong)
        if not bot.may_identify(shard[0]):
            world.wrong(f"socket {self.id}: IDENTIFYs of one key less than {world.settings.identify_spacing_s:g} s apart")
            told("op9")
            self.op(9, False)
            return None
        if faults.close_identify:
            return closed(faults.close_identify.popleft())
        if faults.take("swallow_identify"):
            self.waiting = True
            return told("swallowed")
        if faults.take("refuse_identify"):
            told("op9")
            self.op(9, False)
            return None
        if self.door == "resume":
            world.wrong(f"socket {self.id}: IDENTIFY at the resume URL")
        if any(other.bot is bot and other is not self and other.session and other.session.shard == tuple(shard) for other in world.open()):
            world.wrong(f"socket {self.id}: IDENTIFY while another socket of bot and shard is open")
        told("ready")
        self.bot = bot
        self.waiting = True
        world.later(faults.late_ready_s, lambda: self._ready(bot, (shard[0], shard[1]), d["intents"], "shard" in d))
        return None

    def _refusal(self, bot: Bot, shard: Any, intents: Any) -> int:
        settings = self.world.settings
        if not _two_numbers(shard) or not 0 <= shard[0] < shard[1]:
            return 4010
        if shard[1] < settings.shards_required:
            return 4011
        if not isinstance(intents, int) or isinstance(intents, bool) or intents < 0 or intents & ~KNOWN_INTENTS:
            return 4013
        return 4014 if intents & PRIVILEGED & ~bot.granted else 0

    def _ready(self, bot: Bot, shard: tuple[int, int], intents: int, sharded: bool) -> None:
        self.waiting = False
        if self.over:
            return
        self.session = self.world.new_session(bot, shard, intents, sharded)
        self.session.socket = self
        self.session.dispatch("READY", dumps(self.world.ready(self.session)), live=False)
        session = self.session
        self.world.later(self.world.faults.late_guilds_s, lambda: self.world.send_guilds(session))

    def _resume(self, d: Any) -> None:
        if self.session is not None or self.waiting:
            self.end(4005)
            return None
        if not isinstance(d, dict) or not isinstance(d.get("token"), str) or "session_id" not in d or "seq" not in d:
            self.end(4002)
            return None
        world, faults = self.world, self.world.faults
        name, seq = d["session_id"], d["seq"]

        def told(answer: str, replayed: int = 0) -> None:
            world.ledger.resumes.append(Resume(world.now(), self.id, name, seq, answer, replayed))

        def closed(code: int | None, kind: str = "") -> None:
            told(kind or ("cut" if code is None else str(code)))
            self.end(code, kind=kind)

        def invalid(resumable: bool) -> None:
            told("op9 true" if resumable else "op9")
            self.op(9, resumable)

        bot = world.bot_of(d["token"])
        if bot is None:
            return closed(4004)
        if faults.take("swallow_resume"):
            self.waiting = True
            return told("swallowed")
        if faults.close_resume:
            return closed(faults.close_resume.popleft())
        session = world.sessions.get(name) if isinstance(name, str) else None
        if faults.refuse_resume:
            resumable = faults.refuse_resume.popleft()
            if session is not None and not resumable:
                world.drop(session)
            return invalid(resumable)
        if session is None or session.bot is not bot or not session.alive:
            return invalid(False)
        if session.poison == "silence":
            self.waiting = True
            return told("swallowed")
        if session.poison:
            return closed(None if session.poison == "cut" else 1005, session.poison)
        if not isinstance(seq, int) or isinstance(seq, bool) or not 0 <= seq <= session.seq:
            world.drop(session)
            return closed(4007)
        if seq < session.told:
            world.wrong(f"socket {self.id}: RESUME from {seq}, its heartbeats said {session.told}")
        missed = session.missed(seq)
        if missed is None:
            world.drop(session)
            return invalid(False)
        return self._replay(session, seq, missed, told)

    def _replay(self, session: Session, seq: int, missed: list[str], told: Callable[[str, int], None]) -> None:
        faults = self.world.faults
        if session.socket is not None:
            if not session.socket.muted:
                self.world.wrong(f"socket {self.id}: RESUME while the session's socket {session.socket.id} is open")
            older = session.socket
            older.session = None
            older.end(4000)
        session.socket, self.session, self.bot = self, session, session.bot
        if faults.take("resumed_renumbered"):
            session.seq, missed = seq, []
            session.buffer.clear()
        elif faults.take("resumed_without_replay"):
            missed = []
        if faults.hole_in_replay and missed:
            hole, faults.hole_in_replay = min(faults.hole_in_replay, len(missed)), 0
            start = (len(missed) - hole) // 2
            del missed[start : start + hole]
        if faults.take("duplicate_replay"):
            before = [frame for number, frame in session.buffer if number <= seq][-3:]
            missed = before + [frame for frame in missed for _ in range(2)]
        if faults.cut_replay_after is not None:
            part, faults.cut_replay_after = missed[: faults.cut_replay_after], None
            told("cut", len(part))
            for frame in part:
                self.send(frame)
            self.world.later(self.world.settings.cut_delay_s, lambda: self.end(None))
            return
        told("resumed", len(missed))
        for frame in missed:
            self.send(frame)
        session.dispatch("RESUMED", '{"_trace":["reference"]}', live=False)

    def _command(self, op: int, d: Any) -> None:
        assert self.session is not None
        self.world.ledger.commands.append(Command(self.world.now(), self.id, op, d))
        if op == 8:
            self._members(self.session, d)
        elif op == 4 and isinstance(d, dict):
            state = {"guild_id": d.get("guild_id"), "channel_id": d.get("channel_id"), "user_id": str(self.session.bot.user.id)}
            self.session.dispatch("VOICE_STATE_UPDATE", dumps(state | {"session_id": "f" * 32, "deaf": False, "mute": False}), live=False)

    def _members(self, session: Session, d: Any) -> None:
        """op 8: chunks with the nonce; the whole list once per guild and 30 s, else RATE_LIMITED."""
        guild = self.world.guilds.get(int(d["guild_id"])) if isinstance(d, dict) and str(d.get("guild_id", "")).isdigit() else None
        if guild is None or guild.id not in session.bot.guilds:
            return
        whole = d.get("query") == "" and not d.get("limit")
        if whole and not session.bot.may_list(guild.id):
            meta = {"guild_id": str(guild.id)} | ({"nonce": d["nonce"]} if "nonce" in d else {})
            session.dispatch("RATE_LIMITED", dumps({"opcode": 8, "retry_after": 30.0, "meta": meta}), live=False)
            return
        wanted = {str(user) for user in d["user_ids"]} if isinstance(d.get("user_ids"), list) else None
        found = [
            user for user in guild.members if (str(user.id) in wanted if wanted is not None else user.name.startswith(d.get("query", "")))
        ]
        if d.get("limit"):
            found = found[: d["limit"]]
        chunks = [found[i : i + MEMBERS_A_CHUNK] for i in range(0, len(found), MEMBERS_A_CHUNK)] or [[]]
        for index, chunk in enumerate(chunks):
            shape = {"guild_id": str(guild.id), "members": [guild.member(user) for user in chunk], "chunk_index": index}
            shape |= {"chunk_count": len(chunks)} | ({"nonce": d["nonce"]} if "nonce" in d else {})
            session.dispatch("GUILD_MEMBERS_CHUNK", dumps(shape), live=False)


def _two_numbers(shard: Any) -> bool:
    return isinstance(shard, list) and len(shard) == 2 and all(isinstance(n, int) and not isinstance(n, bool) for n in shard)


def _well_formed(d: Any) -> bool:
    """An IDENTIFY that decodes: token and properties are there, large_threshold is within 50 to 250."""
    if not isinstance(d, dict) or not isinstance(d.get("token"), str) or not isinstance(d.get("properties"), dict):
        return False
    threshold = d.get("large_threshold", 50)
    return isinstance(threshold, int) and 50 <= threshold <= 250
