"""The WebSocket ping as a barrier."""

from __future__ import annotations

import pytest

from sidecar.core.barrier import WRONG_PONGS, PingBarrier


def test_a_pong_proves_the_offset_of_its_ping() -> None:
    barrier = PingBarrier("n1.c1")
    first, second = barrier.payload(5), barrier.payload(9)
    assert barrier.pong(second) == 9 and barrier.pong(first) == 5 and barrier.works


@pytest.mark.parametrize("payload", [b"", b"n1.c1:10", b"n1.c2:5", b"n1.c1", b"n1.c1:", b":5", b"n1.c1:-1", b"n1.c1:5 ", b"x:n1.c1:5"])
def test_a_pong_that_was_not_asked_for_proves_nothing(payload: bytes) -> None:
    barrier = PingBarrier("n1.c1")
    barrier.payload(9)
    assert barrier.pong(payload) is None and not barrier.works


def test_useless_after_a_few_wrong_ones_but_never_once_a_right_one_came() -> None:
    barrier = PingBarrier("n")
    payload = barrier.payload(1)
    for _ in range(WRONG_PONGS - 1):
        barrier.pong(b"x")
        assert not barrier.useless
    barrier.pong(b"x")
    assert barrier.useless
    other = PingBarrier("n")
    other.payload(1)
    other.pong(payload)
    for _ in range(10):
        other.pong(b"x")
        other.pong(b"")
    assert not other.useless


def test_a_payload_fits_into_a_control_frame() -> None:
    assert len(PingBarrier("x" * 500).payload((1 << 64) - 1)) <= 125
