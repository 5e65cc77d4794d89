"""Admission: the one gate to the journal, and the hot path. Live frames, resync replays and backfill all pass here.

Each event's key is looked up in its domain's memory: numbers in an `OrderedIndex`, exact; byte keys in a `SeenIndex` of tags, where a
candidate is confirmed on the full key (from the commits still under way, else from the journal's id blocks) before the event is
dropped. What is new gets the stream's next offset and, for an event, the next ordinal. Runs of records, id blocks and states of one
Commit land in one `Batch`, so one transaction (invariant 2).

Admission runs ahead of the disk. If a batch fails, the whole object is thrown away and built anew from the journal.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any, cast

import msgspec

from sidecar.core import layout
from sidecar.core.actions import Admit, AdmitRun, Op, PutState, RecordGap
from sidecar.core.keys import Keys, Named, Numbered
from sidecar.core.layout import Batch, StreamRow, Table
from sidecar.core.ordered import MAX_KEY, OrderedIndex
from sidecar.core.ports import JournalView
from sidecar.core.record import GAP, Run, decode
from sidecar.core.seen import SeenIndex, tag_of

TRIM = 512
"""Id blocks are dropped each time this many keys became too old: fewer than the journal drops at once, for a block may hold one key."""


class Book:
    """One stream as admitted. `head`, `ordinal`: of the last record, on disk or not; `fresh`: runs of the open batch;
    `committed`: offset on disk; `first`: oldest offset kept; `named`, `numbered`: memories of keys by domain."""

    __slots__ = ("base", "committed", "committed_ordinal", "first", "fresh", "head", "name", "named", "numbered", "ordinal", "sid")

    def __init__(self, name: str, sid: int, base: int) -> None:
        self.name = name
        self.sid = sid
        self.base = base
        self.head = self.committed = 0
        self.ordinal = self.committed_ordinal = 0
        self.first = 1
        self.fresh: list[Run] = []
        self.named: dict[str, Named] = {}
        self.numbered: dict[str, Numbered] = {}

    def append(self, payloads: Sequence[bytes], flags: int, domain: str, wall: int) -> int:
        """Give payloads the next offsets; the first one's. They join the last run if they are of its kind."""
        first = self.head + 1
        self.head += len(payloads)
        if not flags & GAP:
            self.ordinal += len(payloads)
        runs = self.fresh
        if runs:
            run = runs[-1]
            if run.flags == flags and run.domain == domain and run.wall == wall:
                run.payloads.extend(payloads)
                return first
        ordinal = self.ordinal if flags & GAP else self.ordinal - len(payloads) + 1
        runs.append(Run(first, ordinal, flags, list(payloads), domain, wall))
        return first


class Admission:
    """All streams of a journal. `capacity`: keys remembered at least per domain (SIDECAR_DEDUPE_EVENTS)."""

    def __init__(self, journal: JournalView, capacity: int) -> None:
        self.journal = journal
        self.capacity = capacity
        self.books: dict[str, Book] = {}
        self.duplicates = 0
        self._next_sid = 1
        self._next_did = 1
        self._touched: list[Keys] = []
        self._load()

    # --- start ---------------------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        names: dict[int, Book] = {}
        for key, value in self.journal.scan(Table.STREAMS, b"s"):
            row = msgspec.json.decode(value, type=StreamRow)
            book = Book(key[1:].decode(), row.sid, row.base)
            self._find_ends(book)
            names[row.sid] = self.books[book.name] = book
            self._next_sid = max(self._next_sid, row.sid + 1)
        for key, value in self.journal.scan(Table.STREAMS, b"d"):
            if found := names.get(layout.unpack_u32(key[1:5])):
                found.named[key[5:].decode()] = Named(self._did(value), self._load_named(layout.unpack_u32(value)))
        for key, value in self.journal.scan(Table.STREAMS, b"o"):
            if found := names.get(layout.unpack_u32(key[1:5])):
                found.numbered[key[5:].decode()] = Numbered(self._did(value), self._load_numbered(layout.unpack_u32(value)))

    def _did(self, value: bytes) -> int:
        did = layout.unpack_u32(value)
        self._next_did = max(self._next_did, did + 1)
        return did

    def _find_ends(self, book: Book) -> None:
        last = self.journal.floor(Table.RECORDS, layout.pack_pair(book.sid, (1 << 64) - 1))
        first = self.journal.ceiling(Table.RECORDS, layout.pack_pair(book.sid, 0))
        if last is None or first is None or layout.unpack_pair(last[0])[0] != book.sid:
            return
        run = decode(layout.unpack_pair(last[0])[1], last[1])
        book.head = book.committed = run.last
        book.ordinal = book.committed_ordinal = run.last_ordinal
        book.first = layout.unpack_pair(first[0])[1]

    def _load_named(self, did: int) -> SeenIndex:
        index: SeenIndex | None = None
        for key, block in self.journal.scan(Table.IDS, layout.pack_u32(did)):
            if index is None:
                index = SeenIndex(self.capacity, layout.unpack_pair(key)[1] - 1)
            for item in layout.unpack_ids(block):
                index.add(tag_of(item))
        return index or SeenIndex(self.capacity)

    def _load_numbered(self, did: int) -> OrderedIndex:
        index: OrderedIndex | None = None
        for key, block in self.journal.scan(Table.IDS, layout.pack_u32(did)):
            if index is None:
                index = OrderedIndex(self.capacity, layout.unpack_pair(key)[1] - 1)
            keys = array("Q")
            keys.frombytes(block)
            if not index.add_rising(keys):
                for item in keys:
                    index.add(item)
        return index or OrderedIndex(self.capacity)

    # --- streams ---------------------------------------------------------------------------------------------------------------

    def open_stream(self, name: str, account: str, wall: float, batch: Batch) -> Book:
        """The stream's book; registered in the batch if it is new."""
        book = self.books.get(name)
        if book is None:
            row = StreamRow(self._next_sid, int(wall * 1000), account)
            self._next_sid += 1
            book = self.books[name] = Book(name, row.sid, row.base)
            batch.put(Table.STREAMS, b"s" + name.encode(), msgspec.json.encode(row))
        return book

    def adopt(self, book: Book, account: str, batch: Batch) -> None:
        """Register a stream anew whose registration did not reach the disk, under the number and birth that it had."""
        row = StreamRow(book.sid, book.base, account)
        self._next_sid = max(self._next_sid, row.sid + 1)
        self.books[book.name] = Book(book.name, row.sid, row.base)
        batch.put(Table.STREAMS, b"s" + book.name.encode(), msgspec.json.encode(row))

    def _named(self, book: Book, name: str, batch: Batch) -> Named:
        found = book.named.get(name)
        if found is None:
            found = book.named[name] = Named(self._open_domain(b"d", book, name, batch), SeenIndex(self.capacity))
        return found

    def _numbered(self, book: Book, name: str, batch: Batch) -> Numbered:
        found = book.numbered.get(name)
        if found is None:
            found = book.numbered[name] = Numbered(self._open_domain(b"o", book, name, batch), OrderedIndex(self.capacity))
        return found

    def _open_domain(self, kind: bytes, book: Book, name: str, batch: Batch) -> int:
        did = self._next_did
        self._next_did += 1
        batch.put(Table.STREAMS, kind + layout.pack_u32(book.sid) + name.encode(), layout.pack_u32(did))
        return did

    # --- the hot path ------------------------------------------------------------------------------------------------------------

    def apply(self, owner: str, ops: Sequence[Op], wall: float, batch: Batch) -> list[int]:
        """Carry out a Commit's operations into the open batch. Returns for each event, in order, its offset; 0: dropped as known.

        Streams must have been opened. Raises KeyError for a stream that was not."""
        offsets: list[int] = []
        wall_ms = int(wall * 1000)
        for op in ops:
            if type(op) is AdmitRun:
                self._admit_run(op, wall_ms, batch, offsets)
            elif type(op) is Admit:
                book = self.books[op.stream]
                if self._is_new(book, op.domain, op.key, batch):
                    offsets.append(book.append((op.payload,), op.flags, op.domain, wall_ms))
                    batch.bytes += len(op.payload)
                else:
                    self.duplicates += 1
                    offsets.append(0)
            elif type(op) is RecordGap:
                payload = msgspec.json.encode(op.gap)
                self.books[op.stream].append((payload,), GAP, op.domain, wall_ms)
                batch.bytes += len(payload)
            elif type(op) is PutState:
                key = layout.state_key(owner, op.key)
                if op.value is None:
                    batch.delete(Table.STATE, key)
                else:
                    batch.put(Table.STATE, key, op.value)
        return offsets

    def _admit_run(self, op: AdmitRun, wall_ms: int, batch: Batch, offsets: list[int]) -> None:
        book = self.books[op.stream]
        payloads = op.payloads
        if not op.domains and self._all_rise(book, op, batch):
            first = book.append(payloads, op.flags, op.domain, wall_ms)
            offsets.extend(range(first, first + len(payloads)))
        else:
            new = self._each_of_its_own(book, op, batch) if op.domains else self._each_new(book, op, batch)
            verdicts = [0] * len(payloads)
            for at, i in enumerate(new, book.head + 1):
                verdicts[i] = at
            offsets.extend(verdicts)
            self.duplicates += len(payloads) - len(new)
            if len(new) < len(payloads):
                payloads = [payloads[i] for i in new]
            if new:
                book.append(payloads, op.flags, op.domain, wall_ms)
        batch.bytes += sum(map(len, payloads))

    def _each_new(self, book: Book, op: AdmitRun, batch: Batch) -> list[int]:
        """Remember a run's keys; the positions of those that were new."""
        if all(type(key) is int and key <= MAX_KEY for key in op.keys):
            numbered = self._numbered(book, op.domain, batch)
            new = numbered.index.add_each(op.keys)  # type: ignore[arg-type]
            if new and not numbered.pending:
                self._touched.append(numbered)
            numbered.pending.extend([op.keys[i] for i in new])
            return new
        return [i for i, key in enumerate(op.keys) if self._is_new(book, op.domain, key, batch)]

    def _each_of_its_own(self, book: Book, op: AdmitRun, batch: Batch) -> list[int]:
        """The same for a run in which each event names its domain."""
        new: list[int] = []
        known = book.numbered
        for i, (domain, key) in enumerate(zip(op.domains, op.keys, strict=True)):
            if type(key) is int and key <= MAX_KEY:
                numbered = known.get(domain) or self._numbered(book, domain, batch)
                if not numbered.index.add(key):
                    continue
                if not numbered.pending:
                    self._touched.append(numbered)
                numbered.pending.append(key)
            elif not self._is_new(book, domain, key, batch):
                continue
            new.append(i)
        return new

    def _all_rise(self, book: Book, op: AdmitRun, batch: Batch) -> bool:
        """Remember all keys of a run at once, if they are numbers that rise above all known ones."""
        if not op.keys or type(op.keys[0]) is not int:
            return False
        numbered = self._numbered(book, op.domain, batch)
        try:
            if not numbered.index.add_rising(op.keys):  # type: ignore[arg-type]
                return False
        except TypeError:
            return False  # mixed keys: one by one
        if not numbered.pending:
            self._touched.append(numbered)
        numbered.pending.extend(op.keys)
        return True

    def _is_new(self, book: Book, domain: str, key: bytes | int, batch: Batch) -> bool:
        """Remember a key; False if it was known. No key: always new."""
        memory: Keys
        if type(key) is int and key > MAX_KEY:
            key = b"%d" % key
        if type(key) is int:
            memory = numbered = self._numbered(book, domain, batch)
            if not numbered.index.add(key):
                return False
            if not memory.pending:
                self._touched.append(memory)
            memory.pending.append(key)
        elif key:
            memory = named = self._named(book, domain, batch)
            fresh = not memory.pending
            if not named.add(cast(bytes, key), self.journal):
                return False
            if fresh:
                self._touched.append(memory)
        return True

    def knows(self, stream: str, domain: str, key: bytes | int) -> bool:
        """Is this key remembered (admitted, on disk or not)?"""
        book = self.books.get(stream)
        if book is None:
            return False
        if isinstance(key, int) and key > MAX_KEY:
            key = b"%d" % key
        if isinstance(key, int):
            numbered = book.numbered.get(domain)
            return numbered is not None and key in numbered.index
        named = book.named.get(domain)
        return named is not None and named.knows(key, self.journal)

    # --- commits -----------------------------------------------------------------------------------------------------------------

    def close_batch(self, batch: Batch) -> dict[str, list[Run]]:
        """Move runs and id blocks of the open batch into `batch`; the runs by stream. After this the batch is final."""
        fresh: dict[str, list[Run]] = {}
        for name, book in self.books.items():
            if book.fresh:
                fresh[name] = book.fresh
                batch.runs.extend([(book.sid, run) for run in book.fresh])
                batch.admits = True
                book.fresh = []
        for keys in self._touched:
            batch.put(Table.IDS, layout.pack_pair(keys.did, keys.first), keys.block())
            keys.first += len(keys.pending)
            keys.pending = []
            self._trim(keys, batch)
        self._touched = []
        return fresh

    def _trim(self, keys: Any, batch: Batch) -> None:
        """Drop id blocks that lie wholly before what is still remembered, now and then."""
        keep = keys.oldest
        if keep - keys.trimmed > TRIM:
            # The block that holds `keep` starts at or before it, so end before the row at the floor of `keep`.
            row = self.journal.floor(Table.IDS, layout.pack_pair(keys.did, keep))
            if row is not None and layout.unpack_pair(row[0])[0] == keys.did:
                batch.drop(Table.IDS, layout.pack_pair(keys.did, 0), row[0])
            keys.trimmed = keep

    def committed(self, fresh: dict[str, list[Run]]) -> None:
        """The batch with these runs is on disk."""
        for name, runs in fresh.items():
            book = self.books[name]
            book.committed = runs[-1].last
            book.committed_ordinal = runs[-1].last_ordinal

    def states(self, owner: str) -> Iterator[tuple[str, bytes]]:
        """A half's durable state as last committed."""
        prefix = layout.state_key(owner, "")
        for key, value in self.journal.scan(Table.STATE, prefix):
            yield key[len(prefix) :].decode(), value
