"""The hold's bounds (invariant 9) and the backoff's jitter."""

from sidecar.core.backoff import Backoff
from sidecar.core.hold import Hold


def test_items_come_out_in_order_and_the_hold_is_fresh_again() -> None:
    hold: Hold[int] = Hold(max_bytes=100)
    hold.begin(0.0)
    assert all(hold.put(n, 10) for n in (3, 1, 2))
    assert (len(hold), hold.bytes) == (3, 30)
    assert hold.take(order=lambda n: n) == [1, 2, 3]
    assert (len(hold), hold.bytes, hold.since) == (0, 0, None)


def test_an_overflow_empties_it_and_two_spend_it() -> None:
    hold: Hold[int] = Hold(max_bytes=25)
    hold.begin(0.0)
    for overflows in (1, 2):
        assert not hold.spent(1.0)
        assert hold.put(1, 20) and not hold.put(2, 6)
        assert (hold.overflows, len(hold), hold.bytes) == (overflows, 0, 0)
    assert hold.spent(1.0)


def test_thirty_seconds_spend_it_counted_from_the_first_begin() -> None:
    hold: Hold[int] = Hold()
    hold.begin(100.0)
    hold.begin(120.0)
    assert not hold.spent(129.9) and hold.spent(130.0)


def test_backoff_doubles_its_cap_with_full_jitter_until_health_is_proven() -> None:
    backoff = Backoff(0.2, 30.0)
    assert [round(backoff.next(0.999), 1) for _ in range(10)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    assert backoff.next(0.0) == 0.1, "never a tight loop"
    assert backoff.next(0.5) == 15.0
    backoff.reset()
    assert backoff.next(0.999) < 0.2
    for _ in range(5000):
        backoff.next(0.5)
