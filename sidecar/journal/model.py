"""The journal's model for the simulation and as the yardstick of the LMDB one: the same interface in plain dicts, plus failures.

What the disk would do is said by the test: `stage` holds a batch as under way, `commit` applies it, `crash` drops it and nothing
else. `full` refuses what admits, `disk_full` everything, `fail_at` the k-th apply from now. Pages are not modelled: bytes of keys
and values stand for them, so `usage` and retention by bytes are alike in kind, not in number.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Iterator

from sidecar.core.layout import Batch, Table, cursor_key, id_in_block, pack_pair, unpack_pair
from sidecar.core.record import Run, decode, wall_of
from sidecar.errors import JournalFull
from sidecar.journal import blocks, retention
from sidecar.journal.reads import Usage
from sidecar.journal.store import DROP_ROWS, Lost


class _Rows:
    """One table: a dict and its keys in order."""

    __slots__ = ("keys", "rows")

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []

    def put(self, key: bytes, value: bytes) -> None:
        if key not in self.rows:
            if self.keys and key < self.keys[-1]:
                insort(self.keys, key)
            else:
                self.keys.append(key)
        self.rows[key] = value

    def delete(self, key: bytes) -> None:
        if self.rows.pop(key, None) is not None:
            del self.keys[bisect_left(self.keys, key)]

    def drop(self, low: bytes, high: bytes, limit: int) -> None:
        start = bisect_left(self.keys, low)
        stop = min(bisect_left(self.keys, high), start + limit)
        for key in self.keys[start:stop]:
            del self.rows[key]
        del self.keys[start:stop]

    def size(self) -> int:
        return sum(len(k) + len(v) for k, v in self.rows.items())


class ModelStore:
    """See the module. `epoch` and `secret` (the hash key) are given, so that a run is reproducible; `lost` as in Store."""

    def __init__(
        self,
        *,
        epoch: str = "0" * 16,
        retention_bytes: int = 1 << 30,
        retention_s: float = 7 * 86400.0,
        secret: bytes = b"\0" * 32,
        lost: Lost | None = None,
    ) -> None:
        self.epoch = epoch
        self.retention_bytes = retention_bytes
        self.retention_s = retention_s
        self.lost = lost
        self.full = False
        self.disk_full = False
        self.applied = 0
        self._secret = secret
        self._tables = {table: _Rows() for table in Table}
        self._heads = blocks.Heads()
        self._blocks: dict[int, list[bytes]] = {}  # stream: the keys of its blocks, oldest first
        self._staged: Batch | None = None
        self._failures: dict[int, BaseException] = {}
        self._attempts = 0
        self._tables[Table.META].put(b"epoch", epoch.encode())

    # --- failures ----------------------------------------------------------------------------------------------------------------

    def stage(self, batch: Batch) -> None:
        """A batch is under way: not visible, lost in a crash. One at a time (RuntimeError)."""
        if self._staged is not None:
            raise RuntimeError("a batch is under way already")
        self._staged = batch

    def commit(self) -> None:
        """Apply the staged batch. Raises what apply raises; nothing is staged afterwards."""
        batch, self._staged = self._staged, None
        if batch is not None:
            self.apply(batch)

    def crash(self) -> None:
        """The process dies: what is under way is lost, what was applied stays."""
        self._staged = None

    def fail_at(self, k: int, error: BaseException) -> None:
        """The k-th apply from now (1 is the next) raises `error` and applies nothing."""
        self._failures[self._attempts + k] = error

    # --- JournalView ---------------------------------------------------------------------------------------------------------------

    def get(self, table: Table, key: bytes) -> bytes | None:
        """The row's value, None if absent."""
        return self._tables[table].rows.get(key)

    def floor(self, table: Table, key: bytes) -> tuple[bytes, bytes] | None:
        """The row with the greatest key <= `key`, None if there is none."""
        rows = self._tables[table]
        at = bisect_right(rows.keys, key) - 1
        return (rows.keys[at], rows.rows[rows.keys[at]]) if at >= 0 else None

    def ceiling(self, table: Table, key: bytes) -> tuple[bytes, bytes] | None:
        """The row with the smallest key >= `key`, None if there is none."""
        rows = self._tables[table]
        at = bisect_left(rows.keys, key)
        return (rows.keys[at], rows.rows[rows.keys[at]]) if at < len(rows.keys) else None

    def scan(self, table: Table, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All rows under a prefix in key order, as they are now."""
        rows = self._tables[table]
        found = []
        for key in rows.keys[bisect_left(rows.keys, prefix) :]:
            if not key.startswith(prefix):
                break
            found.append((key, rows.rows[key]))
        return iter(found)

    def read(self, sid: int, after: int, count: int, size: int) -> list[Run]:
        """Runs of records with offset > after, in order: at most `count` records, and about `size` bytes, but at least one."""
        rows = self._tables[Table.RECORDS]
        found: list[Run] = []
        taken = 0
        at = max(0, bisect_right(rows.keys, pack_pair(sid, after + 1)) - 1)
        for key in rows.keys[at:]:
            stream, first = unpack_pair(key)
            if stream > sid or count <= 0 or taken >= size:
                break
            start = max(first, after + 1)
            run = decode(first, rows.rows[key], start, start + count)
            if stream == sid and run.payloads:
                found.append(run)
                count -= len(run)
                taken += sum(map(len, run.payloads))
        return found

    def id_at(self, did: int, number: int) -> bytes | None:
        """The full key that was given a number in a domain, None if it is not kept."""
        row = self.floor(Table.IDS, pack_pair(did, number))
        if row is None or unpack_pair(row[0])[0] != did:
            return None
        return id_in_block(row[1], number - unpack_pair(row[0])[1])

    # --- writing -----------------------------------------------------------------------------------------------------------------

    def apply(self, batch: Batch) -> None:
        """Commit a batch, or nothing of it. Raises JournalFull, the error of fail_at, ValueError like Store."""
        self._attempts += 1
        if (error := self._failures.pop(self._attempts, None)) is not None:
            raise error
        if self.disk_full or (self.full and batch.admits):
            raise JournalFull("the model is full")
        moved = self._heads.check(batch.runs)
        if Table.RECORDS in batch.puts or any(row[0] is Table.RECORDS for row in (*batch.deletes, *batch.drops)):
            raise ValueError("records are put as runs, and removed by retention alone")
        for table, low, high in batch.drops:
            self._tables[table].drop(low, high, DROP_ROWS)
        for table, key in batch.deletes:
            self._tables[table].delete(key)
        for table, rows in batch.puts.items():
            for key, value in rows:
                self._tables[table].put(key, value)
        for key, block in blocks.pack(batch.runs):
            self._tables[Table.RECORDS].put(key, block)
            self._blocks.setdefault(unpack_pair(key)[0], []).append(key)
        self._heads.last.update(moved)
        self.applied += 1
        if self.lost is not None and (Table.META, b"lost") in batch.deletes:
            self.lost = None

    # --- retention ---------------------------------------------------------------------------------------------------------------

    def prune(self, wall: float) -> dict[int, int]:
        """As Store.prune: whole blocks, the oldest first, never a stream's last."""
        cutoff = int((wall - self.retention_s) * 1000)
        rows = self._tables[Table.RECORDS]
        too_many = rows.size() - self.retention_bytes
        kept: dict[int, int] = {}
        while True:
            fronts = [(wall_of(rows.rows[b[0]]), b[0], sid) for sid, b in self._blocks.items() if len(b) > 1]
            when, _, sid = min(fronts, default=(cutoff, b"", 0))
            if not fronts or (too_many <= 0 and when >= cutoff):
                return kept
            key = self._blocks[sid].pop(0)
            too_many -= len(key) + len(rows.rows[key])
            rows.delete(key)
            kept[sid] = unpack_pair(self._blocks[sid][0])[1]

    def forget(self, wall: float, keep: Collection[tuple[int, str]] = ()) -> list[tuple[int, str]]:
        """As Store.forget."""
        gone = retention.stale(self, wall - self.retention_s, keep)
        if gone:
            batch = Batch()
            for sid, name in gone:
                batch.delete(Table.CURSORS, cursor_key(sid, name))
            self.apply(batch)
        return gone

    def usage(self) -> Usage:
        """As Store.usage, with bytes of keys and values for pages."""
        used = sum(rows.size() for rows in self._tables.values())
        quota, limit = retention.quota_of(self.retention_bytes)
        records = self._tables[Table.RECORDS].size()
        return Usage(used, records, quota, limit, used, 0, 1, sum(map(len, self._blocks.values())))

    def hash_key(self) -> bytes:
        """The 32 bytes given."""
        return self._secret

    def hash_secret(self, secret: str) -> str:
        """As Store.hash_secret."""
        return hashlib.blake2b(secret.encode(), digest_size=16, key=self._secret).hexdigest()

    def close(self, clean: bool = True) -> None:
        """Drop what is staged."""
        self._staged = None
