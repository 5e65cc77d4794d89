"""Transport compression towards agents (discord R1, section 1.5)."""

from __future__ import annotations

import zlib

import pytest

from sidecar.core.events import Binary
from sidecar.dialects.discord.compress import ZlibStream
from tests.dialects.discord.scene import Scene, message, run


def test_r1_one_context_for_the_connection_and_each_message_has_its_end() -> None:
    stream = ZlibStream()
    frames = [b'{"op":10}', b'{"a":"%b"}' % (b"x" * 70_000), b"{}", b'{"op":10}']
    packed = [*stream.pack(frames[:2]), *stream.pack([]), *stream.pack(frames[2:])]
    assert all(isinstance(each, Binary) and each.endswith(b"\x00\x00\xff\xff") for each in packed)
    reader = zlib.decompressobj()
    assert [reader.decompress(each) for each in packed] == frames
    with pytest.raises(zlib.error):
        zlib.decompressobj().decompress(packed[1])


def test_r1_zlib_stream_is_honoured_for_all_that_goes_out() -> None:
    # The scene reads every frame of such a socket through one inflater, and fails on a text frame.
    scene = Scene().open("c1", "/?v=10&encoding=json&compress=zlib-stream").say("c1", 1, None).identify("c1", compress=True)
    scene.events("c1", run(1, [message(n) for n in range(1, 101)])).wait(1).say("c1", 1, None)
    assert scene.types("c1") == ["HELLO", "ACK", "READY", "GUILD_CREATE", *["MESSAGE_CREATE"] * 100, "BEAT", "ACK"]
    assert "c1" in scene.readers


@pytest.mark.parametrize("compress", ["zstd-stream", "none", ""])
def test_r1_else_text_also_when_identify_asks_for_more(compress: str) -> None:
    scene = Scene().open("c1", f"/?v=10&encoding=json&compress={compress}").identify("c1", compress=True)
    assert scene.types("c1") == ["HELLO", "READY", "GUILD_CREATE"]
    assert scene.readers == {}
