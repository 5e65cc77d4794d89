"""The IDENTIFY budget of one bot (discord R29): a thousand in 24 h and Discord resets the token, so nothing may ever loop on one.

Durable: the times of the last 24 h and the count of failures in a row. A time is written before its IDENTIFY is sent.
"""

from __future__ import annotations

import msgspec

DAY_S = 86400.0
SPACING_S = 5.0
MAX_FAILED_S = 300.0


class _Row(msgspec.Struct):
    times: list[float] = []
    failed: int = 0
    reset_at: float = 0.0


class Budget:
    """`ceiling`: IDENTIFYs in 24 h. Times in `row` are Unix seconds, the spacing goes by the monotonic clock."""

    def __init__(self, ceiling: int, state: bytes | None = None) -> None:
        self.ceiling = ceiling
        self.concurrency = 1
        self._row = msgspec.json.decode(state, type=_Row) if state else _Row()
        self._last: float | None = None
        self._next: dict[int, float] = {}
        self._sent: dict[int, float] = {}

    def used(self, wall: float) -> int:
        """IDENTIFYs of the last 24 h. A clock set back does not forget those that now lie ahead of it."""
        self._row.times = [t for t in self._row.times if t > wall - DAY_S]
        return len(self._row.times)

    @property
    def failed(self) -> int:
        """IDENTIFYs in a row that no READY followed."""
        return self._row.failed

    def bucket(self, shard: str) -> int:
        """The shard's rate limit key."""
        return int(shard.partition("/")[0]) % self.concurrency

    def wait(self, shard: str, mono: float, wall: float) -> float:
        """Seconds until this shard may begin to connect for an IDENTIFY; 0: now."""
        waits = [self._next.get(self.bucket(shard), 0.0) - mono, self._row.reset_at - wall]
        gone = self._gone(mono, wall)
        if not self._sent:
            # The last one was an earlier process's; in which bucket is not kept.
            waits.append(SPACING_S - gone)
        if self.used(wall) >= self.ceiling:
            waits.append(min(self._row.times[-self.ceiling] + DAY_S - wall, DAY_S))
        if self._row.failed:
            waits.append(min(SPACING_S * (1 << min(self._row.failed - 1, 10)), MAX_FAILED_S) - gone)
        return _whole(max(waits))

    def _gone(self, mono: float, wall: float) -> float:
        """Seconds since the last IDENTIFY; how long ago an earlier process's was, the wall clock says once."""
        if self._last is None:
            self._last = mono - max(0.0, wall - self._row.times[-1]) if self._row.times else -DAY_S
        return mono - self._last

    def reserve(self, shard: str, mono: float) -> None:
        """This shard begins to connect: the next one of its bucket comes five seconds later."""
        self._next[self.bucket(shard)] = mono + SPACING_S

    def spacing(self, shard: str, mono: float) -> float:
        """Seconds until an IDENTIFY of this shard may be sent on a socket that is open."""
        return _whole(self._sent.get(self.bucket(shard), mono - SPACING_S) + SPACING_S - mono)

    def spend(self, shard: str, mono: float, wall: float) -> None:
        """An IDENTIFY goes out now. It counts as failed until `succeeded`."""
        self.used(wall)
        self._row.times.append(wall)
        self._row.failed += 1
        self._last = mono
        self._sent[self.bucket(shard)] = mono
        self.reserve(shard, mono)

    def succeeded(self) -> None:
        """READY came."""
        self._row.failed = 0

    def told(self, remaining: int, reset_at: float) -> None:
        """What the upstream's metadata say (1.4): with none remaining nothing is sent before `reset_at` (Unix seconds)."""
        self._row.reset_at = reset_at if remaining <= 0 else 0.0

    def dump(self) -> bytes:
        """The durable row."""
        return msgspec.json.encode(self._row)


def _whole(seconds: float) -> float:
    """A pause that is worth a timer: what rounding leaves of one is none, and a timer for it would never move the clock."""
    return seconds if seconds > 0.001 else 0.0
