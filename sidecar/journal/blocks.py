"""Record blocks: how runs of records lie on disk. Pure; the LMDB journal and its model share it.

Consecutive records of one stream that were committed together stand in one value, a *block*: a run's bytes (sidecar.core.record)
under the key of its first record: stream id u32, offset u64. A long run is cut into several blocks.

Why not one row a record: the lmdb binding releases the interpreter's lock around every single put and step, and beside a busy
event loop each release costs the writing thread up to a switch interval. 256 puts took 43 ms that way, two blocks 5 ms, and a
block costs less CPU as well (see benchmarks). The checksum finds what a power cut left behind under `process` durability.
"""

from __future__ import annotations

from collections.abc import Iterable

from sidecar.core.layout import pack_pair
from sidecar.core.record import Run, encode

MAX_BYTES = 32 << 10
"""A block is closed at this size; one longer record is a block of its own. A reader checks whole blocks, so they stay small."""
MAX_RECORDS = 256


def cut(run: Run) -> list[Run]:
    """A run as the pieces that make one block each."""
    payloads = run.payloads
    if len(payloads) <= MAX_RECORDS and sum(map(len, payloads)) <= MAX_BYTES:
        return [run]
    pieces: list[Run] = []
    start = size = 0
    for i, payload in enumerate(payloads):
        if i > start and (size + len(payload) > MAX_BYTES or i - start >= MAX_RECORDS):
            pieces.append(run.cut(run.offset + start, run.offset + i))
            start, size = i, 0
        size += len(payload)
    pieces.append(run.cut(run.offset + start, run.offset + len(payloads)))
    return pieces


def pack(runs: Iterable[tuple[int, Run]]) -> list[tuple[bytes, bytes]]:
    """The blocks of runs (by stream id), as rows of the records table in key order."""
    rows: list[tuple[bytes, bytes]] = []
    for sid, run in runs:
        for piece in cut(run):
            key = pack_pair(sid, piece.offset)
            rows.append((key, encode(key, piece)))
    rows.sort()
    return rows


class Heads:
    """The last offset of every stream, so that records are only ever put behind it (architecture invariant 3)."""

    def __init__(self) -> None:
        self.last: dict[int, int] = {}

    def check(self, runs: Iterable[tuple[int, Run]]) -> dict[int, int]:
        """The heads of the streams touched, after these runs.

        Raises ValueError if a run is empty or does not lie behind its stream's head: the caller's error, nothing may be written."""
        moved: dict[int, int] = {}
        for sid, run in runs:
            head = moved.get(sid, self.last.get(sid, 0))
            if not run.payloads:
                raise ValueError(f"an empty run at {run.offset} of stream {sid}")
            if run.offset <= head:
                raise ValueError(f"record {run.offset} of stream {sid} put at or below its head {head}")
            moved[sid] = run.last
        return moved
