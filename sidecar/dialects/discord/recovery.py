"""What a shard may have missed and how that is found out: which guilds and channels are in question, what is held meanwhile
(discord R32 to R34, invariant 9).

A recovery begins with a new session, where each known guild is *in question* until its GUILD_CREATE tells the newest message of each
channel, or with an audit, where two REST calls a guild tell it. Channels that have more than their watermark are filled. What comes live
in a channel in question or being filled is held; all that was found is merged by id before it, once nothing is left to ask. After 30 s,
or too many bytes, what is held goes on its way (`released`), and what is found later is admitted behind it, marked late.

A watermark that moves while its channel is in question is `frozen` as it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from sidecar.core.hold import MAX_BYTES, MAX_SECONDS
from sidecar.dialects.discord import frames
from sidecar.dialects.discord.backfill import Backfill, Fill, Found
from sidecar.dialects.discord.frames import Frame
from sidecar.dialects.discord.session import Range

HOLD_S = MAX_SECONDS
DOUBT_S = 2.0
"""How long live is held while nothing but an empty replay speaks for a hole."""
MAX_DIRECT, MAX_DIRECT_IN_DOUBT = 500, 50
"""Channels of direct messages that are read back, those with the newest messages first: nothing tells which of them have something new."""
IN_FLIGHT_MS = 2000
"""Messages younger than this, when a RESUME without a replay is doubted, may just be on their way."""
NEVER_HELD = "INTERACTION_CREATE"
"""Its token lives three seconds."""


class Row(msgspec.Struct, omit_defaults=True):
    """Durable: a restart takes the recovery up again. `floor`: the highest snowflake known when it began; `missing`: numbers of the
    session that never came; `audit`: guilds are looked at over REST; `since`: when it began, `away`: for a mere doubt, when the socket
    before was heard last (Unix milliseconds)."""

    fills: dict[str, Fill] = {}
    guilds: list[str] = []
    frozen: dict[str, int] = {}
    floor: int = 0
    missing: list[Range] = []
    audit: bool = False
    since: int = 0
    away: int = 0

    @property
    def is_doubt(self) -> bool:
        """Does nothing but an empty replay speak for it?"""
        return self.away > 0 and not self.missing


class Recovery:
    """`row`: its durable part; `is_open`: it asks and holds (an audit may have to wait for its time first)."""

    def __init__(self, row: Row, backfill: Backfill) -> None:
        self.row = row
        self.backfill = backfill
        self.questioned = set(row.guilds)
        self.released = False
        self.is_open = False
        self.changed = True
        self.filled = 0
        self._held: list[Frame] = []
        self._found: list[Found] = []
        self._bytes = 0

    def open(self) -> None:
        """Begin to ask and to hold."""
        self.is_open = True
        for fill in self.row.fills.values():
            self.backfill.fill(fill)
        if self.row.audit:
            for guild in sorted(self.questioned):
                self.backfill.look(guild)

    @property
    def hold_s(self) -> float:
        """Seconds for which live may be held."""
        return DOUBT_S if self.row.is_doubt else HOLD_S

    @property
    def most_direct(self) -> int:
        """Channels of direct messages that are read at most."""
        return MAX_DIRECT_IN_DOUBT if self.row.is_doubt else MAX_DIRECT

    def is_older(self, number: int) -> bool:
        """Was this message there when it began, and missed? What is held came; what was lost before a doubtful absence is none of that."""
        if any(frame.id == str(number) for frame in self._held):
            return False
        until = self.row.since - (IN_FLIGHT_MS if self.row.is_doubt else 0)
        return not self.row.since or self.row.away < frames.time_of(number) <= until

    @property
    def is_over(self) -> bool:
        """Is nothing in question any more?"""
        return not self.questioned and not self.row.fills

    @property
    def is_full(self) -> bool:
        """Is more held than may be?"""
        return self._bytes > MAX_BYTES

    @property
    def is_ripe(self) -> bool:
        """Is all that is asked over REST answered, so that it can be merged?"""
        return self.backfill.is_done and (bool(self.row.fills) or bool(self._found))

    def dump(self) -> bytes:
        """The durable row."""
        self.row.guilds = sorted(self.questioned)
        return msgspec.json.encode(self.row)

    # --- watermarks ------------------------------------------------------------------------------------------------------------------

    def freeze(self, channel: str, guild: str, mark: int | None) -> None:
        """A channel's mark is about to move; None: it has none yet."""
        if channel in self.row.frozen or channel in self.row.fills:
            return
        if guild in self.questioned or (not guild and not self.is_open):
            if mark is None:
                # A channel younger than the recovery was empty when it began; of an older one nothing is replayed.
                number = frames.snowflake(channel)
                if number <= self.row.floor:
                    return
                mark = number
            self.row.frozen[channel] = mark
            self.changed = True

    def mark(self, channel: str, current: int) -> int:
        """Where the channel's reading would begin."""
        return self.row.frozen.get(channel, current)

    # --- holding ---------------------------------------------------------------------------------------------------------------------

    def holds(self, frame: Frame, guild: str) -> bool:
        """Has this event to wait?"""
        if self.released or not self.is_open or not frame.channel or frame.kind == NEVER_HELD:
            return False
        return frame.channel in self.row.fills or guild in self.questioned

    def put(self, frame: Frame) -> None:
        """Keep it."""
        self._held.append(frame)
        self._bytes += frame.size

    def has(self, channel: str) -> bool:
        """Is anything of this channel held?"""
        return any(frame.channel == channel for frame in self._held)

    def confirm(self, guild: str, fills: Iterable[Fill]) -> list[Frame]:
        """A guild is in question no more; these channels of it are to be read. Returns what was held and need not be."""
        self.questioned.discard(guild)
        for fill in fills:
            self.add(fill)
        self.changed = True
        return self.let_go()

    def add(self, fill: Fill) -> None:
        """Read a channel, unless that is under way."""
        if fill.channel not in self.row.fills:
            self.row.fills[fill.channel] = fill
            self.row.frozen.pop(fill.channel, None)
            self.changed = True
            if self.is_open:
                self.backfill.fill(fill)

    def let_go(self) -> list[Frame]:
        """What is held and need not be."""
        fills, questioned = self.row.fills, self.questioned
        gone = [f for f in self._held if f.channel not in fills and f.guild not in questioned]
        if gone:
            self._held = [f for f in self._held if f.channel in fills or f.guild in questioned]
            self._bytes -= sum(f.size for f in gone)
        return gone

    def found(self, rows: Iterable[Found]) -> None:
        """Messages from history."""
        for each in rows:
            self._found.append(each)
            self._bytes += sum(len(bytes(value)) for value in each.row.values())

    def done(self, channel: str) -> None:
        """After a release: a channel was read to its end."""
        self.row.fills.pop(channel, None)
        self.changed = True

    def merge(self) -> list[Found | Frame]:
        """All is asked: what was found by id, and what was held behind it or, where that has a place between, among it."""
        rows = self.take_found()
        self.row.fills = {}
        self.changed = True
        return _mixed(rows, self.let_go())

    def release(self) -> list[Found | Frame]:
        """The bound is reached: what was found so far, and all that was held."""
        mixed = _mixed(self.take_found(), self.take_held())
        self.released = True
        # What was read to its end has nothing to wait for any more.
        pending = self.backfill.pending()
        self.row.fills = {channel: fill for channel, fill in self.row.fills.items() if channel in pending}
        self.changed = True
        return mixed

    def carried(self) -> list[Frame]:
        """Held messages that can wait on in a new session: nothing but messages is held of their channels, so history has them, too,
        should they be lost with the process."""
        others = {frame.channel for frame in self._held if frame.kind != "MESSAGE_CREATE"}
        kept = [] if self.released else [frame for frame in self._held if frame.channel not in others]
        if kept:
            self._held = [frame for frame in self._held if frame.channel in others]
            self._bytes -= sum(frame.size for frame in kept)
        for frame in kept:
            # A number of a session that is over.
            frame.s = 0
        return kept

    def take_held(self) -> list[Frame]:
        """All that is held."""
        held, self._held = self._held, []
        self._bytes = 0
        return held

    def take_found(self) -> list[Found]:
        """What was found, by id; the fills stand where it ends."""
        rows, self._found = sorted(self._found, key=lambda each: each.id), []
        for each in rows:
            if fill := self.row.fills.get(each.channel):
                fill.after = max(fill.after, each.id)
        self._bytes = sum(f.size for f in self._held)
        self.changed = self.changed or bool(rows)
        return rows


def _mixed(rows: Sequence[Found], held: Sequence[Frame]) -> list[Found | Frame]:
    """What was found, by id, and what was held, in its order; of a channel, what history has between two held messages stands between
    them. A message that is both is taken as it came."""
    first: dict[str, int] = {}
    between: dict[str, deque[Found]] = {}
    number = [frames.snowflake(f.id) if f.kind == "MESSAGE_CREATE" else 0 for f in held]
    for frame, n in zip(held, number, strict=True):
        if n:
            first.setdefault(frame.channel, n)
    mixed: list[Found | Frame] = []
    for each in rows:
        if each.id < first.get(each.channel, each.id + 1):
            mixed.append(each)
        else:
            between.setdefault(each.channel, deque()).append(each)
    for frame, n in zip(held, number, strict=True):
        waiting = between.get(frame.channel)
        while n and waiting and waiting[0].id <= n:
            each = waiting.popleft()
            if each.id != n:
                mixed.append(each)
        mixed.append(frame)
    return mixed + sorted((each for waiting in between.values() for each in waiting), key=lambda each: each.id)


def load(raw: bytes | None) -> Row | None:
    """A durable row, None if there is none."""
    return msgspec.json.decode(raw, type=Row) if raw else None


def together(rows: Iterable[Row | None], floor: int, since: int) -> Row:
    """What earlier recoveries left open, for a new one: the oldest marks count."""
    found = Row(floor=floor, since=since)
    for row in rows:
        if row is None:
            continue
        found.floor = min(found.floor, row.floor)
        for channel, fill in row.fills.items():
            older = found.frozen.get(channel, fill.after)
            found.frozen[channel] = min(older, fill.after)
        _lower(found.frozen, row.frozen)
    return found


def _lower(into: dict[str, int], marks: Mapping[str, int]) -> None:
    for channel, mark in marks.items():
        into[channel] = min(into.get(channel, mark), mark)
