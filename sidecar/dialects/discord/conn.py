"""One local gateway socket (discord R3, R10): what its upgrade asked for, how far it got, and how frames are put on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.barrier import PingBarrier
from sidecar.dialects.discord import asked
from sidecar.dialects.discord.asked import Asked
from sidecar.dialects.discord.compress import ZlibStream
from sidecar.dialects.discord.encoder import Encoder
from sidecar.dialects.discord.sessions import Session

BAD_VERSION = 4012
WEAK_STACKS = ("websockets/", "Mozilla/")
LIVE_BYTES = 256 << 10
"""Live-only frames that may wait for an agent from which nothing was heard."""

NEW, HELD, WRITTEN, POURED, LIVE = "new", "held", "written", "poured", "live"
"""No IDENTIFY or RESUME yet; IDENTIFY waits for the upstream; its session goes to disk; its snapshot goes out; events flow."""


class Conn:
    """One socket. Everything that goes out passes `send`, since compression has one context a socket.

    `key`: the id of its session, or of the one it will get; `serial`: rises with each socket that gets events; `last_s`: highest `s`
    sent; `handed`: offset of the last record that was handed over, seen by the agent or not; `taken`: highest offset with evidence;
    `asked`: an op 1 of ours is open; `heard`: monotonic seconds of the last sign of life."""

    def __init__(self, name: str, head: ev.Head, nonce: str, now: float) -> None:
        self.name = name
        self.host = head.host
        query = dict(reversed(parse_qsl(head.target.partition("?")[2])))
        self.refusal = 0 if query.get("encoding", "json") == "json" and query.get("v", "10") in ("9", "10") else BAD_VERSION
        self._zlib = ZlibStream() if query.get("compress") == "zlib-stream" else None
        self.weak = any(word in (head.header("user-agent") or "") for word in WEAK_STACKS)
        self.binary = False
        self.state = NEW
        self.opened = self.heard = now
        self.barrier = PingBarrier(nonce)
        # what IDENTIFY or RESUME said
        self.token = ""
        self.key = ""
        self.account = ""
        self.shard = "0/1"
        self.asked_shard: Sequence[int] | None = None
        self.intents = 0
        self.presence: Any = None
        self.early: list[tuple[Asked, bytes]] = []
        # the session, once there is one
        self.session: Session | None = None
        self.encoder: Encoder | None = None
        self.pending: list[bytes] = []
        self.serial = 0
        self.last_s = 0
        self.handed = 0
        self.taken = 0
        self.resting = False
        self.sent_at = now
        self.asked = False
        self._live_bytes = 0

    def read(self, data: bytes) -> Asked | int:
        """A frame from the agent, or a close code. JSON in binary messages is taken from an agent that identifies or resumes in one, as
        hikari does with all it says; from others it is a bad frame (R22)."""
        got = asked.read(data)
        if isinstance(data, ev.Binary) and isinstance(got, Asked):
            self.binary = self.binary or got.op in (asked.IDENTIFY, asked.RESUME)
            return got if self.binary else asked.BAD_FRAME
        return got

    def send(self, frames: Sequence[bytes]) -> act.SendConn:
        """Send frames, in order."""
        return act.SendConn(self.name, frames if self._zlib is None else self._zlib.pack(frames))

    def send_live(self, frame: bytes) -> list[act.Action]:
        """Send a frame that may be left out if this agent takes nothing."""
        self._live_bytes += len(frame)
        if self._live_bytes > LIVE_BYTES:
            return []
        if self._zlib is not None:
            # Nothing that went into the context may be dropped behind it.
            return [self.send([frame])]
        return [act.SendConn(self.name, [frame], droppable=True)]

    def heard_at(self, now: float) -> None:
        """A sign of life."""
        self.heard = now
        self._live_bytes = 0
