"""One recovery: from an open (or a hole) to the merge. What was asked, what came, whether it is everything (R5 to R9, R11 to R14).

A recovery lasts for one or more exchanges. Each is one `resync` frame, the rows that follow, and its acknowledgement; one at a
time. All frames in between, live ones too, are collected here (R6) and only then put in order. After an acknowledgement `acked`
says what is next:

    first exchange: cursor - overlap ──ack──┬─ all numbers there, same life ─────────────────────► Merge (database rows ignored)
                                            ├─ another life (R7), numbers missing, or no proof ──► Ask(-1, since)
    Ask(-1, since) ─────────────────ack─────┬─ a kind stood at 1000 rows (R8) ───────────────────► Ask(-1, newest row - 1 s) …
                                            ├─ a second with over 1000 rows, hollow replay ──────► History (REST)
                                            └─ every kind under 1000 rows: proof ────────────────► Merge
    no ack in time (R9) ─────────────────────────────────────────────────────────────────────────► History (REST)

The same life is proven by an overlapping number whose event is the one in the journal. In one proven life every event has a number,
so if all numbers are there, database rows can only be events that were never pushed to this agent.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import msgspec

from sidecar.core.hold import Hold
from sidecar.dialects.relaycast import frames
from sidecar.dialects.relaycast.frames import Frame
from sidecar.dialects.relaycast.instants import iso
from sidecar.dialects.relaycast.progress import Progress, Range, Reaction, holes, reaction_of, size, without

COUNTER = 9007199254740991
"""A last_seen_seq above every counter: the answer tells the counter and replays nothing."""
DATABASE_LIMIT = 1000
MAX_PAGES = 500
DATE_SLACK_MS = 1000
"""A Date header has whole seconds."""
ANOTHER = 1
"""A mark that no frame has."""
FRAME_COST = 400
"""Bytes counted against the hold for a frame beside its payload."""


class Ask(msgspec.Struct, frozen=True):
    """Send a resync: everything above `seq`, database rows later than `since` (server ms)."""

    seq: int
    since: int

    def frame(self) -> bytes:
        """The client's frame (section 3)."""
        return msgspec.json.encode({"type": "resync", "last_seen_seq": self.seq, "since": iso(self.since)})


class History(msgspec.Struct, frozen=True):
    """Read history over REST, for `why`."""

    why: str


class Merge(msgspec.Struct, frozen=True):
    """Everything that can be had is here."""


Step = Ask | History | Merge


class Ack(msgspec.Struct, frozen=True):
    """A resync_ack."""

    asked: int
    current: int
    replayed: int
    gap: bool


def ack_of(frame: Frame) -> Ack | None:
    """The acknowledgement in a frame of type resync_ack; None if its counter is not a number."""
    members = frames.fields(frame.payload)
    current, asked, count = members.get("current_seq"), members.get("last_seen_seq"), members.get("replayed")
    if isinstance(current, bool) or not isinstance(current, int | float) or current < 0:
        return None
    number = int(asked) if isinstance(asked, int | float) else COUNTER
    return Ack(number, int(current), count if isinstance(count, int) else 0, members.get("gap_detected") is True)


class Exchange:
    """One resync under way. `counts` and `newest` (server ms): database rows by class of query (m, d, r); `lowest`: the lowest number
    above the one asked from that came."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.lowest = COUNTER
        self.received = 0
        self.counts = {"m": 0, "d": 0, "r": 0}
        self.newest = {"m": 0, "d": 0, "r": 0}
        self.reached = 0

    def saw_row(self, query: str, ms: int) -> None:
        """A database row came; rows are merged by second, so its time is at least that of the rows before it."""
        self.reached = max(self.reached, ms)
        self.counts[query] += 1
        self.newest[query] = self.reached

    def next_page(self) -> int | None:
        """Where to ask on (server ms, whole seconds) if a query stood at its limit (R8), None if none did."""
        full = [self.newest[query] for query, count in self.counts.items() if count >= DATABASE_LIMIT]
        return min(full) // 1000 * 1000 - 1000 if full else None


class Recovery:
    """What has come since the open. `base`: numbers up to it need no recovery; `fresh`: a new life was found; `proven`: the same
    life was; `top`: the counter at the last acknowledgement, None before one; `released`: live events pass by meanwhile, and what was
    missing then is the progress's debt; `searched`: REST was asked."""

    def __init__(self, progress: Progress, since: int, cause: str, *, proven: bool = False, deep: bool = True) -> None:
        self.progress = progress
        self.base = progress.cursor
        self.since = since
        self.cause = cause
        self.proven = proven
        self.deep = deep
        self.hold: Hold[Frame] = Hold()
        self.exchange: Exchange | None = None
        self.retried = False
        self.dated: tuple[int, int] | None = None
        self.started_at = progress.newest
        self.mending = progress.doubt > 0 or progress.debt is not None
        self.reactions_from = progress.birth // 1000 * 1000
        self.fresh = False
        self.doubting = self.progress.doubt > 0
        self.released = False
        self.searched = False
        self.settled = False
        self.hollow = False
        self.unsure = False
        self.untold = False
        self.database = False
        self.limited = False
        self.denied = False
        self.pages = 0
        self.top: int | None = None
        self.highest = self.base
        self.rows: dict[int, Frame] = {}
        self.reactions: dict[Reaction, Frame] = {}
        self.strange: dict[bytes, Frame] = {}
        self.forget_numbered()

    def forget_numbered(self) -> None:
        """Numbered events were admitted or thrown away."""
        self.seqd: dict[int, Frame] = {}
        self.overlap: dict[int, Frame] = {}
        self.others: list[tuple[int, Frame]] = []

    def release(self) -> None:
        """From now on live events pass by; what the fill still finds is late (invariant 9)."""
        self.forget_numbered()
        self.released = True
        self.base = self.progress.cursor

    def ask(self, ask: Ask) -> bytes:
        """Begin an exchange; the frame to send."""
        self.exchange = Exchange(ask)
        if ask.seq < 0:
            self.pages += 1
        return ask.frame()

    def take(self, frame: Frame) -> bool:
        """Collect a frame. False: it does not fit into the hold and was not taken (R6)."""
        if not self.hold.reserve(len(frame.payload) + FRAME_COST):
            return False
        if frame.seq >= 0:
            self.passed(frame)
            self.highest = max(self.highest, frame.seq)
            target = self.seqd if frame.seq > self.base else self.overlap
            target[frame.seq] = frame
        else:
            self._take_row(frame)
        return True

    def passed(self, frame: Frame) -> None:
        """A numbered frame came, whether it is collected or not."""
        if self.exchange is not None:
            self.exchange.received += 1
            if frame.seq > self.exchange.ask.seq:
                self.exchange.lowest = min(self.exchange.lowest, frame.seq)

    def _take_row(self, frame: Frame) -> None:
        exchange = self.exchange
        if exchange is not None:
            exchange.received += 1
        if frame.key:
            if exchange is not None:
                exchange.saw_row("m" if frame.in_channel else "d", frames.server_ms(frame.message_id))
            self.rows.setdefault(frame.key, frame)
            return
        if not is_row(frame):
            self.others.append((self.highest, frame))
            return
        reaction = reaction_of(frame)
        if reaction is not None and reaction[1]:
            if exchange is not None:
                number = frames.as_id(reaction[0][0])
                exchange.saw_row("r", frames.server_ms(number))
                if exchange.ask.since < self.reactions_from and self.progress.is_older_than_birth(number):
                    # It has no time of its own, but is no older than its message; this one may be older than the birth.
                    self.untold = True
                    return
            self.reactions.setdefault(reaction[0], frame)
        else:
            self.strange.setdefault(frame.payload, frame)

    def add_history(self, rows: list[Frame], date: int) -> None:
        """Take frames made from REST; a copy that is here already wins. `date`: server time (ms) at the last answer, 0 unknown: all
        numbers that have come by now are older."""
        for frame in rows:
            self.rows.setdefault(frame.key, frame)
        if date:
            known = [0 if self.fresh else self.base, self.top or 0, *self.seqd]
            self.dated = (max(known), date + DATE_SLACK_MS)

    # --- what is next ------------------------------------------------------------------------------------------------

    def acked(self, ack: Ack) -> Step:
        """An exchange was acknowledged: what is next."""
        exchange = self.exchange
        assert exchange is not None
        self.exchange = None
        self.judge_life(ack.current)
        self.top = ack.current
        if self.is_whole():
            return Merge()
        if exchange.ask.seq >= 0 and (self.fresh or not ack.gap):
            if self.deep or self.fresh:
                return Ask(-1, self.since)
            self.searched = True  # not now: the next open does
            return Merge()
        if self.untold and self.pages < MAX_PAGES:
            self.untold = False
            return Ask(-1, self.reactions_from)
        page = exchange.next_page()
        if page is not None and self.pages < MAX_PAGES:
            floor = exchange.ask.since // 1000 * 1000
            if page <= floor:
                # More than 1000 rows in one second: REST for them, and on behind it, where only a replay finds some kinds.
                self.unsure = True
                page = floor + 1000
            return Ask(-1, page)
        # Below the counter the ring has at least the newest event.
        self.hollow = exchange.ask.seq < ack.current and (ack.replayed == 0 or ack.current < exchange.lowest)
        if self.unsure or page is not None or self.hollow or exchange.received < ack.replayed or not ack.gap:
            return self._search("the replay did not prove that it was whole")
        self.settled = True
        return Merge()

    def unanswered(self) -> Step:
        """No acknowledgement came in time (R9)."""
        self.exchange = None
        self.judge_life(None)
        return self._search("no acknowledgement of the resync")

    def searched_all(self) -> Step:
        """REST was read. If events are known to be missing and the server did not really answer, one more resync may still have them."""
        lacking = self.missing()
        if (self.top is None or self.hollow) and lacking and not self.retried and self.cause != "hole" and self.lacks() > 0:
            self.retried = True
            return Ask(lacking[0][0] - 1, self.since)
        return Merge()

    def _search(self, why: str) -> Step:
        if self.searched:
            return Merge()
        self.searched = True
        return History(why)

    def is_whole(self) -> bool:
        """Acknowledged, proven to be in the same life, and every number is there."""
        if self.top is None and not self.released:
            return False
        unnumbered_debt = self.progress.debt is not None and not self.progress.debt.ranges
        return self.proven and not (self.fresh or self.doubting or unnumbered_debt or self.missing())

    def is_late(self, frame: Frame) -> bool:
        """Is this event older than what was admitted before, since an earlier recovery was not whole?"""
        return self.released or (self.mending and 0 < frame.message_id <= self.started_at)

    def missing(self) -> list[Range]:
        """Numbers from which nothing has come: owed ones, and those up to the acknowledged counter (without one: to the highest seen)."""
        debt = self.progress.debt
        owed: list[Range] = [] if debt is None or (self.fresh and not self.released) else debt.ranges
        if self.released:
            return list(owed)
        for seq in self.overlap:
            owed = without(owed, seq)
        return owed + holes(self.base + 1, self.end(), self.seqd)

    def lacks(self) -> int:
        """How many events are missing beyond what came without a number."""
        return size(self.missing()) - len(self.rows) - len(self.reactions) - self.progress.credit

    def end(self) -> int:
        """Up to where this recovery accounts for numbers."""
        if self.released:
            return self.base
        return max(self.seqd, default=self.base) if self.top is None else self.top

    def judge_life(self, current: int | None) -> None:
        """Same life or a new one (R7)? What came with numbers up to the cursor is compared with the journal."""
        if self.fresh or self.released:
            return
        matched, sure_match, differed, sure_difference = 0, False, 0, False
        for seq, frame in self.overlap.items():
            known = self.progress.mark_at(seq) or self._mark_by_time(seq, frame)
            mark = frames.mark(frame)
            if not known:
                continue
            if known == mark:
                matched += 1
                sure_match = sure_match or bool(frame.key)
            else:
                differed += 1
                sure_difference = sure_difference or bool(frame.key) or bool(known & 1)
        # A message event is at one number of one life only; other events may look alike in two lives.
        if sure_difference or (differed and not sure_match) or (current is not None and current < self.base):
            self.fresh = True
            self.proven = False
            self.base = 0
            self.seqd = self.overlap | self.seqd
            self.overlap = {}
        elif matched:
            self.proven = True

    def _mark_by_time(self, seq: int, frame: Frame) -> int:
        """For a message at a number of which only the time is known: its own mark if it is old enough to be of that life, another one if
        it is too young, 0 if nothing is known. A new life's ring has nothing that is older than the new life."""
        last, ms = self.progress.dated
        if not frame.key or seq > last:
            return 0
        made = frames.server_ms(frame.message_id)
        return frames.mark(frame) if made <= ms - DATE_SLACK_MS else ANOTHER if made > ms else 0

    def admissible(self) -> Iterator[Frame]:
        """Frames with a number that the merge will admit: new ones, and owed ones if their life is certain."""
        owed = (frame for seq, frame in self.overlap.items() if self.proven and self.progress.owes(seq))
        return chain(self.seqd.values(), owed)


def is_row(frame: Frame) -> bool:
    """Is this a copy from the server's database (section 5)?"""
    return frame.seq < 0 and frames.fields(frame.payload).get("replayed") is True
