"""Retention: how much room the journal has, which records go first, and which consumers are forgotten. Plans only; store.py acts.

The quota is retention_bytes plus room for ids, states and cursors: a quarter of it, at least 64 MiB (a million ids take some
40 MiB). Admission may use the quota but for a headroom of 5 %, at least 16 MiB, which is for cursors and for pruning itself: LMDB
needs free pages even to delete. Records are kept below retention_bytes, or lower if the rest takes more than its room.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from sidecar.core.layout import CursorRow, Table, pack_pair, unpack_pair, unpack_u32
from sidecar.core.ports import JournalView
from sidecar.core.record import check, wall_of

MIB = 1 << 20
PRUNE_BLOCKS = 64
"""Blocks that one pruning transaction removes at most (2 MiB of records)."""
SLACK = 16 * MIB
"""Pruning stays this far below what admission may use, so that admission has somewhere to go."""


def quota_of(retention_bytes: int) -> tuple[int, int]:
    """Quota, and what admission may use of it (quota - headroom), in bytes."""
    quota = retention_bytes + max(retention_bytes // 4, 64 * MIB)
    return quota, quota - max(quota // 20, 16 * MIB)


def excess(retention_bytes: int, used: int, records: int) -> int:
    """Bytes of records too many, by bytes of pages in use and of records' pages; not positive: none."""
    room = quota_of(retention_bytes)[1] - (used - records) - SLACK
    return records - max(0, min(retention_bytes, room))


class Front:
    """A stream's oldest block: its wall time (ms), its key, the next block's key, its length."""

    __slots__ = ("following", "key", "length", "when")

    def __init__(self, when: int, key: bytes, following: bytes, length: int) -> None:
        self.when = when
        self.key = key
        self.following = following
        self.length = length

    def __lt__(self, other: Front) -> bool:
        return (self.when, self.key) < (other.when, other.key)


def front(cursor: Any, sid: int) -> Front | None:
    """The front of a stream at the cursor; None if that is the stream's last block, which is never dropped."""
    key, block = bytes(cursor.key()), cursor.value()
    if unpack_pair(key)[0] != sid:
        return None
    length = len(block)
    try:
        check(key, block)
        when = wall_of(block)
    except ValueError:
        when = 0
    if not cursor.next() or unpack_pair(cursor.key())[0] != sid:
        return None
    return Front(when, key, bytes(cursor.key()), length)


def doomed(cursor: Any, sids: Iterable[int], cutoff: int, too_many: int, page: int) -> tuple[list[bytes], dict[int, int]]:
    """Keys of blocks to drop now, the oldest first over all streams, and the first offset then kept of each stream.

    `cutoff`: Unix ms, blocks wholly older go; `too_many`: bytes that must go whatever their age, in pages of `page` bytes."""
    heap = []
    for sid in sids:
        if cursor.set_range(pack_pair(sid, 0)) and (first := front(cursor, sid)):
            heap.append(first)
    heapq.heapify(heap)
    keys: list[bytes] = []
    kept: dict[int, int] = {}
    while heap and len(keys) < PRUNE_BLOCKS and (too_many > 0 or heap[0].when < cutoff):
        oldest = heap[0]
        keys.append(oldest.key)
        sid, kept[sid] = unpack_pair(oldest.key)[0], unpack_pair(oldest.following)[1]
        # A long value takes whole pages of its own, a short one shares a page.
        too_many -= -(-(oldest.length + 16) // page) * page if oldest.length > page // 2 else oldest.length + 20
        cursor.set_key(oldest.following)
        if following := front(cursor, sid):
            heapq.heapreplace(heap, following)
        else:
            heapq.heappop(heap)
    return keys, kept


def stale(journal: JournalView, before: float, keep: Collection[tuple[int, str]]) -> list[tuple[int, str]]:
    """Consumers last seen before a time (Unix seconds), but for `keep`, as (stream id, name)."""
    found = []
    for key, value in journal.scan(Table.CURSORS):
        who = (unpack_u32(key), key[4:].decode("utf-8", "replace"))
        if who not in keep and msgspec.json.decode(value, type=CursorRow).seen < before:
            found.append(who)
    return found
