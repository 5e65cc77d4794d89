"""The upstream's zlib-stream (discord section 1.5, R1): whole messages, messages in parts, and what is no such stream."""

from __future__ import annotations

import zlib

import pytest

from sidecar.dialects.discord import inflate
from sidecar.dialects.discord.inflate import SUFFIX, Corrupt, Inflate


def packed(texts: list[bytes]) -> list[bytes]:
    context = zlib.compressobj()
    return [context.compress(text) + context.flush(zlib.Z_SYNC_FLUSH) for text in texts]


TEXTS = [b'{"op":10}', b'{"op":0,"s":1,"t":"READY"}' * 50, b"{}"]


def test_r1_each_frame_that_ends_in_the_suffix_is_a_message() -> None:
    stream = Inflate()
    assert [stream.feed(data) for data in packed(TEXTS)] == TEXTS


@pytest.mark.parametrize("at", [1, 9, -1, -3, -4, -5])
def test_r1_a_message_may_come_in_two_frames_wherever_it_is_cut_and_whole_ones_go_on_behind_it(at: int) -> None:
    first, second, third = packed(TEXTS)
    stream = Inflate()
    assert stream.feed(first) == TEXTS[0]
    assert stream.feed(second[:at]) is None
    assert stream.feed(second[at:]) == TEXTS[1]
    assert stream.feed(third) == TEXTS[2]


def test_r1_a_part_that_happens_to_be_the_suffix_alone_ends_the_message() -> None:
    (data,) = packed([b"x" * 100])
    stream = Inflate()
    assert [stream.feed(data[at : at + 1]) for at in range(len(data) - 4)] == [None] * (len(data) - 4)
    assert stream.feed(SUFFIX) == b"x" * 100


def test_r1_what_is_no_stream_or_too_large_is_corrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Corrupt):
        Inflate().feed(b"junk" + SUFFIX)
    monkeypatch.setattr(inflate, "MAX_MESSAGE", 1000)
    with pytest.raises(Corrupt, match="more than 1000 bytes"):
        Inflate().feed(packed([b"x" * 1001])[0])
    with pytest.raises(Corrupt, match="more than 1000 bytes"):
        Inflate().feed(b"x" * 997 + SUFFIX)
    stream = Inflate()
    assert stream.feed(b"x" * 600) is None
    with pytest.raises(Corrupt, match="more than 1000 bytes"):
        stream.feed(b"x" * 600)
