"""The memory of event keys: against a plain model, through growth, eviction and equal tags."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.core.keys import Named
from sidecar.core.seen import SeenIndex, tag_of
from sidecar.journal.model import ModelStore

TAGS = st.one_of(st.integers(0, 12), st.integers(0, 3).map(lambda n: n * 64), st.integers(0, 0xFFFFFFFF))


class Plain:
    """What SeenIndex promises, in the plainest way: every number and its tag."""

    def __init__(self, last: int) -> None:
        self.tags: OrderedDict[int, int] = OrderedDict()
        self.last = last

    def add(self, tag: int) -> None:
        self.last += 1
        self.tags[self.last] = tag

    def with_tag(self, tag: int, newest: int) -> list[int]:
        """Numbers with a tag among the newest so many keys, newest first."""
        return [n for n in reversed(self.tags) if self.tags[n] == tag and n > self.last - newest]


def chain(index: SeenIndex, tag: int) -> list[int]:
    found = [index.newest(tag)]
    while found[-1]:
        found.append(index.older(found[-1], tag))
    return found[:-1]


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 200), st.sampled_from([0, 1, 63, 64, 1000]), st.lists(st.tuples(TAGS, st.booleans()), max_size=400))
def test_index_finds_what_the_plain_model_finds(capacity: int, last: int, steps: list[tuple[int, bool]]) -> None:
    index, plain = SeenIndex(capacity, last), Plain(last)
    for tag, always in steps:
        known = plain.with_tag(tag, capacity)
        if always:
            index.add(tag)
            plain.add(tag)
        else:
            found = index.add_if_new(tag)
            if known:
                assert found == known[0]
            elif found:
                # Older than what is promised: may still be known, but then truthfully.
                assert plain.tags[found] == tag and found > plain.last - index.size
            else:
                plain.add(tag)
        assert index.last == plain.last
    for tag in {tag for tag, _ in steps}:
        found = chain(index, tag)
        known = plain.with_tag(tag, capacity)
        assert found[: len(known)] == known
        assert all(plain.tags[n] == tag for n in found)


@pytest.mark.parametrize("tag", [0, 64, 128, 0xFFFFFFFF])
def test_the_first_key_is_remembered_whatever_its_tag(tag: int) -> None:
    index = SeenIndex(100)
    assert index.newest(tag) == 0
    assert index.add_if_new(tag) == 0
    assert index.last == 1 and index.newest(tag) == 1
    assert index.add_if_new(tag) == 1


def test_at_least_the_capacity_is_remembered_and_it_costs_at_most_16_bytes_a_key() -> None:
    capacity = 100_000
    index = SeenIndex(capacity)
    for n in range(3 * capacity):
        assert index.add_if_new(n * 2654435761 & 0xFFFFFFFF) == 0
    for n in range(2 * capacity, 3 * capacity):
        assert index.newest(n * 2654435761 & 0xFFFFFFFF) == n + 1
    assert index.memory <= 16 * index.size
    assert index.oldest <= index.last - capacity + 1


def test_a_small_memory_stays_small() -> None:
    assert SeenIndex(100_000).memory <= 16 * 64


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=2), max_size=120))
def test_keys_with_equal_tags_are_told_apart_by_the_full_key(keys: list[bytes]) -> None:
    """Invariant 10: a hash hit is confirmed on the full key before an event is dropped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sidecar.core.keys.tag_of", lambda key: 7)
        memory, journal = Named(1, SeenIndex(1000)), ModelStore()
        seen: set[bytes] = set()
        for key in keys:
            assert memory.knows(key, journal) == (key in seen)
            assert memory.add(key, journal) == (key not in seen)
            seen.add(key)


def test_tags_are_32_bits() -> None:
    assert all(0 <= tag_of(bytes([n])) <= 0xFFFFFFFF for n in range(100))


def test_no_key_is_forgotten_while_the_ring_grows() -> None:
    index = SeenIndex(1000)
    for count in range(1, 1001):
        assert index.add_if_new(count) == 0
        for tag in {1, min(2, count), max(1, count - 1), count}:
            assert index.add_if_new(tag) == tag, f"{count} keys known"
