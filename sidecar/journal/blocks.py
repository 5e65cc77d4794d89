"""Record blocks: how rows of the records table lie on disk. Pure; the LMDB journal and its model share it.

The engine puts and reads single records. On disk, consecutive records of one stream that were committed together stand in one
value, a *block*, under the key of its first record: stream id u32, offset u64. The value is a CRC-32 of key and body, then the
body: an id block (sidecar.core.layout.pack_ids) of the records' own bytes.

Why not one row a record: the lmdb binding releases the interpreter's lock around every single put and step, and beside a busy
event loop each release costs the writing thread up to a switch interval. 256 puts took 43 ms that way, two blocks 5 ms, and a
block costs less CPU as well (see benchmarks). The checksum finds what a power cut left behind under `process` durability.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

from sidecar.core.layout import unpack_pair
from sidecar.core.record import HEAD

MAX_BYTES = 32 << 10
"""A block is closed at this size; one longer record is a block of its own. A reader checks whole blocks, so they stay small."""
MAX_RECORDS = 256

Row = tuple[bytes, bytes]
_CRC = struct.Struct("<I")
_COUNT = struct.Struct("<II")


def pack(key: bytes, values: Sequence[bytes]) -> bytes:
    """The block of records whose first has this key."""
    body = struct.pack(f"<{len(values) + 2}I", len(values), 0, *accumulate(map(len, values))) + b"".join(values)
    return _CRC.pack(zlib.crc32(body, zlib.crc32(key))) + body


def count(block: bytes | memoryview) -> int:
    """How many records the block says it has.

    Raises ValueError if it is too short to say."""
    if len(block) < 12:
        raise ValueError(f"block of {len(block)} bytes is shorter than its head")
    return int(_COUNT.unpack_from(block)[1])


def check(key: bytes, block: bytes | memoryview) -> int:
    """The number of records of an intact block.

    Raises ValueError if the checksum or the positions do not fit: the block is not what was written under this key."""
    number = count(block)
    body = memoryview(block)[4:]
    if zlib.crc32(body, zlib.crc32(key)) != _CRC.unpack_from(block)[0]:
        raise ValueError("checksum does not match")
    if not number or 4 * (number + 2) > len(body):
        raise ValueError(f"{number} records do not fit into {len(body)} bytes")
    return number


def records(block: bytes | memoryview, start: int = 0, stop: int | None = None) -> list[bytes]:
    """Records start to stop (excluded) of a block that passed check()."""
    number = count(block)
    stop = number if stop is None else min(stop, number)
    if start >= stop:
        return []
    ends = struct.unpack_from(f"<{stop - start + 1}I", block, 8 + 4 * start)
    base = 12 + 4 * number
    return [bytes(block[base + a : base + b]) for a, b in pairwise(ends)]


def wall_of(record: bytes) -> int:
    """Unix milliseconds at which a record was admitted (0 if it is too short to say)."""
    return int(HEAD.unpack_from(record)[4]) if len(record) >= HEAD.size else 0


def cut(rows: Iterable[Row]) -> list[tuple[bytes, list[bytes]]]:
    """Sort rows and cut them into blocks: (key of the first record, the records' bytes). The last row of a key wins."""
    found: list[tuple[bytes, list[bytes]]] = []
    values: list[bytes] = []
    sid, expected, size = -1, -1, 0
    for key, value in sorted(dict(rows).items()):
        at, offset = unpack_pair(key)
        if at != sid or offset != expected or size + len(value) > MAX_BYTES or len(values) >= MAX_RECORDS:
            values = []
            found.append((key, values))
            sid, size = at, 0
        values.append(value)
        size += len(value) + 4
        expected = offset + 1
    return found


class Heads:
    """The last offset of every stream, so that records are only ever put behind it (architecture invariant 3)."""

    def __init__(self) -> None:
        self.last: dict[int, int] = {}

    def check(self, cuts: Sequence[tuple[bytes, list[bytes]]]) -> dict[int, int]:
        """The heads of the streams touched, after these blocks.

        Raises ValueError if a block does not lie behind its stream's head: the caller's error, nothing may be written."""
        moved: dict[int, int] = {}
        for key, values in cuts:
            sid, offset = unpack_pair(key)
            head = moved.get(sid, self.last.get(sid, 0))
            if offset <= head:
                raise ValueError(f"record {offset} of stream {sid} put at or below its head {head}")
            moved[sid] = offset + len(values) - 1
        return moved
