"""A state machine: random batches, reads, pruning, refusals and restarts; the LMDB journal and its model always agree."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sidecar.core.layout import Batch, Table, pack_pair
from sidecar.core.record import Run
from sidecar.errors import JournalFull
from sidecar.journal.model import ModelStore
from sidecar.journal.reader import Reader
from sidecar.journal.verify import Verify
from tests.journal.rows import WALL, cursor, everything, gap, ids, opened, register

SIDS = st.integers(1, 3)
KEYS = st.binary(min_size=1, max_size=3)
VALUES = st.binary(max_size=5)
OFFSETS = st.integers(0, 400)
TABLES = st.sampled_from([Table.RECORDS, Table.IDS, Table.STATE])


class Journals(RuleBasedStateMachine):
    """`head` and `ordinal` of each stream, and the next id number, are kept as the engine does."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp())
        self.store = opened(self.path)
        self.model = ModelStore(retention_s=1000.0)
        self.heads = dict.fromkeys((1, 2, 3), (0, 0))
        self.numbers = dict.fromkeys((1, 2, 3), 1)
        self.wall = WALL

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.path)

    def both(self, batch: Batch) -> None:
        self.store.apply(batch)
        self.model.apply(batch)

    @initialize()
    def registered(self) -> None:
        batch = Batch()
        for sid in (1, 2, 3):
            register(batch, f"stream-{sid}", sid, sid)
        self.both(batch)

    @rule(
        counts=st.lists(st.tuples(SIDS, st.integers(1, 300), st.booleans()), min_size=1, max_size=3),
        size=st.integers(0, 2000),
        refused=st.integers(0, 9),
        state=KEYS,
    )
    def admit(self, counts: list[tuple[int, int, bool]], size: int, refused: int, state: bytes) -> None:
        batch = Batch()
        batch.admits = True
        heads, numbers = dict(self.heads), dict(self.numbers)
        for sid, count, with_gap in counts:
            head, ordinal = heads[sid]
            payloads = [b"p" * ((head + i) * 7919 % (size + 1)) for i in range(count)]
            batch.runs.append((sid, Run(head + 1, ordinal + 1, 0, payloads, "", int(self.wall * 1000))))
            head, ordinal = head + count, ordinal + count
            if with_gap:
                head += 1
                batch.runs.append(gap(head, ordinal, sid=sid))
            heads[sid] = (head, ordinal)
            if numbers[sid] == self.numbers[sid]:
                ids(batch, sid, numbers[sid], [b"%d" % number for number in range(count)])
                numbers[sid] += count
        batch.put(Table.STATE, b"up\0" + state, b"%d" % heads[1][0])
        if refused == 0:
            self.model.fail_at(1, JournalFull("no room"))
            with pytest.raises(JournalFull):
                self.model.apply(batch)
            return
        self.both(batch)
        self.heads, self.numbers = heads, numbers

    @rule(rows=st.lists(st.tuples(KEYS, VALUES), max_size=8), deletes=st.lists(KEYS, max_size=4), low=KEYS, high=KEYS)
    def states(self, rows: list[tuple[bytes, bytes]], deletes: list[bytes], low: bytes, high: bytes) -> None:
        batch = Batch()
        for key, value in rows:
            batch.put(Table.STATE, b"\0" + key, value)
        for key in deletes:
            batch.delete(Table.STATE, b"\0" + key)
        batch.drop(Table.STATE, b"\0" + low, b"\0" + high)
        self.both(batch)

    @rule(sid=SIDS, name=st.sampled_from(["a", "b"]), back=st.integers(0, 5), ago=st.integers(0, 1500))
    def receipt(self, sid: int, name: str, back: int, ago: int) -> None:
        batch = Batch()
        cursor(batch, sid, name, max(0, self.heads[sid][0] - back), self.wall - ago)
        self.both(batch)

    @rule(sid=SIDS, upto=OFFSETS)
    def drop_ids(self, sid: int, upto: int) -> None:
        row = self.model.floor(Table.IDS, pack_pair(sid, upto))
        if row is not None:
            batch = Batch()
            batch.drop(Table.IDS, pack_pair(sid, 0), row[0])
            self.both(batch)

    @rule(forward=st.integers(0, 700))
    def prune(self, forward: int) -> None:
        self.wall += forward
        assert self.store.prune(self.wall) == self.model.prune(self.wall)
        assert self.store.forget(self.wall, [(1, "a")]) == self.model.forget(self.wall, [(1, "a")])

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        epoch = self.store.epoch
        self.store.close(clean=clean)
        self.store = opened(self.path)
        assert (self.store.epoch, self.store.lost) == (epoch, None)

    @rule()
    def crash_before_the_commit(self) -> None:
        batch = Batch()
        batch.put(Table.STATE, b"\0lost", b"1")
        self.model.stage(batch)
        self.model.crash()

    @rule(sid=SIDS, after=OFFSETS, count=st.integers(1, 300), size=st.integers(1, 100_000))
    def read(self, sid: int, after: int, count: int, size: int) -> None:
        assert self.store.read(sid, after, count, size) == self.model.read(sid, after, count, size)

    @rule(table=TABLES, sid=SIDS, offset=OFFSETS)
    def look_up(self, table: Table, sid: int, offset: int) -> None:
        key = pack_pair(sid, offset)
        mine: list[Any] = [self.store.get(table, key), self.store.floor(table, key), self.store.ceiling(table, key)]
        assert self.store.id_at(sid, offset) == self.model.id_at(sid, offset)
        assert mine == [self.model.get(table, key), self.model.floor(table, key), self.model.ceiling(table, key)]

    @rule()
    def verify(self) -> None:
        self.store.close()
        reader = Reader(self.path)
        assert Verify(reader).run().findings == []
        reader.close()
        self.store = opened(self.path)

    @invariant()
    def same(self) -> None:
        assert everything(self.store) == everything(self.model)


TestJournals = Journals.TestCase
TestJournals.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
