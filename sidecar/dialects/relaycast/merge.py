"""The merge of a recovery: what came by all paths, in order, once, with the gaps that remain (R11, R12, R14)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal
from zlib import crc32

from sidecar.core.actions import Admit, Op, RecordGap
from sidecar.core.record import LATE, REPLAYED, Gap
from sidecar.dialects.relaycast import frames
from sidecar.dialects.relaycast.frames import Frame
from sidecar.dialects.relaycast.progress import Debt, Memory, Range, Reaction, reaction_of, size
from sidecar.dialects.relaycast.resync import Recovery

MAX_GAP_RECORDS = 32
END = 1 << 63


class Merger:
    """Puts one recovery into the journal. `seen`: whether a key is admitted; `allowed`: whether a row's channel is the agent's to
    read (R10). After `run`: `ops` for one commit, the state not included; `rest`: numbered frames above the acknowledged counter, to be
    taken as live ones; `lost`: events recorded as missing."""

    def __init__(
        self,
        stream: str,
        recovery: Recovery,
        memory: Memory,
        seen: Callable[[int | bytes], bool],
        allowed: Callable[[Frame], bool],
    ) -> None:
        self.stream = stream
        self.recovery = recovery
        self.memory = memory
        self.progress = recovery.progress
        self.seen = seen
        self.allowed = allowed
        self.ops: list[Op] = []
        self.rest: list[Frame] = []
        self.lost = 0
        self.unplaced: list[Frame] = []
        self.before: set[tuple[int, int]] = set()

    # --- which rows are events ---------------------------------------------------------------------------------------

    def rows(self) -> list[Frame]:
        """Events without a number that are new (R11, R10, R4), by message id, a reaction behind its message (R12)."""
        recovery = self.recovery
        if recovery.is_whole():
            return []
        numbered = {frame.key for frame in recovery.admissible()}
        # What was made after the counter was told comes live, with its number and in its place.
        after = (
            frame.message_id for seq, frame in recovery.seqd.items() if frame.key and recovery.top is not None and seq > recovery.end()
        )
        live_from = min(after, default=END)
        found: list[tuple[int, int, int, Frame]] = []
        for key, frame in recovery.rows.items():
            number = frame.message_id
            new = key not in numbered and not self.seen(key) and not self.progress.is_older_than_birth(number)
            if new and number < live_from and self.allowed(frame):
                found.append((number, 0, 0, frame))
        known = self.memory.reactions.since(recovery.since, self.progress.newest) | self._numbered_adds()
        for index, (reaction, frame) in enumerate(recovery.reactions.items()):
            if reaction not in known:
                found.append((frames.as_id(reaction[0]), 1, index, frame))
        found.sort(key=lambda item: item[:3])
        strange = [frame for payload, frame in recovery.strange.items() if not self.seen(strange_key(payload))]
        return strange + [item[3] for item in found]

    def _numbered_adds(self) -> set[Reaction]:
        found = (reaction_of(frame) for frame in self.recovery.admissible())
        return {reaction for reaction, added in filter(None, found) if added}

    # --- the three ways to end ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Everything up to the acknowledged counter; what is still missing becomes gaps."""
        recovery, progress = self.recovery, self.progress
        rows = self.rows()
        missing, older = self._begin()
        owed = progress.debt is not None
        beyond = self._beyond(rows)
        progress.credit += sum(1 for frame in rows if owed or not recovery.is_late(frame)) - beyond
        deficit = size(missing) + older - progress.credit
        gaps = self._gaps(missing, older, deficit, progress.credit > 0)
        self._walk(rows, missing, gaps)
        self._note_unplaced()
        progress.debt = None
        self._settle_doubt(deficit > 0)
        if recovery.top is not None or recovery.seqd:
            progress.credit = 0
        progress.credit += beyond

    def _beyond(self, rows: list[Frame]) -> int:
        """How many rows are younger than every numbered message: without an acknowledgement they stand for numbers not seen yet."""
        if self.recovery.top is not None:
            return 0
        youngest = max((frame.message_id for frame in self.recovery.seqd.values()), default=0)
        return sum(1 for frame in rows if frame.message_id > youngest > 0)

    def _settle_doubt(self, lacking: bool) -> None:
        """Without an acknowledged, proven replay the next open asks again for what is missing."""
        recovery, progress = self.recovery, self.progress
        if recovery.top is None or (recovery.searched and (lacking or not recovery.proven)):
            progress.doubt = min(progress.doubt or recovery.since, recovery.since)
        elif recovery.settled:
            progress.doubt, progress.doubtful = 0, []

    def release(self) -> None:
        """Numbered events up to the highest one, while the fill goes on: what is missing becomes debt (invariant 9)."""
        recovery, progress = self.recovery, self.progress
        since = min(recovery.since, progress.debt.since) if progress.debt else recovery.since
        missing, older = self._begin()
        progress.debt = Debt(since, missing, older, progress.credit)
        progress.credit = 0
        self._walk([], missing, [])
        self._note_unplaced()

    def late(self, final: bool) -> None:
        """What a released recovery found by now, behind everything else; `final`: the fill is over, and the rest is a gap."""
        progress, debt = self.progress, self.progress.debt
        rows = self.rows()
        for frame in rows:
            self._admit_row(frame)
        self._note_unplaced()
        if debt is None:
            return
        debt.rows += len(rows)
        if final:
            for span, count in self._gaps(debt.ranges, debt.older, size(debt.ranges) + debt.older - debt.rows, debt.rows > 0):
                self._gap(span, count, debt.ranges)
            if self.recovery.top is None:
                progress.credit += max(debt.rows - size(debt.ranges) - debt.older, 0)
            progress.debt = None
            self._settle_doubt(self.lost > 0)

    def _begin(self) -> tuple[list[Range], int]:
        """Settle lives, owed numbers and credit; what is missing then, and how much more of an earlier life."""
        recovery, progress = self.recovery, self.progress
        debt, older = progress.debt, 0
        if recovery.fresh:
            if debt is not None:
                older = max(size(debt.ranges) + debt.older - debt.rows, 0)
                debt.ranges = []
            # The new life may have begun unnoticed: what it has at the same number with the same bytes is in the journal.
            self.before = progress.marks()
            progress.start_life()
        elif debt is not None:
            older = debt.older
            progress.credit += debt.rows
        missing = recovery.missing()
        for seq in sorted(recovery.overlap):
            self._take_overlap(seq, recovery.overlap[seq])
        end = recovery.end()
        # An event that came as a row before and has its number now no longer stands for another number.
        twice = sum(1 for seq, frame in recovery.seqd.items() if seq <= end and self._is_admitted(frame))
        progress.credit = max(progress.credit - twice, 0)
        self.rest = [recovery.seqd[seq] for seq in sorted(recovery.seqd) if seq > end]
        return missing, older

    def _is_admitted(self, frame: Frame) -> bool:
        return self.seen(frame.key) if frame.key else self.memory.is_copy(frame, settle=False)

    def _take_overlap(self, seq: int, frame: Frame) -> None:
        """A number up to the cursor: known, or one that was recorded as missing and comes late (invariant 6)."""
        progress = self.progress
        if progress.owes(seq):
            if not self.recovery.proven:
                return  # perhaps the number of another life
            progress.settle(seq)
            self._admit(frame, REPLAYED | LATE)
        elif not progress.mark_at(seq):
            progress.learn(seq, frames.mark(frame))
            if self.recovery.cause == "birth":
                progress.floor = max(progress.floor, frame.message_id)

    # --- gaps (R14) --------------------------------------------------------------------------------------------------

    def _gaps(self, missing: list[Range], older: int, deficit: int, filled: bool) -> list[tuple[Range, int]]:
        """The gaps to record, each with its count: exact ranges if nothing filled them, else one over all of them. Events of an earlier
        life have no range: (0, 0)."""
        found: list[tuple[Range, int]] = []
        here = min(deficit, size(missing))
        if here > 0:
            if not filled and len(missing) <= MAX_GAP_RECORDS:
                found = [((a, b), b - a + 1) for a, b in missing]
            else:
                found = [((missing[0][0], missing[-1][1]), here)]
        if deficit > here > 0 or (deficit > 0 and here <= 0):
            found.insert(0, ((0, 0), deficit - max(here, 0)))
        return found

    def _reason(self) -> Literal["limit", "denied", "lost"]:
        return "limit" if self.recovery.limited else "denied" if self.recovery.denied else "lost"

    def _gap(self, span: Range, count: int, missing: list[Range]) -> None:
        self.lost += count
        if span == (0, 0):
            self.ops.append(RecordGap(self.stream, Gap(self._reason(), "count", 1, count, count)))
            return
        self.ops.append(RecordGap(self.stream, Gap(self._reason(), "seq", span[0], span[1], count)))
        for first, last in missing:
            if first >= span[0] and last <= span[1]:
                self.progress.add_gap(first, last, self.recovery.top is None or self.recovery.searched)

    # --- order (R12) -------------------------------------------------------------------------------------------------

    def _walk(self, rows: list[Frame], missing: list[Range], gaps: list[tuple[Range, int]]) -> None:
        """Numbered frames by seq; rows before them, or at the hole they may belong to; gaps at their place."""
        recovery, progress = self.recovery, self.progress
        end = recovery.end()
        numbered = [seq for seq in sorted(recovery.seqd) if seq <= end]
        slots = self._slots(rows, numbered, missing)
        hole_at = {first: (first, last) for first, last in missing}
        gap_at = {span[0]: (span, count) for span, count in gaps}
        if 0 in gap_at:
            self._gap(*gap_at[0], missing)
        for frame in slots.pop(0, []):
            self._admit_row(frame)
        others = sorted(recovery.others, key=lambda item: item[0])
        for at in sorted({*numbered, *hole_at}):
            while others and others[0][0] < at:
                self._admit(others.pop(0)[1], 0)
            if at in hole_at:
                for frame in slots.pop(at, []):
                    self._admit_row(frame)
                if at in gap_at:
                    self._gap(*gap_at[at], missing)
                if hole_at[at][1] > progress.cursor:
                    progress.advance(hole_at[at][1], 0)
                continue
            frame = recovery.seqd[at]
            mark = frames.mark(frame)
            if (at, mark) not in self.before:
                self._admit(frame, (REPLAYED if recovery.top is not None else 0) | (LATE if recovery.is_late(frame) else 0))
            progress.advance(at, mark)
        for frame in slots.pop(END, []):
            self._admit_row(frame)
        for _, frame in others:
            self._admit(frame, 0)

    def _note_unplaced(self) -> None:
        """A reaction without a number stands behind its message, but may be as young as the youngest event: it is noted last."""
        for frame in self.unplaced:
            self.memory.note(frame)

    def _slots(self, rows: Iterable[Frame], numbered: list[int], missing: list[Range]) -> dict[int, list[Frame]]:
        """Where rows go: by the hole's first number; 0 is the front, END the end. A row belongs to the first place behind which the next
        numbered message is younger than it."""
        places = [0, *(first for first, _ in missing), END]
        bounds: dict[int, int] = {}
        upcoming = 0
        left = sorted(numbered)
        for place in sorted(places, reverse=True):
            while left and left[-1] >= place:
                upcoming = self.recovery.seqd[left.pop()].message_id or upcoming
            bounds[place] = upcoming
        slots: dict[int, list[Frame]] = {}
        for frame in rows:
            number = about_message(frame)
            place = next((p for p in sorted(places) if not bounds[p] or number < bounds[p]), END)
            slots.setdefault(place, []).append(frame)
        return slots

    def _admit_row(self, frame: Frame) -> None:
        strange = not frame.key and frame.payload in self.recovery.strange
        late = self.recovery.is_late(frame) or (self.recovery.mending and 0 < about_message(frame) <= self.recovery.started_at)
        self._admit(frame, REPLAYED | (LATE if late else 0), strange_key(frame.payload) if strange else b"")

    def _admit(self, frame: Frame, flags: int, key: bytes = b"") -> None:
        if self.memory.is_copy(frame):
            return
        self.ops.append(Admit(self.stream, frame.payload, frame.key or key, "", flags))
        if frame.seq < 0 and not frame.key:
            self.unplaced.append(frame)
        else:
            self.memory.note(frame)


def about_message(frame: Frame) -> int:
    """The id of the message that a frame is, or that it reacts to; 0 for others."""
    if frame.key:
        return frame.message_id
    reaction = reaction_of(frame)
    return frames.as_id(reaction[0][0]) if reaction else 0


def strange_key(payload: bytes) -> bytes:
    """Identity of a database row of a kind this dialect does not know: its bytes."""
    return b"x" + payload if len(payload) <= 400 else b"x%d:%d:" % (len(payload), crc32(payload)) + payload[:300]
