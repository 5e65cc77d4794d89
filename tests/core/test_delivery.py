"""Sessions and consumers: windows, barriers, what a pong is worth."""

from __future__ import annotations

from sidecar.core.delivery import WEAK_LAG, WINDOW_BYTES, Consumer, Session


def session(quality: str = "handled", position: int = 0) -> Session:
    return Session("s", "down:dialect", "S", Consumer("S", "c", position, True, 0.0), position, quality)  # type: ignore[arg-type]


def test_room_is_the_window_less_what_is_out_and_at_least_one_frame() -> None:
    s = session()
    assert s.room(4) == (4, WINDOW_BYTES)
    s.handed(3, 3, 30)
    assert s.room(4) == (1, WINDOW_BYTES - 30)
    s.handed(4, 1, 10)
    assert s.room(4) == (0, 0)
    s.settle(3)
    assert s.room(4) == (3, WINDOW_BYTES - 10)
    s.settle(4)
    assert s.room(4) == (4, WINDOW_BYTES)


def test_one_frame_larger_than_the_window_goes_alone() -> None:
    s = session()
    s.handed(1, 1, 3 * WINDOW_BYTES)
    assert s.room(256) == (0, 0)
    s.settle(1)
    assert s.room(256) == (256, WINDOW_BYTES)


def test_a_cursor_in_the_middle_of_a_batch_opens_the_window_by_as_much() -> None:
    s = session()
    s.handed(8, 8, 80)
    s.settle(3)
    assert (s.out_records, s.out_bytes) == (5, 50)
    s.settle(8)
    assert (s.out_records, s.out_bytes) == (0, 0)


def test_evidence_never_goes_beyond_what_was_handed_over() -> None:
    s = session()
    assert s.evidence(100) == 0
    s.handed(5, 5, 50)
    assert s.evidence(100) == 5
    assert s.evidence(100) == 0
    assert s.evidence(3) == 0


def test_a_weak_pong_counts_once_64_further_records_were_ponged() -> None:
    s = session("buffered")
    s.handed(10, 10, 100)
    assert s.evidence(10) == 0
    s.handed(10 + WEAK_LAG - 1, WEAK_LAG - 1, 100)
    s.handed(10 + WEAK_LAG, 1, 1)
    assert s.evidence(10 + WEAK_LAG - 1) == 0, "63 further ones only"
    assert s.evidence(10 + WEAK_LAG) == 10
    assert s.quiet() == 10 + WEAK_LAG


def test_a_weak_pong_counts_only_when_what_went_out_after_it_was_ponged_too() -> None:
    s = session("buffered")
    for barrier in (32, 64, 96, 128, 160):
        s.handed(barrier, 32, 100)
    assert s.evidence(160) == 0, "one read of the library's may have answered all of them"
    s.handed(192, 32, 100)
    s.handed(224, 32, 100)
    assert s.evidence(224) == 160


def test_quiet_credits_what_was_ponged_and_no_more() -> None:
    s = session("buffered")
    s.handed(5, 5, 50)
    s.handed(9, 4, 40)
    assert s.quiet() == 0
    assert s.evidence(5) == 0
    assert s.quiet() == 5
    assert s.quiet() == 0
    assert s.evidence(9) == 0
    assert s.quiet() == 9


def test_a_rewind_needs_receipts_of_its_own_and_keeps_what_is_out_before_it() -> None:
    s = session()
    s.handed(10, 10, 100)
    s.rewind(8)
    assert (s.position, s.out_records, s.out_bytes) == (8, 8, 80), "8 went out and have no receipt"
    s.handed(12, 4, 40)
    assert s.evidence(8) == 8
    s.settle(8)
    assert s.out_records == 4
    s.rewind(0)
    assert (s.received, s.out_records, s.out_bytes) == (0, 0, 0)


def test_a_rewind_of_weak_pongs() -> None:
    s = session("buffered")
    s.handed(10, 10, 100)
    assert s.evidence(10) == 0
    s.rewind(4)
    assert s.ponged == 4
    assert s.quiet() == 4
    s.handed(10, 6, 60)
    assert s.quiet() == 0, "what went out again has no pong yet"


def test_the_newest_session_with_receipts_moves_the_cursor_and_never_back() -> None:
    consumer = Consumer("S", "c", 0, True, 0.0)
    old, new = (Session(name, "d", "S", consumer, 0, "handled") for name in ("old", "new"))
    consumer.sessions += [old, new]
    assert consumer.mover() is None
    old.handed(5, 5, 5)
    old.evidence(5)
    assert consumer.mover() is old
    new.handed(2, 2, 2)
    new.evidence(2)
    assert consumer.mover() is new
    assert consumer.credit(5) and not consumer.credit(2) and not consumer.credit(5)
    assert consumer.cursor == 5
    consumer.sessions.remove(new)
    assert consumer.mover() is old


def test_what_the_consumer_has_out_beyond_the_disk_counts_for_a_new_session() -> None:
    s = session(position=20)
    s.wait_for(20, 12)
    assert s.room(16)[0] == 8
    s.settle(20)
    assert s.room(16)[0] == 16
