"""A damaged journal: set aside, a new epoch, the loss told until it is recorded; never a crash, never a loop."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from sidecar.core.layout import Batch, Table, pack_pair
from sidecar.errors import JournalDamaged
from sidecar.journal import pages
from sidecar.journal import store as store_module
from sidecar.journal.reads import RecordDamaged, lmdb_open
from sidecar.journal.store import Store
from tests.journal.rows import WALL, events, offsets, opened, register
from tests.journal.test_store import plant

FILE = "journal.mdb"


def filled(path: Path) -> str:
    """A journal with something of everything, closed in order; returns its epoch."""
    store = opened(path)
    batch = Batch()
    register(batch, "relaycast:acct", 1)
    store.apply(batch)
    for first in range(1, 4001, 50):
        batch = events(first, first + 49, payload=b"x" * 300)
        batch.put(Table.IDS, pack_pair(1, first), b"k" * 700)
        store.apply(batch)
    for offset in range(4001, 4301):
        store.apply(events(offset, offset, payload=b"y" * 300))
    store.close()
    return store.epoch


def cut_to(size: Callable[[int], int]) -> Callable[[Path], None]:
    return lambda file: os.truncate(file, size(file.stat().st_size))


def overwrite(at: int, data: bytes) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        with file.open("r+b") as handle:
            handle.seek(at)
            handle.write(data)

    return change


def break_page(kind: int, change: Callable[[bytearray], None]) -> Callable[[Path], None]:
    """Change the last page of a kind that the newest transaction reaches (its own number tells that it was written)."""

    def work(file: Path) -> None:
        data = bytearray(file.read_bytes())
        walk = pages._Walk(data, pages.read_meta(bytes(data)))  # type: ignore[arg-type]
        walk.run()
        for number in range(walk.pages - 1, 1, -1):
            page = data[number * 4096 : (number + 1) * 4096]
            if walk.seen[number] and struct.unpack_from("<H", page, 10)[0] == kind and struct.unpack_from("<Q", page)[0] == number:
                change(page)
                overwrite(number * 4096, bytes(page))(file)
                return
        raise AssertionError(f"no page of kind {kind}")

    return work


def put(at: int, data: bytes) -> Callable[[bytearray], None]:
    def change(page: bytearray) -> None:
        page[at : at + len(data)] = data

    return change


def zeros(page: bytearray) -> None:
    page[:] = bytes(len(page))


# What is done to the file, and a part of the reason that is given for setting it aside.
DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty|too short": cut_to(lambda size: 0),
    "a few bytes|too short": cut_to(lambda size: 100),
    "one page|ends before meta page 1": cut_to(lambda size: 4096),
    "metas only|outside of the file": cut_to(lambda size: 8192),
    "cut in the middle|outside of the file": cut_to(lambda size: size // 2),
    "cut by one page|outside of the file": cut_to(lambda size: size - 4096),
    "cut within the last page|outside of the file": cut_to(lambda size: size - 100),
    "no LMDB file|no LMDB meta page": lambda file: file.write_bytes(b"this is no journal\n" * 10_000) and None,
    "zeros|no LMDB meta page": lambda file: file.write_bytes(bytes(1 << 20)) and None,
    "first meta|page 0 is no LMDB meta page": overwrite(16, b"\0\0\0\0"),
    "second meta|page 1 is no LMDB meta page": overwrite(4096 + 16, b"\0\0\0\0"),
    "another data format|data format 3": overwrite(20, struct.pack("<I", 3)),
    "page size of nothing|page size of 0": lambda file: [overwrite(at + 40, bytes(4))(file) for at in (0, 4096)] and None,
    "root page out of the file|outside of the file": lambda file: (
        [overwrite(at + 16 + 24 + 88, struct.pack("<Q", 1 << 40))(file) for at in (0, 4096)] and None
    ),
    "a leaf of zeros|is not the page that should be there": break_page(pages.LEAF, zeros),
    "a leaf's node out of the page|node outside of it": break_page(pages.LEAF, put(16, b"\xff\xff")),
    "a leaf's value out of the page|a node that leaves it": break_page(
        pages.LEAF, lambda page: put(struct.unpack_from("<H", page, 16)[0], b"\xff\xff")(page)
    ),
    "a branch of zeros|is not the page that should be there": break_page(pages.BRANCH, zeros),
    "a branch to itself|reached twice": break_page(pages.BRANCH, lambda page: put(struct.unpack_from("<H", page, 16)[0], page[:4])(page)),
    "a long value's head|is not the long value": break_page(pages.OVERFLOW, zeros),
    "META without an epoch|epoch": lambda file: plant(file.parent, "epoch", None),
    "META with nonsense for a schema|schema": lambda file: plant(file.parent, "schema", b"one"),
    "META that is no text|codec": lambda file: plant(file.parent, "created", b"\xff\xfe"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_set_aside_and_a_new_epoch_begins(tmp_path: Path, kind: str) -> None:
    epoch = filled(tmp_path)
    DAMAGES[kind](tmp_path / FILE)
    said = kind.partition("|")[2]
    told: list[tuple[str, str]] = []
    store = opened(tmp_path, on_event=lambda level, text, fields: told.append((level, fields["path"])))
    assert store.epoch != epoch
    assert store.lost is not None and store.lost.wall == WALL
    assert said in store.lost.reason
    aside = Path(store.lost.path)
    assert aside.name == "journal.mdb.damaged-20270115T080000Z"
    assert aside.exists()
    assert told == [("error", str(aside))]
    assert store.streams_with_records() == []
    store.apply(events(1, 5))
    store.close()
    store = opened(tmp_path)
    assert offsets(store.read(1, 0, 10, 1000)) == [1, 2, 3, 4, 5]
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1
    store.close()


def test_the_loss_is_told_until_the_row_is_deleted(tmp_path: Path) -> None:
    filled(tmp_path)
    os.truncate(tmp_path / FILE, 5000)
    opened(tmp_path).close()
    store = opened(tmp_path)
    assert store.lost is not None and "outside of the file" in store.lost.reason
    batch = Batch()
    batch.delete(Table.META, b"lost")
    store.apply(batch)
    assert store.lost is None
    store.close()
    store = opened(tmp_path)
    assert store.lost is None
    store.close()


def test_two_damages_in_one_second_are_both_kept(tmp_path: Path) -> None:
    for _ in range(3):
        opened(tmp_path).close()
        os.truncate(tmp_path / FILE, 100)
    opened(tmp_path).close()
    names = sorted(file.name.rpartition("Z")[2] for file in tmp_path.glob("*.damaged-*"))
    assert names == ["", "-2", "-3"]


def test_a_sound_journal_passes_the_look_after_any_stop(tmp_path: Path) -> None:
    epoch = filled(tmp_path)
    for _ in range(3):
        store = opened(tmp_path)
        assert (store.epoch, store.lost) == (epoch, None)
        store.apply(events(store._heads.last[1] + 1, store._heads.last[1] + 1))
        store.prune(WALL)
        store.close(clean=False)
    found = pages.look(tmp_path / FILE)
    assert set(found.tables) == {"records", "ids", "state", "cursors", "streams", "meta"}
    assert 0 <= found.last_page + 1 - found.used - found.free <= 1


def test_a_file_longer_than_its_pages_or_with_unwritten_free_pages_is_sound(tmp_path: Path) -> None:
    epoch = filled(tmp_path)
    with (tmp_path / FILE).open("ab") as file:
        file.write(bytes(50_000))
    store = opened(tmp_path)
    assert store.epoch == epoch
    store.close()


def damage_block(path: Path, offset: int, change: Callable[[bytes], bytes]) -> None:
    """Change the block that begins at an offset of stream 1, in a closed journal."""
    env = lmdb_open(path / FILE, map_size=1 << 26)
    records = env.open_db(b"records", create=False)
    with env.begin(write=True) as txn:
        key = pack_pair(1, offset)
        txn.put(key, change(txn.get(key, db=records)), db=records)
    env.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda block: block[:-1] + bytes([block[-1] ^ 1]),
        lambda block: block[: len(block) // 2],
        lambda block: bytes(len(block)),
        lambda block: b"",
        lambda block: block[:4] + b"\xff\xff\xff\xff" + block[8:],
    ],
)
def test_a_damaged_record_is_an_error_that_names_stream_and_offsets(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    epoch = filled(tmp_path)
    damage_block(tmp_path, 51, change)
    store = opened(tmp_path)
    assert store.epoch == epoch
    assert offsets(store.read(1, 0, 1000, 1 << 20)) == list(range(1, 51))
    reads: list[Callable[[Store], object]] = [
        lambda s: s.read(1, 50, 10, 1000),
        lambda s: s.read(1, 77, 10, 1000),
        lambda s: s.floor(Table.RECORDS, pack_pair(1, 60)),
        lambda s: s.ceiling(Table.RECORDS, pack_pair(1, 40)),
    ]
    for read in reads:
        with pytest.raises(RecordDamaged, match=r"'relaycast:acct', records 51 to 100") as caught:
            read(store)
        assert (caught.value.sid, caught.value.offset, caught.value.last) == (1, 51, 100)
    assert offsets(store.read(1, 100, 3, 1 << 20)) == [101, 102, 103]
    assert store.prune(WALL + 5000)[1] > 100
    store.close()


def test_missing_records_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    filled(tmp_path)
    env = lmdb_open(tmp_path / FILE, map_size=1 << 26)
    records = env.open_db(b"records", create=False)
    with env.begin(write=True) as txn:
        txn.delete(pack_pair(1, 101), db=records)
    env.close()
    store = opened(tmp_path)
    assert offsets(store.read(1, 48, 1000, 1 << 20)) == list(range(49, 101))
    with pytest.raises(RecordDamaged, match="101 to 150"):
        store.read(1, 100, 1000, 1 << 20)
    assert offsets(store.read(1, 150, 1, 1)) == [151]
    store.close()


def test_a_large_file_is_looked_through_only_after_a_stop_that_was_not_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a damaged page that kills the process does it once: the next start finds it."""
    monkeypatch.setattr(store_module, "LOOK_ALWAYS", 0)
    epoch = filled(tmp_path)
    break_page(pages.LEAF, zeros)(tmp_path / FILE)
    store = opened(tmp_path)
    assert (store.lost, store.epoch) == (None, epoch)
    store.close(clean=False)
    store = opened(tmp_path)
    assert store.lost is not None
    store.close()


def test_a_large_file_cut_short_is_found_after_any_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LOOK_ALWAYS", 0)
    filled(tmp_path)
    os.truncate(tmp_path / FILE, (tmp_path / FILE).stat().st_size // 2)
    store = opened(tmp_path)
    assert store.lost is not None
    store.close()


def test_what_leaves_the_file_in_a_way_not_thought_of_is_damage_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    monkeypatch.setattr(pages._Walk, "leaf", lambda *_: b""[1])
    with pytest.raises(pages.Damage, match="leaves the file"):
        pages.look(tmp_path / FILE)


def test_a_new_journal_is_not_blamed_for_the_one_set_aside(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.directory.condemn("a page is of the wrong kind")
    store.close(clean=False)
    store = opened(tmp_path)
    epoch = store.epoch
    store.close(clean=False)
    store = opened(tmp_path)
    assert store.epoch == epoch
    store.close()


def test_a_page_found_damaged_while_reading_is_set_aside_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LOOK_ALWAYS", 0)
    filled(tmp_path)
    store = opened(tmp_path)

    def corrupt(_: object) -> None:
        raise lmdb.CorruptedError("page")

    with pytest.raises(JournalDamaged):
        store._read(corrupt)
    store.close()
    store = opened(tmp_path)
    assert store.lost is not None
    store.close()
    store = opened(tmp_path)
    assert len(list(tmp_path.glob("*.damaged-*"))) == 1
    store.close()


def test_damage_while_writing_is_an_error_of_ours(tmp_path: Path) -> None:
    store = opened(tmp_path)

    def corrupt(_: object) -> None:
        raise lmdb.CorruptedError("page")

    with pytest.raises(JournalDamaged):
        store._transact(corrupt)
    store.close()
    assert opened(tmp_path).lost is not None
