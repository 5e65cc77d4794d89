"""Verify names every corruption that is planted, and nothing in a journal that is sound."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.layout import Batch, Table, cursor_key, pack_pair, pack_u32
from sidecar.core.record import GAP, Run
from sidecar.journal.reader import Reader
from sidecar.journal.reads import NAMES, lmdb_open
from sidecar.journal.verify import Finding, Verify
from tests.journal.rows import WALL, block, cursor, event, events, gap, ids, opened, register, run

Rows = dict[tuple[Table, bytes], bytes | None]


def filled(path: Path) -> None:
    """Two streams, domains 1 and 2, numeric keys (3): blocks of ten events, a gap at 41 of the first, ids, consumers, states."""
    store = opened(path)
    batch = Batch()
    register(batch, "one", 1, 1)
    register(batch, "two", 2, 2)
    batch.put(Table.STATE, b"up:acct\0seq", b"17")
    batch.put(Table.STREAMS, b"o" + pack_u32(1) + b"numbers", pack_u32(3))
    batch.put(Table.IDS, pack_pair(3, 1), struct.pack("<2Q", 7, 9))
    batch.put(Table.IDS, pack_pair(3, 3), struct.pack("<Q", 11))
    store.apply(batch)
    for first in range(1, 41, 10):
        batch = events(first, first + 9)
        batch.runs.append(run(first, first + 9, sid=2))
        for did in (1, 2):
            ids(batch, did, first, [b"id-%d" % number for number in range(first, first + 10)])
        store.apply(batch)
    batch = Batch()
    batch.runs += [gap(41, 40), event(42, ordinal=41)]
    cursor(batch, 1, "agent", 42)
    cursor(batch, 2, "agent", 40)
    store.apply(batch)
    store.close()


def plant(path: Path, rows: Rows) -> None:
    """Change rows behind the store's back."""
    env = lmdb_open(path / "journal.mdb", map_size=1 << 26)
    tables = {table: env.open_db(name, create=False) for table, name in NAMES.items()}
    with env.begin(write=True) as txn:
        for (table, key), value in rows.items():
            if value is None:
                assert txn.delete(key, db=tables[table])
            else:
                txn.put(key, value, db=tables[table])
    env.close()


def found(path: Path) -> list[Finding]:
    reader = Reader(path)
    try:
        return Verify(reader).run().findings
    finally:
        reader.close()


def blocks_of(*runs: tuple[int, Run]) -> Rows:
    """Well-formed blocks of these runs."""
    return {(Table.RECORDS, key): value for key, value in map(block, runs)}


def flipped(first: int) -> Rows:
    key, whole = block(run(first, first + 9))
    return {(Table.RECORDS, key): whole[:-3] + bytes([whole[-3] ^ 0x40]) + whole[-2:]}


def with_domain_of(length: int) -> Rows:
    """A block that says its domain has `length` bytes, with the checksum that goes with it."""
    key, whole = block(run(11, 20))
    body = whole[4:5] + bytes([length]) + whole[6:]
    return {(Table.RECORDS, key): struct.pack("<I", zlib.crc32(body, zlib.crc32(key))) + body}


ids_block = b"\x02\0\0\0" + struct.pack("<III", 0, 1, 2) + b"ab"

SHORT = "a buffer of at least 16 bytes for unpacking 12 bytes at offset 4 (actual buffer size is 10)"
EMPTY = "0 bytes, shorter than a head"
BEYOND = f"10 records do not fit into {len(block(run(11, 20))[1])} bytes"
ALIEN = b"\0\0\0\2zz"

PLANTS: dict[str, tuple[Rows, Finding]] = {
    "a bit of a payload": (flipped(11), Finding("records", "checksum does not match", "one", 11)),
    "an empty block": ({(Table.RECORDS, pack_pair(1, 11)): b""}, Finding("records", EMPTY, "one", 11)),
    "a block under another's key": (
        {(Table.RECORDS, pack_pair(1, 11)): block(run(21, 30))[1]},
        Finding("records", "checksum does not match", "one", 11),
    ),
    "a block gone": ({(Table.RECORDS, pack_pair(1, 11)): None}, Finding("records", "records 11 to 20 are missing", "one", 11)),
    "a block short of its last record": (blocks_of(run(11, 19)), Finding("records", "records 20 to 20 are missing", "one", 20)),
    "a record twice": (blocks_of(run(11, 21)), Finding("records", "stands there twice", "one", 21)),
    "a block whose lengths do not fit": (with_domain_of(255), Finding("records", BEYOND, "one", 11)),
    "an ordinal that jumps": (blocks_of(run(11, 20, ordinal=25)), Finding("records", "ordinal 25 after 10", "one", 11)),
    "an ordinal that falls": (blocks_of(run(11, 20, ordinal=3)), Finding("records", "ordinal 3 after 10", "one", 11)),
    "a gap that counts": (blocks_of(gap(41, 41), event(42, ordinal=42)), Finding("records", "ordinal 41 after 40", "one", 41)),
    "a gap of no known reason": (blocks_of(gap(41, 40, reason="whim")), Finding("records", "gap with the reason 'whim'", "one", 41)),
    "a gap that is no JSON": (
        blocks_of((1, Run(41, 40, GAP, [b"{"]))),
        Finding("records", "cannot be read: Input data was truncated", "one", 41),
    ),
    "records of no stream": (blocks_of(event(1, sid=9)), Finding("records", "stream is not registered", "#9", 1)),
    "a records key of no kind": ({(Table.RECORDS, ALIEN): b"x"}, Finding("records", f"key {ALIEN!r} is none of ours")),
    "a stream's row": (
        {(Table.STREAMS, b"stwo"): b'{"sid":'},
        Finding("streams", "row cannot be read: Input data was truncated", "two"),
    ),
    "two streams of one id": ({(Table.STREAMS, b"szzz"): b'{"sid":1,"base":0}'}, Finding("streams", "has the id 1 of stream 'one'", "zzz")),
    "two domains of one id": (
        {(Table.STREAMS, b"d" + pack_u32(1) + b"random"): pack_u32(1)},
        Finding("streams", "domain 'random' has the id 1 of another", "one"),
    ),
    "a domain of no stream": (
        {(Table.STREAMS, b"d" + pack_u32(7) + b"random"): pack_u32(70)},
        Finding("streams", "domain 'random' belongs to no stream", "#7"),
    ),
    "a streams key of no kind": ({(Table.STREAMS, b"?"): b""}, Finding("streams", "key b'?' is none of ours")),
    "an id block cut short": (
        {(Table.IDS, pack_pair(1, 11)): ids_block[:10]},
        Finding("ids", "block cannot be read: unpack_from requires " + SHORT, "one", 11),
    ),
    "an id block too long": (
        {(Table.IDS, pack_pair(1, 11)): ids_block + b"c"},
        Finding("ids", "block cannot be read: 2 ids do not fill 19 bytes", "one", 11),
    ),
    "an id block gone": ({(Table.IDS, pack_pair(1, 11)): None}, Finding("ids", "block begins at 21 instead of 11", "one", 11)),
    "a block of numeric ids that is none": (
        {(Table.IDS, pack_pair(3, 1)): b"123456789"},
        Finding("ids", "block cannot be read: 9 bytes are no u64s", "one", 1),
    ),
    "ids of no domain": ({(Table.IDS, pack_pair(9, 1)): ids_block}, Finding("ids", "domain is not registered", "domain #9", 1)),
    "an ids key of no kind": ({(Table.IDS, b"x"): ids_block}, Finding("ids", "key b'x' is none of ours")),
    "a cursor above the head": (
        {(Table.CURSORS, cursor_key(1, "agent")): b'{"offset":43,"seen":0}'},
        Finding("cursors", "consumer 'agent' is at 43, above the head 42", "one", 43),
    ),
    "a cursor that cannot be read": (
        {(Table.CURSORS, cursor_key(1, "agent")): b'{"offset":"x"}'},
        Finding("cursors", "consumer 'agent' cannot be read: Expected `int`, got `str` - at `$.offset`", "one"),
    ),
    "a cursor of no stream": (
        {(Table.CURSORS, cursor_key(9, "agent")): b'{"offset":1,"seen":0}'},
        Finding("cursors", "consumer 'agent' is of no registered stream", "#9"),
    ),
    "no epoch": ({(Table.META, b"epoch"): None}, Finding("meta", "schema, epoch, dialect or upstream is missing")),
    "a state of nobody": ({(Table.STATE, b"seq"): b"1"}, Finding("state", "key b'seq' has no owner")),
}


def test_a_sound_journal_has_no_findings_and_all_is_read(tmp_path: Path) -> None:
    filled(tmp_path)
    reader = Reader(tmp_path)
    result = Verify(reader).run()
    reader.close()
    assert result.findings == []
    assert (result.streams, result.records, result.ids, result.consumers) == (2, 82, 83, 2)


@pytest.mark.parametrize("kind", PLANTS)
def test_a_planted_corruption_is_named(tmp_path: Path, kind: str) -> None:
    filled(tmp_path)
    rows, expected = PLANTS[kind]
    plant(tmp_path, rows)
    findings = found(tmp_path)
    assert expected in findings, findings
    assert not [f for f in findings if f.stream == "two" and expected.stream != "two"], findings


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: os.truncate(file, file.stat().st_size // 2), "outside of the file"),
        (lambda file: os.truncate(file, 10), "ends before meta page"),
        (lambda file: file.write_bytes(b"nothing of ours " * 5000), "no LMDB meta page"),
    ],
)
def test_damaged_pages_are_named_before_anything_trusts_them(tmp_path: Path, damage: Callable[[Path], Any], said: str) -> None:
    filled(tmp_path)
    damage(tmp_path / "journal.mdb")
    (finding,) = found(tmp_path)
    assert finding.table == "pages"
    assert said in finding.text


def test_what_retention_takes_meanwhile_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    batch = Batch()
    register(batch, "one", 1, 1)
    store.apply(batch)
    for offset in range(1, 101):
        batch = events(offset, offset, wall=WALL + offset)
        ids(batch, 1, offset, [b"%d" % offset])
        store.apply(batch)
    store.close()
    reader = Reader(tmp_path)
    monkeypatch.setattr("sidecar.journal.verify.STEP", 10)
    real = Reader.rows
    steps: list[Table] = []

    def rows(self: Reader, table: Table, low: bytes, count: int) -> list[tuple[bytes, bytes]]:
        answer = real(self, table, low, count)
        steps.append(table)
        if steps.count(table) == 2:
            # Between two steps of this table its oldest rows go, beyond where the reader is.
            self.close()
            writing = opened(tmp_path)
            if table is Table.RECORDS:
                assert writing.prune(WALL + 1060.5)[1] == 61
            else:
                drop = Batch()
                drop.drop(Table.IDS, pack_pair(1, 0), pack_pair(1, 50))
                writing.apply(drop)
            writing.close()
            self.__init__(tmp_path)  # type: ignore[misc]
        return answer

    monkeypatch.setattr(Reader, "rows", rows)
    result = Verify(reader).run()
    reader.close()
    assert result.findings == []
    assert (result.records, result.ids) == (20 + 40, 20 + 51)


def test_findings_read_as_sentences() -> None:
    assert str(Finding("records", "checksum does not match", "one", 7)) == "table records, stream 'one', offset 7: checksum does not match"
    assert str(Finding("ids", "gone", "one", 7)) == "table ids, stream 'one', number 7: gone"
    assert str(Finding("meta", "gone")) == "table meta: gone"
