"""The journal's key layout: which table holds what under which bytes. Pure; the LMDB journal and its model share it.

| table | key | value |
|---|---|---|
| RECORDS | stream id u32, offset u64 of the first | run of records (sidecar.core.record) |
| IDS | domain id u32, number of the first key u64 | id block: the keys of one commit in one domain, or u64s of a numbered one |
| STATE | owner, NUL, key | a half's own bytes |
| CURSORS | stream id u32, consumer name | CursorRow as JSON |
| STREAMS | `s` + name | StreamRow as JSON |
| STREAMS | `d` + stream id u32 + domain | domain id u32 of its byte keys |
| STREAMS | `o` + stream id u32 + domain | domain id u32 of its numeric keys |
| META | name | epoch, schema, dialect, upstream, created |

All integers in keys are big endian, so that byte order is number order.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum

import msgspec

from sidecar.core.record import Run


class Table(IntEnum):
    """The journal's named tables."""

    RECORDS = 0
    IDS = 1
    STATE = 2
    CURSORS = 3
    STREAMS = 4
    META = 5


SCHEMA = 1

_PAIR = struct.Struct(">IQ")
_U32 = struct.Struct(">I")
_COUNT = struct.Struct("<I")

pack_pair = _PAIR.pack
unpack_pair = _PAIR.unpack
pack_u32 = _U32.pack


def unpack_u32(data: bytes) -> int:
    """The number packed by pack_u32."""
    return int(_U32.unpack(data[:4])[0])


class StreamRow(msgspec.Struct, frozen=True):
    """A stream's registration. `base`: Unix milliseconds at birth."""

    sid: int
    base: int
    account: str = ""


class CursorRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A consumer's durable cursor: `offset` taken; `seen`: Unix seconds when it was last connected; `quality` of its receipts;
    `resets`: how often the operator has set it to another place."""

    offset: int
    seen: float
    quality: str = "none"
    resets: int = 0


def state_key(owner: str, key: str) -> bytes:
    """Key of a half's state. Raises ValueError if it is longer than LMDB allows (511 bytes)."""
    data = f"{owner}\0{key}".encode()
    if len(data) > 511:
        raise ValueError(f"state key of {owner!r} is longer than 511 bytes: {key[:40]!r}…")
    return data


def cursor_key(sid: int, consumer: str) -> bytes:
    """Key of a consumer's cursor."""
    return pack_u32(sid) + consumer.encode()[:500]


def pack_ids(keys: Sequence[bytes]) -> bytes:
    """An id block: count, then count+1 end positions, then the keys, one after another."""
    ends = [0]
    total = 0
    for key in keys:
        total += len(key)
        ends.append(total)
    return _COUNT.pack(len(keys)) + struct.pack(f"<{len(ends)}I", *ends) + b"".join(keys)


def id_in_block(block: bytes, index: int) -> bytes | None:
    """The index-th key of an id block, None beyond its end.

    Raises struct.error if the block is cut short."""
    (count,) = _COUNT.unpack_from(block)
    if index >= count:
        return None
    start, end = struct.unpack_from("<II", block, 4 + 4 * index)
    body = 4 + 4 * (count + 1)
    return block[body + start : body + end]


def unpack_ids(block: bytes) -> list[bytes]:
    """All keys of an id block.

    Raises struct.error if it is cut short."""
    (count,) = _COUNT.unpack_from(block)
    ends = struct.unpack_from(f"<{count + 1}I", block, 4)
    body = 4 + 4 * (count + 1)
    return [block[body + ends[i] : body + ends[i + 1]] for i in range(count)]


class Batch:
    """One transaction in the making: runs of records by stream id, rows to put by table, rows to delete, key ranges to drop (each
    bounded by the journal). Records are put as runs only.

    `admits` tells the journal that the batch grows the journal (it is refused first when space runs out)."""

    __slots__ = ("admits", "bytes", "deletes", "drops", "puts", "runs")

    def __init__(self) -> None:
        self.runs: list[tuple[int, Run]] = []
        self.puts: dict[Table, list[tuple[bytes, bytes]]] = {}
        self.deletes: list[tuple[Table, bytes]] = []
        self.drops: list[tuple[Table, bytes, bytes]] = []
        self.bytes = 0
        self.admits = False

    def __bool__(self) -> bool:
        return bool(self.runs or self.puts or self.deletes or self.drops)

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Set a row; the last put of a key wins."""
        self.puts.setdefault(table, []).append((key, value))
        self.bytes += len(key) + len(value)

    def delete(self, table: Table, key: bytes) -> None:
        """Remove a row if it is there; one put in this batch before goes, too (the journal deletes first, then puts)."""
        if rows := self.puts.get(table):
            self.puts[table] = [row for row in rows if row[0] != key]
        self.deletes.append((table, key))

    def drop(self, table: Table, low: bytes, high: bytes) -> None:
        """Remove rows with low <= key < high; the journal may leave some for a later drop of the same range."""
        self.drops.append((table, low, high))
