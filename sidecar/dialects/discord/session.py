"""A shard's upstream session as kept on disk, and which of its numbers were admitted (discord R2, R26).

`top` is the highest `s` received. Not all below it need be in the journal: events of a channel that is being filled are held in memory.
RESUME and heartbeats name `seq`, the end of the contiguous prefix that is on disk or on its way there; what a replay then brings again
is dropped unless it is one of those that were held when an earlier process ended.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

import msgspec

GUILD_MESSAGES, DIRECT_MESSAGES = 1 << 9, 1 << 12
Range = tuple[int, int]


class Row(msgspec.Struct, omit_defaults=True):
    """Durable. `resume_url`: as READY named it; `seq`, `top`, `missing` (ranges up to `top` that are not admitted); `other`: those of
    `missing` that history cannot give, for they are no messages; `intents`: the session's; `asked`: what agents asked for, all together;
    `began`, `heard`, `held`: Unix milliseconds of READY, of the last event and of the first of `missing`; `newest`: the highest snowflake
    known; `loading`: guilds of the first READY whose state has not come yet."""

    session_id: str = ""
    resume_url: str = ""
    seq: int = 0
    top: int = 0
    missing: list[Range] = []
    other: list[int] = []
    intents: int = 0
    asked: int = 0
    began: int = 0
    heard: int = 0
    held: int = 0
    newest: int = 0
    loading: list[str] = []


class Session:
    """One shard's row with its bookkeeping. `dropped`: the upstream has the session no more; `committed`: `seq` on disk."""

    def __init__(self, row: bytes | None = None) -> None:
        self.row = msgspec.json.decode(row, type=Row) if row else Row()
        self.dropped = False
        self.committed = self.row.seq
        self.generation = 0
        self._owed = [tuple(each) for each in self.row.missing]
        self._held: dict[int, None] = {}
        self._other = set(self.row.other)

    @property
    def is_resumable(self) -> bool:
        """Is there a session that the upstream may still know?"""
        return bool(self.row.session_id) and not self.dropped

    @property
    def is_new(self) -> bool:
        """Was there never a READY?"""
        return not self.row.began

    def brings(self, guild: str) -> bool:
        """Were messages asked for at all: those of guilds, or direct ones (`guild` empty)?"""
        return bool(self.row.intents & (GUILD_MESSAGES if guild else DIRECT_MESSAGES))

    @property
    def top(self) -> int:
        """The highest number received."""
        return self.row.top

    @property
    def seq(self) -> int:
        """The end of the contiguous prefix that is admitted."""
        ends = [self._owed[0][0]] if self._owed else []
        if self._held:
            ends.append(next(iter(self._held)))
        return min(ends, default=self.row.top + 1) - 1

    def begin(self, session_id: str, resume_url: str, s: int, intents: int, ms: int) -> None:
        """READY: numbers start anew."""
        row = self.row
        row.session_id, row.resume_url, row.intents = session_id, resume_url, intents
        row.began = row.heard = ms
        row.held = 0
        row.top = s
        self._owed, self._held, self._other = [], {}, set()
        self.dropped = False
        self.committed = 0
        self.generation += 1

    def take(self, s: int) -> bool:
        """Note a number; False if its event is admitted, or held here, already."""
        if s > self.row.top:
            self.row.top = s
            return True
        return self._settle_owed(s)

    def rewind(self, s: int) -> None:
        """The upstream counts from a lower number on than we had: what is held keeps its place without one."""
        self.row.top = s
        self._owed, self._held, self._other = [], {}, set()

    def hold(self, s: int, ms: int, *, is_message: bool) -> None:
        """The event just taken (at `ms`, Unix milliseconds) is kept in memory for now."""
        # It may be a replay's, and older: as old as the last sign of life before. What was held before a kill is held since then.
        self.row.held = self.row.held or min(ms, self.row.heard)
        self._held[s] = None
        if not is_message:
            self._other.add(s)

    def settle(self, numbers: Iterable[int]) -> None:
        """Held events that are admitted now."""
        for s in numbers:
            self._held.pop(s, None)
            self._other.discard(s)

    def others(self) -> list[int]:
        """Events that were held when an earlier process ended, are owed still, and are in no history."""
        return sorted(s for s in self._other if s not in self._held)

    def give_up(self) -> list[Range]:
        """The replay is over: what is still owed from before a restart will not come. Returns it."""
        owed, self._owed = self._owed, []
        self._other.intersection_update(self._held)
        return [(a, b) for a, b in owed]

    def _settle_owed(self, s: int) -> bool:
        at = bisect_right(self._owed, s, key=lambda r: r[0]) - 1
        if at < 0 or s > self._owed[at][1]:
            return False
        self._other.discard(s)
        first, last = self._owed[at]
        self._owed[at : at + 1] = [r for r in ((first, s - 1), (s + 1, last)) if r[0] <= r[1]]
        return True

    def dump(self, ms: int) -> bytes:
        """The durable row. `ms`: when the upstream was last heard, Unix milliseconds; a commit while it is away is no sign of life."""
        row = self.row
        row.heard, row.seq = max(row.heard, ms), self.seq
        row.missing = [(a, b) for a, b in self._owed]
        for s in self._held:
            if row.missing and row.missing[-1][1] == s - 1:
                row.missing[-1] = (row.missing[-1][0], s)
            else:
                row.missing.append((s, s))
        row.missing.sort()
        row.held = row.held if row.missing else 0
        row.other = sorted(self._other)
        return msgspec.json.encode(row)
