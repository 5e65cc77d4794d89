"""Ids and times as a Relaycast server makes them: snowflakes, stable event ids, whole-second timestamps.

Pure functions of their arguments (wire page sections 4 and 6); the clock belongs to the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

__all__ = ["EPOCH_MS", "Snowflakes", "event_id", "http_date", "iso_seconds", "parse_since"]

EPOCH_MS = 1_735_689_600_000
_MASK = 0xFFFFFFFF
_FACTORS = (2654435761, 1597334677, 2246822507, 3266489909)
_SEEDS = (0xDEADBEEF, 0x41C6CE57, 0xC0DECAFE, 0x9E3779B9)
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Snowflakes:
    """Strictly increasing ids: milliseconds since 2025 << 22, 10 bits of worker, 12 bits of counter."""

    __slots__ = ("_clock", "_last", "_worker")

    def __init__(self, clock: Callable[[], float], worker: int = 0) -> None:
        self._clock = clock
        self._worker = worker << 12
        self._last = 0

    def next(self) -> int:
        """The next id. A clock that stands or steps back never makes an id repeat or fall.

        Raises:
            ValueError: the clock is before 2025-01-01, where no such id exists.
        """
        ms = int(self._clock() * 1000) - EPOCH_MS
        if ms < 0:
            raise ValueError("the reference upstream needs a wall clock after 2025-01-01")
        fresh = ms << 22 | self._worker
        if fresh > self._last:
            self._last = fresh
        elif self._last & 0xFFF == 0xFFF:
            self._last = ((self._last >> 22) + 1) << 22 | self._worker
        else:
            self._last += 1
        return self._last


def _lanes(text: str, start: tuple[int, int, int, int] = _SEEDS) -> tuple[int, int, int, int]:
    a, b, c, d = start
    fa, fb, fc, fd = _FACTORS
    for char in text:
        code = ord(char)
        a = (a ^ code) * fa & _MASK
        b = (b ^ code) * fb & _MASK
        c = (c ^ code) * fc & _MASK
        d = (d ^ code) * fd & _MASK
    return a, b, c, d


# The hash runs from left to right, so the constant head is paid once.
_HEAD = _lanes('["relaycast","')
_HEAD_JOINED = _lanes("relaycast:")


def event_id(message_id: int | str, *, joined: bool = False) -> str:
    """The id of a message event (section 4), the same on every path.

    Args:
        message_id: the message's snowflake.
        joined: the other known revision, which hashes the parts joined by ":".
    """
    lanes = list(_lanes(str(message_id), _HEAD_JOINED) if joined else _lanes(f'{message_id}"]', _HEAD))
    for i in range(4):
        lane, following = lanes[i], lanes[(i + 1) % 4]
        left = (lane ^ lane >> 16) * 2246822507 & _MASK
        lanes[i] = left ^ ((following ^ following >> 13) * 3266489909 & _MASK)
    raw = bytearray(b"".join(lane.to_bytes(4, "big") for lane in lanes))
    raw[6] = raw[6] & 0x0F | 0x50
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def iso_seconds(second: int) -> str:
    """A stored whole second as REST shows it, for example `2026-06-25T10:00:00.000Z`."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def parse_since(value: object) -> int | None:
    """`since` floored to whole seconds; None for whatever is not an ISO 8601 text (section 5). Without zone: UTC."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() // 1)


def http_date(second: float) -> str:
    """The `Date` header for a wall time in seconds (RFC 9110 section 5.6.7), independent of the locale."""
    at = datetime.fromtimestamp(int(second), UTC)
    return f"{_DAYS[at.weekday()]}, {at.day:02d} {_MONTHS[at.month - 1]} {at.year} {at:%H:%M:%S} GMT"
