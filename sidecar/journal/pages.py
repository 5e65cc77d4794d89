"""A look through a journal file's pages without LMDB, which trusts what it reads: one damaged page can kill the process.

Reads the format of LMDB 0.9 (data version 1, little endian), the one the journal is pinned to. Two meta pages, the newer one
counts; each names two trees: free pages by transaction, and the named tables, whose own roots stand in it as 48-byte records.

    page   number u64, pad u16, flags u16, lower u16, upper u16 (overflow: pages u32), then a u16 position for each node
    node   low u16, high u16, flags u16, key size u16, key, data      branch: page number in low, high, flags
    meta   (after the page head) magic u32, version u32, address u64, map size u64, tree[2], last page u64, transaction u64
    tree   pad u32, flags u16, depth u16, branch u64, leaf u64, overflow u64, entries u64, root u64     pad of tree[0]: page size

A file that ends before its last page is not yet damage: pages freed in the transaction that took them are never written. What
counts is that every page that can be reached lies in the file, is of the right kind, and is reached once.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from pathlib import Path

import msgspec

MAGIC, VERSION = 0xBEEFC0DE, 1
BRANCH, LEAF, OVERFLOW, META = 1, 2, 4, 8
BIG, SUB = 1, 2
HEAD = 16
NONE = (1 << 64) - 1

_PAGE = struct.Struct("<QHHHH")
_META = struct.Struct("<IIQQ")
_TREE = struct.Struct("<IHHQQQQQ")
_NODE = struct.Struct("<HHHH")
_U64 = struct.Struct("<Q")
_U32 = struct.Struct("<I")


class Damage(Exception):
    """The file is no readable journal; the text says where."""


class Look(msgspec.Struct, frozen=True):
    """What was found: page size, pages up to the last, pages in use, pages free, and the tables' names."""

    page_size: int
    last_page: int
    used: int
    free: int
    tables: tuple[str, ...]


class Meta(msgspec.Struct, frozen=True):
    """The newer meta page. `map_size`: the largest extent its writers allowed."""

    page_size: int
    map_size: int
    last_page: int
    transaction: int
    trees: tuple[tuple[int, ...], tuple[int, ...]]


def readable() -> bool:
    """Does this machine write the layout that is read here?"""
    return sys.byteorder == "little" and sys.maxsize > 1 << 32


def read_meta(data: bytes | mmap.mmap) -> Meta:
    """The newer of the two meta pages at the beginning of a file.

    Raises Damage if one is no meta page of this format (LMDB asks for both)."""
    found = []
    at = 0
    for number in (0, 1):
        if at + HEAD + 136 > len(data):
            raise Damage(f"file of {len(data)} bytes ends before meta page {number}")
        _, _, flags, _, _ = _PAGE.unpack_from(data, at)
        magic, version, _, map_size = _META.unpack_from(data, at + HEAD)
        if not flags & META or magic != MAGIC:
            raise Damage(f"page {number} is no LMDB meta page")
        if version != VERSION:
            raise Damage(f"LMDB data format {version} instead of {VERSION}")
        base = at + HEAD + _META.size
        free, main = _TREE.unpack_from(data, base), _TREE.unpack_from(data, base + _TREE.size)
        last, transaction = struct.unpack_from("<QQ", data, base + 2 * _TREE.size)
        size = free[0]
        if size < 512 or size > 1 << 16 or size & (size - 1):
            raise Damage(f"meta page {number} gives a page size of {size}")
        found.append(Meta(size, map_size, last, transaction, (free, main)))
        at = size
    if found[0].page_size != found[1].page_size:
        raise Damage("the meta pages disagree on the page size")
    return found[0] if found[0].transaction >= found[1].transaction else found[1]


def look(path: Path) -> Look:
    """Look through all pages that can be reached. Bounded by the file's size; touches nothing beyond its end.

    Raises Damage with the place, OSError if the file cannot be read. The caller sees to it that the snapshot stays (no other
    process writes, or a read transaction is open)."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 2 * (HEAD + 136):
            raise Damage(f"file of {size} bytes is too short for a journal")
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
            try:
                return _Walk(data, read_meta(data)).run()
            except (struct.error, IndexError) as error:
                raise Damage(f"a structure leaves the file: {error}") from error


class _Walk:
    def __init__(self, data: mmap.mmap, meta: Meta) -> None:
        self.data = data
        self.size = meta.page_size
        self.meta = meta
        self.pages = min(len(data) // meta.page_size, meta.last_page + 1)
        self.seen = bytearray(max(2, self.pages))
        self.used = 2
        self.free = 0
        self.tables: list[str] = []

    def run(self) -> Look:
        self.seen[0] = self.seen[1] = 1
        self.tree(self.meta.trees[0], "free pages")
        self.tree(self.meta.trees[1], "tables")
        return Look(self.size, self.meta.last_page, self.used, self.free, tuple(self.tables))

    def take(self, number: int, pages: int, where: str) -> int:
        """Reach pages, once. Returns the first's position."""
        if number < 2 or pages < 1 or number + pages > self.pages:
            raise Damage(f"{where}: page {number} (+{pages}) lies outside of the file's {self.pages} pages")
        if any(self.seen[number : number + pages]):
            raise Damage(f"{where}: page {number} is reached twice")
        self.seen[number : number + pages] = b"\1" * pages
        self.used += pages
        return number * self.size

    def tree(self, tree: tuple[int, ...], name: str) -> None:
        _, _, depth, branch, leaf, overflow, entries, root = tree
        if root == NONE:
            if entries:
                raise Damage(f"{name}: {entries} entries but no root")
            return
        if not 1 <= depth <= 32:
            raise Damage(f"{name}: depth {depth}")
        before = self.used
        found = 0
        todo = [(root, 1)]
        while todo:
            number, level = todo.pop()
            at = self.take(number, 1, name)
            own, _, flags, lower, upper = _PAGE.unpack_from(self.data, at)
            where = f"{name}: page {number}"
            if own != number or flags != (LEAF if level == depth else BRANCH):
                raise Damage(f"{where} is not the page that should be there (number {own}, flags {flags:#x})")
            if lower < HEAD or lower & 1 or lower > upper or upper > self.size:
                raise Damage(f"{where} has bounds {lower}, {upper}")
            nodes = struct.unpack_from(f"<{(lower - HEAD) // 2}H", self.data, at + HEAD)
            if not nodes:
                raise Damage(f"{where} is empty")
            if min(nodes) < upper or max(nodes) > self.size - _NODE.size:
                raise Damage(f"{where} has a node outside of it")
            if level == depth:
                found += len(nodes)
                self.leaf(at, nodes, name, where)
                continue
            for node in nodes:
                low, high, top, key = _NODE.unpack_from(self.data, at + node)
                if node + _NODE.size + key > self.size:
                    raise Damage(f"{where} has a key that leaves it")
                todo.append((low | high << 16 | top << 32, level + 1))
        if found != entries:
            raise Damage(f"{name}: {found} entries instead of {entries}")
        if name != "tables" and self.used - before != branch + leaf + overflow:
            raise Damage(f"{name}: {self.used - before} pages instead of {branch + leaf + overflow}")

    def leaf(self, at: int, nodes: tuple[int, ...], name: str, where: str) -> None:
        data, size, unpack = self.data, self.size, _NODE.unpack_from
        for node in nodes:
            low, high, flags, key = unpack(data, at + node)
            length = low | high << 16
            begin = node + _NODE.size + key
            if flags & ~(BIG | SUB) or begin + (8 if flags & BIG else length) > size:
                raise Damage(f"{where} has a node that leaves it")
            value = at + begin
            if flags & BIG:
                (first,) = _U64.unpack_from(data, value)
                pages = (HEAD + length + size - 1) // size
                value = self.take(first, pages, where)
                own, _, kind, *_ = _PAGE.unpack_from(data, value)
                (span,) = _U32.unpack_from(data, value + 12)
                if own != first or kind != OVERFLOW or span != pages:
                    raise Damage(f"{where}: page {first} is not the long value that should be there")
                value += HEAD
            if flags & SUB:
                if name != "tables" or length != _TREE.size:
                    raise Damage(f"{where} holds a table where none can be")
                title = bytes(data[at + node + _NODE.size : at + begin]).decode("utf-8", "replace")
                self.tables.append(title)
                self.tree(_TREE.unpack_from(data, value), title)
            elif name == "free pages":
                (freed,) = _U64.unpack_from(data, value)
                if 8 * (freed + 1) > length:
                    raise Damage(f"{where} lists more free pages than it has room for")
                self.free += freed
