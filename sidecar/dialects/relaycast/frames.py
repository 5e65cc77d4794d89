"""Upstream frames: what one is, without a full parse; its number's place in the bytes; ids and times (relaycast section 4).

`read` is the hot path. It decodes three members with a msgspec Struct; a shape that does not fit goes through `_read_odd`, which
takes what it can: unknown types and keys must pass, and junk passes as an event of no type.
"""

from __future__ import annotations

import re
import struct
from typing import Any, Literal
from zlib import crc32

import msgspec

EPOCH_MS = 1_735_689_600_000
"""Snowflakes count milliseconds from 2025-01-01Z."""

MESSAGE_KINDS = {"message.created": b"c", "thread.reply": b"t", "dm.received": b"d", "group_dm.received": b"g"}
"""The four kinds with an event id and a database row, and the first byte of their keys."""

Variant = Literal["array", "joined"]
VARIANTS: tuple[Variant, ...] = ("array", "joined")

_pack = struct.Struct("<II").pack
_MAX_SEQ = 1 << 62
_LAST = b',"agent_seq":'
_NAME = b'"agent_seq"'
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)
_DIGITS = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*([0-9]+)(?=[ \t\r\n]*[,}])")


class _Message(msgspec.Struct, gc=False):
    id: str = ""


class _Head(msgspec.Struct, gc=False):
    type: str = ""
    agent_seq: int = -1
    message: _Message | None = None


class Frame(msgspec.Struct, gc=False):
    """One upstream frame. `seq`: its top-level agent_seq, -1 without one; `key`: identity of a message event (R11), else empty;
    `meta`: where the digits of agent_seq stand, as `<II` (start, end), or empty."""

    payload: bytes
    type: str
    seq: int = -1
    key: bytes = b""
    meta: bytes = b""

    @property
    def message_id(self) -> int:
        """The snowflake of a message event, 0 for other kinds."""
        return int(self.key[1:]) if self.key else 0


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_any = msgspec.json.Decoder().decode
_kind_of = MESSAGE_KINDS.get


def read(payload: bytes) -> Frame:
    """Classify a frame. Never raises."""
    try:
        head = _decode_head(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _read_odd(payload)
    seq = head.agent_seq
    if seq < 0:
        meta = b""
    else:
        # A comma, the name and digits right before the closing brace are top level: a string could not end there.
        end = len(payload) - 1
        start = payload.rfind(_LAST, end - 40) + 13
        meta = _pack(start, end) if start > 12 and payload[start:end].isdigit() and payload[end] == 125 else seq_span(payload)
        if seq > _MAX_SEQ:
            seq = -1
    kind = _kind_of(head.type)
    if kind is not None:
        message = head.message
        if message is not None and message.id.isdigit() and message.id.isascii():
            return Frame(payload, head.type, seq, kind + message.id.encode(), meta)
    return Frame(payload, head.type, seq, b"", meta)


def _read_odd(payload: bytes) -> Frame:
    """Classify a frame of an unexpected shape: members of the wrong type count as absent."""
    members = fields(payload)
    kind, seq, message = members.get("type"), members.get("agent_seq"), members.get("message")
    if isinstance(seq, bool) or not isinstance(seq, int) or not 0 <= seq <= _MAX_SEQ:
        seq = -1
    kind = kind if isinstance(kind, str) else ""
    key = b""
    if kind in MESSAGE_KINDS and isinstance(message, dict):
        number = as_id(message.get("id"))
        key = MESSAGE_KINDS[kind] + str(number).encode() if number else b""
    return Frame(payload, kind, seq, key, seq_span(payload) if seq >= 0 else b"")


def fields(payload: bytes) -> dict[str, Any]:
    """All members of a frame, none if it is no JSON object. For the paths that are not hot."""
    try:
        members = _decode_any(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return members if isinstance(members, dict) else {}


def as_id(value: object) -> int:
    """A snowflake from a REST or frame member, 0 if it is none."""
    if isinstance(value, bool):
        return 0
    if isinstance(value, int):
        return value if value > 0 else 0
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20 else 0


def seq_span(payload: bytes) -> bytes:
    """Where the digits of the top-level agent_seq of a frame that has one stand, `<II` (start, end); empty if they are not plain."""
    first = payload.find(_NAME)
    if first > 0 and payload[first - 1] != 92 and payload.find(_NAME, first + 11) < 0 and b"\\u" not in payload:
        # The only place where the name stands, and no other spelling is possible: this is what the decoder saw.
        found = _DIGITS.match(payload, first + 11)
        return _pack(*found.span(1)) if found is not None else b""
    return _scan(payload)


def _scan(payload: bytes) -> bytes:
    """The last agent_seq among the names of the outermost object, by walking all tokens."""
    depth, span = 0, b""
    for token in _TOKEN.finditer(payload):
        char = token[0]
        if char in (b"{", b"["):
            depth += 1
        elif char in (b"}", b"]"):
            depth -= 1
        elif depth == 1 and char == _NAME:
            found = _DIGITS.match(payload, token.end())
            if found is not None:
                span = _pack(*found.span(1))
    return span


def mark(frame: Frame) -> int:
    """A fingerprint that is never 0: of a message event its identity (odd), of others the bytes (even). Two events at one seq with
    different marks belong to different lives of the counter (R7)."""
    return crc32(frame.key) * 2 + 3 if frame.key else crc32(frame.payload) * 2 + 2


def server_ms(message_id: int) -> int:
    """The server's clock in Unix milliseconds when it made this snowflake."""
    return (message_id >> 22) + EPOCH_MS


def first_id(ms: int) -> int:
    """The smallest snowflake that can be made at this time (Unix milliseconds)."""
    return max(ms - EPOCH_MS, 0) << 22


# --- event ids (section 4) -----------------------------------------------------------------------------------------------------

_FACTORS = (2654435761, 1597334677, 2246822507, 3266489909)
_SEEDS = (0xDEADBEEF, 0x41C6CE57, 0xC0DECAFE, 0x9E3779B9)


def event_id(message_id: int, variant: Variant = "array") -> str:
    """The event id of a message on every path. `array` hashes `["relaycast","<id>"]`, `joined` hashes `relaycast:<id>`."""
    text = f"relaycast:{message_id}" if variant == "joined" else f'["relaycast","{message_id}"]'
    lanes = list(_SEEDS)
    for char in text:
        lanes = [(lane ^ ord(char)) * factor & 0xFFFFFFFF for lane, factor in zip(lanes, _FACTORS, strict=True)]
    for i in range(4):
        lane, following = lanes[i], lanes[(i + 1) % 4]
        lanes[i] = ((lane ^ lane >> 16) * 2246822507 ^ (following ^ following >> 13) * 3266489909) & 0xFFFFFFFF
    raw = bytearray(b"".join(lane.to_bytes(4, "big") for lane in lanes))
    raw[6] = raw[6] & 0x0F | 0x50
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def variant_of(frame: Frame) -> Variant | None:
    """Which revision of the hash made this message event's id; None if neither, or the frame has none."""
    found = fields(frame.payload).get("id")
    if frame.key and isinstance(found, str):
        for variant in VARIANTS:
            if found == event_id(frame.message_id, variant):
                return variant
    return None


# --- frames made from REST rows (R15) -------------------------------------------------------------------------------------------


def made_from_rest(kind: str, row: dict[str, Any], variant: Variant, **where: str) -> Frame | None:
    """A frame like the database's copy (section 5) from a REST row; `where`: channel or conversation_id, and parent_id of a reply.
    None if the row has no id."""
    number = as_id(row.get("id"))
    if not number:
        return None
    message = {
        name: row[name]
        for name in ("agent_id", "agent_name", "text", "blocks", "attachments", "injection_mode")
        if row.get(name) is not None
    }
    message = {"id": str(number), **message}
    message.setdefault("attachments", [])
    frame = {"id": event_id(number, variant), "type": kind, **where, "message": message, "replayed": True}
    return Frame(msgspec.json.encode(frame), kind, -1, MESSAGE_KINDS[kind] + str(number).encode())
