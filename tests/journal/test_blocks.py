"""Record blocks: packed and unpacked whole, cut where they must be, and never taken for what they are not."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.layout import pack_pair
from sidecar.core.record import Run, check, decode, encode
from sidecar.journal import blocks

KEY = pack_pair(1, 7)
RUNS = st.builds(
    Run,
    st.just(7),
    st.integers(1, 1 << 60),
    st.integers(0, 15),
    st.lists(st.binary(max_size=40), min_size=1, max_size=20),
    st.text(max_size=10),
    st.integers(0, 1 << 50),
)


@given(RUNS, st.integers(0, 40), st.integers(0, 40))
def test_a_run_comes_out_as_it_went_in_and_so_does_any_part_of_it(run: Run, start: int, stop: int) -> None:
    block = encode(KEY, run)
    assert check(KEY, memoryview(block)) == len(run)
    assert decode(7, memoryview(block)) == run
    part = decode(7, block, start, stop)
    assert [(r.offset, r.ordinal, r.payload) for r in part.records()] == [
        (r.offset, r.ordinal, r.payload) for r in run.records() if start <= r.offset < stop
    ]


@given(RUNS, st.data())
def test_any_changed_byte_and_any_cut_is_found(run: Run, data: st.DataObject) -> None:
    block = encode(KEY, run)
    at = data.draw(st.integers(0, len(block) - 1))
    changed = block[:at] + bytes([block[at] ^ data.draw(st.integers(1, 255))]) + block[at + 1 :]
    for bad in (changed, block[:at]):
        with pytest.raises(ValueError):
            check(KEY, bad)
    with pytest.raises(ValueError):
        check(pack_pair(1, 8), block)


@given(st.lists(st.integers(0, 60_000), min_size=1, max_size=600), st.sampled_from([0, 1]))
def test_pieces_of_a_run_are_bounded_and_make_it_up(sizes: list[int], flags: int) -> None:
    whole = b"x" * 60_000
    run = Run(7, 3, flags, [whole[:size] for size in sizes], "d", 5)
    pieces = blocks.cut(run)
    assert [record for piece in pieces for record in piece.records()] == list(run.records())
    for piece in pieces:
        assert 1 <= len(piece) <= blocks.MAX_RECORDS
        assert len(piece) == 1 or sum(map(len, piece.payloads)) <= blocks.MAX_BYTES
    for piece, following in pairwise(pieces):
        joined = [*piece.payloads, following.payloads[0]]
        assert len(joined) > blocks.MAX_RECORDS or sum(map(len, joined)) > blocks.MAX_BYTES


def test_blocks_are_rows_in_key_order() -> None:
    runs = [(2, Run(7, 7, 0, [b"g"])), (1, Run(1, 1, 0, [b"a", b"b"])), (1, Run(300, 4, 0, [b"d"]))]
    rows = blocks.pack(runs)
    assert [key for key, _ in rows] == [pack_pair(1, 1), pack_pair(1, 300), pack_pair(2, 7)]
    assert [check(key, value) for key, value in rows] == [2, 1, 1]
    assert blocks.pack([]) == []


def test_a_head_only_moves_forward_and_only_when_told() -> None:
    heads = blocks.Heads()
    runs = [(1, Run(5, 5, 0, [b"", b""])), (1, Run(9, 7, 0, [b""])), (2, Run(1, 1, 0, [b""]))]
    assert heads.check(runs) == {1: 9, 2: 1}
    assert heads.last == {}
    with pytest.raises(ValueError, match="record 6 of stream 1"):
        heads.check([runs[0], (1, Run(6, 6, 0, [b""]))])
    heads.last = {1: 9}
    with pytest.raises(ValueError, match="record 9 of stream 1"):
        heads.check([runs[1]])
