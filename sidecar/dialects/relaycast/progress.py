"""How far an account's upstream has been journaled: the durable state that rides in the same commit as the events (invariant 2).

Three keys: `progress`, small, in every commit; `reactions` and `threads` only in a commit that changes them. A seq means nothing without
its life: an upstream that restarts counts anew (R7), and `life` goes up by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from sidecar.core.actions import PutState
from sidecar.dialects.relaycast import frames
from sidecar.dialects.relaycast.frames import Frame, Variant

STATE, REACTIONS, THREADS = "progress", "reactions", "threads"
TAIL = 32
MAX_RANGES = 64
MAX_REACTIONS = 4096
MAX_ROOTS = 256

# A quote within a string is escaped, so outside of `metadata` and its like these can only be the frame's own members.
PARENT = re.compile(rb'"parent_id"\s*:\s*"([0-9]{1,19})"').search
CHANNEL = re.compile(rb'"channel"\s*:\s*"([^"\\]+)"').search

Range = tuple[int, int]
Reaction = tuple[str, str, str]
"""(message id, emoji, agent name) of an add."""


class Debt(msgspec.Struct, array_like=True):
    """A fill that was not over when live events had to be let through: `since` (server ms) is where history is to be read from,
    `ranges` the numbers from which nothing came, `older` how many more of an earlier life, `rows` how many events without a number
    were recovered for them."""

    since: int
    ranges: list[Range]
    older: int = 0
    rows: int = 0


class Progress(msgspec.Struct, array_like=True):
    """`cursor`: highest number up to which everything is journaled, recorded as a gap, or owed (`debt`); `tail`: fingerprints of
    the numbers up to the cursor, 0 unknown; `newest`: id of the newest message admitted; `birth`: server ms before which nothing is
    admitted; `floor`: newest message id known to be older than the birth; `gaps`: recorded gaps of this life; `credit`: rows
    recovered without a number whose numbers are not known yet; `doubtful`, `doubt`: recorded gaps on which the upstream was not heard,
    and the server time (ms, 0: none) from which on the next open asks for the database's rows again; `dated`: (number, server
    ms): up to this number everything was made by this time; `variant`: how event ids are hashed, empty: not seen yet."""

    life: int
    cursor: int
    birth: int
    tail: list[int]
    newest: int = 0
    floor: int = 0
    gaps: list[Range] = []
    doubtful: list[Range] = []
    doubt: int = 0
    dated: tuple[int, int] = (0, 0)
    credit: int = 0
    debt: Debt | None = None
    variant: str = ""

    def mark_at(self, seq: int) -> int:
        """The fingerprint of the event with this number, 0 if it is not remembered."""
        index = seq - self.cursor - 1 + len(self.tail)
        return self.tail[index] if 0 <= index < len(self.tail) else 0

    def marks(self) -> set[tuple[int, int]]:
        """The numbers whose events are remembered, each with its fingerprint."""
        first = self.cursor + 1 - len(self.tail)
        return {(first + i, mark) for i, mark in enumerate(self.tail) if mark}

    def advance(self, seq: int, mark: int) -> None:
        """Move the cursor to `seq`; numbers in between count as accounted for."""
        skipped = min(seq - self.cursor - 1, TAIL)
        self.tail = [*self.tail, *([0] * skipped), mark][-TAIL:]
        self.cursor = seq

    def extend(self, keys: Sequence[int]) -> None:
        """Move the cursor over message events with these keys, which follow it without a hole."""
        self.tail = [*self.tail, *map(frames.mark_of, keys[-TAIL:])][-TAIL:]
        self.cursor += len(keys)
        self.newest = max(self.newest, frames.id_of(max(keys[-TAIL:])))

    def learn(self, seq: int, mark: int) -> None:
        """Remember the fingerprint of a number at or below the cursor, if it is near enough and unknown."""
        missing = self.cursor - seq + 1 - len(self.tail)
        if missing > 0:
            self.tail = ([0] * missing + self.tail)[-TAIL:]
        index = seq - self.cursor - 1 + len(self.tail)
        if 0 <= index < len(self.tail) and not self.tail[index]:
            self.tail[index] = mark

    def saw_message(self, message_id: int) -> None:
        """A message was admitted."""
        self.newest = max(self.newest, message_id)

    def newest_ms(self) -> int:
        """Server time of the newest message admitted, of the birth before any (R5)."""
        return frames.server_ms(self.newest) if self.newest else self.birth

    def is_older_than_birth(self, message_id: int) -> bool:
        """Was this message made before the stream was first held (R4)?"""
        return message_id <= self.floor or frames.server_ms(message_id) < self.birth

    def start_life(self) -> None:
        """A new life of the upstream's counter begins: numbers, fingerprints and gaps of the old one mean nothing any more."""
        self.life += 1
        self.cursor = 0
        self.tail = []
        self.gaps = []
        self.doubtful = []
        self.dated = (0, 0)
        self.credit = 0

    def add_gap(self, first: int, last: int, doubtful: bool) -> None:
        """Numbers that were recorded as missing; `doubtful`: the upstream was not heard on them."""
        self.gaps = [*self.gaps, (first, last)][-MAX_RANGES:]
        if doubtful:
            self.doubtful = [*self.doubtful, (first, last)][-MAX_RANGES:]

    def owes(self, seq: int) -> bool:
        """Is this number in a recorded gap or in the debt: an event with it comes late, not twice (invariant 6)?"""
        return any(a <= seq <= b for a, b in self.gaps) or (self.debt is not None and any(a <= seq <= b for a, b in self.debt.ranges))

    def settle(self, seq: int) -> None:
        """The event of an owed number came."""
        self.gaps = without(self.gaps, seq)
        self.doubtful = without(self.doubtful, seq)
        if self.debt is not None and self.debt.ranges:
            self.debt.ranges = without(self.debt.ranges, seq)
            if not self.debt.ranges and not self.debt.older:
                self.debt = None

    def put(self) -> PutState:
        """This state as an operation of a commit."""
        return PutState(STATE, msgspec.json.encode(self))


def load(value: bytes) -> Progress:
    """Raises msgspec.DecodeError if the bytes are no progress."""
    return msgspec.json.decode(value, type=Progress)


def without(ranges: Iterable[Range], seq: int) -> list[Range]:
    """The ranges without one number."""
    left: list[Range] = []
    for a, b in ranges:
        if a <= seq <= b:
            left.extend(r for r in ((a, seq - 1), (seq + 1, b)) if r[0] <= r[1])
        else:
            left.append((a, b))
    return left


def size(ranges: Iterable[Range]) -> int:
    """How many numbers."""
    return sum(b - a + 1 for a, b in ranges)


def holes(first: int, last: int, have: Iterable[int]) -> list[Range]:
    """Ranges of the numbers first..last that are not in `have`."""
    found: list[Range] = []
    at = first
    for seq in sorted(s for s in have if first <= s <= last):
        if seq > at:
            found.append((at, seq - 1))
        at = seq + 1
    if at <= last:
        found.append((at, last))
    return found


class ThreadBook:
    """Roots of threads that were active lately, so that their replies can be asked for (R8). By root id: (channel, replies known, -1: not
    counted since the start). Only the set of roots is durable, and whether one was ever dropped from it."""

    def __init__(self, value: bytes | None = None) -> None:
        self.roots: dict[int, tuple[str, int]] = {}
        self.dropped = False
        if value is not None:
            self.dropped, rows = msgspec.json.decode(value, type=tuple[bool, list[tuple[int, str]]])
            self.roots = {root: (name, -1) for root, name in rows}
        self.changed = False

    def replied(self, payload: bytes) -> None:
        """A thread.reply was admitted."""
        parent, channel = PARENT(payload), CHANNEL(payload)
        if parent is None or channel is None:
            return
        root = int(parent[1])
        known = self.roots.pop(root, None)
        if known is None:
            self.changed = True
            self.roots[root] = (channel[1].decode(errors="replace"), -1 if self.dropped else 1)
            if len(self.roots) > MAX_ROOTS:
                del self.roots[next(iter(self.roots))]
                self.dropped = True
        else:
            self.roots[root] = (known[0], known[1] + 1 if known[1] >= 0 else -1)

    def counted(self, root: int, replies: int) -> None:
        """A root that is kept has so many replies, all of which are known now."""
        if root in self.roots:
            self.roots[root] = (self.roots[root][0], replies)

    def put(self) -> PutState | None:
        """The book as an operation of a commit if its set of roots changed."""
        if not self.changed:
            return None
        self.changed = False
        return PutState(THREADS, msgspec.json.encode((self.dropped, [(root, name) for root, (name, _) in self.roots.items()])))


class ReactionBook:
    """Reaction adds admitted lately, so that the database's copy of one is known (R11, D1). A reaction has no time of its own: each
    is kept with the newest message admitted before it, and was made before the first message admitted after it. `copies`: those that
    were admitted as a database copy, whose number may still come."""

    def __init__(self, value: bytes | None = None) -> None:
        self.adds: dict[Reaction, int] = {}
        self.copies: set[Reaction] = set()
        if value is not None:
            for *who, before, copy in msgspec.json.decode(value, type=list[tuple[str, str, str, int, bool]]):
                reaction: Reaction = (who[0], who[1], who[2])
                self.adds[reaction] = before
                if copy:
                    self.copies.add(reaction)
        self.changed = False

    def add(self, reaction: Reaction, before: int, copy: bool) -> None:
        """An add was admitted when `before` was the newest message; `copy`: without its number."""
        self.adds.pop(reaction, None)
        self.adds[reaction] = before
        self.changed = True
        if copy:
            self.copies.add(reaction)
        if len(self.adds) > MAX_REACTIONS:
            self._drop(next(iter(self.adds)))

    def _drop(self, reaction: Reaction) -> None:
        del self.adds[reaction]
        self.copies.discard(reaction)

    def remove(self, reaction: Reaction) -> None:
        """A removal was admitted: the next add of the same is a new event."""
        if reaction in self.adds:
            self._drop(reaction)
            self.changed = True

    def since(self, ms: int, newest: int) -> set[Reaction]:
        """The adds that may have been made at or after this server time (whole second)."""
        found: set[Reaction] = set()
        floor = ms // 1000 * 1000
        later = newest  # the first message admitted after the reaction, if it is above `before`
        last = newest
        for reaction, before in reversed(self.adds.items()):
            if before < last:
                later, last = last, before
            if later <= before or frames.server_ms(later) >= floor:
                found.add(reaction)
        return found

    def put(self, since: int, newest: int) -> PutState | None:
        """The book as an operation of a commit if it changed; entries older than `since` (server ms) are dropped."""
        if not self.changed:
            return None
        keep = self.since(since, newest)
        for reaction in self.adds.keys() - keep:
            self._drop(reaction)
        self.changed = False
        rows = [(*reaction, before, reaction in self.copies) for reaction, before in self.adds.items()]
        return PutState(REACTIONS, msgspec.json.encode(rows))


def reaction_of(frame: Frame) -> tuple[Reaction, bool] | None:
    """(identity, added?) of a reaction frame, newer or older spelling; None for other kinds and odd shapes."""
    if frame.type not in ("message.reacted", "reaction.added", "reaction.removed"):
        return None
    members = frames.fields(frame.payload)
    action = members.get("action") if frame.type == "message.reacted" else frame.type[9:]
    who = tuple(members.get(name) for name in ("message_id", "emoji", "agent_name"))
    if action not in ("added", "removed") or not all(isinstance(item, str) for item in who):
        return None
    return who, action == "added"  # type: ignore[return-value]


class Memory:
    """All of it: what an admitted event changes, and the operations that make it durable."""

    def __init__(self, progress: Progress, reactions: ReactionBook, threads: ThreadBook) -> None:
        self.progress = progress
        self.reactions = reactions
        self.threads = threads

    def note(self, frame: Frame) -> None:
        """An event is admitted: remember what later recoveries ask of it. Numbers are the caller's business."""
        if frame.key:
            self.progress.saw_message(frame.message_id)
            if frame.type == "thread.reply":
                self.threads.replied(frame.payload)
        elif (reaction := reaction_of(frame)) is not None:
            if reaction[1]:
                self.reactions.add(reaction[0], self.progress.newest, frame.seq < 0)
            else:
                self.reactions.remove(reaction[0])

    def is_copy(self, frame: Frame, *, settle: bool = True) -> bool:
        """Is this the number of a reaction that was admitted without it, as the database's copy? Only a removal makes room for another
        add of the same (D1). `settle`: from now on it has its number."""
        copies = self.reactions.copies
        if not copies or frame.seq < 0 or frame.key:
            return False
        reaction = reaction_of(frame)
        if reaction is None or not reaction[1] or reaction[0] not in copies:
            return False
        if settle:
            copies.discard(reaction[0])
            self.reactions.changed = True
        return True

    def puts(self, since: int) -> list[PutState]:
        """The state as operations of a commit. `since` (server ms): no later recovery asks for what is older."""
        found = (self.progress.put(), self.reactions.put(since, self.progress.newest), self.threads.put())
        return [put for put in found if put is not None]


def known_variant(progress: Progress) -> Variant:
    """How event ids are hashed, as far as seen (section 4)."""
    return "joined" if progress.variant == "joined" else "array"
