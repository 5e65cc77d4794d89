"""Admission: the one gate to the journal, and the hot path. Live frames, resync replays and backfill all pass here.

For each Admit the key is looked up in its domain's `SeenIndex`; a candidate is confirmed on the full key (from the commits still
under way, else from the journal's id blocks) before the event is dropped. What is new gets the stream's next offset and, for an
event, the next ordinal. Records, id blocks and states of one Commit land in one `Batch`, so one transaction (invariant 2).

Admission runs ahead of the disk. If a batch fails, the whole object is thrown away and built anew from the journal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from sidecar.core import layout
from sidecar.core.actions import Admit, Op, PutState, RecordGap
from sidecar.core.layout import Batch, StreamRow, Table
from sidecar.core.ports import JournalView
from sidecar.core.record import GAP, Record, decode, encode
from sidecar.core.seen import SeenIndex, tag_of


class Domain:
    """One order domain's memory of keys. `pending`: keys not yet in a written id block, with the number of the first."""

    __slots__ = ("did", "in_flight", "index", "pending", "pending_first", "trimmed")

    def __init__(self, did: int, index: SeenIndex) -> None:
        self.did = did
        self.index = index
        self.pending: list[bytes] = []
        self.pending_first = index.last + 1
        self.in_flight: tuple[int, list[bytes]] = (0, [])
        self.trimmed = 0

    def key_of(self, number: int, journal: JournalView) -> bytes | None:
        """The full key that was given a number, None if it is no longer known."""
        if number >= self.pending_first:
            return self.pending[number - self.pending_first]
        first, keys = self.in_flight
        if keys and first <= number < first + len(keys):
            return keys[number - first]
        row = journal.floor(Table.IDS, layout.pack_pair(self.did, number))
        if row is None:
            return None
        did, first = layout.unpack_pair(row[0])
        return layout.id_in_block(row[1], number - first) if did == self.did else None


class Book:
    """One stream as admitted. `head`, `ordinal`: of the last record, on disk or not; `fresh`: records of the open batch;
    `committed`: offset on disk; `first`: oldest offset kept."""

    __slots__ = ("base", "committed", "committed_ordinal", "domains", "first", "fresh", "gaps", "head", "name", "ordinal", "sid")

    def __init__(self, name: str, sid: int, base: int) -> None:
        self.name = name
        self.sid = sid
        self.base = base
        self.head = self.committed = 0
        self.ordinal = self.committed_ordinal = 0
        self.first = 1
        self.gaps = 0
        self.fresh: list[Record] = []
        self.domains: dict[str, Domain] = {}


class Admission:
    """All streams of a journal. `capacity`: keys remembered at least per domain (SIDECAR_DEDUPE_EVENTS)."""

    def __init__(self, journal: JournalView, capacity: int) -> None:
        self.journal = journal
        self.capacity = capacity
        self.books: dict[str, Book] = {}
        self.duplicates = 0
        self._next_sid = 1
        self._next_did = 1
        self._touched: list[Domain] = []
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
            book_or_none = names.get(layout.unpack_u32(key[1:5]))
            did = layout.unpack_u32(value)
            self._next_did = max(self._next_did, did + 1)
            if book_or_none is not None:
                book_or_none.domains[key[5:].decode()] = Domain(did, self._load_index(did))

    def _find_ends(self, book: Book) -> None:
        last = self.journal.floor(Table.RECORDS, layout.pack_pair(book.sid, (1 << 64) - 1))
        first = self.journal.ceiling(Table.RECORDS, layout.pack_pair(book.sid, 0))
        if last is None or first is None or layout.unpack_pair(last[0])[0] != book.sid:
            return
        record = decode(layout.unpack_pair(last[0])[1], last[1])
        book.head = book.committed = record.offset
        book.ordinal = book.committed_ordinal = record.ordinal
        book.first = layout.unpack_pair(first[0])[1]

    def _load_index(self, did: int) -> SeenIndex:
        index: SeenIndex | None = None
        for key, block in self.journal.scan(Table.IDS, layout.pack_u32(did)):
            if index is None:
                index = SeenIndex(self.capacity, layout.unpack_pair(key)[1] - 1)
            for item in layout.unpack_ids(block):
                index.add(tag_of(item))
        return index or SeenIndex(self.capacity)

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

    def _open_domain(self, book: Book, name: str, batch: Batch) -> Domain:
        domain = Domain(self._next_did, SeenIndex(self.capacity))
        self._next_did += 1
        book.domains[name] = domain
        key = b"d" + layout.pack_u32(book.sid) + name.encode()
        batch.put(Table.STREAMS, key, layout.pack_u32(domain.did))
        return domain

    # --- the hot path ------------------------------------------------------------------------------------------------------------

    def apply(self, owner: str, ops: Sequence[Op], wall: float, batch: Batch) -> list[int]:
        """Carry out a Commit's operations into the open batch. Returns for each Admit, in order, its offset; 0: dropped as known.

        Streams must have been opened. Raises KeyError for a stream that was not."""
        offsets: list[int] = []
        wall_ms = int(wall * 1000)
        books = self.books
        book: Book | None = None
        domain: Domain | None = None
        at = ("", "")
        for op in ops:
            if type(op) is Admit:
                if book is None or at[0] != op.stream or at[1] != op.domain:
                    book = books[op.stream]
                    at = (op.stream, op.domain)
                    domain = book.domains.get(op.domain)
                if op.key:
                    if domain is None:
                        domain = self._open_domain(book, op.domain, batch)
                    if not self._remember(domain, op.key):
                        self.duplicates += 1
                        offsets.append(0)
                        continue
                book.head = offset = book.head + 1
                book.ordinal = ordinal = book.ordinal + 1
                book.fresh.append(Record(offset, ordinal, op.flags, op.payload, op.meta, op.domain, wall_ms))
                batch.bytes += len(op.payload)
                offsets.append(offset)
            elif type(op) is RecordGap:
                gapped = books[op.stream]
                gapped.head += 1
                payload = msgspec.json.encode(op.gap)
                gapped.fresh.append(Record(gapped.head, gapped.ordinal, GAP, payload, b"", op.domain, wall_ms))
                batch.bytes += len(payload)
            elif type(op) is PutState:
                key = layout.state_key(owner, op.key)
                if op.value is None:
                    batch.delete(Table.STATE, key)
                else:
                    batch.put(Table.STATE, key, op.value)
        return offsets

    def _remember(self, domain: Domain, key: bytes) -> bool:
        """Remember a key; False if it was known."""
        tag = hash(key) & 0xFFFFFFFF
        number = domain.index.add_if_new(tag)
        if number:
            while number:
                if domain.key_of(number, self.journal) == key:
                    return False
                number = domain.index.older(number, tag)
            domain.index.add(tag)
        pending = domain.pending
        if not pending:
            self._touched.append(domain)
        pending.append(key)
        return True

    def knows(self, stream: str, domain_name: str, key: bytes) -> bool:
        """Is this key remembered (admitted, on disk or not)?"""
        book = self.books.get(stream)
        domain = book.domains.get(domain_name) if book else None
        if domain is None:
            return False
        tag = tag_of(key)
        number = domain.index.newest(tag)
        while number:
            if domain.key_of(number, self.journal) == key:
                return True
            number = domain.index.older(number, tag)
        return False

    # --- commits -----------------------------------------------------------------------------------------------------------------

    def close_batch(self, batch: Batch) -> dict[str, list[Record]]:
        """Move records and id blocks of the open batch into `batch`; the records by stream. After this the batch is final."""
        fresh: dict[str, list[Record]] = {}
        for name, book in self.books.items():
            if book.fresh:
                fresh[name] = book.fresh
                sid = book.sid
                rows = [(layout.pack_pair(sid, r.offset), encode(r)) for r in book.fresh]
                batch.puts.setdefault(Table.RECORDS, []).extend(rows)
                batch.admits = True
                book.fresh = []
        for domain in self._touched:
            key = layout.pack_pair(domain.did, domain.pending_first)
            batch.put(Table.IDS, key, layout.pack_ids(domain.pending))
            domain.in_flight = (domain.pending_first, domain.pending)
            domain.pending_first += len(domain.pending)
            domain.pending = []
            self._trim(domain, batch)
        self._touched = []
        return fresh

    def _trim(self, domain: Domain, batch: Batch) -> None:
        """Drop id blocks that lie wholly before what the index can still find, now and then."""
        keep = domain.index.oldest
        if keep - domain.trimmed > 4096:
            # The block that holds `keep` starts at or before it, so end before the row at the floor of `keep`.
            row = self.journal.floor(Table.IDS, layout.pack_pair(domain.did, keep))
            if row is not None and layout.unpack_pair(row[0])[0] == domain.did:
                batch.drop(Table.IDS, layout.pack_pair(domain.did, 0), row[0])
            domain.trimmed = keep

    def committed(self, fresh: dict[str, list[Record]]) -> None:
        """The batch with these records is on disk."""
        for name, records in fresh.items():
            book = self.books[name]
            book.committed = records[-1].offset
            book.committed_ordinal = records[-1].ordinal

    def states(self, owner: str) -> Iterator[tuple[str, bytes]]:
        """A half's durable state as last committed."""
        prefix = layout.state_key(owner, "")
        for key, value in self.journal.scan(Table.STATE, prefix):
            yield key[len(prefix) :].decode(), value
