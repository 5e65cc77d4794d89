"""The memory of numbered events: keys that are numbers and mostly rise, such as snowflakes, at 8 bytes a key and exact.

Two generations, each a sorted array of u64: the newer one fills up to `capacity` keys, then becomes the older one. So at least the last
`capacity` keys are known, in the order in which they came. A key above all known ones, the common case, costs one comparison.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence

MAX_KEY = (1 << 64) - 1


class OrderedIndex:
    """Numbers of one domain. `last`: how many were ever added; `highest`: the greatest known."""

    __slots__ = ("_capacity", "_new", "_old", "highest", "last")

    def __init__(self, capacity: int, last: int = 0) -> None:
        self._capacity = max(1, capacity)
        self._new = array("Q")
        self._old = array("Q")
        self.highest = -1
        self.last = last

    @property
    def oldest(self) -> int:
        """The count at which the oldest key that is still known was added."""
        return self.last - len(self._new) - len(self._old) + 1

    @property
    def memory(self) -> int:
        """Bytes held."""
        return 8 * (len(self._new) + len(self._old))

    def __contains__(self, key: int) -> bool:
        return key <= self.highest and self._has(key)

    def _has(self, key: int) -> bool:
        for keys in (self._new, self._old):
            at = bisect_left(keys, key)
            if at < len(keys) and keys[at] == key:
                return True
        return False

    def add(self, key: int) -> bool:
        """Remember a key; False if it was known.

        Raises OverflowError if it does not fit into 64 bits."""
        if key > self.highest:
            self._new.append(key)
            self.highest = key
        elif self._has(key):
            return False
        else:
            new = self._new
            new.insert(bisect_left(new, key), key)
        self._turn(1)
        return True

    def add_each(self, keys: Sequence[int]) -> list[int]:
        """Remember keys one by one; the positions (in `keys`) of those that were new.

        Raises OverflowError if one does not fit into 64 bits, TypeError if one is no number: those before it are remembered."""
        added: list[int] = []
        append = added.append
        highest = self.highest
        new = self._new
        push = new.append
        for i, key in enumerate(keys):
            if key > highest:
                push(key)
                highest = key
                append(i)
            elif not self._has(key):
                new.insert(bisect_left(new, key), key)
                append(i)
        self.highest = highest
        self._turn(len(added))
        return added

    def add_rising(self, keys: Sequence[int]) -> bool:
        """Remember keys at once if each is above the one before and all are above what is known; False (and nothing) if not."""
        if not keys or keys[0] <= self.highest or keys[-1] > MAX_KEY:
            return False
        before = keys[0]
        for key in keys[1:]:
            if key <= before:
                return False
            before = key
        self._new.extend(keys)
        self.highest = before
        self._turn(len(keys))
        return True

    def _turn(self, added: int) -> None:
        """So many keys were added: the newer generation becomes the older one when it is full."""
        self.last += added
        if len(self._new) >= self._capacity:
            self._old = self._new
            self._new = array("Q")
