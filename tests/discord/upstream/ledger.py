"""What the reference upstream saw: every connect, IDENTIFY, RESUME, heartbeat, command, close and REST call, for assertions.

`wrongs` collects what Discord would tolerate or punish later, but an upstream half must not do: a test that expects good
manners asserts that it is empty.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Beat", "Call", "Closed", "Command", "Connect", "Identify", "Ledger", "Resume"]


@dataclass(frozen=True)
class Connect:
    at: float
    socket: int
    door: str
    """"gateway" or "resume"."""
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    status: int
    """101, or what it was refused with; 0: left hanging."""
    open_before: int
    """How many sockets were open at that moment."""


@dataclass(frozen=True)
class Identify:
    at: float
    socket: int
    token: str
    shard: tuple[int, int]
    intents: int
    d: dict[str, Any]
    answer: str
    """"ready", "op9", "swallowed", "cut" or the close code."""
    counted: int
    """IDENTIFYs of this bot within 24 h, this one included."""


@dataclass(frozen=True)
class Resume:
    at: float
    socket: int
    session: str | None
    seq: int | None
    answer: str
    """"resumed", "op9", "op9 true", "swallowed", "cut" or the close code."""
    replayed: int


@dataclass(frozen=True)
class Beat:
    at: float
    socket: int
    d: int | None
    acked: bool


@dataclass(frozen=True)
class Command:
    at: float
    socket: int
    op: int
    d: Any


@dataclass(frozen=True)
class Closed:
    at: float
    socket: int
    code: int | None
    """None: no close frame."""
    by: str
    """"client" or "server"."""


@dataclass(frozen=True)
class Call:
    at: float
    method: str
    path: str
    """Behind `/api/v10`, without the query, as it came (not decoded)."""
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    status: int
    target: str
    """The whole raw request target."""


@dataclass
class Ledger:
    """Everything in the order it happened, each kind in a list of its own."""

    connects: list[Connect] = field(default_factory=list)
    identifies: list[Identify] = field(default_factory=list)
    resumes: list[Resume] = field(default_factory=list)
    beats: list[Beat] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    closes: list[Closed] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    wrongs: list[str] = field(default_factory=list)
    invalid_requests: int = 0
    """REST answers of 401, 403 and 429 (10 000 in 10 minutes bring an IP ban)."""

    def called(self, path: str, method: str = "GET") -> list[Call]:
        """The REST calls of one path, e.g. "/gateway/bot"."""
        return [call for call in self.calls if (call.method, call.path) == (method, path)]
