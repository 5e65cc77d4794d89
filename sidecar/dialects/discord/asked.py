"""What an agent's frames ask for, or the close code that they earn (discord R12, R22, section 1.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from sidecar.dialects.discord.identity import BAD_TOKEN, bare, is_token
from sidecar.dialects.discord.settings import MAX_INTENTS

MAX_FRAME = 4096
MAX_SHARDS = 99_999
MAX_DEPTH = 32
"""Of a presence, which nests a few levels: it is written and read again, where deeper ones fail for all of the bot's agents."""

BAD_OPCODE, BAD_FRAME, BAD_SHARD, BAD_INTENTS = 4001, 4002, 4010, 4013

BEAT, IDENTIFY, PRESENCE, RESUME = 1, 2, 3, 6
_SERVERS = (0, 7, 9, 10, 11)
"""Opcodes that only a server sends."""


class Asked(msgspec.Struct):
    """A frame from an agent."""

    op: int
    d: Any = None


class Identify(msgspec.Struct, frozen=True):
    """What an IDENTIFY says; `shard` None: it names none, which means [0, 1]."""

    token: str
    intents: int
    shard: Sequence[int] | None
    presence: Any


_decode = msgspec.json.Decoder(Asked).decode


def read(data: bytes) -> Asked | int:
    """The frame, in whatever kind of WebSocket message it came, or a close code."""
    if len(data) > MAX_FRAME:
        return BAD_FRAME
    try:
        # A member that is passed over is not looked into, but goes upstream as it is.
        str(data, "utf-8")
        got = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return BAD_FRAME
    if got.op == PRESENCE and not _is_presence(got.d):
        return BAD_FRAME
    return BAD_OPCODE if got.op in _SERVERS else got


def identify(d: Any) -> Identify | int:
    """IDENTIFY's `d`, or a close code."""
    if not isinstance(d, dict) or not isinstance(d.get("token"), str):
        return BAD_FRAME
    if d.get("presence") is not None and not _is_presence(d["presence"]):
        return BAD_FRAME
    token, shard, intents = bare(d["token"]), d.get("shard"), d.get("intents")
    if not is_token(token):
        return BAD_TOKEN
    if not isinstance(intents, int) or isinstance(intents, bool) or not 0 <= intents <= MAX_INTENTS:
        return BAD_INTENTS
    if shard is not None and not (
        isinstance(shard, list) and len(shard) == 2 and all(map(_is_number, shard)) and 0 <= shard[0] < shard[1] <= MAX_SHARDS
    ):
        return BAD_SHARD
    return Identify(token, intents, shard, d.get("presence"))


def _is_presence(value: Any) -> bool:
    return isinstance(value, dict) and _is_flat(value, MAX_DEPTH)


def _is_flat(value: Any, left: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    return left > 0 and all(_is_flat(each, left - 1) for each in (value.values() if isinstance(value, dict) else value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
