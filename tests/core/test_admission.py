"""Admission and its tables: keys remembered long enough, id blocks trimmed, runs dense, everything found again at start."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.actions import Admit, AdmitRun, Op, PutState, RecordGap
from sidecar.core.admission import Admission
from sidecar.core.layout import Batch, Table, cursor_key, id_in_block, pack_ids, pack_pair, state_key, unpack_ids
from sidecar.core.ordered import OrderedIndex
from sidecar.core.record import GAP, LATE, REPLAYED, Gap
from sidecar.journal.model import ModelStore


class Gate:
    """Admission on a modelled journal, one commit at a time."""

    def __init__(self, capacity: int = 100) -> None:
        self.store = ModelStore()
        self.capacity = capacity
        self.again()

    def again(self) -> None:
        self.admission = Admission(self.store, self.capacity)

    def commit(self, *ops: Op) -> list[int]:
        batch = Batch()
        self.admission.open_stream("S", "A", 1000.0, batch)
        offsets = self.admission.apply("up:A", ops, 1000.0, batch)
        fresh = self.admission.close_batch(batch)
        self.store.apply(batch)
        self.admission.committed(fresh)
        return offsets

    def rows(self, table: Table) -> int:
        return len(list(self.store.scan(table)))


def numeric(n: int) -> int:
    return n * 1000 + 7


def named(n: int) -> bytes:
    return b"key %d" % n


@pytest.mark.parametrize("make", [numeric, named])
def test_at_least_the_capacity_is_remembered_also_over_restarts(make: Any) -> None:
    gate = Gate(capacity=70)
    for n in range(400):
        assert gate.commit(Admit("S", b"x", make(n))) == [n + 1]
        if n % 37 == 0:
            gate.again()
        for back in (0, 1, 35, 69):
            if n - back >= 0:
                assert gate.commit(Admit("S", b"x", make(n - back))) == [0], f"{back} keys ago"
    assert gate.admission.books["S"].committed == 400


@pytest.mark.parametrize("make", [numeric, named])
def test_id_blocks_are_trimmed_as_fast_as_they_come_and_never_too_early(make: Any) -> None:
    """One event a commit is the worst case: a block of its own for each key."""
    gate = Gate(capacity=64)
    total = 8000
    for n in range(total):
        gate.commit(Admit("S", b"x", make(n)))
    assert gate.rows(Table.IDS) <= 4 * 64 + 2 * 1024
    for n in range(total - 64, total):
        assert gate.admission.knows("S", "", make(n))
    gate.again()
    for n in range(total - 64, total):
        assert gate.commit(Admit("S", b"x", make(n))) == [0]


def test_keys_of_large_commits_are_trimmed_by_whole_blocks() -> None:
    gate = Gate(capacity=100)
    for at in range(0, 20_000, 1000):
        gate.commit(AdmitRun("S", [b"x"] * 1000, [named(n) for n in range(at, at + 1000)]))
    assert gate.rows(Table.IDS) <= 3
    for restart in (False, True):
        if restart:
            gate.again()
        assert all(gate.admission.knows("S", "", named(n)) for n in range(19_900, 20_000))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["", "d1", "d2"]), st.one_of(st.integers(0, 40), st.binary(max_size=2)), st.booleans()),
        max_size=80,
    ),
    st.integers(1, 9),
)
def test_admission_drops_exactly_what_it_knows(events: list[tuple[str, Any, bool]], step: int) -> None:
    gate = Gate(capacity=1000)
    known: set[tuple[str, Any]] = set()
    head = 0
    for at in range(0, len(events), step):
        chunk = events[at : at + step]
        ops: list[Op] = []
        for domain, key, run in chunk:
            ops.append(AdmitRun("S", [b"x"], [key], domain) if run else Admit("S", b"x", key, domain))
        if at % 2:
            ops = [AdmitRun("S", [b"x"] * len(chunk), [key for _, key, _ in chunk], domains=[domain for domain, _, _ in chunk])]
        expected = []
        for domain, key, _ in chunk:
            if key != b"" and (domain, key) in known:
                expected.append(0)
            else:
                head += 1
                expected.append(head)
                known.add((domain, key))
        assert gate.commit(*ops) == expected
        if at % 3 == 0:
            gate.again()


def test_a_run_whose_events_name_their_domains_is_admitted_as_they_would_be_one_by_one() -> None:
    gate = Gate()
    assert gate.commit(AdmitRun("S", [b"a", b"b", b"c"], [1, 1, 2], domains=["d1", "d2", "d1"])) == [1, 2, 3]
    keys = [2, 2, b"two", b"two", b"", 1 << 64]
    run = AdmitRun("S", [b"d", b"e", b"f", b"g", b"h", b"i"], keys, domains=["d1", "d2", "d1", "d2", "d1", "d2"])
    assert gate.commit(run) == [0, 4, 5, 6, 7, 8]
    assert gate.commit(run) == [0, 0, 0, 0, 9, 0]
    gate.again()
    assert gate.commit(run) == [0, 0, 0, 0, 10, 0]
    assert gate.commit(AdmitRun("S", [b"j"], [3], "d1"), Admit("S", b"k", 3, "d2"), Admit("S", b"l", 2, "d1")) == [11, 12, 0]
    runs = gate.store.read(1, 0, 100, 1 << 20)
    assert b"".join(p for run in runs for p in run.payloads) == b"abcefghihhjk"
    assert [run.domain for run in runs if b"a" in run.payloads or b"e" in run.payloads] == ["", ""]


def test_a_run_with_known_ones_among_it() -> None:
    gate = Gate()
    assert gate.commit(AdmitRun("S", [b"a", b"b", b"c"], [1, 2, 3])) == [1, 2, 3]
    assert gate.commit(AdmitRun("S", [b"b", b"d", b"c", b"e"], [2, 4, 3, 5])) == [0, 4, 0, 5]
    assert gate.commit(AdmitRun("S", [b"f", b"g", b"h"], [6, b"six", 6])) == [6, 7, 0]
    assert gate.commit(AdmitRun("S", [b"i", b"i"], [7, 7])) == [8, 0]
    assert gate.commit(AdmitRun("S", [], [])) == []
    assert gate.admission.duplicates == 4
    payloads = [p for run in gate.store.read(1, 0, 100, 1 << 20) for p in run.payloads]
    assert payloads == [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"i"]


def test_offsets_are_dense_and_gaps_take_no_ordinal() -> None:
    gate = Gate()
    gap = Gap("lost", "seq", 2, 3, 2)
    gate.commit(Admit("S", b"a", 1), RecordGap("S", gap), Admit("S", b"b", 4, flags=REPLAYED), Admit("S", b"c", 5, "d", LATE))
    gate.commit(RecordGap("S", gap), RecordGap("S", gap), Admit("S", b"d", 6))
    records = [r for run in gate.store.read(1, 0, 100, 1 << 20) for r in run.records()]
    assert [(r.offset, r.ordinal) for r in records] == [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (6, 3), (7, 4)]
    assert [r.flags for r in records] == [0, GAP, REPLAYED, LATE, GAP, GAP, 0]
    assert records[1].gap() == gap and records[3].domain == "d"
    book = gate.admission.books["S"]
    assert (book.committed, book.committed_ordinal) == (7, 4)
    gate.again()
    book = gate.admission.books["S"]
    assert (book.head, book.ordinal, book.committed, book.committed_ordinal, book.first) == (7, 4, 7, 4, 1)


def test_an_unopened_stream_is_an_error() -> None:
    with pytest.raises(KeyError):
        Gate().admission.apply("up:A", [Admit("S", b"x", b"k")], 0.0, Batch())


def test_domains_have_memories_of_their_own() -> None:
    gate = Gate()
    assert gate.commit(Admit("S", b"x", b"k", "d1"), Admit("S", b"x", b"k", "d2"), Admit("S", b"x", 1, "d1")) == [1, 2, 3]
    gate.again()
    assert gate.commit(Admit("S", b"x", b"k", "d1"), Admit("S", b"x", b"k", "d2"), Admit("S", b"x", 1, "d2")) == [0, 0, 4]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 30), st.lists(st.one_of(st.integers(0, 60), st.lists(st.integers(0, 60), max_size=5)), max_size=120))
def test_numbers_are_remembered_exactly(capacity: int, steps: list[Any]) -> None:
    index = OrderedIndex(capacity)
    order: list[int] = []
    for step in steps:
        recent = set(order[-capacity:])
        if isinstance(step, list):
            before = index.last
            if index.add_rising(step):
                assert not recent & set(step) and step == sorted(set(step))
                order += step
            else:
                assert index.last == before
        else:
            new = index.add(step)
            assert not (new and step in recent)
            assert new or step in order
            if new:
                order.append(step)
        assert index.last == len(order)
        assert all(key in index for key in order[-capacity:])
        assert index.oldest <= max(1, len(order) - capacity + 1)
        assert index.memory <= 8 * (2 * capacity + 2 * 5)


@given(st.lists(st.binary(max_size=40), max_size=40))
def test_id_blocks_give_back_each_key(keys: list[bytes]) -> None:
    block = pack_ids(keys)
    assert unpack_ids(block) == keys
    assert [id_in_block(block, i) for i in range(len(keys))] == keys
    assert id_in_block(block, len(keys)) is None


def test_keys_sort_as_numbers_do() -> None:
    pairs = [(1, 2), (1, 255), (1, 256), (2, 0), (300, 1 << 40)]
    assert sorted(pack_pair(*p) for p in pairs) == [pack_pair(*p) for p in pairs]
    assert cursor_key(1, "a") < cursor_key(2, "a")


def test_a_state_key_too_long_for_the_journal_is_refused() -> None:
    with pytest.raises(ValueError, match="511"):
        state_key("up:A", "x" * 511)


def test_states_are_the_owners_own() -> None:
    gate = Gate()
    gate.commit(PutState("k", b"1"), PutState("l", b"2"), PutState("k", b"3"), PutState("l", None))
    assert dict(gate.admission.states("up:A")) == {"k": b"3"}
    assert dict(gate.admission.states("up:")) == {} and dict(gate.admission.states("up:AB")) == {}
