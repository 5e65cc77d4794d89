"""The merge of a recovery: what came by all paths, in order, once, with the gaps that remain (R11, R12, R14)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal
from zlib import crc32

import msgspec

from sidecar.core.actions import Admit, Op, RecordGap
from sidecar.core.record import LATE, REPLAYED, Gap
from sidecar.dialects.relaycast import frames
from sidecar.dialects.relaycast.frames import Frame
from sidecar.dialects.relaycast.progress import Debt, Progress, Range, Reaction, ReactionBook, reaction_of
from sidecar.dialects.relaycast.resync import Recovery

MAX_GAP_RECORDS = 32


class Merged(msgspec.Struct):
    """What a merge came to. `ops`: for one commit, the state not included; `rest`: frames above the acknowledged counter, to be taken
    as live ones; `recovered`: rows without a number; `lost`: events recorded as missing; `owed`: of a released recovery."""

    ops: list[Op] = []
    rest: list[Frame] = []
    recovered: int = 0
    lost: int = 0


class Merger:
    """Puts one recovery into the journal. `allowed`: whether a row's channel is the agent's to read (R10)."""

    def __init__(
        self,
        stream: str,
        recovery: Recovery,
        book: ReactionBook,
        seen: Callable[[bytes], bool],
        allowed: Callable[[Frame], bool],
    ) -> None:
        self.stream = stream
        self.recovery = recovery
        self.progress = recovery.progress
        self.book = book
        self.seen = seen
        self.allowed = allowed
        self.merged = Merged()

    def rows(self) -> list[Frame]:
        """Events without a number that are new (R11, R10, R4), by message id, a reaction behind its message (R12)."""
        recovery = self.recovery
        if recovery.is_whole():
            return []
        numbered = {frame.key for frame in recovery.seqd.values()}
        keyed: list[tuple[int, int, int, Frame]] = []
        for key, frame in recovery.rows.items():
            number = frame.message_id
            fresh = key not in numbered and not self.seen(key) and not self.progress.is_older_than_birth(number)
            if fresh and self.allowed(frame):
                keyed.append((number, 0, 0, frame))
        known = self.book.since(recovery.since, self.progress.newest) | self._numbered_adds()
        for index, (reaction, frame) in enumerate(recovery.reactions.items()):
            if reaction not in known:
                keyed.append((frames.as_id(reaction[0]), 1, index, frame))
        keyed.sort(key=lambda item: item[:3])
        strange = [frame for payload, frame in recovery.strange.items() if not self.seen(strange_key(payload))]
        return strange + [item[3] for item in keyed]

    def _numbered_adds(self) -> set[Reaction]:
        found = (reaction_of(frame) for frame in self.recovery.seqd.values())
        return {reaction for reaction, added in filter(None, found) if added}

    def run(self, owe: bool = False) -> Merged:
        """Everything up to the acknowledged counter as operations; moves the progress along. `owe`: the fill is not over, so what is
        missing becomes debt instead of a gap."""
        recovery, progress, merged = self.recovery, self.progress, self.merged
        rows = self.rows()
        if recovery.fresh:
            self._start_life()
        missing = recovery.missing()
        end = recovery.end()
        for seq in sorted(recovery.overlap):
            self._take_overlap(seq, recovery.overlap[seq])
        merged.recovered = len(rows)
        known = sum(1 for seq, frame in recovery.seqd.items() if seq <= end and frame.key and self.seen(frame.key))
        progress.credit = max(progress.credit - known, 0) + len(rows)
        deficit = sum(b - a + 1 for a, b in missing) - progress.credit
        if owe:
            debt = progress.debt or Debt(recovery.since, [])
            progress.debt = Debt(min(debt.since, recovery.since), debt.ranges + missing, debt.rows + progress.credit)
            progress.credit = 0
            gaps: list[tuple[Range, int]] = []
        else:
            gaps = self._gaps(missing, deficit, bool(rows) or progress.credit > 0)
        self._walk(rows, missing, gaps, end)
        if recovery.top is not None or recovery.seqd:
            progress.credit = 0
        merged.rest = [recovery.seqd[seq] for seq in sorted(recovery.seqd) if seq > end]
        return merged

    def _start_life(self) -> None:
        self.progress.start_life()

    def _gaps(self, missing: list[Range], deficit: int, filled: bool) -> list[tuple[Range, int]]:
        """The gaps to record, each with its count: exact ranges if nothing filled them, else one over all of them (R14)."""
        if deficit <= 0:
            return []
        if not filled and len(missing) <= MAX_GAP_RECORDS:
            return [((a, b), b - a + 1) for a, b in missing]
        return [((missing[0][0], missing[-1][1]), deficit)]

    def reason(self) -> Literal["limit", "denied", "lost"]:
        """Why what is missing is missing."""
        if self.recovery.limited:
            return "limit"
        return "denied" if self.recovery.denied == "denied" else "lost"

    def _walk(self, rows: list[Frame], missing: list[Range], gaps: list[tuple[Range, int]], end: int) -> None:
        """Numbered frames by seq; rows before them, or at the hole they may belong to; gaps at their place."""
        recovery, progress = self.recovery, self.progress
        numbered = [seq for seq in sorted(recovery.seqd) if seq <= end]
        slots = self._slots(rows, numbered, missing)
        starts = {a: (a, b) for a, b in missing}
        gap_at = {a: (span, count) for span, count in gaps for a in (span[0],)}
        reactions_after: dict[int, list[Frame]] = {}
        message_ids = {recovery.seqd[seq].message_id for seq in numbered} - {0}
        for frame in slots.pop(0, []):
            reaction = reaction_of(frame)
            about = frames.as_id(reaction[0][0]) if reaction else 0
            if about in message_ids:
                reactions_after.setdefault(about, []).append(frame)
            else:
                self._admit_row(frame)
        others = sorted(recovery.others, key=lambda item: item[0])
        for at in sorted({*numbered, *starts}):
            while others and others[0][0] < at:
                self._admit(others.pop(0)[1], 0)
            if at in starts:
                for frame in slots.pop(at, []):
                    self._admit_row(frame)
                if at in gap_at:
                    span, count = gap_at[at]
                    self._gap(span, count, missing)
                progress.advance(starts[at][1], 0)
                continue
            frame = recovery.seqd[at]
            self._admit(frame, REPLAYED if recovery.top is not None else 0)
            progress.advance(at, frames.mark(frame))
            for late in reactions_after.pop(frame.message_id, ()) if frame.key else ():
                self._admit_row(late)
        for _, frame in others:
            self._admit(frame, 0)
        if end > progress.cursor:
            progress.advance(end, 0)

    def _slots(self, rows: Iterable[Frame], numbered: list[int], missing: list[Range]) -> dict[int, list[Frame]]:
        """Where rows go: by the hole's first number; 0 is the front. A row belongs to the first place behind which the next numbered
        message is younger than it."""
        places = [0, *(a for a, _ in missing)]
        bounds: dict[int, int] = {}
        upcoming = 0
        remaining = sorted(numbered, reverse=True)
        for place in sorted(places, reverse=True):
            while remaining and remaining[0] >= place:
                upcoming = self.recovery.seqd[remaining.pop(0)].message_id or upcoming
            bounds[place] = upcoming
        slots: dict[int, list[Frame]] = {}
        for frame in rows:
            reaction = reaction_of(frame) if not frame.key else None
            number = frame.message_id or (frames.as_id(reaction[0][0]) if reaction else 0)
            place = next((p for p in sorted(places) if not bounds[p] or number < bounds[p]), 0)
            slots.setdefault(place, []).append(frame)
        return slots

    def _take_overlap(self, seq: int, frame: Frame) -> None:
        """A number up to the cursor: known, or one that was recorded as missing and comes late (invariant 6)."""
        progress = self.progress
        if progress.owes(seq):
            progress.settle(seq)
            self._admit(frame, REPLAYED | LATE)
        elif not progress.mark_at(seq):
            progress.learn(seq, frames.mark(frame))
            if self.recovery.learning:
                progress.floor = max(progress.floor, frame.message_id)

    def _gap(self, span: Range, count: int, missing: list[Range]) -> None:
        self.merged.lost += count
        self.merged.ops.append(RecordGap(self.stream, Gap(self.reason(), "seq", span[0], span[1], count)))
        for first, last in missing:
            if first >= span[0] and last <= span[1]:
                self.progress.add_gap(first, last, self.recovery.top is None)

    def _admit_row(self, frame: Frame) -> None:
        key = frame.key
        if not key and frame.payload in self.recovery.strange:
            key = strange_key(frame.payload)
        self._admit(frame, REPLAYED | (LATE if self.recovery.released else 0), key)

    def _admit(self, frame: Frame, flags: int, key: bytes = b"") -> None:
        self.merged.ops.append(Admit(self.stream, frame.payload, frame.key or key, "", flags, frame.meta))
        note(self.progress, self.book, frame)


def note(progress: Progress, book: ReactionBook, frame: Frame) -> None:
    """An event is admitted: remember what later recoveries ask of it."""
    if frame.key:
        progress.saw_message(frame.message_id)
    elif (reaction := reaction_of(frame)) is not None:
        if reaction[1]:
            book.add(reaction[0], progress.newest)
        else:
            book.remove(reaction[0])


def strange_key(payload: bytes) -> bytes:
    """Identity of a database row of a kind this dialect does not know: its bytes."""
    return b"x" + payload if len(payload) <= 400 else b"x%d:%d:" % (len(payload), crc32(payload)) + payload[:300]
