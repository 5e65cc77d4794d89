"""What agents send, on its way up (discord R21): in order, within the upstream's 120 frames a minute, our own beats first."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from sidecar.dialects.discord import frames

WINDOW_S = 60.0
LIMIT = 108
"""Of 120: the rest is left to beats and to what opens a session."""
MAX_QUEUED = 1000
MAX_BYTES = 1 << 20


class Limiter:
    """Frames sent on one connection in the last minute."""

    def __init__(self) -> None:
        self._sent: deque[float] = deque()

    def note(self, mono: float) -> None:
        """A frame was sent."""
        self._sent.append(mono)
        if len(self._sent) > 2 * LIMIT:
            self._sent.popleft()

    def wait(self, mono: float) -> float:
        """Seconds until a command may be sent; 0: now."""
        while self._sent and self._sent[0] <= mono - WINDOW_S:
            self._sent.popleft()
        return 0.0 if len(self._sent) < LIMIT else self._sent[-LIMIT] + WINDOW_S - mono


class Commands:
    """One shard's queue, and who asked for what. `presence`: the last one, as an earlier process left it (JSON)."""

    def __init__(self, presence: bytes | None = None) -> None:
        self.limiter = Limiter()
        self.presence: Any = msgspec.json.decode(presence) if presence else None
        self._presence_due = False
        self._refused: Any = None
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._askers: dict[tuple[str, str], str] = {}

    def set_presence(self, presence: Any) -> None:
        """The last one wins, and goes into the next IDENTIFY, but for one that the upstream could not read."""
        if self._refused is not None and presence == self._refused:
            return
        self._presence_due = presence != self.presence or self._presence_due
        self.presence = presence

    def dump(self) -> bytes:
        """The presence as kept: agents do not say it again when they RESUME."""
        return msgspec.json.encode(self.presence)

    def identified(self, *, refused: bool = False) -> None:
        """An IDENTIFY with the presence was sent; `refused`: the upstream cannot read it."""
        self._presence_due = False
        if refused:
            self._refused, self.presence = self.presence, None

    def put(self, frame: bytes, session: str) -> bool:
        """Queue a frame of an agent's session; False: too many wait already."""
        if len(self._queue) >= MAX_QUEUED or self._bytes + len(frame) > MAX_BYTES:
            return False
        asked = frames.fields(frame)
        d = asked.get("d")
        if asked.get("op") == frames.PRESENCE:
            self.set_presence(d)
            return True
        if isinstance(d, dict):
            # An answer names the nonce if there was one, else only the guild.
            for guild in _guilds(d):
                self._remember((guild, str(d.get("nonce") or "")), session)
        self._queue.append(frame)
        self._bytes += len(frame)
        return True

    def _remember(self, key: tuple[str, str], session: str) -> None:
        self._askers.pop(key, None)
        self._askers[key] = session
        while len(self._askers) > MAX_QUEUED:
            del self._askers[next(iter(self._askers))]

    def asker(self, payload: bytes) -> str:
        """The session that an answer belongs to, empty if none is known."""
        d = frames.fields(frames.body(payload))
        meta = d.get("meta")
        if isinstance(meta, dict):
            d = meta
        key = (str(d.get("guild_id") or ""), str(d.get("nonce") or ""))
        session = self._askers.get(key, "")
        index, count = d.get("chunk_index"), d.get("chunk_count")
        if type(index) is int and type(count) is int and index + 1 >= count:
            self._askers.pop(key, None)
        return session

    def next(self, mono: float) -> tuple[list[bytes], float]:
        """Frames that may be sent now, which are counted, and seconds until there may be more (0: nothing is left)."""
        out: list[bytes] = []
        while self._queue or self._presence_due:
            wait = self.limiter.wait(mono)
            if wait > 0:
                return out, wait
            if self._presence_due:
                self._presence_due = False
                out.append(frames.frame(frames.PRESENCE, self.presence))
            else:
                frame = self._queue.popleft()
                self._bytes -= len(frame)
                out.append(frame)
            self.limiter.note(mono)
        return out, 0.0


def _guilds(d: dict[str, Any]) -> list[str]:
    """Guilds that a command names: one, or a list."""
    one, many = d.get("guild_id"), d.get("guild_ids")
    return [str(one)] if one is not None else [str(each) for each in many] if isinstance(many, list) else []
