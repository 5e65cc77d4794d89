"""The memory of event keys: at least `capacity` of the newest keys of one domain, at 16 bytes a key.

A chained hash over a ring. Keys are numbered 1, 2, 3 … in the order they were remembered. Of each the ring keeps a 32-bit tag and
the distance to the previous key in the same slot; `heads` keeps each slot's newest number. A number that fell out of the ring is
simply older than `last - mask`: nothing is ever deleted, nothing rehashed but when the ring grows. A tag that matches is only a
candidate: the full key stands in the journal's id blocks and is compared there before an event is dropped (invariant 10).
"""

from __future__ import annotations

from array import array

_TAG = 0xFFFFFFFF
_SMALL = 64


def tag_of(key: bytes) -> int:
    """A key's tag. Differs from process to process: tags never reach the disk."""
    return hash(key) & _TAG


class SeenIndex:
    """Tags of the newest keys of one domain. `last`: number of the newest key; `first`: of the first one this index was given."""

    __slots__ = ("_heads", "_limit", "_mask", "_prev", "_room", "_tags", "first", "last")

    def __init__(self, capacity: int, last: int = 0) -> None:
        self._limit = _power_of_two(max(capacity + 1, _SMALL))
        self.last = last
        self.first = last + 1
        self._allocate(_SMALL)

    def _allocate(self, size: int) -> None:
        self._mask = size - 1
        self._tags = array("I", bytes(4 * size))
        self._prev = array("I", bytes(4 * size))
        self._heads = array("Q", bytes(8 * size))
        # The number behind which the ring must grow, while it still holds every key; none once it is as large as it may get.
        self._room = self.first + size - 2 if size < self._limit else 1 << 63

    @property
    def size(self) -> int:
        """Keys remembered at most right now."""
        return self._mask + 1

    @property
    def oldest(self) -> int:
        """The lowest number that may still be found."""
        return max(self.first, self.last - self._mask)

    @property
    def memory(self) -> int:
        """Bytes held."""
        return sum(a.itemsize * len(a) for a in (self._tags, self._prev, self._heads))

    def add_if_new(self, tag: int) -> int:
        """Remember a key's tag if no key with this tag is known and return 0 (its number is then `last`); else return the newest
        number with this tag, remembering nothing."""
        mask = self._mask
        slot = tag & mask
        before = self._heads[slot]
        number = self.last + 1
        floor = number - mask
        if before >= floor:
            tags = self._tags
            prev = self._prev
            candidate = before
            while True:
                place = candidate & mask
                # Number 0 stands for an empty slot, and its place holds tag 0: no key.
                if tags[place] == tag and candidate:
                    return candidate
                step = prev[place]
                candidate -= step
                if not step or candidate < floor:
                    break
            step = number - before
        else:
            step = 0
        if number > self._room:
            self._grow()
            self.add(tag)
            return 0
        self.last = number
        self._heads[slot] = number
        place = number & mask
        self._tags[place] = tag
        self._prev[place] = step
        return 0

    def older(self, number: int, tag: int) -> int:
        """The next older number with this tag, 0 if there is none."""
        mask = self._mask
        floor = max(self.first, self.last - mask + 1)
        while step := self._prev[number & mask]:
            number -= step
            if number < floor:
                return 0
            if self._tags[number & mask] == tag:
                return number
        return 0

    def newest(self, tag: int) -> int:
        """The newest number with this tag, 0 if there is none."""
        number = self._heads[tag & self._mask]
        if number < max(self.first, self.last - self._mask + 1):
            return 0
        return number if self._tags[number & self._mask] == tag else self.older(number, tag)

    def add(self, tag: int) -> int:
        """Remember a tag even if it is known (another key with an equal tag); its number."""
        if self.last >= self._room:
            self._grow()
        mask = self._mask
        self.last = number = self.last + 1
        slot = tag & mask
        step = number - self._heads[slot]
        self._heads[slot] = number
        place = number & mask
        self._tags[place] = tag
        self._prev[place] = step if step <= mask else 0
        return number

    def _grow(self) -> None:
        tags = [self._tags[n & self._mask] for n in range(self.oldest, self.last + 1)]
        self.last -= len(tags)
        self._allocate(self.size * 2)
        for tag in tags:
            self.add(tag)


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
