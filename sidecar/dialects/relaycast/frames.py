"""Upstream frames: what one is, without a full parse; ids and times (relaycast section 4).

`message_keys` is the hot path: it decodes three members of each frame with a msgspec Struct, and goes on only while frames are what
they mostly are. `read` takes any frame; a shape that does not fit goes through `_read_odd`, which
takes what it can: unknown types and keys must pass, and junk passes as an event of no type.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, Literal
from zlib import crc32

import msgspec

EPOCH_MS = 1_735_689_600_000
"""Snowflakes count milliseconds from 2025-01-01Z."""

MESSAGE_KINDS = {"message.created": 0, "thread.reply": 1, "dm.received": 2, "group_dm.received": 3}
"""The four kinds with an event id and a database row, and the low bits of their keys."""

Variant = Literal["array", "joined"]
VARIANTS: tuple[Variant, ...] = ("array", "joined")

_MAX_SEQ = 1 << 62
_MAX_ID = (1 << 62) - 1


class _Message(msgspec.Struct, gc=False):
    id: str = ""


class _Head(msgspec.Struct, gc=False):
    type: str = ""
    agent_seq: int = -1
    message: _Message | None = None


class Frame(msgspec.Struct, gc=False):
    """One upstream frame. `seq`: its top-level agent_seq, -1 without one; `key`: identity of a message event (R11), its id times 4 plus
    its kind, so that keys rise with time; else 0."""

    payload: bytes
    type: str
    seq: int = -1
    key: int = 0

    @property
    def message_id(self) -> int:
        """The snowflake of a message event, 0 for other kinds."""
        return self.key >> 2

    @property
    def in_channel(self) -> bool:
        """A message or reply of a channel (not a DM)."""
        return self.key > 0 and self.key & 3 < 2


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_any = msgspec.json.Decoder().decode
_kind_of = MESSAGE_KINDS.get


def read(payload: bytes) -> Frame:
    """Classify a frame. Never raises."""
    try:
        head = _decode_head(payload)
        kind = _kind_of(head.type)
        seq = head.agent_seq
        if kind is None or head.message is None:
            return Frame(payload, head.type, seq if -1 < seq <= _MAX_SEQ else -1)
        number = int(head.message.id)
    except (msgspec.MsgspecError, ValueError):
        return _read_odd(payload)
    if not 0 < number <= _MAX_ID or not -1 <= seq <= _MAX_SEQ:
        return _read_odd(payload)
    return Frame(payload, head.type, seq, number << 2 | kind)


def message_keys(payloads: Sequence[bytes], at: int, seq: int) -> tuple[list[int], list[bytes]]:
    """The hot path: keys of the message events from `at` on that are numbered seq, seq + 1 … without a break, and which of them are
    thread replies. Stops at the first frame that is anything else; never raises."""
    keys: list[int] = []
    replies: list[bytes] = []
    decode, kind_of, add = _decode_head, _kind_of, keys.append
    try:
        for payload in islice(payloads, at, None):
            head = decode(payload)
            kind = kind_of(head.type)
            if head.agent_seq != seq or kind is None or head.message is None:
                break
            number = int(head.message.id)
            if not 0 < number <= _MAX_ID:
                break
            add(number << 2 | kind)
            seq += 1
            if kind == 1:
                replies.append(payload)
    except (msgspec.MsgspecError, ValueError):
        pass
    return keys, replies


def _read_odd(payload: bytes) -> Frame:
    """Classify a frame of an unexpected shape: members of the wrong type count as absent."""
    members = fields(payload)
    kind, seq, message = members.get("type"), members.get("agent_seq"), members.get("message")
    if isinstance(seq, bool) or not isinstance(seq, int) or not 0 <= seq <= _MAX_SEQ:
        seq = -1
    kind = kind if isinstance(kind, str) else ""
    key = 0
    if kind in MESSAGE_KINDS and isinstance(message, dict):
        number = as_id(message.get("id"))
        key = number << 2 | MESSAGE_KINDS[kind] if number else 0
    return Frame(payload, kind, seq, key)


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
        return value if 0 < value <= _MAX_ID else 0
    return int(value) if isinstance(value, str) and len(value) < 20 and value.isascii() and value.isdigit() else 0


def mark(frame: Frame) -> int:
    """A fingerprint that is never 0: of a message event its identity (odd), of others the bytes (even). Two events at one seq with
    different marks belong to different lives of the counter (R7)."""
    return mark_of(frame.key) if frame.key else crc32(frame.payload) * 2 + 2


def mark_of(key: int) -> int:
    """The fingerprint of a message event by its key."""
    return (key & _MAX_ID) * 2 + 1


def id_of(key: int) -> int:
    """The snowflake in a key."""
    return key >> 2


def server_ms(message_id: int) -> int:
    """The server's clock in Unix milliseconds when it made this snowflake."""
    return (message_id >> 22) + EPOCH_MS


def first_id(ms: int) -> int:
    """The smallest snowflake that can be made at this time (Unix milliseconds)."""
    return max(ms - EPOCH_MS, 0) << 22


# --- event ids (section 4) -------------------------------------------------------------------------------------------

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


# --- frames made from REST rows (R15) --------------------------------------------------------------------------------


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
    return Frame(msgspec.json.encode(frame), kind, -1, number << 2 | MESSAGE_KINDS[kind])
