"""Delivery: how far each session was handed records, what is proven of it, and where the consumer's cursor stands.

A *session* is handed records in offset order, a *barrier* behind each batch. Evidence that the client passed a barrier is its
*receipt*; the consumer's *cursor* follows the newest session that has receipts, never back, and is *durable* once on disk. At most
`window` records (and 1 MiB, but at least one) are out beyond the last receipt on disk, so that a kill -9 repeats no more.

What a pong proves depends on the client's stack (engineering.md, Receipts): `handled` credits at once; `buffered` (the pong comes
from a library's parser, ahead of the application) only when what went out after its pong was ponged too, 64 records further on, or
after a second of quiet; `written` means evidence is the drained socket alone; `none` so far nothing.
"""

from __future__ import annotations

from collections import deque

from sidecar.core.actions import Quality

WINDOW_BYTES = 1 << 20
WEAK_LAG = 64


class Session:
    """One session. `position`: last offset handed over, without a break since `start`; `received`: highest offset with evidence;
    `asked`: where the read under way begins, -1 if none is; `fence`: the consumer's cursor when it attached; `seeks`: open Seek
    marks; `cramped`: the next record does not fit into what is left of the window."""

    __slots__ = (
        "asked",
        "barriers",
        "consumer",
        "cramped",
        "fence",
        "name",
        "out_bytes",
        "out_records",
        "owner",
        "paced",
        "ponged",
        "position",
        "quality",
        "reading",
        "received",
        "seeks",
        "start",
        "stream",
        "uncredited",
    )

    def __init__(self, name: str, owner: str, stream: str, consumer: Consumer, position: int, quality: Quality) -> None:
        self.name = name
        self.owner = owner
        self.stream = stream
        self.consumer = consumer
        self.position = self.start = position
        self.quality: Quality = quality
        self.paced = False
        self.asked = -1
        self.fence = 0
        self.cramped = False
        self.received = 0
        self.ponged = 0
        self.reading = False
        self.barriers: deque[tuple[int, int, int]] = deque()
        self.uncredited: deque[tuple[int, int, int]] = deque()
        self.out_records = 0
        self.out_bytes = 0
        self.seeks: deque[SeekMark] = deque()

    def room(self, window: int) -> tuple[int, int]:
        """Records and bytes that may be handed over now; (0, 0): wait for receipts."""
        records = window - self.out_records
        size = WINDOW_BYTES - self.out_bytes
        if self.quality == "buffered":
            # Half a window in each round trip: the pongs of one half prove the other (evidence).
            records = min(records, max(1, window // 2) - sum(n for b, n, _ in self.uncredited if b > self.ponged))
        if self.out_records and (records <= 0 or size <= 0 or self.cramped):
            return 0, 0
        return max(1, records), max(1, size)

    def handed(self, barrier: int, records: int, size: int) -> None:
        """A batch ending in offset `barrier` was handed over."""
        self.position = barrier
        self._out(barrier, records, size)
        if self.quality == "buffered":
            self.uncredited.append((barrier, records, self.ponged))

    def rewind(self, position: int) -> None:
        """Hand over again from after `position` (or skip ahead to it). What went out beyond it counts as not handed over: it needs
        receipts of its own; what went out before it still waits for them."""
        self.position = self.start = position
        self.cramped = False
        self.received = min(self.received, position)
        self.ponged = min(self.ponged, position)
        if position < self.fence:
            self.fence = 0
        while self.barriers and self.barriers[-1][0] > position:
            barrier, records, size = self.barriers.pop()
            self.out_records -= records
            self.out_bytes -= size
            if (kept := records - (barrier - position)) > 0:
                self._out(position, kept, size * kept // records)
        while self.uncredited and self.uncredited[-1][0] > position:
            barrier, records, before = self.uncredited.pop()
            if (kept := records - (barrier - position)) > 0:
                self.uncredited.append((position, kept, min(before, position)))

    def wait_for(self, cursor: int, durable: int) -> None:
        """The consumer's cursor stands at `cursor`, but only `durable` is on disk: what lies between counts for this window, too."""
        self.fence = cursor
        if cursor > durable:
            self._out(cursor, cursor - durable, 0)

    def _out(self, barrier: int, records: int, size: int) -> None:
        self.barriers.append((barrier, records, size))
        self.out_records += records
        self.out_bytes += size

    def settle(self, durable: int) -> None:
        """Everything up to `durable` needs no window any more."""
        barriers = self.barriers
        while barriers and barriers[0][0] <= durable:
            _, records, size = barriers.popleft()
            self.out_records -= records
            self.out_bytes -= size
            self.cramped = False
        if barriers and (part := durable - barriers[0][0] + barriers[0][1]) > 0:
            # A client that acks in the middle of a batch: the window opens by as much, else one that acks every n would wait for ever.
            barrier, records, size = barriers[0]
            share = size * part // records
            barriers[0] = (barrier, records - part, size - share)
            self.out_records -= part
            self.out_bytes -= share
            self.cramped = False

    def evidence(self, offset: int) -> int:
        """Transport evidence up to `offset`; returns what may be credited now (0: nothing new).

        Never more than was handed over on this session (invariant 5)."""
        highest = max((b[0] for b in self.barriers), default=self.received)
        offset = min(offset, max(highest, self.received))
        if offset <= self.ponged:
            return 0
        self.ponged = offset
        if self.quality != "buffered":
            return self._credit(offset)
        # A weak pong: the library answers as it parses, and one read may hold hundreds of frames. It reads again only once nearly all
        # of them were taken, so a barrier counts when one that went out after its pong was ponged too, and WEAK_LAG records behind it.
        ponged = [(n, before) for b, n, before in self.uncredited if b <= offset]
        behind = sum(n for n, _ in ponged)
        proven = ponged[-1][1] if ponged else 0
        credit = 0
        while self.uncredited and self.uncredited[0][0] <= proven:
            barrier, records, _ = self.uncredited[0]
            if behind - records < WEAK_LAG:
                break
            behind -= records
            credit = barrier
            self.uncredited.popleft()
        return self._credit(credit)

    def quiet(self) -> int:
        """A second passed with nothing handed over: weak pongs count in full. Returns what may be credited now."""
        while self.uncredited and self.uncredited[0][0] <= self.ponged:
            self.uncredited.popleft()
        return self._credit(self.ponged)

    def _credit(self, offset: int) -> int:
        if offset <= self.received:
            return 0
        self.received = offset
        return offset


class SeekMark:
    """One open Seek to the place behind offset `after`: SeekDone is due when the session's position reaches `head`."""

    __slots__ = ("after", "events", "head", "mark", "ordinal", "trimmed")

    def __init__(self, mark: str, after: int, head: int, ordinal: int, trimmed: bool) -> None:
        self.mark = mark
        self.after = after
        self.head = head
        self.ordinal = ordinal
        self.events = 0
        self.trimmed = trimmed


class Consumer:
    """A named reader of one stream, or an unnamed one (`name` empty: nothing durable). `cursor`: taken, as credited; `durable`: the
    same on disk; `handed`: highest offset that went out to anyone; `sessions`: in the order they attached; `seen`: Unix seconds;
    `resets`: times the operator set it."""

    __slots__ = ("cursor", "durable", "handed", "known", "name", "quality", "resets", "seen", "sessions", "stream")

    def __init__(self, stream: str, name: str, cursor: int, known: bool, seen: float, quality: str = "none") -> None:
        self.stream = stream
        self.name = name
        self.cursor = self.durable = self.handed = cursor
        self.known = known
        self.seen = seen
        self.quality = quality
        self.resets = 0
        self.sessions: list[Session] = []

    def mover(self) -> Session | None:
        """The newest session with working receipts: the one that moves the cursor."""
        for session in reversed(self.sessions):
            if session.received:
                return session
        return None

    def credit(self, offset: int) -> bool:
        """Move the cursor up to `offset`, never back; True if it moved."""
        if offset <= self.cursor:
            return False
        self.cursor = offset
        return True
