"""Every fault of the reference upstream as a switch (wire page sections 1.3, 1.4, 5 and 7).

A switch is a count: 0 is off, 3 means the next three times, `ALWAYS` until it is set back. `Faults.take` uses one up.
What happens at once to a living socket or session (a cut, op 7, expiry …) is a method of `World` instead.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ALWAYS", "Faults", "Greeting", "RestFault"]

ALWAYS = 1_000_000_000


@dataclass(frozen=True)
class Greeting:
    """What a new socket gets instead of HELLO (U3).

    Args:
        kind: "op7", "op9", "close", "empty_close" (a close frame without a code, 1005) or "cut" (no close frame, 1006).
        resumable: the `d` of op 9.
        code: the close code.
    """

    kind: str
    resumable: bool = False
    code: int = 4000


@dataclass
class RestFault:
    """An answer that a REST call gets in place of its own. Taken while `times` lasts, first match first.

    Args:
        path: regular expression searched in the path behind `/api/v10`, with the query.
        status: the answer's status; None: the true answer.
        body: JSON of the answer; None: what Discord says with that status.
        headers: added to the answer (`Retry-After` …), and replacing its own.
        delay_s: how long the answer is kept back.
        cut: "before" cuts the connection without an answer, "within" in the middle of the body.
    """

    path: str = ""
    method: str = ""
    status: int | None = None
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: str = ""
    times: int = 1

    def fits(self, method: str, path: str) -> bool:
        return self.times > 0 and self.method in ("", method) and re.search(self.path, path) is not None


@dataclass
class Faults:
    """The switches. All off at first."""

    refuse_connect: int = 0
    """The upgrade is answered `refuse_status` (503)."""
    refuse_status: int = 503
    hang_connect: int = 0
    """The TCP connection is taken, the upgrade never answered."""
    only_door: str = ""
    """"gateway" or "resume": the two above hit that door alone."""

    swallow_hello: int = 0
    instead_of_hello: deque[Greeting] = field(default_factory=deque)
    late_hello_s: float = 0.0

    swallow_identify: int = 0
    """No READY, no op 9; heartbeats are still ACKed (the failure this project began with). It counts against the budget."""
    late_ready_s: float = 0.0
    late_guilds_s: float = 0.0
    """GUILD_CREATEs this much after READY; events meanwhile flow (U16)."""
    refuse_identify: int = 0
    """op 9 `false` to an IDENTIFY."""
    close_identify: deque[int | None] = field(default_factory=deque)
    """Close codes for the next IDENTIFYs; None: cut."""

    swallow_resume: int = 0
    refuse_resume: deque[bool] = field(default_factory=deque)
    """op 9 with this `d` for the next RESUMEs; `False` drops the session, `True` keeps it."""
    close_resume: deque[int | None] = field(default_factory=deque)
    """Close codes for the next RESUMEs; None: cut."""
    resumed_without_replay: int = 0
    """RESUMED at once; what was missed is skipped, its numbers too (Crabline)."""
    resumed_renumbered: int = 0
    """The same, and the numbers close ranks: only `last_message_id` or REST shows it."""
    hole_in_replay: int = 0
    """This many frames in the middle of the next replay are left out."""
    cut_replay_after: int | None = None
    """The next replay is cut after so many frames, once."""
    duplicate_replay: int = 0
    """The next replays send every frame twice, and begin with frames at or before the `seq` that the client stated."""

    swallow_acks: int = 0
    late_ack_s: float = 0.0

    duplicate_live: int = 0
    """A dispatch is sent twice with the same `s`."""
    repeat_live: int = 0
    """A dispatch is sent again under a new `s` ("0 to N times")."""
    skip_live: int = 0
    """A dispatch is lost and its number with it: `s` jumps."""
    lose_live: int = 0
    """A dispatch is lost without a trace in `s` ("0 to N times")."""

    metadata_delay_s: float = 0.0
    """/gateway and /gateway/bot answer this late (U11)."""
    metadata_status: deque[int] = field(default_factory=deque)
    """Statuses of the next answers of /gateway and /gateway/bot: 401, 429, 500 …"""
    rest: list[RestFault] = field(default_factory=list)
    rest_charset: bool = False
    """`application/json; charset=utf-8` (Spacebar, R6)."""

    def take(self, name: str) -> bool:
        """Whether the switch of that name is on; uses it up once."""
        left: int = getattr(self, name)
        if left > 0:
            setattr(self, name, left - 1)
        return left > 0

    def connect(self, name: str, door: str) -> bool:
        """`take` for the two switches that may be bound to one door."""
        return self.only_door in ("", door) and self.take(name)

    def rest_fault(self, method: str, path: str) -> RestFault | None:
        """The first REST fault that fits; uses it up once."""
        for fault in self.rest:
            if fault.fits(method, path):
                fault.times -= 1
                return fault
        return None
