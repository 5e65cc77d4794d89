"""Reading the journal: what the engine's JournalView wants, shared by the running sidecar and `sidecar journal`.

Every call is a short read transaction of its own (architecture invariant 7). A row of the records table is a block (see blocks.py),
and `read` gives runs; a block that is not what was written is an error that names stream and offsets.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import lmdb
import msgspec

from sidecar.core.layout import SCHEMA, StreamRow, Table, id_in_block, pack_pair, pack_u32, unpack_pair
from sidecar.core.record import Run, check, decode
from sidecar.errors import DataDirForeign, JournalDamaged, JournalError

LIB = 0
"""The LMDB engine, by major version: 0 is the 0.9 file format, the one that pages.py reads. The binding carries both."""
DAMAGE = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError)
KEY_BYTES = 12
NAMES = {table: table.name.lower().encode() for table in Table}

T = TypeVar("T")


class Usage(msgspec.Struct, frozen=True):
    """What the journal takes, in bytes: all pages in use, those of records, the quota and what admission may use of it, the file's
    extent; `free_pages`: pages of the file that are not in use; `blocks`: rows of the records table."""

    used: int
    records: int
    quota: int
    limit: int
    file: int
    free_pages: int
    page_size: int
    blocks: int


class RecordDamaged(JournalDamaged):
    """Records `offset` to `last` of a stream cannot be read; those around them can."""

    def __init__(self, stream: str, sid: int, offset: int, last: int, why: str) -> None:
        super().__init__(f"journal: stream {stream!r}, records {offset} to {last} are damaged: {why}")
        self.sid = sid
        self.offset = offset
        self.last = last


def lmdb_open(path: Path, *, map_size: int = 0, sync: bool = True, readonly: bool = False, create: bool = False) -> Any:
    """The LMDB environment of a journal file, with the one set of options that is used for it."""
    return lmdb.open(
        str(path),
        map_size=max(map_size, 1 << 20),
        subdir=False,
        readonly=readonly,
        sync=sync,
        metasync=sync,
        create=create,
        mode=0o600,
        max_dbs=len(Table),
        max_readers=126,
        max_spare_txns=4,
        readahead=True,
        lib_version=LIB,
    )


class Reads:
    """Reading, as the engine's JournalView wants it; the running sidecar and `sidecar journal` share it."""

    epoch: str
    _env: Any
    _db: dict[Table, Any]

    def _read(self, work: Callable[[Any], T]) -> T:
        """Carry out `work(transaction)` in a read transaction of its own. Values are memoryviews: copy what leaves it."""
        try:
            with self._env.begin(buffers=True) as txn:
                return work(txn)
        except (*DAMAGE, struct.error) as error:  # struct.error: a key that is none of ours
            raise JournalDamaged(f"the journal is damaged: {error}") from error
        except lmdb.Error as error:
            raise JournalError(f"the journal cannot be read: {error}") from error

    def get(self, table: Table, key: bytes) -> bytes | None:
        """The row's value, None if absent. Raises JournalDamaged."""

        def work(txn: Any) -> bytes | None:
            value = txn.get(key, db=self._db[table])
            return None if value is None else bytes(value)

        return self._read(work)

    def floor(self, table: Table, key: bytes) -> tuple[bytes, bytes] | None:
        """The row with the greatest key <= `key`, None if there is none. Raises JournalDamaged."""

        def work(txn: Any) -> tuple[bytes, bytes] | None:
            cursor = txn.cursor(self._db[table])
            return _row(table, cursor) if _at_or_before(cursor, key) else None

        return self._sound(work)

    def ceiling(self, table: Table, key: bytes) -> tuple[bytes, bytes] | None:
        """The row with the smallest key >= `key`, None if there is none. Raises JournalDamaged."""

        def work(txn: Any) -> tuple[bytes, bytes] | None:
            cursor = txn.cursor(self._db[table])
            return _row(table, cursor) if cursor.set_range(key) else None

        return self._sound(work)

    def scan(self, table: Table, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All rows under a prefix in key order, read in one go. Raises JournalDamaged."""

        def work(txn: Any) -> list[tuple[bytes, bytes]]:
            rows: list[tuple[bytes, bytes]] = []
            cursor = txn.cursor(self._db[table])
            if not (cursor.set_range(prefix) if prefix else cursor.first()):
                return rows
            for key, value in cursor.iternext():
                if key[: len(prefix)] != prefix:
                    break
                rows.append((bytes(key), bytes(value)))
            return rows

        return iter(self._read(work))

    def read(self, sid: int, after: int, count: int, size: int) -> list[Run]:
        """Runs of a stream's records with offset > after, in order: at most `count` records, and about `size` bytes, but at least one.

        Raises RecordDamaged if the first of them is damaged (else what comes before the damage is returned)."""

        def work(txn: Any) -> list[Run]:
            runs: list[Run] = []
            left, taken, expected = count, 0, 0
            cursor = txn.cursor(self._db[Table.RECORDS])
            wanted = pack_pair(sid, after + 1)
            here = _at_or_before(cursor, wanted) and unpack_pair(cursor.key())[0] == sid
            more = here or cursor.set_range(wanted)
            while more and left > 0 and taken < size:
                key, block = bytes(cursor.key()), cursor.value()
                at, first = unpack_pair(key)
                if at != sid:
                    break
                try:
                    if expected and first != expected:
                        raise _Unsound(sid, expected, first - 1, "they are missing")
                    expected = first + _check(key, block)
                except _Unsound:
                    if runs:
                        break
                    raise
                start = max(first, after + 1)
                run = decode(first, block, start, start + left)
                if run.payloads:
                    runs.append(run)
                    left -= len(run)
                    taken += sum(map(len, run.payloads))
                more = cursor.next()
            return runs

        return self._sound(work)

    def id_at(self, did: int, number: int) -> bytes | None:
        """The full key that was given a number in a domain, None if it is not kept. Like floor, but does not copy the block.

        Raises JournalDamaged."""

        def work(txn: Any) -> bytes | None:
            cursor = txn.cursor(self._db[Table.IDS])
            if not _at_or_before(cursor, pack_pair(did, number)):
                return None
            at, first = unpack_pair(cursor.key())
            return id_in_block(cursor.value(), number - first) if at == did else None

        found = self._read(work)
        return None if found is None else bytes(found)

    def _sound(self, work: Callable[[Any], T]) -> T:
        """As _read, for what looks into record blocks."""
        try:
            return self._read(work)
        except _Unsound as bad:
            raise self._damaged(bad) from bad

    def _damaged(self, bad: _Unsound) -> RecordDamaged:
        """The error for damaged records; how far they reach, if it is not known: to the next block, or at least one."""

        def work(txn: Any) -> int:
            cursor = txn.cursor(self._db[Table.RECORDS])
            if cursor.set_range(pack_pair(bad.sid, bad.first + 1)):
                at, after = unpack_pair(cursor.key())
                if at == bad.sid:
                    return int(after) - 1
            return bad.first

        return RecordDamaged(self.stream_name(bad.sid), bad.sid, bad.first, bad.last or self._read(work), bad.why)

    def stream_name(self, sid: int) -> str:
        """The name of a stream, `#<id>` if it is not registered."""
        for key, value in self.scan(Table.STREAMS, b"s"):
            try:
                if msgspec.json.decode(value, type=StreamRow).sid == sid:
                    return key[1:].decode("utf-8", "replace")
            except msgspec.DecodeError:
                continue
        return f"#{sid}"

    def streams_with_records(self) -> list[int]:
        """The ids of all streams that have records."""

        def work(txn: Any) -> list[int]:
            found: list[int] = []
            cursor = txn.cursor(self._db[Table.RECORDS])
            more = cursor.first()
            while more:
                sid = unpack_pair(cursor.key())[0]
                found.append(sid)
                more = sid < 0xFFFFFFFF and cursor.set_range(pack_u32(sid + 1))
            return found

        return self._read(work)

    def usage(self) -> Usage:
        """What the journal takes now (page counts of the last commit)."""

        def work(txn: Any) -> tuple[int, int, int]:
            stats = {table: txn.stat(db) for table, db in self._db.items()}
            each = {t: s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"] for t, s in stats.items()}
            main = txn.stat()
            used = 2 + main["branch_pages"] + main["leaf_pages"] + main["overflow_pages"] + sum(each.values())
            return used, each[Table.RECORDS], stats[Table.RECORDS]["entries"]

        used, records, entries = self._read(work)
        page: int = self._env.stat()["psize"]
        extent = self._env.info()["last_pgno"] + 1
        quota, limit = self._bounds()
        return Usage(used * page, records * page, quota, limit, extent * page, extent - used, page, entries)

    def _bounds(self) -> tuple[int, int]:
        return 0, 0


class _Unsound(Exception):
    """Records `first` to `last` (0: not known) of a stream are not what was written."""

    def __init__(self, sid: int, first: int, last: int, why: str) -> None:
        super().__init__(why)
        self.sid = sid
        self.first = first
        self.last = last
        self.why = why


def _check(key: bytes, block: memoryview) -> int:
    """The number of records of a block. Raises _Unsound."""
    sid, first = unpack_pair(key)
    try:
        return check(key, block)
    except ValueError as why:
        raise _Unsound(sid, first, 0, str(why)) from why


def _row(table: Table, cursor: Any) -> tuple[bytes, bytes]:
    """The row under the cursor; one of records is checked. Raises _Unsound."""
    key, value = bytes(cursor.key()), bytes(cursor.value())
    if table is Table.RECORDS:
        _check(key, memoryview(value))
    return key, value


def _at_or_before(cursor: Any, key: bytes) -> bool:
    """Move to the greatest key <= `key`."""
    if cursor.set_range(key):
        return bool(cursor.key() == key or cursor.prev())
    return bool(cursor.last())


def read_meta(journal: Reads) -> dict[str, str]:
    """The META rows as text. Raises JournalDamaged."""
    try:
        return {key.decode(): value.decode() for key, value in journal.scan(Table.META)}
    except UnicodeDecodeError as error:
        raise JournalDamaged(f"table meta: {error}") from error


def check_meta(meta: dict[str, str], dialect: str, upstream: str, path: Path) -> None:
    """Is this journal complete, ours to read, and of this dialect and upstream? Raises DataDirForeign, JournalDamaged."""
    schema = meta.get("schema", "")
    if not schema.isdecimal() or not meta.get("epoch") or "dialect" not in meta or "upstream" not in meta:
        raise JournalDamaged("table meta: schema, epoch, dialect or upstream is missing")
    if int(schema) > SCHEMA:
        raise DataDirForeign(
            f"the journal in {path} has schema {schema}; this sidecar knows {SCHEMA}",
            mend="run the newer sidecar that wrote it, or set SIDECAR_DATA_DIR to another directory",
        )
    if (meta["dialect"], meta["upstream"]) != (dialect, upstream):
        raise DataDirForeign(
            f"the data directory {path} belongs to {meta['dialect']} at {meta['upstream']}, not to {dialect} at {upstream}"
        )
