"""The one place where the benchmarks reach into the sidecar; everything else measures it from outside."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sidecar.core.actions import AdmitRun
from sidecar.core.admission import Admission
from sidecar.core.layout import Batch, Table
from sidecar.dialects.relaycast.frames import read
from sidecar.journal.store import Store

# Classify and admit these frames in order; how many were new. State stays between calls, so that a warm-up counts.
Admit = Callable[[Sequence[bytes]], int]
# The same, journaled, in commits of the given number of frames; returns after the last commit.
AdmitToJournal = Callable[[Sequence[bytes], int], int]

REMEMBERED = 100_000
STREAM = "1001"
COMMIT = 256


class _IdBlocks:
    """A journal that keeps id blocks in memory and nothing else: what confirming a candidate on its full key needs."""

    epoch = "bench"

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._blocks: list[bytes] = []

    def keep(self, batch: Batch) -> None:
        for key, block in batch.puts.get(Table.IDS, ()):
            self._keys.append(key)
            self._blocks.append(block)

    def floor(self, table: Table, key: bytes) -> tuple[bytes, bytes] | None:
        at = bisect.bisect_right(self._keys, key) - 1
        return (self._keys[at], self._blocks[at]) if at >= 0 and table is Table.IDS else None

    def ceiling(self, table: Table, key: bytes) -> tuple[bytes, bytes] | None:
        return None

    def get(self, table: Table, key: bytes) -> bytes | None:
        return None

    def scan(self, table: Table, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return iter(())


def _ops(payloads: Sequence[bytes]) -> list[AdmitRun]:
    """What the upstream half makes of a batch of frames, for a load whose duplicates break the run of numbers."""
    return [AdmitRun(STREAM, payloads, [frame.key for frame in map(read, payloads)])]


def sidecar_admit() -> Admit:
    """A fresh admission of one Relaycast stream that remembers `REMEMBERED` events, keyed by type and message id; id blocks stay in
    memory, records are dropped once admitted (no journal)."""
    journal = _IdBlocks()
    admission = Admission(journal, REMEMBERED)
    book = admission.open_stream(STREAM, STREAM, 0.0, Batch())

    def admit(payloads: Sequence[bytes]) -> int:
        new = 0
        for start in range(0, len(payloads), COMMIT):
            batch = Batch()
            offsets = admission.apply("bench", _ops(payloads[start : start + COMMIT]), 1.0, batch)
            new += len(offsets) - offsets.count(0)
            book.fresh.clear()
            admission.close_batch(batch)
            journal.keep(batch)
        return new

    return admit


def sidecar_journal(directory: str) -> AdmitToJournal:
    """The same in front of a new journal in `directory`, durability `power`."""
    store = Store.open(
        Path(directory),
        dialect="relaycast",
        upstream="http://127.0.0.1",
        durability="power",
        retention_bytes=4 << 30,
        retention_s=86400,
        wall=1.0,
    )
    admission = Admission(store, REMEMBERED)
    first = Batch()
    admission.open_stream(STREAM, STREAM, 1.0, first)
    store.apply(first)

    def admit(payloads: Sequence[bytes], size: int) -> int:
        new = 0
        for start in range(0, len(payloads), size):
            batch = Batch()
            offsets = admission.apply("bench", _ops(payloads[start : start + size]), 1.0, batch)
            new += len(offsets) - offsets.count(0)
            fresh = admission.close_batch(batch)
            store.apply(batch)
            admission.committed(fresh)
        return new

    return admit
