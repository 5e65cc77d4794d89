"""Verify: read everything and name what is wrong, by table, stream and offset.

Works on a journal that is being written: it reads forward in short transactions, and a row that retention took away meanwhile is no
fault. What LMDB could stumble over (the page tree) is looked at first, and if that is damaged nothing else is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from sidecar.core import record as rec
from sidecar.core.layout import CursorRow, StreamRow, Table, pack_pair, unpack_ids, unpack_pair, unpack_u32
from sidecar.errors import JournalDamaged
from sidecar.journal.reader import Reader
from sidecar.journal.reads import KEY_BYTES, check_meta, read_meta

STEP = 256
"""Rows read in one transaction (8 MiB of records)."""


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One fault. `stream`: its name, or `#<id>` if it is not registered; `offset`: a record's offset, or an id's number."""

    table: str
    text: str
    stream: str = ""
    offset: int = 0

    def __str__(self) -> str:
        where = f"table {self.table}"
        if self.stream:
            where += f", stream {self.stream!r}"
        if self.offset:
            where += f", {'number' if self.table == 'ids' else 'offset'} {self.offset}"
        return f"{where}: {self.text}"


class Verified(msgspec.Struct):
    """What was read, and what is wrong with it."""

    streams: int = 0
    records: int = 0
    ids: int = 0
    consumers: int = 0
    findings: list[Finding] = []


class Verify:
    """One pass over a journal."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.names: dict[int, str] = {}
        self.domains: dict[int, str] = {}
        self.numbered: set[int] = set()
        self.result = Verified()

    def run(self) -> Verified:
        """Read all tables. Never raises for what it finds."""
        if self.reader.damage:
            self._add("pages", self.reader.damage)
            return self.result
        try:
            meta = read_meta(self.reader)
            check_meta(meta, meta.get("dialect", ""), meta.get("upstream", ""), self.reader.path)
        except JournalDamaged as error:
            self._add("meta", error.text.removeprefix("table meta: "))
        cursors = list(self.reader.scan(Table.CURSORS))  # before the records: heads only grow
        self._streams()
        self._records()
        self._ids()
        self._cursors(cursors)
        for key, _ in self.reader.scan(Table.STATE):
            if b"\0" not in key:
                self._add("state", f"key {key!r} has no owner")
        return self.result

    def _add(self, table: str, text: str, stream: str = "", offset: int = 0) -> None:
        self.result.findings.append(Finding(table, text, stream, offset))

    def _name(self, sid: int) -> str:
        return self.names.get(sid, f"#{sid}")

    def _rows(self, table: Table) -> Iterator[tuple[bytes, bytes]]:
        """All rows, a transaction for every STEP of them."""
        after = b""
        while rows := self.reader.rows(table, after, STEP):
            yield from rows
            after = rows[-1][0] + b"\0"

    def _gone(self, table: Table, key: bytes) -> bool:
        """Did retention meanwhile take all rows of this stream or domain before `key`?"""
        first = self.reader.rows(table, pack_pair(unpack_pair(key)[0], 0), 1)
        return bool(first) and first[0][0] >= key

    def _streams(self) -> None:
        domains: list[tuple[int, str, int]] = []
        for key, value in self.reader.scan(Table.STREAMS):
            if key[:1] == b"s":
                name = key[1:].decode("utf-8", "replace")
                try:
                    row = msgspec.json.decode(value, type=StreamRow)
                except msgspec.DecodeError as error:
                    self._add("streams", f"row cannot be read: {error}", name)
                    continue
                if row.sid in self.names:
                    self._add("streams", f"has the id {row.sid} of stream {self.names[row.sid]!r}", name)
                self.names[row.sid] = name
            elif key[:1] in (b"d", b"o") and len(key) >= 5 and len(value) == 4:
                domains.append((unpack_u32(key[1:5]), key[5:].decode("utf-8", "replace"), unpack_u32(value)))
                if key[:1] == b"o":
                    self.numbered.add(unpack_u32(value))
            else:
                self._add("streams", f"key {key!r} is none of ours")
        self.result.streams = len(self.names)
        for sid, name, did in domains:
            if sid not in self.names:
                self._add("streams", f"domain {name!r} belongs to no stream", self._name(sid))
            if did in self.domains:
                self._add("streams", f"domain {name!r} has the id {did} of another", self._name(sid))
            self.domains[did] = self._name(sid)

    def _records(self) -> None:
        at, expected, ordinal = -1, 0, -1
        for key, block in self._rows(Table.RECORDS):
            if len(key) != KEY_BYTES:
                self._add("records", f"key {key!r} is none of ours")
                continue
            sid, first = unpack_pair(key)
            name = self._name(sid)
            if sid != at:
                if sid not in self.names:
                    self._add("records", "stream is not registered", name, first)
                at, expected, ordinal = sid, first, -1
            try:
                rec.check(key, block)
            except ValueError as error:
                self._add("records", str(error), name, first)
                expected = 0  # how far the damaged block reached is not known
                continue
            if first != expected and expected and not self._gone(Table.RECORDS, key):
                what = f"records {expected} to {first - 1} are missing" if first > expected else "stands there twice"
                self._add("records", what, name, first if first < expected else expected)
            if first != expected:
                ordinal = -1
            expected = first + rec.count_of(block)
            ordinal = self._run(name, first, block, ordinal)

    def _run(self, name: str, first: int, block: bytes, before: int) -> int:
        """Look at one intact block; `before`: the ordinal of the record before it, -1 if unknown. Returns its last ordinal."""
        self.result.records += rec.count_of(block)
        try:
            run = rec.decode(first, block)
            for record in run.records() if run.is_gap else ():
                if (reason := record.gap().reason) not in rec.GAP_REASONS:
                    self._add("records", f"gap with the reason {reason!r}", name, record.offset)
        except (ValueError, struct.error, msgspec.MsgspecError) as error:
            self._add("records", f"cannot be read: {error}", name, first)
            return -1
        wanted = before if run.is_gap else before + 1
        if before >= 0 and run.ordinal != wanted:
            self._add("records", f"ordinal {run.ordinal} after {before}", name, first)
        return run.last_ordinal

    def _ids(self) -> None:
        at, expected = -1, 0
        for key, block in self._rows(Table.IDS):
            if len(key) != KEY_BYTES:
                self._add("ids", f"key {key!r} is none of ours")
                continue
            did, first = unpack_pair(key)
            name = self.domains.get(did, f"domain #{did}")
            if did != at:
                if did not in self.domains:
                    self._add("ids", "domain is not registered", name, first)
                at, expected = did, first
            if first != expected and not self._gone(Table.IDS, key):
                self._add("ids", f"block begins at {first} instead of {expected}", name, expected)
            try:
                number = _count_numbers(block) if did in self.numbered else _count_ids(block)
            except (ValueError, struct.error) as error:
                self._add("ids", f"block cannot be read: {error}", name, first)
                at = -1
                continue
            self.result.ids += number
            expected = first + number

    def _cursors(self, rows: list[tuple[bytes, bytes]]) -> None:
        for key, value in rows:
            self.result.consumers += 1
            sid = unpack_u32(key) if len(key) >= 4 else 0
            consumer = key[4:].decode("utf-8", "replace")
            try:
                row = msgspec.json.decode(value, type=CursorRow)
            except msgspec.DecodeError as error:
                self._add("cursors", f"consumer {consumer!r} cannot be read: {error}", self._name(sid))
                continue
            if sid not in self.names:
                self._add("cursors", f"consumer {consumer!r} is of no registered stream", self._name(sid))
                continue
            try:
                head = self.reader.head(sid)
            except JournalDamaged:
                continue  # named among the records
            if row.offset > head:
                self._add("cursors", f"consumer {consumer!r} is at {row.offset}, above the head {head}", self._name(sid), row.offset)


def _count_ids(block: bytes) -> int:
    """The keys of a block of byte keys. Raises ValueError or struct.error if it is not one."""
    keys = unpack_ids(block)
    if not keys or sum(map(len, keys)) + 4 * (len(keys) + 2) != len(block):
        raise ValueError(f"{len(keys)} ids do not fill {len(block)} bytes")
    return len(keys)


def _count_numbers(block: bytes) -> int:
    """The keys of a block of numeric keys. Raises ValueError if it is not one."""
    if not block or len(block) % 8:
        raise ValueError(f"{len(block)} bytes are no u64s")
    return len(block) // 8
