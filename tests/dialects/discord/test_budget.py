"""The IDENTIFY budget across a restart (discord R29)."""

from __future__ import annotations

import pytest

from sidecar.dialects.discord.budget import SPACING_S, Budget

NOW = 1_750_000_000.0


@pytest.mark.parametrize("succeeded", [True, False], ids=["ready-came", "killed-before-ready"])
def test_R29_a_new_process_keeps_its_distance_from_the_last_identify_of_the_one_before(succeeded: bool) -> None:
    """Its monotonic clock knows nothing of it: a kill right behind READY, with the session lost, would IDENTIFY twice in five seconds."""
    first = Budget(200)
    first.spend("0/1", 77.0, NOW)
    if succeeded:
        first.succeeded()
    second = Budget(200, first.dump())
    assert second.wait("0/1", 3.0, NOW + 1) == pytest.approx(SPACING_S - 1)
    assert second.wait("0/1", 7.0, NOW + SPACING_S) == 0


@pytest.mark.parametrize("failed", [True, False])
def test_R29_a_wall_clock_that_was_set_back_is_waited_for_five_seconds_not_an_hour(failed: bool) -> None:
    first = Budget(200)
    first.spend("0/1", 77.0, NOW)
    if not failed:
        first.succeeded()
    for budget, mono in ((first, 77.0), (Budget(200, first.dump()), 3.0)):
        assert budget.wait("0/1", mono, NOW - 3600) == SPACING_S
        assert budget.wait("0/1", mono + SPACING_S, NOW - 3600 + SPACING_S) == 0


def test_R29_within_one_process_other_buckets_do_not_wait_for_each_other() -> None:
    budget = Budget(200)
    budget.concurrency = 2
    budget.spend("0/2", 77.0, NOW)
    budget.succeeded()
    assert budget.wait("1/2", 77.0, NOW) == 0
    assert budget.wait("0/2", 77.0, NOW) == SPACING_S
