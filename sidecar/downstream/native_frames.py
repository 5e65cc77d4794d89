"""The native stream's frames as bytes: JSON for a WebSocket, the same wrapped as server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import msgspec

from sidecar.core.record import BINARY, Gap, Record
from sidecar.dialects.base import StreamFacts

KEEP_ALIVE = b":\n\n"

Frame = tuple[int | None, bytes]
"""Offset (None: tells of no place in the stream) and JSON."""

_encode = msgspec.json.encode


class _Hello(msgspec.Struct, tag_field="type", tag="hello"):
    stream: str
    epoch: str
    head: int
    after: int


class _Gap(msgspec.Struct, tag_field="type", tag="gap", omit_defaults=True, rename={"from_": "from"}):
    offset: int
    reason: str
    unit: str
    from_: int
    to: int
    count: int | None = None
    domain: str = ""


def hello(stream: str, facts: StreamFacts, after: int) -> bytes:
    """The first frame. `after`: where delivery starts."""
    return _encode(_Hello(stream, facts.epoch, facts.head, after))


def gap(offset: int, what: Gap, domain: str = "") -> bytes:
    """A gap at its place in the order. One made when reading has the offset before the next record's."""
    return _encode(_Gap(offset, what.reason, what.unit, what.from_, what.to, what.count, domain))


def event(record: Record) -> bytes:
    """An event; its payload is spliced in byte for byte where it is JSON."""
    replayed = b"true" if record.replayed else b"false"
    payload = record.payload
    if record.flags & BINARY or not is_json(payload):
        return b'{"type":"event","offset":%d,"event_b64":"%b","replayed":%b}' % (record.offset, base64.b64encode(payload), replayed)
    return b'{"type":"event","offset":%d,"event":%b,"replayed":%b}' % (record.offset, payload, replayed)


def of_records(records: Sequence[Record]) -> list[Frame]:
    """Records as frames."""
    return [(r.offset, gap(r.offset, r.gap(), r.domain) if r.is_gap else event(r)) for r in records]


def is_json(data: bytes) -> bool:
    """Whether bytes are one JSON text that any parser takes (RFC 8259: UTF-8, no BOM)."""
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
        return data.isascii() or bool(data.decode())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def as_sse(frames: Sequence[Frame]) -> bytes:
    """Frames as server-sent events: `id` is the offset. A frame without one leaves the client's last id as it is."""
    parts: list[bytes] = []
    for offset, data in frames:
        if offset is not None:
            parts.append(b"id: %d\n" % offset)
        if b"\n" in data or b"\r" in data:
            # A line break ends a field; in JSON it is white space, so as a break between data lines it comes out the same.
            for line in data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
                parts.append(b"data: %b\n" % line)
        else:
            parts.append(b"data: %b\n" % data)
        parts.append(b"\n")
    return b"".join(parts)


def closing(code: int, reason: str) -> bytes:
    """Why an SSE answer ends: an event of its own name, which `onmessage` does not see."""
    return b"event: closed\ndata: %b\n\n" % _encode({"code": code, "reason": reason})
