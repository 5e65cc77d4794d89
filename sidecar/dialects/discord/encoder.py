"""From journal to agent: one dispatch as it came, with the sidecar's own `s`, if the agent asked for its kind (discord R15, R23, R8)."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from sidecar.dialects.discord.intents import Allowance
from sidecar.dialects.discord.media import localised

_HEAD = re.compile(rb'\{(?:"t":"([A-Z0-9_]+)",|"s":(?:\d+|null),|"op":0,){3}"d":')
"""The three short members first, in any order: how servers write it. Whatever follows `d` stays."""


class Dispatch(msgspec.Struct):
    """A frame; `d` keeps its bytes."""

    op: int
    d: msgspec.Raw = msgspec.Raw(b"null")
    t: str | None = None


_decode = msgspec.json.Decoder(Dispatch).decode


def frame(op: int, d: Any = None, s: int | None = None, t: str | None = None) -> bytes:
    """A frame with all four keys, always (section 1.1)."""
    return msgspec.json.encode({"t": t, "s": s, "op": op, "d": d})


class Encoder:
    """One agent's view of dispatches. `media`: the sidecar's own origin if media addresses are to name it, else empty."""

    def __init__(self, allowance: Allowance, media: str = "") -> None:
        self.allowance = allowance
        self._media = media
        self._rules: dict[bytes, bool | None] = {}

    def encode(self, payload: bytes, s: int) -> bytes | None:
        """The frame to send under number `s`, None if this agent does not see it."""
        head = _HEAD.match(payload)
        if head is None or head[1] is None:
            return self._looked_at(payload, s)
        kind = head[1]
        try:
            plain = self._rules[kind]
        except KeyError:
            plain = self._rules[kind] = self._rule(kind.decode())
        if not plain:
            return None if plain is None else self._looked_at(payload, s)
        out = b'{"t":"%b","s":%d,"op":0,"d":%b' % (kind, s, payload[head.end() :])
        return localised(out, self._media) if self._media else out

    def _rule(self, kind: str) -> bool | None:
        """True: sent as it is; False: it depends; None: never sent."""
        if self.allowance.looks_at(kind):
            return False
        return None if self.allowance.drops(kind) else True

    def _looked_at(self, payload: bytes, s: int) -> bytes | None:
        try:
            found = _decode(payload)
            kind, d = found.t, bytes(found.d)
            if found.op != 0 or kind is None or self.allowance.drops(kind):
                return None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        shown = self._shown(kind, d) if self.allowance.looks_at(kind) else d
        return None if shown is None else self.dispatch(kind, s, shown)

    def _shown(self, kind: str, d: bytes) -> bytes | None:
        try:
            return self.allowance.shown(kind, d)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError, AttributeError):
            # Half a surrogate pair will do, as some servers write it: the agent is rather shown too much of this event than none of it.
            return d

    def dispatch(self, kind: str, s: int, d: bytes) -> bytes:
        """A dispatch of our own making, from its `d`."""
        out = b'{"t":%b,"s":%d,"op":0,"d":%b}' % (msgspec.json.encode(kind), s, d)
        return localised(out, self._media) if self._media else out
