"""The native half as dialogues: what a request is answered, where delivery starts, what acks do."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.record import BINARY, GAP, REPLAYED, Gap, Record, runs_of
from sidecar.downstream.native import NativeHalf, shown
from tests.playbooks.playbook import FakeView, Playbook, json_with


def head(query: str, *headers: tuple[str, str], sse: bool = False, path: str = "/_sidecar/stream") -> ev.Head:
    upgrade = () if sse else (("Upgrade", "websocket"), ("Connection", "Upgrade"))
    return ev.Head("GET", f"{path}?{query}", [*upgrade, *headers])


def started(**facts: Any) -> tuple[Playbook, FakeView]:
    view = FakeView().stream("alice", **({"head": 10} | facts))
    return Playbook(NativeHalf(view)), view


def opened(query: str, *headers: tuple[str, str], sse: bool = False, **facts: Any) -> tuple[Playbook, FakeView]:
    book, view = started(**facts)
    return book.send(ev.ConnOpened("c1", head(query, *headers, sse=sse))), view


def record(offset: int, payload: bytes = b'{"a": 1}', flags: int = 0, domain: str = "") -> Record:
    return Record(offset, offset, flags, payload, domain=domain)


def raw_gap(offset: int, gap: bytes, domain: str = "") -> Record:
    return Record(offset, offset, GAP, gap, domain=domain)


# --- where a reader starts -------------------------------------------------------------------------------------------------------


def test_without_anything_a_reader_starts_at_the_head_and_the_transport_paces_it() -> None:
    book, _ = opened("stream=alice")
    book.expect(act.Accept, conn="c1")
    hello = book.expect(act.SendConn, conn="c1").frames
    assert [json.loads(f) for f in hello] == [{"type": "hello", "stream": "alice", "epoch": "e1", "head": 10, "after": 10}]
    book.expect(act.Attach, session="c1", stream="alice", consumer="", fresh="head", after=None, paced=True)
    book.done()


def test_a_known_consumer_goes_on_at_its_cursor_and_acks_pace_it() -> None:
    book, view = started()
    view.cursors["alice", "native:bob"] = 4
    book.send(ev.ConnOpened("c1", head("stream=alice&consumer=bob")))
    book.expect(act.Accept)
    book.expect(act.SendConn, frames=[json_with(type="hello", after=4)])
    book.expect(act.Attach, consumer="native:bob", fresh="head", after=None, paced=False)
    book.done()


def test_a_new_consumer_starts_at_the_head() -> None:
    book, _ = opened("stream=alice&consumer=bob")
    book.expect(act.Accept)
    book.expect(act.SendConn, frames=[json_with(after=10)])
    book.expect(act.Attach, consumer="native:bob", fresh="head", after=None)
    book.done()


def test_after_sets_the_start_and_is_no_ack() -> None:
    book, view = started()
    view.cursors["alice", "native:bob"] = 4
    book.send(ev.ConnOpened("c1", head("stream=alice&consumer=bob&after=8&epoch=e1")))
    book.expect(act.Accept)
    book.expect(act.SendConn, frames=[json_with(after=8)])
    book.expect(act.Attach, after=8)
    book.done()


@pytest.mark.parametrize(("after", "lead"), [(10, None), (11, {"reason": "rewound", "unit": "offset", "from": 11, "to": 11})])
def test_only_an_offset_above_the_head_was_rewound(after: int, lead: dict[str, Any] | None) -> None:
    book, _ = opened(f"stream=alice&after={after}", first=3)
    book.expect(act.Accept)
    frames = [json.loads(f) for f in book.expect(act.SendConn).frames]
    assert frames[0]["after"] == (2 if lead else 10)
    assert frames[1:] == ([{"type": "gap", "offset": 2} | lead] if lead else [])
    # All that is kept follows: delivery starts before the oldest record, so no retention gap is made on top.
    book.expect(act.Attach, after=2 if lead else 10)
    book.done()


def test_another_epoch_is_a_gap_and_then_all_that_is_kept() -> None:
    book, _ = opened("stream=alice&after=5&epoch=e0", first=3)
    book.expect(act.Accept)
    frames = [json.loads(f) for f in book.expect(act.SendConn).frames]
    assert frames[1] == {"type": "gap", "offset": 2, "reason": "epoch", "unit": "offset", "from": 5, "to": 5}
    book.expect(act.Attach, after=2)
    book.done()


def test_a_new_consumer_from_another_epoch_is_told_even_without_after() -> None:
    book, _ = opened("stream=alice&consumer=bob&epoch=e0")
    book.expect(act.Accept)
    assert json.loads(book.expect(act.SendConn).frames[1])["reason"] == "epoch"
    book.expect(act.Attach, after=0)
    book.done()


def test_a_consumer_known_in_this_epoch_goes_on_at_its_cursor_whatever_epoch_it_says() -> None:
    book, view = started()
    view.cursors["alice", "native:bob"] = 4
    book.send(ev.ConnOpened("c1", head("stream=alice&consumer=bob&epoch=e0")))
    book.expect(act.Accept)
    book.expect(act.SendConn, frames=[json_with(type="hello", after=4)])
    book.expect(act.Attach, after=None)
    book.done()


@pytest.mark.parametrize("name", ["ws%2F%C3%A4+1%26x", "ws/%c3%a4%201%26x"])
def test_names_are_url_decoded(name: str) -> None:
    view = FakeView().stream("ws/ä 1&x", head=1)
    book = Playbook(NativeHalf(view)).send(ev.ConnOpened("c1", head(f"stream={name}")))
    book.expect(act.Accept)
    book.expect(act.SendConn, frames=[json_with(stream="ws/ä 1&x")])
    book.expect(act.Attach, stream="ws/ä 1&x")
    book.done()


# --- what is refused ---------------------------------------------------------------------------------------------------------------


def refusal(book: Playbook, status: int) -> dict[str, Any]:
    answer = book.expect(act.Refuse, conn="c1", status=status)
    book.done()
    assert ("Content-Type", "application/json") in list(answer.headers)
    body: dict[str, Any] = json.loads(answer.body)
    assert body["mend"]
    return body


@pytest.mark.parametrize("sse", [False, True])
def test_an_unknown_stream_is_404_and_names_the_streams_there_are(sse: bool) -> None:
    book, view = started()
    view.stream("zoe")
    book.send(ev.ConnOpened("c1", head("stream=nobody", sse=sse)))
    assert refusal(book, 404)["streams"] == ["alice", "zoe"]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("", "stream"),
        ("stream=", "stream"),
        ("stream=alice&stream=alice", "stream"),
        ("stream=alice&after=-1", "after"),
        ("stream=alice&after=x", "after"),
        ("stream=alice&after=1.0", "after"),
        ("stream=alice&after=%D9%A1", "after"),
        ("stream=alice&after=" + "9" * 19, "after"),
        ("stream=alice&after=", "after"),
        ("stream=alice&afer=1", "afer"),
        ("stream=alice&epoch=", "epoch"),
        ("stream=alice&consumer=", "consumer"),
        ("stream=alice&consumer=" + "x" * 201, "consumer"),
        ("stream=alice&consumer=a%0Ab", "consumer"),
    ],
)
def test_a_bad_parameter_is_400_and_named(query: str, parameter: str) -> None:
    book, _ = opened(query)
    assert refusal(book, 400)["parameter"] == parameter


def test_a_bad_last_event_id_is_400_and_named() -> None:
    book, _ = opened("stream=alice", ("Last-Event-ID", "e1:5"), sse=True)
    assert refusal(book, 400)["parameter"] == "Last-Event-ID"


def test_the_largest_offset_is_still_an_offset() -> None:
    book, _ = opened("stream=alice&after=" + "9" * 18)
    book.expect(act.Accept)
    assert json.loads(book.expect(act.SendConn).frames[1])["reason"] == "rewound"
    book.expect(act.Attach)
    book.done()


# --- records -----------------------------------------------------------------------------------------------------------------------


def ready(book: Playbook, *records: Record) -> Playbook:
    return book.send(ev.RecordsReady("c1", runs_of(records), records[-1].offset))


def reader(query: str = "stream=alice&consumer=bob", sse: bool = False) -> Playbook:
    book, _ = opened(query, sse=sse)
    book.left.clear()
    return book


def test_events_are_spliced_in_byte_for_byte() -> None:
    odd = '{"b" : 1.50,\t"a":"\\u00e4ä",  "b":2 }'.encode()
    book = ready(reader(), record(11, odd), record(12, b'"x"', flags=REPLAYED))
    frames = book.expect(act.SendConn, conn="c1").frames
    assert frames[0] == b'{"type":"event","offset":11,"event":' + odd + b',"replayed":false}'
    assert frames[1] == b'{"type":"event","offset":12,"event":"x","replayed":true}'
    book.done()


@pytest.mark.parametrize(
    ("payload", "flags"),
    [
        (b"not json", 0),
        (b"", 0),
        (b'{"a":1}x', 0),
        (b'"\xff"', 0),
        (b"\xef\xbb\xbf{}", 0),
        (b"[" * 100_000, 0),
        (b"5", BINARY),
        (b"NaN", 0),
    ],
)
def test_what_is_not_json_goes_as_base64(payload: bytes, flags: int) -> None:
    book = ready(reader(), record(11, payload, flags))
    frame = json.loads(book.expect(act.SendConn).frames[0])
    assert base64.b64decode(frame.pop("event_b64")) == payload
    assert frame == {"type": "event", "offset": 11, "replayed": False}
    book.done()


def test_gaps_stand_in_their_place_and_say_no_more_than_is_known() -> None:
    whole = raw_gap(12, b'{"reason":"lost","unit":"seq","from":3,"to":9,"count":7}', "general")
    bare = raw_gap(13, b'{"reason":"journal_lost","unit":"time","from":0,"to":99}')
    book = ready(reader(), record(11), whole, bare, record(14))
    frames = [json.loads(f) for f in book.expect(act.SendConn).frames]
    assert [f["type"] for f in frames] == ["event", "gap", "gap", "event"]
    assert frames[1] == {
        "type": "gap", "offset": 12, "reason": "lost", "unit": "seq", "from": 3, "to": 9, "count": 7, "domain": "general",
    }  # fmt: skip
    assert frames[2] == {"type": "gap", "offset": 13, "reason": "journal_lost", "unit": "time", "from": 0, "to": 99}
    assert Gap("lost", "seq", 3, 9, 7) == whole.gap()
    book.done()


def test_a_reader_without_consumer_is_paced_by_what_left_the_process() -> None:
    book = ready(reader("stream=alice"), record(11), record(12))
    book.expect(act.SendConn)
    token = book.expect(act.AwaitDrain, conn="c1").token
    book.send(ev.ConnDrained("c1", token)).expect(act.Receipt, session="c1", offset=12)
    book.done()


# --- acks --------------------------------------------------------------------------------------------------------------------------


def said(book: Playbook, *frames: bytes) -> Playbook:
    return book.send(ev.ConnFrames("c1", frames))


def test_the_highest_of_several_acks_counts() -> None:
    book = said(reader(), b'{"type":"ack","offset":3}', b'{"type":"ack","offset":9}', b'{"offset":7,"type":"ack"}')
    book.expect(act.ClientCursor, session="c1", offset=9)
    book.done()


@pytest.mark.parametrize(
    "frame",
    [
        b"rubbish",
        b"",
        b"{}",
        b"1",
        b'{"type":"ack"}',
        b'{"type":"nack","offset":1}',
        b'{"type":"ack","offset":-1}',
        b'{"type":"ack","offset":"1"}',
        b'{"type":"ack","offset":null}',
        b'{"type":"ack","offset":1.5}',
        b'{"type":"ack","offset":true}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_rubbish_closes_with_4400_and_says_why_but_an_ack_before_it_counts(frame: bytes) -> None:
    book = said(reader(), b'{"type":"ack","offset":3}', frame, b'{"type":"ack","offset":4}')
    book.expect(act.ClientCursor, offset=3)
    book.expect(act.Detach, session="c1")
    assert "ack" in book.expect(act.CloseConn, conn="c1", code=4400).reason
    book.done()
    said(book, b'{"type":"ack","offset":5}').done()


def test_an_ack_without_consumer_is_told_since_no_cursor_moves() -> None:
    book = said(reader("stream=alice"), b'{"type":"ack","offset":3}')
    book.expect(act.Detach)
    assert "consumer=NAME" in book.expect(act.CloseConn, code=4400).reason
    book.done()


# --- several connections, endings ----------------------------------------------------------------------------------------------------


def test_the_second_connection_of_a_consumer_closes_the_first() -> None:
    book = reader()
    book.send(ev.ConnOpened("c2", head("stream=alice&consumer=bob")))
    book.expect(act.Detach, session="c1")
    book.expect(act.CloseConn, conn="c1", code=4409)
    book.expect(act.Accept, conn="c2")
    book.expect(act.SendConn, conn="c2")
    book.expect(act.Attach, session="c2")
    book.send(ev.ConnClosed("c1", 4409)).done()
    said(book, b'{"type":"ack","offset":5}').done()


def test_other_consumers_and_nameless_readers_stay() -> None:
    view = FakeView().stream("alice", head=1).stream("zoe", head=1)
    book = Playbook(NativeHalf(view))
    for conn, query in enumerate(
        ("stream=alice&consumer=bob", "stream=zoe&consumer=bob", "stream=alice&consumer=eve", "stream=alice", "stream=alice")
    ):
        book.send(ev.ConnOpened(f"c{conn}", head(query)))
        book.expect(act.Accept)
        book.expect(act.SendConn)
        book.expect(act.Attach)
    book.done()


def test_a_closed_conn_detaches_once() -> None:
    book = reader()
    book.send(ev.ConnClosed("c1", 1000)).expect(act.Detach, session="c1")
    book.send(ev.ConnClosed("c1", 1000)).done()
    ready(book, record(11)).done()


def test_a_reset_consumer_begins_anew() -> None:
    book = reader()
    book.send(ev.Ousted("c1", "consumer was reset")).expect(act.Detach)
    book.expect(act.CloseConn, conn="c1", code=1012, reason="consumer was reset")
    book.done()


def test_a_planned_stop_says_goodbye_and_lets_nobody_in() -> None:
    book = reader()
    book.send(ev.Draining()).expect(act.Detach)
    book.expect(act.CloseConn, code=1012)
    book.send(ev.ConnOpened("c2", head("stream=alice"))).expect(act.Refuse, status=503)
    book.done()


# --- server-sent events --------------------------------------------------------------------------------------------------------------


def test_sse_hello_carries_where_delivery_starts_so_that_a_reconnect_skips_nothing() -> None:
    book, _ = opened("stream=alice", sse=True)
    book.expect(act.Accept)
    (data,) = book.expect(act.SendConn).frames
    assert data.startswith(b'id: 10\ndata: {"type":"hello"') and data.endswith(b"\n\n")
    book.expect(act.Attach, paced=True)
    book.expect(act.StartTimer, timer="beat")
    book.done()


def test_sse_hello_before_a_gap_carries_no_id_so_that_the_gap_is_told_again() -> None:
    book, _ = opened("stream=alice&after=99", sse=True, first=3)
    book.expect(act.Accept)
    (data,) = book.expect(act.SendConn).frames
    first, second, rest = data.split(b"\n\n")
    assert first.startswith(b'data: {"type":"hello"') and rest == b""
    assert second.startswith(b'id: 2\ndata: {"type":"gap","offset":2,"reason":"rewound"')


def test_sse_events_carry_their_offset_and_line_breaks_inside_a_payload_split_the_data() -> None:
    book = ready(reader(sse=True), record(11, b'{\r\n "a":1\n}'), record(12))
    (data,) = book.expect(act.SendConn).frames
    assert data == (
        b'id: 11\ndata: {"type":"event","offset":11,"event":{\ndata:  "a":1\ndata: },"replayed":false}\n\n'
        b'id: 12\ndata: {"type":"event","offset":12,"event":{"a": 1},"replayed":false}\n\n'
    )
    book.expect(act.AwaitDrain)
    book.done()


def test_last_event_id_is_after_and_an_ack_and_wins_over_the_url() -> None:
    book, _ = opened("stream=alice&consumer=bob&after=2", ("Last-Event-ID", "7"), sse=True)
    book.expect(act.Accept)
    book.expect(act.SendConn)
    book.expect(act.Attach, consumer="native:bob", after=7, paced=True)
    book.expect(act.ClientCursor, session="c1", offset=7)
    book.expect(act.StartTimer)
    book.done()


@pytest.mark.parametrize("query", ["stream=alice", "stream=alice&consumer=bob&epoch=e0", "stream=alice&consumer=bob&after=1"])
def test_last_event_id_is_no_ack_without_a_consumer_from_another_epoch_or_above_the_head(query: str) -> None:
    number = "99" if "after" in query else "7"
    book, _ = opened(query, ("Last-Event-ID", number), sse=True)
    book.expect(act.Accept)
    book.expect(act.SendConn)
    book.expect(act.Attach)
    book.expect(act.StartTimer)
    book.done()


def test_a_websocket_has_no_last_event_id() -> None:
    book, _ = opened("stream=alice&after=3", ("Last-Event-ID", "7"))
    book.expect(act.Accept)
    book.expect(act.SendConn)
    book.expect(act.Attach, after=3)
    book.done()


def test_keep_alives_go_to_quiet_sse_readers_only_and_stop_with_the_last() -> None:
    book = reader("stream=alice", sse=True)
    book.send(ev.ConnOpened("c2", head("stream=alice")))
    book.left.clear()
    book.send(ev.TimerFired("beat")).expect(act.SendConn, conn="c1", frames=[b":\n\n"])
    book.expect(act.StartTimer, timer="beat")
    # One that has not taken what it was sent gets nothing more.
    ready(book, record(11)).expect(act.SendConn)
    book.expect(act.AwaitDrain)
    book.send(ev.TimerFired("beat")).expect(act.StartTimer)
    book.send(ev.ConnDrained("c1", "11")).expect(act.Receipt)
    book.send(ev.ConnClosed("c1", None)).expect(act.Detach)
    book.send(ev.TimerFired("beat")).done()


def test_an_sse_reader_that_is_replaced_hears_why() -> None:
    book = reader(sse=True)
    book.send(ev.ConnOpened("c2", head("stream=alice&consumer=bob")))
    book.expect(act.Detach)
    (data,) = book.expect(act.SendConn, conn="c1").frames
    assert data.startswith(b'event: closed\ndata: {"code":4409,')
    book.expect(act.CloseConn, conn="c1", code=4409)
    book.left.clear()


def test_shown_names() -> None:
    assert shown("native:bob") == ("bob", "native")
    assert shown("agent") == ("agent", "agent")
