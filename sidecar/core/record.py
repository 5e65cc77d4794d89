"""The journal's record: one event, or one gap, at one offset of one stream, and its bytes on disk.

On disk (little endian): kind and flags u8, domain length u8, meta length u16, ordinal u64, wall milliseconds u64, then domain
(UTF-8), meta, payload. The payload of an event is what arrived, byte for byte; `meta` belongs to the dialect (where in the
payload a number stands, say). A gap's payload is JSON: reason, unit, from, to, count.
"""

from __future__ import annotations

import struct

import msgspec

EVENT, GAP = 0, 1
KIND_MASK = 0x01
REPLAYED, LATE, BINARY = 0x02, 0x04, 0x08

HEAD = struct.Struct("<BBHQQ")

GAP_REASONS = frozenset("lost absent denied limit upstream_down upstream_stale server_restart sidecar_down released journal_lost".split())
READ_GAP_REASONS = frozenset("retention epoch rewound".split())
GAP_UNITS = frozenset("offset seq time count".split())


class Gap(msgspec.Struct, frozen=True, omit_defaults=True, rename={"from_": "from"}):
    """What is missing, in `unit`s: from and to are inclusive. `count`: events missing, when known."""

    reason: str
    unit: str
    from_: int
    to: int
    count: int | None = None


class Record(msgspec.Struct, frozen=True, gc=False):
    """One journal entry. `ordinal`: number of the event among the stream's events (a gap carries the last event's);
    `flags`: EVENT or GAP with REPLAYED, LATE, BINARY; `wall`: Unix milliseconds of admission."""

    offset: int
    ordinal: int
    flags: int
    payload: bytes
    meta: bytes = b""
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


def encode(record: Record) -> bytes:
    """The record's value on disk (its offset stands in the key)."""
    domain = record.domain.encode() if record.domain else b""
    head = HEAD.pack(record.flags, len(domain), len(record.meta), record.ordinal, record.wall)
    return b"".join((head, domain, record.meta, record.payload))


def decode(offset: int, value: bytes) -> Record:
    """The record at an offset from its value on disk.

    Raises ValueError if the value is too short or its lengths do not fit."""
    if len(value) < HEAD.size:
        raise ValueError(f"record {offset}: {len(value)} bytes, shorter than a head")
    flags, domain_len, meta_len, ordinal, wall = HEAD.unpack_from(value)
    a = HEAD.size + domain_len
    b = a + meta_len
    if b > len(value):
        raise ValueError(f"record {offset}: lengths {domain_len}+{meta_len} exceed {len(value)} bytes")
    domain = bytes(value[HEAD.size : a]).decode() if domain_len else ""
    return Record(offset, ordinal, flags, bytes(value[b:]), bytes(value[a:b]), domain, wall)
