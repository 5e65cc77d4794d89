"""The journal on LMDB: one file, six tables, one writer.

Theory of operation
-------------------
`Store.open` locks the directory, looks at the file before LMDB may (a file cut short or a damaged page can kill the process that
maps it), and sets a damaged one aside for a new journal with a new epoch. `apply` is one write transaction; when it returns, the
batch is durable: on disk under `power` (fsync), in the kernel under `process`. Reads are short transactions of their own.

Threads: one thread calls apply, prune and close; any thread may read.

Space: a batch that admits is refused when the pages in use would pass the quota's headroom (retention.py); other batches and pruning
still pass. The map is sparse address space well above the quota: the file may outgrow the pages in use while a reader holds old ones.

Within a batch the order is: drops, deletes, puts.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import secrets
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal, TypeVar

import lmdb
import msgspec

from sidecar.core.layout import SCHEMA, Batch, Table, cursor_key, pack_pair, unpack_pair
from sidecar.core.record import count_of
from sidecar.errors import DataDirError, JournalDamaged, JournalError, JournalFull
from sidecar.journal import blocks, pages, retention
from sidecar.journal.directory import Directory
from sidecar.journal.reads import DAMAGE, NAMES, Reads, Usage, check_meta, lmdb_open, read_meta

MIB = 1 << 20
DROP_ROWS = 1024
"""Rows that one drop of one batch removes at most."""
LOOK_ALWAYS = 64 * MIB
"""A file up to this size is looked through at every start; a larger one only after a stop that was not clean."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

T = TypeVar("T")
Event = Callable[[str, str, dict[str, Any]], None]
Durability = Literal["power", "process"]


class Lost(msgspec.Struct, frozen=True):
    """A journal that was set aside: where it is now, why, and when (Unix seconds). Kept in META until the row `lost` is deleted."""

    path: str
    reason: str
    wall: float


def log_event(level: str, text: str, fields: dict[str, Any]) -> None:
    """The default on_event: one line in the process's log."""
    logging.getLogger("sidecar.journal").log(logging.getLevelNamesMapping()[level.upper()], text, extra=fields)


class Store(Reads):
    """The running sidecar's journal. `lost`: the journal that was set aside before this one, until META row `lost` is deleted."""

    def __init__(self, directory: Directory, *, durability: Durability, retention_bytes: int, retention_s: float) -> None:
        """For Store.open."""
        self.directory = directory
        self.retention_bytes = retention_bytes
        self.retention_s = retention_s
        self.lost: Lost | None = None
        self.epoch = ""
        self._sync = durability == "power"
        self._quota, self._limit = retention.quota_of(retention_bytes)
        self._heads = blocks.Heads()
        self._reopening = threading.Lock()
        self._env: Any = None
        self._db: dict[Table, Any] = {}
        self._used = 0
        self._since = 0
        self._refused = False
        self._hash_key = b""
        self._on_event: Event = log_event

    # --- open and close ----------------------------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        dialect: str,
        upstream: str,
        durability: Durability,
        retention_bytes: int,
        retention_s: float,
        wall: float,
        on_event: Event = log_event,
    ) -> Store:
        """Open or begin the journal in a directory. `wall`: Unix seconds; `on_event(level, text, fields)` is told what to log.

        Raises DataDirInUse, DataDirForeign (another dialect, upstream or a newer schema), DataDirError, JournalFull."""
        store = cls(Directory(path), durability=durability, retention_bytes=retention_bytes, retention_s=retention_s)
        store._on_event = on_event
        try:
            store._begin(dialect, upstream, wall)
        except BaseException:
            store.close(clean=False)
            raise
        return store

    def _begin(self, dialect: str, upstream: str, wall: float) -> None:
        directory = self.directory
        lost: Lost | None = None
        if directory.journal.exists():
            try:
                self._look()
                self._connect()
                meta = self._load(dialect, upstream)
            except (pages.Damage, JournalDamaged, *DAMAGE) as damage:
                lost = self._set_aside(str(damage), wall)
            except lmdb.Error as error:
                raise self._refusal(error) from error
        if not directory.journal.exists():
            self._create(dialect, upstream, wall, lost)
            self._connect()
            meta = self._load(dialect, upstream)
        self.epoch = meta["epoch"]
        if row := meta.get("lost"):
            self.lost = msgspec.json.decode(row, type=Lost)
        self._env.reader_check()
        self._measure()
        directory.reserve()

    def _look(self) -> None:
        """Look at the file before LMDB maps it. Raises pages.Damage."""
        if self.directory.condemned:
            raise pages.Damage(self.directory.condemned)
        size = self.directory.journal.stat().st_size
        if pages.readable() and (self.directory.unclean or size <= LOOK_ALWAYS):
            pages.look(self.directory.journal)
        else:
            with self.directory.journal.open("rb") as file:
                meta = pages.read_meta(file.read(1 << 17))
            if size < (meta.last_page + 1) * meta.page_size:
                pages.look(self.directory.journal)

    def _connect(self) -> None:
        self._env = lmdb_open(self.directory.journal, map_size=max(4 * self._quota, 1 << 30), sync=self._sync)
        try:
            self._db = {table: self._env.open_db(name, create=False) for table, name in NAMES.items()}
        except lmdb.NotFoundError as error:
            raise JournalDamaged(f"a table is missing: {error}") from error

    def _load(self, dialect: str, upstream: str) -> dict[str, str]:
        """Read META and the heads. Raises DataDirForeign, JournalDamaged."""
        meta = read_meta(self)
        check_meta(meta, dialect, upstream, self.directory.path)
        for sid in self.streams_with_records():
            last = self.floor(Table.RECORDS, pack_pair(sid, (1 << 64) - 1))
            if last is not None:
                self._heads.last[sid] = unpack_pair(last[0])[1] + count_of(last[1]) - 1
        return meta

    def _create(self, dialect: str, upstream: str, wall: float, lost: Lost | None) -> None:
        """Begin a journal under another name and put it in place whole, so that a file of that name always was one."""
        part = self.directory.path / "journal.new"
        lock = self.directory.path / "journal.new-lock"
        part.unlink(missing_ok=True)
        rows = {"schema": str(SCHEMA), "epoch": secrets.token_hex(8), "dialect": dialect, "upstream": upstream}
        rows["created"] = f"{wall:.3f}"
        if lost is not None:
            rows["lost"] = msgspec.json.encode(lost).decode()
        try:
            env = lmdb_open(part, map_size=1 << 24, create=True)
            try:
                tables = {table: env.open_db(name) for table, name in NAMES.items()}
                with env.begin(write=True) as txn:
                    for name, value in rows.items():
                        txn.put(name.encode(), value.encode(), db=tables[Table.META])
            finally:
                env.close()
        except lmdb.Error as error:
            raise self._refusal(error) from error
        lock.unlink(missing_ok=True)
        part.rename(self.directory.journal)
        self.directory.sync()

    def _set_aside(self, reason: str, wall: float) -> Lost:
        self._disconnect()
        self._heads = blocks.Heads()
        aside = self.directory.set_aside(wall)
        fields = {"reason": reason, "path": str(aside)}
        self._on_event("error", "the journal was damaged and is set aside; a new epoch begins", fields)
        return Lost(str(aside), reason, wall)

    def _refusal(self, error: lmdb.Error) -> JournalFull | DataDirError:
        code = getattr(error, "code", 0)
        if code in NO_ROOM or isinstance(error, lmdb.DiskError | lmdb.MapFullError):
            return JournalFull(f"the journal cannot be opened: {error}")
        return DataDirError(f"the journal in {self.directory.path} cannot be opened: {error}")

    def _disconnect(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def close(self, clean: bool = True) -> None:
        """Close and unlock; under `process` what was committed is synced first. Harmless when repeated."""
        if self._env is not None and clean:
            try:
                self._env.sync(True)
            except lmdb.Error:
                clean = False
        self._disconnect()
        self.directory.close(clean)

    def hash_key(self) -> bytes:
        """The directory's 32 random bytes for keyed hashes of credentials. Raises DataDirError."""
        if not self._hash_key:
            self._hash_key = self.directory.hash_key()
        return self._hash_key

    def hash_secret(self, secret: str) -> str:
        """A keyed hash of a credential, 32 hex digits: the only trace of it that may go to disk (architecture invariant 10)."""
        return hashlib.blake2b(secret.encode(), digest_size=16, key=self.hash_key()).hexdigest()

    # --- writing -----------------------------------------------------------------------------------------------------------------

    def apply(self, batch: Batch) -> None:
        """Commit a batch: all of it, durably, or nothing of it.

        Raises JournalFull (quota or disk; heals by itself when there is room again), JournalDamaged, JournalError; ValueError if a
        run is empty or at or below its stream's head, or if records are put, deleted or dropped as rows (they are put as runs, and
        retention alone removes them). After any error what is durable is what reads give."""
        moved = self._heads.check(batch.runs)
        if Table.RECORDS in batch.puts or any(row[0] is Table.RECORDS for row in (*batch.deletes, *batch.drops)):
            raise ValueError("records are put as runs, and removed by retention alone")
        packed = blocks.pack(batch.runs)
        size = sum(len(key) + len(value) for rows in (packed, *batch.puts.values()) for key, value in rows)
        if batch.admits:
            self._admit(size)
        end = max(self._heads.last, default=-1)
        tail = [row for row in packed if unpack_pair(row[0])[0] >= end]

        def work(txn: Any) -> None:
            for table, low, high in batch.drops:
                _drop(txn, self._db[table], low, high)
            for table, key in batch.deletes:
                txn.delete(key, db=self._db[table])
            for table, rows in batch.puts.items():
                txn.cursor(self._db[table]).putmulti(sorted(dict(rows).items()))
            if packed:
                cursor = txn.cursor(self._db[Table.RECORDS])
                if len(tail) < len(packed):
                    cursor.putmulti(packed[: len(packed) - len(tail)])
                cursor.putmulti(tail, append=True)

        self._write(work, spend_reserve=not batch.admits)
        self._heads.last.update(moved)
        self._since += size
        if self.lost is not None and (Table.META, b"lost") in batch.deletes:
            self.lost = None

    def _admit(self, size: int) -> None:
        """Refuse to grow beyond the quota's headroom. Counts pages only when the last count is too old to tell.

        Once refused, nothing is admitted until there is some room again, lest admission flaps at the edge."""
        if self._refused or self._used + 2 * (self._since + size) > self._limit or self._since > 16 * MIB:
            self._measure()
            edge = self._limit - retention.SLACK // 2 if self._refused else self._limit
            self._refused = self._used + size + size // 4 > edge
            if self._refused:
                raise JournalFull(f"the journal uses {self._used >> 20} MiB of its quota of {self._quota >> 20} MiB")

    def _measure(self) -> Usage:
        usage = self.usage()
        self._used, self._since = usage.used, 0
        return usage

    def _write(self, work: Callable[[Any], None], *, spend_reserve: bool) -> None:
        try:
            self._transact(work)
        except JournalFull:
            if not (spend_reserve and self.directory.release()):
                raise
            self._on_event("warning", "the disk is full: the reserve is given up for cursors and pruning", {})
            self._transact(work)

    def _transact(self, work: Callable[[Any], None]) -> None:
        try:
            try:
                txn = self._env.begin(write=True)
            except lmdb.PanicError:
                self._reopen()
                txn = self._env.begin(write=True)
            with txn:
                work(txn)
        except DAMAGE as error:
            self.directory.condemn(str(error))
            raise JournalDamaged(f"the journal is damaged: {error}") from error
        except lmdb.Error as error:
            code = getattr(error, "code", 0)
            if code in NO_ROOM or isinstance(error, lmdb.DiskError | lmdb.MapFullError | lmdb.PanicError):
                raise JournalFull(f"the journal cannot be written: {error}") from error
            raise JournalError(f"the journal cannot be written: {error}") from error

    def _reopen(self) -> None:
        """After a failed write of a meta page LMDB refuses everything: begin again from what is on disk."""
        self._on_event("warning", "the journal is opened again after a failed write", {})
        with self._reopening:
            self._disconnect()
            self._connect()

    def _read(self, work: Callable[[Any], T]) -> T:
        try:
            return super()._read(work)
        except JournalDamaged as error:
            if isinstance(error.__cause__, DAMAGE):  # LMDB's own word: no page of the file is to be trusted
                self.directory.condemn(error.text)
            raise
        except JournalError:
            if not self._reopening.locked():
                raise
        with self._reopening:
            pass
        return super()._read(work)

    # --- retention ---------------------------------------------------------------------------------------------------------------

    def prune(self, wall: float) -> dict[int, int]:
        """Apply retention: drop the oldest blocks of records beyond retention_bytes, and those older than retention_s.

        Never a stream's last block, so that its head and ordinal survive. `wall`: Unix seconds. Returns, for each stream that lost
        records, the first offset kept. Raises what apply raises."""
        kept: dict[int, int] = {}
        more = True
        while more:
            step, more = self.prune_step(wall)
            kept.update(step)
        return kept

    def prune_step(self, wall: float) -> tuple[dict[int, int], bool]:
        """One bounded transaction of prune; and whether there is more to do."""
        self._env.reader_check()
        usage = self._measure()
        excess = retention.excess(self.retention_bytes, usage.used, usage.records)
        cutoff = int((wall - self.retention_s) * 1000)
        doomed, kept = self._read(
            lambda txn: retention.doomed(txn.cursor(self._db[Table.RECORDS]), self._heads.last, cutoff, excess, usage.page_size)
        )
        if not doomed:
            if self._used < self._limit:
                self.directory.reserve()
            return {}, False

        def work(txn: Any) -> None:
            cursor = txn.cursor(self._db[Table.RECORDS])
            for key in doomed:
                if cursor.set_key(key):
                    cursor.delete()

        self._write(work, spend_reserve=True)
        return kept, len(doomed) >= retention.PRUNE_BLOCKS

    def forget(self, wall: float, keep: Collection[tuple[int, str]] = ()) -> list[tuple[int, str]]:
        """Drop the cursors of consumers last seen before wall - retention_s, but for `keep`; returns (stream id, consumer)."""
        gone = retention.stale(self, wall - self.retention_s, keep)
        if gone:
            batch = Batch()
            for sid, name in gone:
                batch.delete(Table.CURSORS, cursor_key(sid, name))
            self.apply(batch)
        return gone

    def _bounds(self) -> tuple[int, int]:
        return self._quota, self._limit


def _drop(txn: Any, db: Any, low: bytes, high: bytes) -> None:
    cursor = txn.cursor(db)
    more = cursor.set_range(low)
    for _ in range(DROP_ROWS):
        if not more or bytes(cursor.key()) >= high:
            return
        more = cursor.delete() and bool(cursor.key())
