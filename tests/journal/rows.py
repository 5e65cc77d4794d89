"""What the journal's tests share: records, batches, and stores of both kinds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from sidecar.core.layout import Batch, CursorRow, StreamRow, Table, cursor_key, pack_ids, pack_pair, pack_u32
from sidecar.core.record import EVENT, GAP, Gap, Record, encode
from sidecar.journal.store import Store

WALL = 1_800_000_000.0
WHO: dict[str, Any] = {"dialect": "relaycast", "upstream": "http://upstream.example"}
HEAD = (1 << 64) - 1


def opened(path: Path, **options: Any) -> Store:
    """A store with the tests' settings."""
    given: dict[str, Any] = {"durability": "process", "retention_bytes": 1 << 30, "retention_s": 1000.0, "wall": WALL, **WHO}
    return Store.open(path, **(given | options))


def event(offset: int, *, sid: int = 1, ordinal: int | None = None, wall: float = WALL, payload: bytes = b"") -> tuple[bytes, bytes]:
    """A row of the records table."""
    record = Record(offset, offset if ordinal is None else ordinal, EVENT, payload or b'{"n":%d}' % offset, wall=int(wall * 1000))
    return pack_pair(sid, offset), encode(record)


def gap(offset: int, ordinal: int, *, sid: int = 1, reason: str = "lost") -> tuple[bytes, bytes]:
    """A gap's row of the records table."""
    payload = msgspec.json.encode(Gap(reason, "seq", 1, 2, 2))
    return pack_pair(sid, offset), encode(Record(offset, ordinal, GAP, payload, wall=int(WALL * 1000)))


def batch_of(rows: Iterable[tuple[bytes, bytes]], *, admits: bool = True) -> Batch:
    """A batch of records."""
    batch = Batch()
    batch.admits = admits
    for key, value in rows:
        batch.put(Table.RECORDS, key, value)
    return batch


def events(first: int, last: int, **options: Any) -> Batch:
    """A batch of events, both offsets included."""
    return batch_of(event(offset, **options) for offset in range(first, last + 1))


def register(batch: Batch, name: str, sid: int, domain: int = 0) -> None:
    """Register a stream, and a domain of it."""
    batch.put(Table.STREAMS, b"s" + name.encode(), msgspec.json.encode(StreamRow(sid, int(WALL * 1000), "acct")))
    if domain:
        batch.put(Table.STREAMS, b"d" + pack_u32(sid) + b"general", pack_u32(domain))


def cursor(batch: Batch, sid: int, name: str, offset: int, seen: float = WALL) -> None:
    """Put a consumer's cursor."""
    batch.put(Table.CURSORS, cursor_key(sid, name), msgspec.json.encode(CursorRow(offset, seen, "handled")))


def ids(batch: Batch, did: int, first: int, keys: list[bytes]) -> None:
    """Put an id block."""
    batch.put(Table.IDS, pack_pair(did, first), pack_ids(keys))


def everything(store: Any) -> dict[Table, list[tuple[bytes, bytes]]]:
    """All rows of all tables but META."""
    return {table: list(store.scan(table)) for table in Table if table is not Table.META}
