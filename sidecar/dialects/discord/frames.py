"""Upstream frames: what one is, its order domain and its identity, without a full parse (discord sections 1.1 and 1.6, R2).

`read` takes any frame; a shape that does not fit goes through `_read_odd`, which takes what it can: unknown types and members must
pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import blake2b
from typing import Annotated, Any

import msgspec

DISCORD_EPOCH_MS = 1_420_070_400_000
MAX_SNOWFLAKE = (1 << 63) - 1

DISPATCH, BEAT, IDENTIFY, PRESENCE, RESUME, RECONNECT, MEMBERS, INVALID, HELLO, ACK = 0, 1, 2, 3, 6, 7, 8, 9, 10, 11

LIVE_ONLY = frozenset(
    [
        "TYPING_START",
        "PRESENCE_UPDATE",
        "VOICE_STATE_UPDATE",
        "VOICE_SERVER_UPDATE",
        "VOICE_CHANNEL_EFFECT_SEND",
        "VOICE_CHANNEL_STATUS_UPDATE",
    ]
)
"""Relayed to whoever is there, never journaled (R19, R21)."""
ANSWERS = frozenset(["GUILD_MEMBERS_CHUNK", "RATE_LIMITED", "SOUNDBOARD_SOUNDS", "CHANNEL_INFO"])
"""Answers to a command: for the session that asked."""

_BY_ID = frozenset(
    [
        "INTERACTION_CREATE", "GUILD_AUDIT_LOG_ENTRY_CREATE", "CHANNEL_CREATE", "CHANNEL_DELETE", "THREAD_DELETE",
        "GUILD_SCHEDULED_EVENT_CREATE", "GUILD_SCHEDULED_EVENT_DELETE", "INTEGRATION_CREATE", "INTEGRATION_DELETE",
        "ENTITLEMENT_CREATE", "ENTITLEMENT_DELETE", "MESSAGE_DELETE",
    ]
)  # fmt: skip
"""Happen once for an id (R2). For all others only `s` counts."""
_OF_GUILD = frozenset(["GUILD_CREATE", "GUILD_UPDATE", "GUILD_DELETE"])

MAX_ID = 64
"""Characters of an id: it becomes part of a durable row's key. A snowflake has 20 at most."""
Id = Annotated[str, msgspec.Meta(max_length=MAX_ID)]


class Facts(msgspec.Struct, gc=False):
    """The members of `d` that say where an event belongs."""

    id: Id | None = None
    channel_id: Id | None = None
    guild_id: Id | None = None


class _Head(msgspec.Struct, gc=False):
    op: int
    s: int | None = None
    t: str | None = None
    d: Facts | bool | int | float | str | list[msgspec.Raw] | None = None


class Frame(msgspec.Struct, gc=False):
    """One upstream frame. `op` -1: not one; `s` 0 and `kind` empty: no dispatch. `domain`: order domain of its event."""

    payload: bytes
    op: int
    s: int = 0
    kind: str = ""
    id: str = ""
    channel: str = ""
    guild: str = ""

    @property
    def domain(self) -> str:
        """The channel, the guild for events without one, else empty."""
        return self.channel or self.guild

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return len(self.payload)


_decode = msgspec.json.Decoder(_Head).decode
_any = msgspec.json.Decoder().decode
_Fields = dict[str, msgspec.Raw]


class _Dispatch(msgspec.Struct):
    d: msgspec.Raw = msgspec.Raw(b"null")


_body = msgspec.json.Decoder(_Dispatch).decode


def read(payload: bytes) -> Frame:
    """Classify a frame. Never raises."""
    try:
        head = _decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _read_odd(payload)
    kind, facts = head.t or "", head.d
    if type(facts) is not Facts:
        return Frame(payload, head.op, head.s or 0, kind)
    number = facts.id or ""
    return Frame(
        payload, head.op, head.s or 0, kind, number, facts.channel_id or "", facts.guild_id or (number if kind in _OF_GUILD else "")
    )


def _read_odd(payload: bytes) -> Frame:
    """A frame of an unexpected shape: members of the wrong type count as absent, numbers as their digits."""
    try:
        found = _any(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        mended = paired(payload)
        return read(mended) if mended != payload else Frame(payload, -1)
    if not isinstance(found, dict) or type(found.get("op")) is not int:
        return Frame(payload, -1)
    d = found.get("d")
    names = ("id", "channel_id", "guild_id")
    number, channel, guild = (_text(d.get(name)) for name in names) if isinstance(d, dict) else ("", "", "")
    s, kind = found.get("s"), found.get("t")
    kind = kind if isinstance(kind, str) else ""
    return Frame(payload, found["op"], s if type(s) is int else 0, kind, number, channel, guild or (number if kind in _OF_GUILD else ""))


def _text(value: object) -> str:
    found = value if isinstance(value, str) else str(value) if type(value) is int else ""
    return found if len(found) <= MAX_ID else ""


def utf8(data: bytes) -> bytes:
    """Bytes that a text message may hold: what is no UTF-8 in them is replaced, else no agent could ever get past this event."""
    if data.isascii():
        return data
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode(errors="replace").encode()
    return data


_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB][\dA-Fa-f]{2}\\u[dD][c-fC-F][\dA-Fa-f]{2}|(u[dD][89a-fA-F][\dA-Fa-f]{2})|.)", re.DOTALL)


def paired(data: bytes) -> bytes:
    """JSON without halves of surrogate pairs: some servers write them for text that they cut within an emoji, and decoders refuse them."""
    return _ESCAPE.sub(lambda found: b"\\ufffd" if found[1] else found[0], data)


def body(payload: bytes) -> bytes:
    """The `d` of a frame, verbatim; `null` if it has none or is none."""
    try:
        return bytes(_body(payload).d)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return b"null"


def fields(raw: bytes) -> dict[str, Any]:
    """All members of a JSON object, none if it is none. For the paths that are not hot."""
    try:
        found = _any(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def snowflake(value: object) -> int:
    """An id as a number, 0 if it is none."""
    if isinstance(value, str):
        number = int(value) if len(value) < 20 and value.isascii() and value.isdigit() else 0
    else:
        number = value if type(value) is int else 0
    return number if 0 < number <= MAX_SNOWFLAKE else 0


def time_of(number: int) -> int:
    """The server's clock in Unix milliseconds when it made this snowflake."""
    return (number >> 22) + DISCORD_EPOCH_MS


def first_id(ms: float) -> int:
    """The smallest snowflake that can be made at this time (Unix milliseconds)."""
    return max(int(ms) - DISCORD_EPOCH_MS, 0) << 22


# --- identity (section 1.6, R2) ----------------------------------------------------------------------------------------------------


def key_of(frame: Frame) -> bytes | int:
    """What makes two copies of an event the same in its domain, across sessions: a number for messages, `<T>/<id>` for what happens
    once, empty for what must never be taken for a copy."""
    kind = frame.kind
    if kind == "MESSAGE_CREATE":
        return snowflake(frame.id) or (b"MESSAGE_CREATE/" + frame.id.encode() if frame.id else b"")
    if kind in _BY_ID:
        return f"{kind}/{frame.id}".encode() if frame.id else b""
    special = _SPECIAL.get(kind)
    return special(kind, fields(body(frame.payload))) if special is not None else b""


def _thread_created(kind: str, d: dict[str, Any]) -> bytes:
    # Sent again whenever the bot joins: only the birth happens once.
    return f"{kind}/{d['id']}".encode() if d.get("newly_created") is True and d.get("id") else b""


def _role(kind: str, d: dict[str, Any]) -> bytes:
    role = d.get("role")
    number = d.get("role_id") or (role.get("id") if isinstance(role, dict) else None)
    return f"{kind}/{number}".encode() if number else b""


def _bulk(kind: str, d: dict[str, Any]) -> bytes:
    ids = d.get("ids")
    if not isinstance(ids, list) or not ids:
        return b""
    return f"{kind}/".encode() + blake2b(",".join(sorted(map(str, ids))).encode(), digest_size=16).digest()


_SPECIAL: dict[str, Callable[[str, dict[str, Any]], bytes]] = {
    "THREAD_CREATE": _thread_created,
    "GUILD_ROLE_CREATE": _role,
    "GUILD_ROLE_DELETE": _role,
    "MESSAGE_DELETE_BULK": _bulk,
}


# --- frames of our own making --------------------------------------------------------------------------------------------------------


def frame(op: int, d: Any = None) -> bytes:
    """A frame for the upstream."""
    return msgspec.json.encode({"op": op, "d": d})


def dispatch(kind: str, d: Any) -> bytes:
    """A record's payload for what no gateway frame told: all four keys, `s` null. `d`: JSON bytes in a Raw, or a value."""
    return msgspec.json.encode({"t": kind, "s": None, "op": DISPATCH, "d": d})
