"""How far an account's upstream has been journaled: the durable state that rides in the same commit as the events (invariant 2).

Two keys: `progress`, small, in every commit; `reactions`, only in a commit that adds or removes one. A seq means nothing without
its life: an upstream that restarts counts anew (R7), and `life` goes up by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from sidecar.core.actions import PutState
from sidecar.dialects.relaycast import frames
from sidecar.dialects.relaycast.frames import Frame, Variant

STATE, REACTIONS = "progress", "reactions"
TAIL = 32
MAX_RANGES = 64
MAX_REACTIONS = 4096

Range = tuple[int, int]
Reaction = tuple[str, str, str]
"""(message id, emoji, agent name) of an add."""


class Debt(msgspec.Struct, array_like=True):
    """A fill that was not over when live events had to be let through: `since` (server ms) is where history is to be read from,
    `ranges` the numbers not accounted for, `rows` how many events without a number were recovered for them."""

    since: int
    ranges: list[Range]
    rows: int = 0

    @property
    def missing(self) -> int:
        """Numbers still without an event."""
        return max(sum(b - a + 1 for a, b in self.ranges) - self.rows, 0)


class Progress(msgspec.Struct, array_like=True):
    """`cursor`: highest number up to which everything is journaled, recorded as a gap, or owed (`debt`); `tail`: fingerprints of
    the numbers up to the cursor, 0 unknown; `newest`: id of the newest message admitted; `birth`: server ms before which nothing is
    admitted; `floor`: newest message id known to be older than the birth; `gaps`: recorded gaps of this life; `credit`: rows
    recovered without a number whose numbers are not known yet; `variant`: how event ids are hashed, empty: not seen yet."""

    life: int
    cursor: int
    birth: int
    tail: list[int]
    newest: int = 0
    floor: int = 0
    gaps: list[Range] = []
    doubtful: list[Range] = []
    credit: int = 0
    debt: Debt | None = None
    variant: str = ""

    def mark_at(self, seq: int) -> int:
        """The fingerprint of the event with this number, 0 if it is not remembered."""
        index = seq - self.cursor - 1 + len(self.tail)
        return self.tail[index] if 0 <= index < len(self.tail) else 0

    def advance(self, seq: int, mark: int) -> None:
        """Move the cursor to `seq`; numbers in between count as accounted for."""
        skipped = min(seq - self.cursor - 1, TAIL)
        self.tail = [*self.tail, *([0] * skipped), mark][-TAIL:]
        self.cursor = seq

    def extend(self, run: Sequence[Frame]) -> None:
        """Move the cursor over events that follow it without a hole."""
        self.tail = [*self.tail, *map(frames.mark, run[-TAIL:])][-TAIL:]
        self.cursor += len(run)

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
        if self.debt is not None:
            self.debt.ranges = without(self.debt.ranges, seq)

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


class ReactionBook:
    """Reaction adds admitted lately, so that the database's copy of one is known (R11, D1). A reaction has no time of its own: each
    is kept with the newest message admitted before it, and was made before the first message admitted after it."""

    def __init__(self, value: bytes | None = None) -> None:
        self.adds: dict[Reaction, int] = {}
        if value is not None:
            self.adds = {(m, e, a): before for m, e, a, before in msgspec.json.decode(value, type=list[tuple[str, str, str, int]])}
        self.changed = False

    def add(self, reaction: Reaction, before: int) -> None:
        """An add was admitted when `before` was the newest message."""
        self.adds.pop(reaction, None)
        self.adds[reaction] = before
        self.changed = True
        if len(self.adds) > MAX_REACTIONS:
            del self.adds[next(iter(self.adds))]

    def remove(self, reaction: Reaction) -> None:
        """A removal was admitted: the next add of the same is a new event."""
        if self.adds.pop(reaction, None) is not None:
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
        self.adds = {reaction: before for reaction, before in self.adds.items() if reaction in keep}
        self.changed = False
        return PutState(REACTIONS, msgspec.json.encode([(*reaction, before) for reaction, before in self.adds.items()]))


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


def known_variant(progress: Progress) -> Variant:
    """How event ids are hashed, as far as seen (section 4)."""
    return "joined" if progress.variant == "joined" else "array"
