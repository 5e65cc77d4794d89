"""What the journal's tests share: records, batches, and stores of both kinds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from sidecar.core.layout import Batch, CursorRow, StreamRow, Table, cursor_key, pack_ids, pack_pair, pack_u32
from sidecar.core.record import EVENT, GAP, Gap, Run, encode
from sidecar.journal.store import Store

WALL = 1_800_000_000.0
WHO: dict[str, Any] = {"dialect": "relaycast", "upstream": "http://upstream.example"}
HEAD = (1 << 64) - 1


def opened(path: Path, **options: Any) -> Store:
    """A store with the tests' settings."""
    given: dict[str, Any] = {"durability": "process", "retention_bytes": 1 << 30, "retention_s": 1000.0, "wall": WALL, **WHO}
    return Store.open(path, **(given | options))


def event(offset: int, *, sid: int = 1, ordinal: int | None = None, wall: float = WALL, payload: bytes = b"") -> tuple[int, Run]:
    """One event as a run of its own, with its stream's id."""
    return sid, Run(offset, offset if ordinal is None else ordinal, EVENT, [payload or b'{"n":%d}' % offset], "", int(wall * 1000))


def gap(offset: int, ordinal: int, *, sid: int = 1, reason: str = "lost") -> tuple[int, Run]:
    """One gap as a run of its own, with its stream's id."""
    return sid, Run(offset, ordinal, GAP, [msgspec.json.encode(Gap(reason, "seq", 1, 2, 2))], "", int(WALL * 1000))


def run(first: int, last: int, *, sid: int = 1, **options: Any) -> tuple[int, Run]:
    """Events as one run, both offsets included, with their stream's id."""
    _, begin = event(first, sid=sid, **options)
    payloads = [event(offset, **options)[1].payloads[0] for offset in range(first, last + 1)]
    return sid, Run(begin.offset, begin.ordinal, begin.flags, payloads, begin.domain, begin.wall)


def batch_of(runs: Iterable[tuple[int, Run]], *, admits: bool = True) -> Batch:
    """A batch of runs."""
    batch = Batch()
    batch.admits = admits
    batch.runs.extend(runs)
    return batch


def events(first: int, last: int, **options: Any) -> Batch:
    """A batch with one run of events, both offsets included."""
    return batch_of([run(first, last, **options)])


def block(sid_and_run: tuple[int, Run]) -> tuple[bytes, bytes]:
    """A run as its row of the records table."""
    sid, whole = sid_and_run
    key = pack_pair(sid, whole.offset)
    return key, encode(key, whole)


def flat(runs: Iterable[Run]) -> list[tuple[int, bytes]]:
    """Offset and payload of each record."""
    return [(record.offset, record.payload) for each in runs for record in each.records()]


def offsets(runs: Iterable[Run]) -> list[int]:
    """Offsets of all records."""
    return [offset for offset, _ in flat(runs)]


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
