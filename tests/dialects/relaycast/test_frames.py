"""Frames: classification of usual and odd shapes, ids, times (relaycast section 4)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.dialects.relaycast import frames, instants

LIVE = (
    b'{"id":"54ca1feb-0820-5cff-8be7-22df1c4e1a75","type":"message.created","channel":"general","message":{"id":"249685982163529728",'
    b'"agent_id":"249685981215617024","agent_name":"Alice","text":"one","attachments":[]},"channel_seq":1,"agent_seq":1}'
)


def test_a_live_message() -> None:
    frame = frames.read(LIVE)
    assert (frame.type, frame.seq, frame.message_id, frame.in_channel) == ("message.created", 1, 249685982163529728, True)
    assert frames.message_keys([LIVE], 0, 1) == ([frame.key], [])
    assert frames.variant_of(frame) == "array"


def test_the_event_id_has_its_check_value() -> None:
    assert frames.event_id(249685982163529728) == "54ca1feb-0820-5cff-8be7-22df1c4e1a75"
    assert frames.event_id(249685982188695552) == "2823ac9a-b01e-5127-a6cc-95fedb14d420"
    assert frames.event_id(249685982218055682) == "700b9a7b-cb64-5bad-82d8-1f7d43147bad"
    assert frames.event_id(249686124400766976) == "d36a1e8c-57d2-50f3-b5b3-f74078c1dfb3"


@pytest.mark.parametrize(
    ("payload", "kind", "seq"),
    [
        (b'{"type":"x","agent_seq":true}', "x", -1),
        (b'{"type":"x","agent_seq":"5"}', "x", -1),
        (b'{"type":"x","agent_seq":-3}', "x", -1),
        (b'{"type":"x","agent_seq":5.5}', "x", -1),
        (b'{"type":"x","agent_seq":99999999999999999999}', "x", -1),
        (b'{"type":["x"],"agent_seq":5}', "", 5),
        (b'{"type":"x","message":[],"agent_seq":5}', "x", 5),
        (b'{"type":"message.created","message":{"id":"no number"},"agent_seq":5}', "message.created", 5),
        (b'{"data":{"agent_seq":9},"type":"x"}', "x", -1),
        (b"", "", -1),
        (b"null", "", -1),
        (b"\xff\xfe", "", -1),
    ],
)
def test_odd_shapes(payload: bytes, kind: str, seq: int) -> None:
    frame = frames.read(payload)
    assert (frame.type, frame.seq, frame.key) == (kind, seq, 0)
    assert frames.message_keys([payload], 0, seq) == ([], [])


def test_keys_tell_kinds_apart_and_rise_with_time() -> None:
    keys = [frames.read(b'{"type":"%b","message":{"id":"%d"}}' % (kind.encode(), n)).key for n in (7, 8) for kind in frames.MESSAGE_KINDS]
    assert keys == sorted(set(keys)) and len(keys) == 8
    assert {frames.id_of(key) for key in keys} == {7, 8}


def test_message_keys_stops_at_what_is_not_the_next_message() -> None:
    def live(seq: int, kind: str = "message.created") -> bytes:
        return b'{"type":"%b","message":{"id":"%d"},"agent_seq":%d}' % (kind.encode(), seq + 100, seq)

    run = [live(5), live(6), live(7, "thread.reply"), live(8)]
    keys, replies = frames.message_keys(run, 0, 5)
    assert [frames.id_of(key) for key in keys] == [105, 106, 107, 108] and replies == [run[2]]
    for stop in (live(9, "message.updated"), live(10), live(8), b"junk"):
        assert len(frames.message_keys([*run, stop, live(9)], 0, 5)[0]) == 4
    assert frames.message_keys(run, 2, 7)[0] == keys[2:]


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_read_never_raises(payload: bytes) -> None:
    frame = frames.read(payload)
    assert frame.payload == payload
    assert frames.mark(frame) > 0


@given(st.integers(0, 4_102_444_800_000))
def test_times_there_and_back(ms: int) -> None:
    assert instants.parse_iso(instants.iso(ms)) == ms


def test_times_as_servers_write_them() -> None:
    assert instants.parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT") == 784111777000
    assert instants.parse_iso("2026-06-25T12:00:00+02:00") == instants.parse_iso("2026-06-25T10:00:00.000Z") == 1782381600000
    assert instants.parse_iso("2026-06-25") == 1782345600000
    assert instants.iso(1782381600123) == "2026-06-25T10:00:00.123Z"
    for junk in ("", "yesterday", None, 5, "2026-06-25T99"):
        assert instants.parse_iso(junk) is None
    for text in (None, "", "Sun, 06 Foo 1994 08:49:37 GMT", "0"):
        assert instants.parse_http_date(text) is None


def test_a_frame_made_from_rest() -> None:
    row = {"id": "249685982163529728", "agent_id": "2", "agent_name": "Al", "text": "x", "blocks": None, "injection_mode": "wait"}
    frame = frames.made_from_rest("message.created", row, "array", channel="general")
    assert frame is not None
    assert frame.payload == (
        b'{"id":"54ca1feb-0820-5cff-8be7-22df1c4e1a75","type":"message.created","channel":"general","message":{"id":"249685982163529728",'
        b'"agent_id":"2","agent_name":"Al","text":"x","injection_mode":"wait","attachments":[]},"replayed":true}'
    )
    assert frame.key == frames.read(frame.payload).key
    assert frames.made_from_rest("message.created", {"id": None}, "array", channel="general") is None
