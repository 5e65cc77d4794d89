"""Delivery as sessions see it: order, windows, receipts on disk, several sockets of one consumer, seeks."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.courier import TAIL_BYTES
from sidecar.core.delivery import WINDOW_BYTES
from sidecar.core.layout import Table
from sidecar.core.record import Gap
from sidecar.core.view import EngineView
from sidecar.journal.model import ModelStore
from tests.core.fake import Fake


def names(n: int, start: int = 1) -> list[str]:
    return [f"e{i}" for i in range(start, start + n)]


def world(n: int = 0, **options: Any) -> Fake:
    """A stream with events e1 … en on disk, each in a block of its own."""
    made = Fake(**options)
    made.own()
    made.run()
    for name in names(n):
        made.admit(name)
        made.run()
    return made


def done(made: Fake) -> list[tuple[str, int, int, bool]]:
    return [(e.mark, e.events, e.head, e.trimmed) for e in made.down.got(ev.SeekDone)]


def pruned(made: Fake, below: int) -> None:
    """Retention removes what is below an offset; the engine is told."""
    sid = made.engine.admission.books["S"].sid
    blocks = made.store._blocks[sid]
    rows = made.store._tables[Table.RECORDS]
    while int.from_bytes(blocks[0][4:12], "big") < below:
        rows.delete(blocks.pop(0))
    made.engine.pruned({sid: below})


# --- window and receipts -----------------------------------------------------------------------------------------------------------


def test_records_come_in_order_and_a_window_at_a_time() -> None:
    made = world(20, window=8)
    made.attach("s")
    made.run()
    assert made.names("s") == names(8)
    made.receipt("s", 8)
    assert made.names("s") == names(8), "the receipt is not on disk yet"
    made.run()
    assert made.names("s") == names(16)
    made.receipt("s", 12)
    made.run()
    assert made.names("s") == names(20)


def test_a_window_of_one() -> None:
    made = world(3, window=1)
    made.attach("s")
    for n in (1, 2, 3):
        made.run()
        assert made.names("s") == names(n)
        made.receipt("s", n)
    made.run()
    assert made.durable() == 3


def test_at_most_a_mebibyte_is_out_and_at_least_one_frame() -> None:
    made = Fake(window=256)
    made.own()
    big = "x" * (WINDOW_BYTES * 2 // 5)
    made.admit(*(f"{i}{big}" for i in range(5)), "y" * (3 * WINDOW_BYTES))
    made.run()
    made.attach("s")
    made.run()
    assert len(made.names("s")) == 2
    made.receipt("s", 2)
    made.run()
    made.receipt("s", 4)
    made.run()
    assert len(made.names("s")) == 5, "the huge one does not fit behind another"
    made.receipt("s", 5)
    made.run()
    assert len(made.names("s")) == 6


def test_a_receipt_is_on_disk_within_20_ms() -> None:
    made = world(2)
    made.attach("s")
    made.run()
    made.wait(1)
    made.receipt("s", 2)
    made.wait(0.02)
    assert made.durable() == 2


def test_a_receipt_that_comes_while_a_write_is_under_way_is_on_disk_20_ms_later() -> None:
    made = world(2)
    made.attach("s")
    made.wait(1)
    made.admit("x")
    made.receipt("s", 2)
    # The timer runs out before the write is done, and nothing else is to be written.
    made.fire("engine", "receipts")
    made.run()
    assert made.durable() == 2


def test_receipts_ride_in_the_next_commit() -> None:
    made = world(2)
    made.attach("s")
    made.wait(1)
    made.receipt("s", 2)
    before = made.ports.written_batches
    made.admit("x")
    made.run()
    assert made.durable() == 2 and made.ports.written_batches == before + 1


def test_evidence_counts_only_for_what_was_sent_on_the_session() -> None:
    made = world(20, window=4)
    made.attach("s")
    made.run()
    made.attach("t")
    made.run()
    made.receipt("t", 20)
    made.wait(0.05)
    assert made.cursor() == 4
    made.receipt("gone", 20)
    made.wait(0.05)
    assert made.durable() == 4


def test_a_new_session_waits_for_the_receipts_of_the_one_before() -> None:
    """Frames beyond the last receipt on disk: at most a window, also over a reconnect (the disk is slow)."""
    made = world(30, window=8)
    made.attach("s")
    made.run()
    made.receipt("s", 8)
    made.do(act.Detach("s"))
    made.attach("t")
    made.ports.reads.clear()
    assert made.durable() is None or made.durable() == 0
    assert len(made.names("t")) == 0, "8 are out beyond what is on disk"
    made.run()
    assert made.names("t") == names(8, 9)


def test_a_slow_session_reads_from_the_journal_and_holds_no_memory() -> None:
    made = Fake(window=4)
    made.own()
    made.attach("slow")
    made.attach("fast", "other")
    big = "x" * 100_000
    for i in range(100):
        made.admit(f"{i:03}{big}")
        made.run()
        made.receipt("fast", i + 1)
        made.run()
    assert len(made.names("fast")) == 100
    assert made.engine.courier.tails["S"].size <= TAIL_BYTES
    assert len(made.names("slow")) == 4
    for at in range(4, 101, 4):
        made.receipt("slow", at)
        made.run()
    assert [n[:3] for n in made.names("slow")] == [f"{i:03}" for i in range(100)]


def test_a_stream_that_nobody_reads_keeps_no_tail() -> None:
    made = world(6)
    assert made.engine.courier.tails == {}
    made.attach("s")
    made.admit("x")
    made.run()
    assert "S" in made.engine.courier.tails
    made.do(act.Detach("s"))
    made.admit("y")
    made.run()
    assert made.engine.courier.tails == {}
    made.attach("s")
    made.run()
    assert made.names("s")[-2:] == ["x", "y"]


def test_a_new_consumer_begins_with_the_oldest_kept_or_at_the_head() -> None:
    made = world(6)
    pruned(made, 4)
    made.attach("s", "old")
    made.attach("t", "new", fresh="head")
    made.run()
    assert [r.is_gap for r in made.handed("s")] == [False] * 3, "it asked for what is kept: no gap"
    assert made.names("s") == names(3, 4)
    assert made.names("t") == []


def test_a_known_consumer_goes_on_after_its_cursor_also_after_a_kill() -> None:
    made = world(6, window=4)
    made.attach("s")
    made.run()
    made.receipt("s", 3)
    made.wait(0.05)
    made.reboot()
    made.own()
    made.attach("s")
    made.run()
    assert made.names("s") == ["e4", "e5", "e6"]
    assert made.ports.counts["redelivered"] == 3


def test_after_a_planned_stop_nothing_counts_as_repeated() -> None:
    made = world(6)
    made.attach("s")
    made.run()
    made.receipt("s", 6)
    made.engine.drain()
    assert not made.engine.drained()
    made.wait(0.05)
    assert made.engine.drained()
    made.engine.close()
    made.run()
    made.reboot()
    made.own()
    made.admit("x")
    made.attach("s")
    made.run()
    assert made.names("s") == ["x"] and "redelivered" not in made.ports.counts


def test_while_draining_nothing_new_is_handed_over() -> None:
    made = world(2)
    made.attach("s")
    made.run()
    made.engine.drain()
    made.admit("x")
    made.run()
    assert made.names("s") == ["e1", "e2"] and not made.engine.drained()
    made.receipt("s", 2)
    made.wait(0.05)
    assert made.engine.drained()


# --- several sockets of one consumer (R26) -------------------------------------------------------------------------------------------


def test_three_sockets_each_gets_everything_and_the_newest_moves_the_cursor() -> None:
    made = world(4)
    for name in ("a", "b", "c"):
        made.attach(name)
    made.run()
    assert made.names("a") == made.names("b") == made.names("c") == names(4)
    made.receipt("a", 4)
    made.wait(0.05)
    assert made.durable() == 4, "the only one with working receipts"
    made.admit(*names(4, 5))
    made.run()
    made.receipt("c", 6)
    made.receipt("a", 8)
    made.wait(0.05)
    assert made.durable() == 6, "the newest with receipts moves it"
    made.do(act.Detach("c"))
    made.wait(0.05)
    assert made.durable() == 8, "the older takes over"
    made.receipt("b", 5)
    made.wait(0.05)
    assert made.durable() == 8, "never back"


def test_a_frozen_newest_socket_does_not_hold_the_cursor() -> None:
    made = world(4)
    made.attach("a")
    made.attach("frozen")
    made.run()
    made.receipt("a", 4)
    made.wait(0.05)
    assert made.durable() == 4


# --- what pongs prove ------------------------------------------------------------------------------------------------------------------


def test_weak_pongs_are_credited_after_a_second_of_quiet() -> None:
    made = world(5, window=256)
    made.attach("s", quality="buffered")
    made.run()
    made.receipt("s", 5)
    made.wait(0.9)
    assert made.cursor() == 0
    made.wait(0.2)
    assert made.durable() == 5


def test_weak_pongs_at_the_windows_end_do_not_stop_for_ever() -> None:
    made = world(12, window=4)
    made.attach("s", quality="buffered")
    for at in (2, 4, 6, 8, 10, 12):
        made.run()
        assert len(made.names("s")) == at, "half a window in each round trip"
        made.receipt("s", at)
        made.wait(1.1)
    assert made.durable() == 12


def test_weak_pongs_are_credited_64_records_late_while_busy() -> None:
    made = world(0, window=256)
    made.attach("s", quality="buffered")
    for i in range(1, 101):
        made.admit(f"e{i}")
        made.run()
        made.receipt("s", i)
        assert made.cursor() == max(0, i - 64)


def test_weak_pongs_keep_a_backlog_moving_without_a_pause() -> None:
    made = world(1000, window=256)
    made.attach("s", quality="buffered")
    made.run()
    before = -1
    while (handed := len(made.names("s"))) > before:
        before = handed
        made.receipt("s", handed)
        made.run()
    assert handed == 1000, "each window waits for a second of quiet"


def test_a_downgrade_is_counted_logged_and_shown() -> None:
    made = world(5, window=4)
    made.attach("s")
    made.run()
    made.do(act.Downgrade("s", "written"))
    made.do(act.Downgrade("s", "written"))
    assert made.ports.counts["downgrades"] == 1 and made.logged("receipts of a client are weaker")
    assert made.engine.courier.consumers["S", "agent"].quality == "written"
    made.receipt("s", 4)
    made.wait(0.05)
    assert made.names("s") == names(5)


def test_a_cursor_the_client_states_counts_up_to_the_head() -> None:
    made = world(30, window=4)
    made.attach("s")
    made.run()
    made.do(act.ClientCursor("s", 99))
    made.wait(0.05)
    assert made.durable() == 30
    made.wait(0.05)
    for at in range(4, 31, 4):
        made.receipt("s", at)
        made.run()
    assert made.names("s") == names(30), "what was on its way comes"


def test_a_paced_session_moves_by_the_transport_and_its_cursor_by_acks_alone() -> None:
    made = world(12, window=4)
    made.attach("s", "native:x", paced=True, fresh="oldest")
    made.run()
    made.receipt("s", 4)
    made.run()
    assert len(made.names("s")) == 8
    made.wait(0.05)
    assert made.durable("native:x") == 0
    made.do(act.ClientCursor("s", 6))
    made.wait(0.05)
    assert made.durable("native:x") == 6


# --- seeks (R25) -----------------------------------------------------------------------------------------------------------------------


def seek(made: Fake, ordinal: int, mark: str = "m", **options: Any) -> None:
    made.do(act.Seek("s", ordinal, mark, **options))


def test_a_seek_at_rest_gives_what_is_behind_it_then_its_mark() -> None:
    made = world(6)
    made.attach("s")
    made.run()
    made.receipt("s", 6)
    made.wait(0.05)
    seek(made, 2)
    made.run()
    assert made.names("s")[6:] == names(4, 3)
    assert done(made) == [("m", 4, 6, False)]
    assert isinstance(made.down.inputs[-1], ev.SeekDone), "behind the records"


@pytest.mark.parametrize("ordinal", [6, 7, 10**18])
def test_a_seek_at_or_above_the_head_gives_nothing(ordinal: int) -> None:
    made = world(6)
    made.attach("s")
    made.run()
    seek(made, ordinal)
    made.run()
    assert made.names("s") == names(6) and done(made) == [("m", 0, 6, False)]


@pytest.mark.parametrize("ordinal", [0, -1, -(10**18)])
def test_a_seek_from_the_beginning(ordinal: int) -> None:
    made = world(6)
    made.attach("s")
    made.run()
    seek(made, ordinal)
    made.run()
    assert made.names("s")[6:] == names(6)
    assert done(made)[0][:2] == ("m", 6)


def test_a_seek_while_a_read_is_under_way() -> None:
    made = world(30, window=4)
    made.attach("s")
    assert made.ports.reads
    seek(made, 10)
    made.run()
    assert made.names("s") == names(4, 11)
    seek(made, 5)
    made.run()
    assert made.names("s")[4:] == names(4, 6)


def test_a_seek_to_what_was_handed_over_is_a_receipt_and_one_beyond_is_not() -> None:
    made = world(20, window=8)
    made.attach("s")
    made.run()
    seek(made, 5)
    made.wait(0.05)
    assert made.durable() == 5
    assert made.names("s")[-8:] == names(8, 6)
    seek(made, 18)
    made.wait(0.05)
    assert made.durable() == 5, "18 was never sent to this consumer (R25)"
    made.receipt("s", 13)
    made.wait(0.05)
    assert made.durable() == 13
    assert made.names("s")[-2:] == ["e19", "e20"]


def test_two_seeks_in_a_row_count_each_its_own() -> None:
    made = world(6)
    made.attach("s")
    made.do(act.Seek("s", 2, "m1"), act.Seek("s", 4, "m2"))
    made.run()
    assert [d[:2] for d in done(made)] == [("m1", 4), ("m2", 2)]
    assert made.names("s") == ["e3", "e4", "e5", "e6"], "both asked for these, and nothing had gone out yet"


def test_two_seeks_in_a_row_while_the_backlog_comes() -> None:
    made = world(20, window=4)
    made.attach("s")
    made.run()
    seek(made, 0, "m1")
    seek(made, 2, "m2")
    for _ in range(8):
        made.run()
        made.receipt("s", made.handed("s")[-1].offset)
        made.wait(0.05)
    assert done(made) == [("m1", 20, 20, False), ("m2", 18, 20, False)]
    handed = made.names("s")
    assert handed[-18:] == names(18, 3)


def test_a_seek_after_the_beginning_of_the_backlog_never_skips() -> None:
    made = world(30, window=8)
    made.attach("s")
    made.run()
    made.receipt("s", 8)
    made.run()
    seek(made, 4)
    for _ in range(8):
        made.run()
        made.receipt("s", made.handed("s")[-1].offset)
        made.wait(0.05)
    assert list(dict.fromkeys(made.names("s"))) == names(30)
    assert done(made) == [("m", 26, 30, False)]


def test_on_the_wire_is_not_sent_twice() -> None:
    made = world(6)
    made.attach("s")
    made.run()
    seek(made, 0, on_wire=True)
    made.run()
    assert made.names("s") == names(6) and done(made) == [("m", 6, 6, False)]


def test_on_the_wire_skips_nothing_that_was_not_sent_on_this_socket() -> None:
    """Another socket of this agent moved the cursor: what this one asks for begins before it."""
    made = world(6)
    made.attach("other")
    made.run()
    made.receipt("other", 4)
    made.wait(0.05)
    made.attach("s")
    made.run()
    assert made.names("s") == ["e5", "e6"]
    seek(made, 1, on_wire=True)
    made.run()
    assert made.names("s")[2:] == names(5, 2)
    assert done(made) == [("m", 5, 6, False)]


def test_on_the_wire_behind_a_receipt_rewinds() -> None:
    made = world(6)
    made.attach("s")
    made.run()
    made.receipt("s", 3)
    made.run()
    seek(made, 1, on_wire=True)
    made.run()
    assert made.names("s")[6:] == names(5, 2)


def test_an_attach_with_a_stated_place() -> None:
    made = world(6)
    made.attach("a")
    made.run()
    made.do(act.Detach("a"))
    made.attach("s", after_ordinal=4, mark="m")
    made.wait(0.05)
    assert made.names("s") == ["e5", "e6"] and made.durable() == 4
    assert done(made) == [("m", 2, 6, False)]
    assert "redelivered" not in made.ports.counts, "it asked for them"


def test_a_seek_below_what_is_kept_says_so() -> None:
    made = world(8)
    pruned(made, 5)
    made.attach("s")
    made.run()
    seek(made, 2)
    made.run()
    assert done(made) == [("m", 4, 8, True)]
    seek(made, 4, "n")
    made.run()
    assert done(made)[1] == ("n", 4, 8, False), "nothing that it asked for is gone"


def test_gaps_take_offsets_but_no_ordinals() -> None:
    made = world(2)
    made.up("A", act.Commit([act.RecordGap("S", Gap("lost", "seq", 3, 4, 2)), act.Admit("S", b"e3", b"ke3")]))
    made.run()
    made.attach("s")
    made.run()
    seek(made, 2)
    made.run()
    assert made.names("s") == ["e1", "e2", "e3", "e3"]
    assert done(made) == [("m", 1, 3, False)]
    seek(made, 3, "n")
    made.run()
    assert done(made)[1] == ("n", 0, 3, False)


def test_retention_during_reading_becomes_a_gap_in_its_place() -> None:
    made = world(20, window=4)
    made.attach("s")
    made.run()
    pruned(made, 11)
    made.receipt("s", 4)
    made.run()
    made.receipt("s", made.handed("s")[-1].offset)
    made.run()
    shown = made.handed("s")[4:]
    assert shown[0].is_gap and shown[0].gap() == Gap("retention", "offset", 5, 10)
    assert [r.payload.decode() for r in shown[1:5]] == names(4, 11)
    assert made.ports.counts["retention_gaps"] == 1


def test_what_retention_dropped_is_a_gap_though_the_tail_still_has_it() -> None:
    made = world(window=40)
    made.attach("reads", "other")
    for name in names(20):
        made.admit(name)
        made.run()
    assert made.engine.courier.tails["S"].after(0, 1), "the tail reaches back to the first event"
    pruned(made, 11)
    made.attach("s", "late", after=0)
    made.run()
    shown = made.handed("s")
    assert shown[0].is_gap and shown[0].gap() == Gap("retention", "offset", 1, 10)
    assert [r.payload.decode() for r in shown[1:]] == names(10, 11)


def test_retention_beyond_the_head_of_a_seek_ends_it() -> None:
    made = world(10, window=4)
    made.attach("s")
    made.run()
    seek(made, 0)
    for name in names(20, 11):
        made.admit(name)
        made.run()
    pruned(made, 25)
    made.receipt("s", 4)
    for _ in range(6):
        made.wait(0.05)
        made.receipt("s", made.handed("s")[-1].offset)
    assert made.names("s")[-6:] == names(6, 25)
    assert done(made) == [("m", 4, 10, True)]


def test_a_prune_of_which_the_engine_has_not_heard_yet() -> None:
    made = world(20, window=4)
    sid = made.engine.admission.books["S"].sid
    heard = made.engine.pruned
    made.engine.pruned = lambda first: None  # type: ignore[method-assign]
    pruned(made, 11)
    made.engine.pruned = heard  # type: ignore[method-assign]
    made.attach("s")
    made.run()
    made.receipt("s", made.handed("s")[-1].offset)
    made.run()
    assert made.handed("s")[0].gap() == Gap("retention", "offset", 1, 10)
    assert made.names("s")[0] == "e11"
    made.engine.pruned({sid: 11})


# --- what cannot be read -----------------------------------------------------------------------------------------------------------------


class Damaged(Exception):
    def __init__(self, last: int) -> None:
        self.last = last


def test_a_damaged_place_is_a_gap_for_its_reader_and_the_rest_comes() -> None:
    made = world(10, window=4)
    made.attach("s")
    made.ports.reads.clear()
    made.engine.unreadable("s", Damaged(6))
    made.run()
    made.receipt("s", 6)
    made.run()
    assert made.handed("s")[0].gap() == Gap("journal_lost", "offset", 1, 6)
    assert made.names("s") == names(4, 7)


def test_a_damaged_place_behind_a_seek_costs_nothing_before_it() -> None:
    made = world(10, window=4)
    made.attach("s", after=6)
    made.ports.reads.clear()
    seek(made, 2)
    made.engine.unreadable("s", Damaged(8))
    made.run()
    assert made.names("s") == names(4, 3)


def test_what_cannot_be_read_for_the_moment_is_read_again() -> None:
    made = world(3)
    made.attach("s")
    made.ports.reads.clear()
    made.engine.unreadable("s", OSError("for now"))
    assert made.names("s") == []
    made.wait(1.1)
    assert made.names("s") == names(3)
    assert made.ports.counts["unreadable"] == 1


def test_records_that_are_missing_are_a_gap_never_silence() -> None:
    made = world(10, window=4)
    made.attach("s")
    (session, *_), *_ = made.ports.reads
    made.ports.reads.clear()
    made.engine.records(session, [])
    made.run()
    assert [r.gap() for r in made.handed("s")] == [Gap("journal_lost", "offset", 1, 10)]
    assert made.logged("missing below the head")
    made.receipt("s", 10)
    made.admit("x")
    made.run()
    assert made.names("s") == ["x"]


def test_a_late_answer_to_a_session_that_is_gone_is_nothing() -> None:
    made = world(3)
    made.attach("s")
    made.do(act.Detach("s"))
    made.run()
    made.engine.unreadable("s", Damaged(2))
    assert made.handed("s") == []


def test_a_session_of_the_same_name_does_not_take_the_answer_to_another_one() -> None:
    made = world(20, window=4)
    made.attach("s", "first", after=15)
    made.attach("s", "second")
    made.run()
    assert made.names("s") == names(4)
    made.do(act.Detach("s"))
    made.attach("s", "second")
    made.attach("s", "second")
    made.run()
    assert made.names("s")[4:] == names(4)


# --- consumers that come and go ------


def test_a_consumer_not_seen_for_the_retention_time_is_forgotten_and_a_connected_one_is_not() -> None:
    made = world(3, retention_s=100.0)
    made.attach("s", "stays")
    made.attach("t", "goes")
    made.run()
    made.receipt("s", 3)
    made.receipt("t", 3)
    made.wait(1)
    made.do(act.Detach("t"))
    made.wait(160)
    assert ("S", "goes") not in made.engine.courier.consumers and made.durable("goes") is None
    assert made.logged("consumer forgotten")
    made.reboot()
    made.own()
    made.wait(30)
    assert made.durable("stays") == 3, "it was connected until the kill, 30 s ago"


@pytest.mark.parametrize(("offset", "cursor"), [(0, 0), (2, 2), (99, 6), (-5, 0)])
def test_the_operator_resets_a_consumer(offset: int, cursor: int) -> None:
    made = world(6)
    made.attach("s")
    made.run()
    made.receipt("s", 4)
    made.wait(0.05)
    after = made.engine.reset("S", "agent", offset)
    assert made.down.got(ev.Ousted)[0].session == "s"
    made.run()
    assert after.known and made.durable() == cursor
    made.receipt("s", 6)
    made.attach("t")
    made.run()
    assert made.names("t") == names(6 - cursor, cursor + 1)


def test_a_reset_wins_over_receipts_under_way() -> None:
    made = world(6)
    made.attach("s")
    made.run()
    made.receipt("s", 4)
    made.fire("engine", "receipts")
    made.engine.reset("S", "agent", 1)
    made.run()
    assert made.durable() == 1


def test_how_often_the_operator_reset_a_consumer_is_known_after_a_kill_too() -> None:
    made = world(6)
    made.attach("s")
    made.run()
    view = EngineView(made.engine, str)
    assert (view.resets("S", "agent"), view.resets("S", "nobody")) == (0, 0)
    made.engine.reset("S", "agent", 1)
    made.run()
    made.engine.reset("S", "agent", 3)
    assert view.resets("S", "agent") == 2
    made.run()
    made.attach("t")
    made.run()
    made.receipt("t", 5)
    made.wait(0.05)
    made.reboot()
    made.own()
    assert (made.durable(), EngineView(made.engine, str).resets("S", "agent")) == (5, 2)


def test_two_journals_worth_of_streams_do_not_meet() -> None:
    store = ModelStore()
    made = Fake(store)
    made.own()
    made.do(act.Own("A", "t1", "", ["T"]))
    made.admit("a")
    made.up("A", act.Commit([act.Admit("T", b"b", b"ka")]))
    made.run()
    made.attach("s")
    made.do(act.Attach("t", "T", "agent", "A"))
    made.run()
    assert made.names("s") == ["a"] and made.names("t") == ["b"]
