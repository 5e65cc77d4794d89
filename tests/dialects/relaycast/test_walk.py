"""The seeded walks: twenty fresh ones and every seed that once found something. More: python -m tests.dialects.relaycast.walk."""

import pytest

from tests.dialects.relaycast.walk import failure

FOUND = [
    2,
    4,
    6,
    11,
    12,
    18,
    37,
    39,
    49,
    50,
    64,
    133,
    140,
    1007,
    1147,
    1167,
    1187,
    1201,
    1202,
    1213,
    1234,
    1248,
    1277,
    1287,
    1297,
    20110,
    20173,
]
"""Seeds that were red: reactions twice, lives mistaken for each other, rows behind younger events, replies lost behind a hollow ack."""


@pytest.mark.parametrize("seed", FOUND)
def test_a_seed_that_once_failed(seed: int) -> None:
    assert failure(seed) is None, failure(seed)


@pytest.mark.parametrize("first", range(10_000, 10_020, 5))
def test_walks(first: int) -> None:
    failed = [text for text in map(failure, range(first, first + 5)) if text]
    assert not failed, failed[0]
