"""The sidecar's own `agent_seq` (relaycast R22): the one change that a frame sees on its way to an agent.

The number stands where the upstream's stood; a frame without one gets it as its last member. All other bytes stay.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

_LAST = b',"agent_seq":'
_NAME = b'"agent_seq"'
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)
_DIGITS = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*(-?[0-9]+)(?=[ \t\r\n]*[,}])")


class _Head(msgspec.Struct):
    agent_seq: int | None = None


_decode = msgspec.json.Decoder(_Head).decode


def renumber(payloads: Sequence[bytes], first: int) -> list[bytes]:
    """Frames with the numbers `first`, `first` + 1, … in place of their own."""
    frames: list[bytes] = []
    append = frames.append
    ends = [b"%d}" % seq for seq in range(first, first + len(payloads))]
    for payload, end in zip(payloads, ends, strict=True):
        # A comma, the name and digits right before the closing brace are top level: no string could end there.
        before, name, digits = payload.rpartition(_LAST)
        if digits[:-1].isdigit() and digits[-1] == 125 and name:
            append(before + name + end)
        else:
            append(_elsewhere(payload, int(end[:-1])))
    return frames


def _elsewhere(payload: bytes, seq: int) -> bytes:
    span = _span(payload) if _NAME in payload else None
    if span is not None:
        return b"%b%d%b" % (payload[: span[0]], seq, payload[span[1] :])
    body = payload.rstrip()
    if not body.endswith(b"}"):
        return payload  # no object: nothing to number
    comma = b"" if body[:-1].rstrip().endswith(b"{") else b","
    return b'%b%b"agent_seq":%d}' % (body[:-1], comma, seq)


def _span(payload: bytes) -> tuple[int, int] | None:
    """Where the digits of the top-level agent_seq stand, None if there is none in plain spelling."""
    first = payload.find(_NAME)
    if payload[first - 1] != 92 and payload.find(_NAME, first + 11) < 0 and b"\\u" not in payload:
        try:
            if _decode(payload).agent_seq is None:
                return None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return _scan(payload)
        # The only place where the name stands, and no other spelling is possible: this is what the decoder saw.
        found = _DIGITS.match(payload, first + 11)
        return found.span(1) if found is not None else None
    return _scan(payload)


def _scan(payload: bytes) -> tuple[int, int] | None:
    """The last agent_seq among the names of the outermost object, by walking all tokens."""
    depth, span = 0, None
    for token in _TOKEN.finditer(payload):
        char = token[0]
        if char in (b"{", b"["):
            depth += 1
        elif char in (b"}", b"]"):
            depth -= 1
        elif depth == 1 and char == _NAME and (found := _DIGITS.match(payload, token.end())):
            span = found.span(1)
    return span
