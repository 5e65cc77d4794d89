"""When the journal does not take writes: what is kept, what is thrown away, and how the engine goes on (contract: disk full)."""

from __future__ import annotations

import msgspec
import pytest

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.layout import Batch, CursorRow, StreamRow, Table, state_key
from sidecar.core.record import Gap
from sidecar.journal.model import ModelStore
from tests.core.fake import DOWN, Fake

FULL = OSError("disk full")


def ready(**options: object) -> Fake:
    """A stream with events a, b on disk, taken by the session s."""
    world = Fake(**options)  # type: ignore[arg-type]
    world.own()
    world.admit("a", "b")
    world.run()
    world.attach("s")
    world.run()
    world.receipt("s", 2)
    world.wait(0.02)
    return world


def test_nothing_of_a_failed_write_is_handed_over_and_it_heals_without_a_hole() -> None:
    world = ready()
    world.admit("c")
    world.disk(FULL)
    assert world.names("s") == ["a", "b"]
    assert world.engine.paused and world.logged("does not take writes")
    world.wait(2.5)
    assert not world.engine.paused
    world.admit("c", "d")
    world.run()
    assert world.names("s") == ["a", "b", "c", "d"]
    assert [r.offset for r in world.journaled()] == [1, 2, 3, 4]


def test_a_disk_that_takes_small_writes_alone_is_tried_ever_later_until_it_held_for_a_minute() -> None:
    """Each try ends in a reconnect upstream: one a second would be a storm."""
    world = ready()
    waited = []
    for _ in range(7):
        world.admit("c")
        world.disk(FULL)
        waited.append(0)
        while world.engine.paused:
            world.wait(1)
            waited[-1] += 1
    assert waited[0] <= 2 and waited == sorted(waited) and 15 <= waited[-2] <= waited[-1] <= 17
    world.wait(61)
    world.admit("c")
    world.disk(FULL)
    world.wait(2.5)
    assert not world.engine.paused


def test_what_was_admitted_behind_a_failed_write_is_thrown_away_with_it() -> None:
    """Else the later events would stand in the journal with a hole before them."""
    world = ready()
    world.admit("c")
    world.admit("d")
    world.disk(FULL)
    world.attach("t", "other")
    world.wait(0.5)
    assert [r.payload for r in world.journaled()] == [b"a", b"b"]
    world.wait(3)
    world.admit("c", "d")
    world.run()
    assert [r.payload for r in world.journaled()] == [b"a", b"b", b"c", b"d"]


def test_the_upstream_half_begins_again_from_what_is_on_disk() -> None:
    world = ready()
    world.admit("c", state=("cursor", b"1"))
    world.run()
    world.admit("d", state=("cursor", b"2"), ticket="t")
    first = world.ups["A"]
    world.disk(FULL)
    world.wait(2.5)
    assert world.ups["A"] is not first
    assert world.ups["A"].got(ev.Started)[0].state == {"cursor": b"1"}
    assert [c.credential for c in world.ups["A"].got(ev.CredentialSeen)] == ["t1"]
    assert [a.count for a in world.ups["A"].got(ev.Attached)] == [1]
    assert not world.ups["A"].got(ev.Committed)


def test_links_timers_and_requests_of_a_dropped_half_are_gone() -> None:
    world = ready()
    world.up("A", act.OpenLink("l", "/x"), act.StartTimer("t", 5), act.Request("r", "GET", "/"))
    owner, generation, _ = world.ports.links[-1]
    world.admit("c")
    world.disk(FULL)
    assert (owner, "l", None) in world.ports.closed_links
    assert (owner, "t") not in world.ports.timers and (owner, "r") in world.ports.cancelled
    world.wait(2.5)
    world.engine.link(owner, generation, ev.LinkOpened("l"))
    assert not world.ups["A"].got(ev.LinkOpened)


def test_receipts_are_kept_and_reach_the_disk_though_nothing_else_happens() -> None:
    world = ready()
    world.admit("c")
    world.run()
    world.receipt("s", 3)
    world.fire("engine", "receipts")
    world.admit("d")
    world.disk(FULL)
    assert world.durable() == 2
    world.wait(2.5)
    assert world.durable() == 3


def test_receipts_go_into_the_headroom_while_nothing_is_admitted() -> None:
    world = ready()
    world.admit("c")
    world.run()
    world.store.full = True
    world.admit("d")
    world.receipt("s", 3)
    world.run()
    assert world.engine.paused
    world.wait(2.5)
    assert world.engine.paused, "the disk is full still"
    assert world.durable() == 3


def test_a_disk_that_refuses_everything_is_not_asked_all_the_time() -> None:
    world = ready()
    world.store.disk_full = True
    world.admit("c")
    world.run()
    world.receipt("s", 2)
    before = world.ports.written_batches
    world.wait(30)
    assert world.ports.written_batches - before <= 70


def test_a_window_blocked_on_the_disk_opens_when_it_heals() -> None:
    world = Fake(window=2)
    world.own()
    world.admit("a", "b", "c", "d")
    world.run()
    world.attach("s")
    world.run()
    assert world.names("s") == ["a", "b"]
    world.store.disk_full = True
    world.receipt("s", 2)
    world.wait(5)
    assert world.names("s") == ["a", "b"], "beyond the last receipt on disk by more than the window"
    world.store.disk_full = False
    world.wait(2.5)
    assert world.names("s") == ["a", "b", "c", "d"]


@pytest.mark.parametrize("busy", [False, True])
def test_what_downstream_halves_want_kept_survives(busy: bool) -> None:
    world = ready()
    world.do(act.Commit([act.PutState("x", b"1")], "tx"))
    world.disk(FULL)
    world.do(act.Commit([act.PutState("y", b"2")], "ty"))
    if busy:
        # Receipts go on meanwhile, in batches of their own.
        world.admit("c")
        world.attach("t", "other")
        world.fire("engine", "receipts")
        world.disk()
    assert not world.down.got(ev.Committed)
    world.wait(2.5)
    assert world.store.get(Table.STATE, state_key(DOWN, "x")) == b"1"
    assert world.store.get(Table.STATE, state_key(DOWN, "y")) == b"2"
    assert {c.ticket for c in world.down.got(ev.Committed)} == {"tx", "ty"}
    assert {"tx", "ty"} <= set(world.ports.released)


def test_a_stream_that_was_being_registered_keeps_its_number_and_birth() -> None:
    world = Fake(lost=True)
    world.run()
    world.own()
    world.attach("s")
    facts = world.down.view.facts("S")
    world.disk(FULL)
    # Into the headroom goes its consumer's row, under the stream's number.
    world.wait(0.5)
    world.own("B", "T", "t2")
    world.wait(3)
    row = msgspec.json.decode(world.store.get(Table.STREAMS, b"sS") or b"", type=StreamRow)
    assert facts is not None and row.base == facts.base
    other = msgspec.json.decode(world.store.get(Table.STREAMS, b"sT") or b"", type=StreamRow)
    assert other.sid != row.sid
    assert [r.gap().reason for r in world.journaled()] == ["journal_lost"], "once, not twice"
    world.admit("a")
    world.run()
    assert world.names("s") == ["a"]


def test_a_gap_of_a_failed_write_is_counted_once() -> None:
    world = ready()
    gap = act.Commit([act.RecordGap("S", Gap("lost", "seq", 3, 4, 2))])
    world.up("A", gap)
    world.disk(FULL)
    world.wait(2.5)
    world.up("A", gap)
    world.run()
    assert world.engine.gaps["S"].count == 1 and len(world.engine.gaps["S"].last) == 1
    assert world.ports.counts["gaps"] == 1
    world.reboot()
    assert world.engine.gaps["S"].count == 1


def test_a_restarted_half_does_not_begin_while_the_journal_refuses() -> None:
    world = ready(strict=False)
    world.store.full = True
    world.up("A", act.Commit([act.PutState("too long" * 100, b"x")]))
    assert world.logged("internal error")
    world.attach("t", "other")
    world.up("A", act.OpenLink("l", "/x"))
    world.do(act.Own("B", "t2", "", ["T"]))
    world.up("B", act.Commit([act.Admit("T", b"x", b"x")]))
    world.run()
    assert world.engine.paused
    world.wait(5)
    assert world.engine.accounts.by_name["A"].half is None
    world.store.full = False
    world.wait(2.5)
    assert world.engine.accounts.by_name["A"].half is not None


def test_after_a_failed_first_write_a_crash_is_not_taken_for_a_planned_stop() -> None:
    world = ready()
    world.engine.close()
    world.run()
    world.reboot()
    world.disk(FULL)
    world.own()
    world.wait(3)
    assert world.store.get(Table.STATE, state_key("engine", "clean")) is None


def test_a_write_that_was_applied_but_reported_as_failed_is_found() -> None:
    world = ready()
    world.admit("c")
    batch = world.ports.batch
    assert batch is not None
    world.store.apply(batch)
    world.ports.batch = None
    world.engine.written(OSError("unsure"))
    world.wait(2.5)
    world.admit("c", "d")
    world.run()
    assert world.names("s") == ["a", "b", "c", "d"]
    assert [r.payload for r in world.journaled()] == [b"a", b"b", b"c", b"d"]


@pytest.mark.parametrize("at", range(1, 14))
def test_a_failure_at_any_write_loses_nothing_that_was_promised(at: int) -> None:
    store = ModelStore()
    store.fail_at(at, OSError("no"))
    world = Fake(store, window=2)
    wanted: list[str] = []
    world.own()
    world.attach("s")
    for name in "abcdef":
        wanted.append(name)
        world.run()
        if world.engine.paused:
            world.wait(2.5)
        # An upstream half offers again whatever the journal does not have.
        world.admit(*wanted, state=("cursor", name.encode()))
        world.run()
        on_disk = [r.payload.decode() for r in world.journaled()]
        assert world.names("s") == on_disk[: len(world.names("s"))], "handed over, but not on disk"
        if world.names("s"):
            world.receipt("s", len(world.names("s")))
        world.wait(0.02)
    world.wait(3)
    world.admit(*wanted)
    world.wait(1)
    for _ in range(6):
        world.receipt("s", len(world.names("s")))
        world.wait(0.05)
    assert world.names("s") == wanted
    assert world.durable() == 6


def test_a_row_put_and_deleted_in_one_batch_is_gone() -> None:
    batch, store = Batch(), ModelStore()
    batch.put(Table.STATE, b"k", b"1")
    batch.put(Table.STATE, b"other", b"1")
    batch.delete(Table.STATE, b"k")
    store.apply(batch)
    assert store.get(Table.STATE, b"k") is None and store.get(Table.STATE, b"other") == b"1"
    again = Batch()
    again.delete(Table.STATE, b"k")
    again.put(Table.STATE, b"k", b"2")
    store.apply(again)
    assert store.get(Table.STATE, b"k") == b"2"


def test_state_put_and_deleted_while_one_write_is_under_way_is_gone() -> None:
    world = ready()
    world.do(act.Commit([act.PutState("x", b"0")]))
    world.do(act.Commit([act.PutState("token", b"A")]))
    world.do(act.Commit([act.PutState("token", None)]))
    world.run()
    assert world.store.get(Table.STATE, state_key(DOWN, "token")) is None


def test_consumer_rows_are_read_back() -> None:
    row = CursorRow(7, 1.5, "handled")
    assert msgspec.json.decode(msgspec.json.encode(row), type=CursorRow) == row
