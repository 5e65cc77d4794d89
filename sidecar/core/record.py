"""The journal's record, one event or one gap at one offset of one stream, and the run: how records are handled in bulk.

A *run* is consecutive records of one stream that share flags, domain and time of admission: all that one commit admitted in a row.
The hot path, the journal and delivery know runs only; a `Record` is made where somebody looks at one.

A run's bytes (little endian): CRC-32 of the rest and the key, then flags u8, domain length u8, reserved u16, ordinal of the first u64,
wall milliseconds u64, count u32, count + 1 end positions u32, domain (UTF-8), then the payloads. The payload of an event is what
arrived, byte for byte. A gap's payload is JSON: reason, unit, from, to, count.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import msgspec

EVENT, GAP = 0, 1
REPLAYED, LATE, BINARY = 0x02, 0x04, 0x08

_HEAD = struct.Struct("<IBBHQQI")
_CRC = struct.Struct("<I")

GAP_REASONS = frozenset(
    ["lost", "absent", "denied", "limit", "upstream_down", "upstream_stale", "server_restart", "sidecar_down", "released", "journal_lost"]
)
READ_GAP_REASONS = frozenset(["retention", "epoch", "rewound"])
GAP_UNITS = frozenset(["offset", "seq", "time", "count"])


class Gap(msgspec.Struct, frozen=True, omit_defaults=True, rename={"from_": "from"}):
    """What is missing, in `unit`s: from and to are inclusive. `count`: events missing, when known. `detail`: what else is known, for a
    person: it shows in status and log, not on the native stream, whose gap frame the contract fixes."""

    reason: str
    unit: str
    from_: int
    to: int
    count: int | None = None
    detail: str = ""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One journal entry. `ordinal`: number of the event among the stream's events (a gap carries the last event's);
    `flags`: EVENT or GAP with REPLAYED, LATE, BINARY; `wall`: Unix milliseconds of admission."""

    offset: int
    ordinal: int
    flags: int
    payload: bytes
    domain: str = ""
    wall: int = 0

    @property
    def is_gap(self) -> bool:
        return bool(self.flags & GAP)

    @property
    def replayed(self) -> bool:
        return bool(self.flags & REPLAYED)

    @property
    def size(self) -> int:
        """Bytes of the payload, as counted by windows and queues."""
        return len(self.payload)

    def gap(self) -> Gap:
        """The gap this record tells of.

        Raises msgspec.DecodeError if the record is none or is damaged."""
        return msgspec.json.decode(self.payload, type=Gap)


class Run(msgspec.Struct, frozen=True):
    """Consecutive records: `offset` and `ordinal` are the first one's. A run of gaps shares one ordinal."""

    offset: int
    ordinal: int
    flags: int
    payloads: list[bytes]
    domain: str = ""
    wall: int = 0

    @property
    def last(self) -> int:
        """Offset of the last record."""
        return self.offset + len(self.payloads) - 1

    @property
    def is_gap(self) -> bool:
        return bool(self.flags & GAP)

    @property
    def last_ordinal(self) -> int:
        """Ordinal of the last record."""
        return self.ordinal if self.flags & GAP else self.ordinal + len(self.payloads) - 1

    def __len__(self) -> int:
        return len(self.payloads)

    def records(self) -> Iterator[Record]:
        """The records one by one."""
        step = 0 if self.flags & GAP else 1
        for i, payload in enumerate(self.payloads):
            yield Record(self.offset + i, self.ordinal + i * step, self.flags, payload, self.domain, self.wall)

    def cut(self, start: int, stop: int) -> Run:
        """Records with start <= offset < stop (itself if that is all)."""
        a, b = max(0, start - self.offset), min(len(self.payloads), stop - self.offset)
        if a == 0 and b == len(self.payloads):
            return self
        ordinal = self.ordinal if self.flags & GAP else self.ordinal + a
        return Run(self.offset + a, ordinal, self.flags, self.payloads[a:b], self.domain, self.wall)


def runs_of(records: Sequence[Record]) -> list[Run]:
    """Records, each as a run of its own."""
    return [Run(r.offset, r.ordinal, r.flags, [r.payload], r.domain, r.wall) for r in records]


def encode(key: bytes, run: Run) -> bytes:
    """A run's bytes under a journal key."""
    domain = run.domain.encode()
    payloads = run.payloads
    count = len(payloads)
    head = _HEAD.pack(0, run.flags, len(domain), 0, run.ordinal, run.wall, count)
    ends = struct.pack(f"<{count + 1}I", 0, *accumulate(map(len, payloads)))
    body = b"".join((head[4:], ends, domain, *payloads))
    return _CRC.pack(zlib.crc32(body, zlib.crc32(key))) + body


def count_of(value: bytes | memoryview) -> int:
    """How many records a run's bytes say they hold.

    Raises ValueError if they are too short to say."""
    if len(value) < _HEAD.size:
        raise ValueError(f"{len(value)} bytes, shorter than a head")
    return int(_HEAD.unpack_from(value)[6])


def wall_of(value: bytes | memoryview) -> int:
    """Unix milliseconds at which a run was admitted (0 if the bytes are too short to say)."""
    return int(_HEAD.unpack_from(value)[5]) if len(value) >= _HEAD.size else 0


def check(key: bytes, value: bytes | memoryview) -> int:
    """The number of records of an intact run.

    Raises ValueError if the checksum or the lengths do not fit: this is not what was written under this key."""
    count = count_of(value)
    body = memoryview(value)[4:]
    if zlib.crc32(body, zlib.crc32(key)) != _CRC.unpack_from(value)[0]:
        raise ValueError("checksum does not match")
    _, _, domain_len, _, _, _, _ = _HEAD.unpack_from(value)
    if not count or _HEAD.size + 4 * (count + 1) + domain_len > len(value):
        raise ValueError(f"{count} records do not fit into {len(value)} bytes")
    return count


def decode(offset: int, value: bytes | memoryview, start: int = 0, stop: int = 1 << 62) -> Run:
    """The run whose first record has `offset`, or of it only records with start <= offset < stop, from bytes that passed check().

    Raises ValueError or struct.error if the bytes are cut short."""
    count = count_of(value)
    _, flags, domain_len, _, ordinal, wall, _ = _HEAD.unpack_from(value)
    a, b = max(0, start - offset), max(0, min(count, stop - offset))
    base = _HEAD.size + 4 * (count + 1)
    domain = bytes(value[base : base + domain_len]).decode()
    base += domain_len
    ends = struct.unpack_from(f"<{max(b - a, 0) + 1}I", value, _HEAD.size + 4 * a) if b > a else ()
    payloads = [bytes(value[base + x : base + y]) for x, y in pairwise(ends)]
    return Run(offset + a, ordinal if flags & GAP else ordinal + a, flags, payloads, domain, wall)
