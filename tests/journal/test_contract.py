"""What the LMDB journal and its model both keep: the same tests run against each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.core.layout import Batch, Table, pack_pair, unpack_pair
from sidecar.core.record import BINARY, GAP, LATE, REPLAYED, Run
from sidecar.journal.model import ModelStore
from sidecar.journal.store import DROP_ROWS
from tests.journal.rows import HEAD, WALL, batch_of, block, cursor, event, events, everything, flat, ids, offsets, opened, run


@pytest.fixture(params=["lmdb", "model"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made: Any = opened(tmp_path / "data") if request.param == "lmdb" else ModelStore(retention_s=1000.0)
    yield made
    made.close()


def put(table: Table, **rows: bytes) -> Batch:
    batch = Batch()
    for key, value in rows.items():
        batch.put(table, key.encode(), value)
    return batch


class TestReads:
    def test_rows_are_found_by_key_and_by_neighbour(self, store: Any) -> None:
        store.apply(put(Table.STATE, b=b"1", d=b"2"))
        assert store.get(Table.STATE, b"b") == b"1"
        assert store.get(Table.STATE, b"c") is None
        assert store.floor(Table.STATE, b"c") == (b"b", b"1")
        assert store.floor(Table.STATE, b"d") == (b"d", b"2")
        assert store.floor(Table.STATE, b"z") == (b"d", b"2")
        assert store.floor(Table.STATE, b"a") is None
        assert store.ceiling(Table.STATE, b"c") == (b"d", b"2")
        assert store.ceiling(Table.STATE, b"b") == (b"b", b"1")
        assert store.ceiling(Table.STATE, b"e") is None

    def test_scan_gives_a_prefix_in_order_and_is_not_held_open(self, store: Any) -> None:
        store.apply(put(Table.STATE, ab=b"2", aa=b"1", b=b"3"))
        rows = store.scan(Table.STATE, b"a")
        first = next(rows)
        store.apply(put(Table.STATE, ac=b"later"))
        assert [first, *rows] == [(b"aa", b"1"), (b"ab", b"2")]
        assert [key for key, _ in store.scan(Table.STATE)] == [b"aa", b"ab", b"ac", b"b"]
        assert list(store.scan(Table.STATE, b"x")) == []

    def test_rows_of_records_are_blocks(self, store: Any) -> None:
        store.apply(events(1, 200))
        store.apply(events(201, 201))
        store.apply(events(1, 3, sid=2))
        first, single, other = block(run(1, 200)), block(run(201, 201)), block(run(1, 3, sid=2))
        assert store.get(*_at(1, 1)) == first[1]
        assert store.get(*_at(1, 2)) is None
        assert store.floor(*_at(1, HEAD)) == single
        assert store.floor(*_at(1, 200)) == first
        assert store.floor(*_at(2, 0)) == single
        assert store.floor(*_at(1, 0)) is None
        assert store.ceiling(*_at(1, 0)) == first
        assert store.ceiling(*_at(1, 2)) == single
        assert store.ceiling(*_at(1, 202)) == other
        assert store.ceiling(*_at(2, 4)) is None
        assert list(store.scan(Table.RECORDS)) == [first, single, other]

    def test_a_long_run_is_cut_and_read_back_whole(self, store: Any) -> None:
        batch = events(1, 1000, payload=b"x" * 300)
        store.apply(batch)
        assert store.usage().blocks > 5
        assert flat(store.read(1, 0, 2000, 1 << 30)) == flat([batch.runs[0][1]])

    def test_read_is_bounded_in_count_and_about_in_size_but_gives_one(self, store: Any) -> None:
        store.apply(events(1, 300, payload=b"x" * 79))
        for offset in range(301, 311):
            store.apply(events(offset, offset, payload=b"x" * 79))
        store.apply(events(1, 5, sid=2))
        assert offsets(store.read(1, 0, 1000, 1 << 20)) == list(range(1, 311))
        assert store.read(1, 4, 2, 1 << 20) == [run(5, 6, payload=b"x" * 79)[1]]
        assert offsets(store.read(1, 298, 5, 1 << 20)) == [299, 300, 301, 302, 303]
        assert offsets(store.read(1, 300, 1000, 2 * 79)) == [301, 302]
        assert offsets(store.read(1, 301, 1000, 1)) == [302]
        assert store.read(1, 310, 10, 1000) == []
        assert store.read(3, 0, 10, 1000) == []
        assert offsets(store.read(2, 0, 10, 1000)) == [1, 2, 3, 4, 5]

    def test_runs_keep_what_their_records_share(self, store: Any) -> None:
        kinds = [
            Run(1, 1, REPLAYED | LATE, [b"a", b"b"], "général", 17),
            Run(3, 2, GAP, [b"{}", b"{}"], "", 18),
            Run(5, 3, BINARY, [b"", b"\0"], "general", 19),
        ]
        store.apply(batch_of((1, each) for each in kinds))
        assert store.read(1, 0, 10, 1000) == kinds
        assert store.read(1, 1, 2, 1000) == [kinds[0].cut(2, 3), kinds[1].cut(3, 4)]
        assert [record.ordinal for each in store.read(1, 0, 10, 1000) for record in each.records()] == [1, 2, 2, 2, 3, 4]

    def test_an_id_is_found_by_its_number(self, store: Any) -> None:
        batch = Batch()
        ids(batch, 1, 5, [b"five", b"six"])
        ids(batch, 1, 7, [b"seven"])
        ids(batch, 2, 1, [b"one"])
        store.apply(batch)
        assert [store.id_at(1, number) for number in range(4, 9)] == [None, b"five", b"six", b"seven", None]
        assert [store.id_at(2, number) for number in range(3)] == [None, b"one", None]
        assert store.id_at(3, 1) is None


class TestApply:
    def test_all_tables_in_one_batch(self, store: Any) -> None:
        batch = events(1, 2)
        batch.put(Table.IDS, pack_pair(1, 1), b"block")
        batch.put(Table.STATE, b"up\0x", b"state")
        cursor(batch, 1, "agent", 0)
        store.apply(batch)
        assert {table: len(rows) for table, rows in everything(store).items() if rows} == {
            Table.RECORDS: 1,
            Table.IDS: 1,
            Table.STATE: 1,
            Table.CURSORS: 1,
        }

    def test_the_last_put_of_a_key_wins_and_puts_come_after_deletes_and_drops(self, store: Any) -> None:
        store.apply(put(Table.STATE, a=b"old", b=b"old", c=b"old"))
        batch = Batch()
        batch.delete(Table.STATE, b"a")
        batch.delete(Table.STATE, b"never there")
        batch.put(Table.STATE, b"a", b"1")
        batch.put(Table.STATE, b"a", b"2")
        batch.put(Table.STATE, b"c", b"new")
        batch.drop(Table.STATE, b"b", b"d")
        store.apply(batch)
        assert list(store.scan(Table.STATE)) == [(b"a", b"2"), (b"c", b"new")]

    def test_a_drop_takes_its_range_and_is_bounded(self, store: Any) -> None:
        batch = Batch()
        for number in range(DROP_ROWS + 10):
            batch.put(Table.IDS, pack_pair(7, number), b"x")
        batch.put(Table.IDS, pack_pair(8, 0), b"x")
        store.apply(batch)
        drop = Batch()
        drop.drop(Table.IDS, pack_pair(7, 0), pack_pair(7, DROP_ROWS + 5))
        store.apply(drop)
        assert [unpack_pair(key)[1] for key, _ in store.scan(Table.IDS, b"\0\0\0\7")] == list(range(DROP_ROWS, DROP_ROWS + 10))
        store.apply(drop)
        assert [unpack_pair(key) for key, _ in store.scan(Table.IDS)] == [(7, DROP_ROWS + 5 + i) for i in range(5)] + [(8, 0)]

    @pytest.mark.parametrize("offset", [1, 5])
    def test_a_record_at_or_below_the_head_is_refused_and_nothing_of_its_batch_is_there(self, store: Any, offset: int) -> None:
        store.apply(events(1, 5))
        batch = put(Table.STATE, a=b"1")
        batch.runs.append(event(offset, payload=b"another"))
        with pytest.raises(ValueError, match="head 5"):
            store.apply(batch)
        assert store.get(Table.STATE, b"a") is None
        assert offsets(store.read(1, 0, 10, 1000)) == [1, 2, 3, 4, 5]
        store.apply(events(6, 6))

    def test_an_empty_run_is_refused(self, store: Any) -> None:
        with pytest.raises(ValueError, match="empty"):
            store.apply(batch_of([(1, Run(1, 1, 0, []))]))

    def test_records_are_put_as_runs_only_and_neither_deleted_nor_dropped(self, store: Any) -> None:
        store.apply(events(1, 5))
        row, delete, drop = Batch(), Batch(), Batch()
        row.put(Table.RECORDS, *block(event(6)))
        delete.delete(*_at(1, 1))
        drop.drop(Table.RECORDS, pack_pair(1, 0), pack_pair(1, 3))
        for batch in (row, delete, drop):
            with pytest.raises(ValueError, match="retention alone"):
                store.apply(batch)
        assert list(store.scan(Table.RECORDS)) == [block(run(1, 5))]

    def test_streams_in_one_batch_and_out_of_order(self, store: Any) -> None:
        store.apply(events(1, 2, sid=9))
        store.apply(batch_of([run(3, 4, sid=sid) for sid in (9, 3, 1, 12)]))
        assert list(store.scan(Table.RECORDS)) == [
            block(each) for each in (run(3, 4, sid=1), run(3, 4, sid=3), run(1, 2, sid=9), run(3, 4, sid=9), run(3, 4, sid=12))
        ]

    def test_a_put_deleted_in_the_same_batch_is_gone(self, store: Any) -> None:
        store.apply(put(Table.STATE, a=b"old"))
        batch = put(Table.STATE, a=b"new", b=b"new")
        batch.delete(Table.STATE, b"a")
        store.apply(batch)
        assert list(store.scan(Table.STATE)) == [(b"b", b"new")]

    def test_a_record_larger_than_any_block(self, store: Any) -> None:
        big = b"x" * 3_000_000
        store.apply(batch_of([event(1), event(2, payload=big), event(3)]))
        assert [(offset, len(payload)) for offset, payload in flat(store.read(1, 0, 10, 1 << 30))] == [(1, 7), (2, 3_000_000), (3, 7)]
        assert store.read(1, 1, 10, 100) == [event(2, payload=big)[1]]


class TestRetention:
    def test_by_age_in_whole_blocks_and_never_the_last(self, store: Any) -> None:
        store.apply(events(1, 10, wall=WALL))
        store.apply(events(11, 20, wall=WALL + 100))
        store.apply(events(21, 30, wall=WALL + 200))
        store.apply(events(1, 4, sid=2, wall=WALL))
        assert store.prune(WALL + 1000) == {}
        assert store.prune(WALL + 1000.002) == {1: 11}
        assert offsets(store.read(1, 0, 1, 1)) == [11]
        assert store.ceiling(*_at(1, 0)) == block(run(11, 20, wall=WALL + 100))
        assert store.prune(WALL + 99_000) == {1: 21}
        assert store.floor(*_at(1, HEAD)) == block(run(21, 30, wall=WALL + 200))
        assert offsets(store.read(2, 0, 10, 1000)) == [1, 2, 3, 4]
        assert store.prune(WALL + 99_000) == {}
        store.apply(events(31, 31))

    def test_many_blocks_take_more_than_one_step(self, store: Any) -> None:
        for offset in range(1, 201):
            store.apply(events(offset, offset, wall=WALL + offset))
        assert store.prune(WALL + 1150.001) == {1: 151}
        assert offsets(store.read(1, 0, 1000, 1 << 20)) == list(range(151, 201))

    def test_consumers_not_seen_are_forgotten_unless_they_are_here(self, store: Any) -> None:
        batch = Batch()
        cursor(batch, 1, "old", 3, WALL)
        cursor(batch, 1, "here", 3, WALL)
        cursor(batch, 2, "new", 3, WALL + 500)
        store.apply(batch)
        assert store.forget(WALL + 1000) == []
        assert store.forget(WALL + 1001, [(1, "here")]) == [(1, "old")]
        assert [key[4:] for key, _ in store.scan(Table.CURSORS)] == [b"here", b"new"]


def test_usage_grows_with_records(store: Any) -> None:
    before = store.usage()
    store.apply(events(1, 1000, payload=b"x" * 500))
    after = store.usage()
    assert after.records >= before.records + 500_000
    assert after.used - after.records == before.used - before.records
    assert after.limit < after.quota


def test_keyed_hashes_differ_from_plain_ones_and_stay(store: Any) -> None:
    assert len(store.hash_key()) == 32
    assert store.hash_secret("token") == store.hash_secret("token") != store.hash_secret("other")
    assert "token" not in store.hash_secret("token")


def _at(sid: int, offset: int) -> tuple[Table, bytes]:
    return Table.RECORDS, pack_pair(sid, offset)
