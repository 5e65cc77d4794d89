"""Record blocks: packed and unpacked whole, cut where they must be, and never taken for what they are not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.layout import pack_pair
from sidecar.journal import blocks

KEY = pack_pair(1, 1)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20), st.data())
def test_records_come_out_as_they_went_in(values: list[bytes], data: st.DataObject) -> None:
    block = blocks.pack(KEY, values)
    assert blocks.check(KEY, block) == len(values)
    start, stop = data.draw(st.integers(0, 25)), data.draw(st.integers(0, 25))
    assert blocks.records(memoryview(block), start, stop) == values[start:stop]
    assert blocks.records(block) == values


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5), st.data())
def test_any_changed_byte_and_any_cut_is_found(values: list[bytes], data: st.DataObject) -> None:
    block = blocks.pack(KEY, values)
    at = data.draw(st.integers(0, len(block) - 1))
    changed = block[:at] + bytes([block[at] ^ data.draw(st.integers(1, 255))]) + block[at + 1 :]
    for bad in (changed, block[:at]):
        with pytest.raises(ValueError):
            blocks.check(KEY, bad)
    with pytest.raises(ValueError):
        blocks.check(pack_pair(1, 2), block)


def test_blocks_are_cut_at_streams_holes_bytes_and_count() -> None:
    rows = [(pack_pair(2, 7), b"g"), (pack_pair(1, 1), b"a"), (pack_pair(1, 2), b"b"), (pack_pair(1, 4), b"d")]
    assert blocks.cut(rows) == [(pack_pair(1, 1), [b"a", b"b"]), (pack_pair(1, 4), [b"d"]), (pack_pair(2, 7), [b"g"])]
    long = [(pack_pair(1, offset), b"x" * 1000) for offset in range(1, 101)]
    cut = blocks.cut(long)
    assert len(cut) > 3
    assert all(len(blocks.pack(key, values)) <= blocks.MAX_BYTES + 1024 for key, values in cut)
    assert [len(values) for _, values in blocks.cut([(pack_pair(1, offset), b"") for offset in range(1, 301)])] == [256, 44]
    assert blocks.cut([(KEY, b"first"), (KEY, b"last")]) == [(KEY, [b"last"])]
    assert blocks.cut([]) == []


def test_a_head_only_moves_forward_and_only_when_told() -> None:
    heads = blocks.Heads()
    assert heads.check([(pack_pair(1, 5), [b"", b""]), (pack_pair(1, 9), [b""]), (pack_pair(2, 1), [b""])]) == {1: 9, 2: 1}
    assert heads.last == {}
    with pytest.raises(ValueError, match="record 6 of stream 1"):
        heads.check([(pack_pair(1, 5), [b"", b""]), (pack_pair(1, 6), [b""])])
