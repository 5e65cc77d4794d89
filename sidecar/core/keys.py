"""The memories of one domain's event keys: what is known, and what of it waits for its id block in the journal."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from typing import Any, cast

from sidecar.core import layout
from sidecar.core.layout import Table
from sidecar.core.ordered import OrderedIndex
from sidecar.core.ports import JournalView
from sidecar.core.seen import SeenIndex, tag_of


class Keys(ABC):
    """Keys of one domain that wait for their id block. `first`: the number of the first of `pending`."""

    __slots__ = ("did", "first", "pending", "trimmed")

    def __init__(self, did: int, first: int) -> None:
        self.did = did
        self.first = first
        self.pending: list[Any] = []
        self.trimmed = 0

    @property
    @abstractmethod
    def oldest(self) -> int:
        """The lowest number that is still remembered."""

    @abstractmethod
    def block(self) -> bytes:
        """The id block of the pending keys."""


class Named(Keys):
    """A domain's byte keys: tags in memory, the full keys in id blocks. `in_flight`: the block that is being written."""

    __slots__ = ("in_flight", "index")

    def __init__(self, did: int, index: SeenIndex) -> None:
        super().__init__(did, index.last + 1)
        self.index = index
        self.in_flight: tuple[int, list[bytes]] = (0, [])

    @property
    def oldest(self) -> int:
        """The lowest number that is still remembered."""
        return self.index.oldest

    def knows(self, key: bytes, journal: JournalView) -> bool:
        """Is the key remembered? Candidates are confirmed on the full key (invariant 10)."""
        tag = tag_of(key)
        return self._confirm(self.index.newest(tag), tag, key, journal)

    def add(self, key: bytes, journal: JournalView) -> bool:
        """Remember a key; False if it was known."""
        tag = tag_of(key)
        number = self.index.add_if_new(tag)
        if number:
            if self._confirm(number, tag, key, journal):
                return False
            self.index.add(tag)
        self.pending.append(key)
        return True

    def _confirm(self, number: int, tag: int, key: bytes, journal: JournalView) -> bool:
        while number:
            if self._key_of(number, journal) == key:
                return True
            number = self.index.older(number, tag)
        return False

    def _key_of(self, number: int, journal: JournalView) -> bytes | None:
        """The full key that was given a number, None if it is no longer known."""
        if number >= self.first:
            return cast(bytes, self.pending[number - self.first])
        first, keys = self.in_flight
        if keys and first <= number < first + len(keys):
            return keys[number - first]
        row = journal.floor(Table.IDS, layout.pack_pair(self.did, number))
        if row is None:
            return None
        did, first = layout.unpack_pair(row[0])
        return layout.id_in_block(row[1], number - first) if did == self.did else None

    def block(self) -> bytes:
        """The id block of the pending keys, which are in flight from now on."""
        self.in_flight = (self.first, self.pending)
        return layout.pack_ids(self.pending)


class Numbered(Keys):
    """A domain's numeric keys: exact in memory; the id blocks only bring them back at start."""

    __slots__ = ("index",)

    def __init__(self, did: int, index: OrderedIndex) -> None:
        super().__init__(did, index.last + 1)
        self.index = index

    @property
    def oldest(self) -> int:
        """The lowest number that is still remembered."""
        return self.index.oldest

    def block(self) -> bytes:
        """The id block of the pending keys."""
        return array("Q", self.pending).tobytes()
