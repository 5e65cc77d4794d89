"""The hold: live events of one order domain kept back while history is read, within bytes and time (invariant 9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

MAX_BYTES = 32 * 1024 * 1024
MAX_SECONDS = 30.0
MAX_OVERFLOWS = 2


class Hold(Generic[T]):
    """Items in arrival order with their size. `begin` starts the clock; an overflow empties the hold and is counted.

    After two overflows, or `max_seconds` after `begin`, the hold is `spent`: its owner must let live events through and admit
    what history still finds as late."""

    def __init__(self, max_bytes: int = MAX_BYTES, max_seconds: float = MAX_SECONDS) -> None:
        self.max_bytes = max_bytes
        self.max_seconds = max_seconds
        self.bytes = 0
        self.overflows = 0
        self.since: float | None = None
        self._items: list[T] = []

    def __len__(self) -> int:
        return len(self._items)

    def begin(self, mono: float) -> None:
        """Start holding at this monotonic time (seconds); an unfinished hold keeps its first time."""
        if self.since is None:
            self.since = mono

    def put(self, item: T, size: int) -> bool:
        """Keep an item of `size` bytes. False: it would not fit; everything held is thrown away and has to be asked for again."""
        if not self.reserve(size):
            return False
        self._items.append(item)
        return True

    def reserve(self, size: int) -> bool:
        """Count bytes that the owner keeps elsewhere against the bound; False as for `put`."""
        if self.bytes + size > self.max_bytes:
            self.overflows += 1
            self.clear()
            return False
        self.bytes += size
        return True

    def clear(self) -> None:
        """Throw away what is held; overflows and clock stay."""
        self._items = []
        self.bytes = 0

    def spent(self, mono: float) -> bool:
        """Is the bound in overflows or time reached?"""
        late = self.since is not None and mono - self.since >= self.max_seconds
        return late or self.overflows >= MAX_OVERFLOWS

    def take(self, order: Callable[[T], Any] | None = None) -> list[T]:
        """All that is held, sorted by an order key if given (stable); the hold is empty and fresh afterwards."""
        items = self._items if order is None else sorted(self._items, key=order)
        self.clear()
        self.since = None
        self.overflows = 0
        return items
