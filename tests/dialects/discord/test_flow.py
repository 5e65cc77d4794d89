"""Events on one socket and their receipts (discord R15, R17, R18, R20, R22 to R24, C5, C10, C12)."""

from __future__ import annotations

import pytest

from sidecar.core import actions as act
from sidecar.core import events as ev
from tests.dialects.discord.scene import ALL, STREAM, Scene, gap_at, message, payload, run


def test_r18_a_ping_behind_each_64_frames_and_behind_the_last() -> None:
    scene = Scene().agent("c1").events("c1", run(1, [message(n) for n in range(1, 151)]))
    assert len(scene.frames("c1")) == 150
    offsets = [int(ping.rpartition(b":")[2]) for ping in scene.pings["c1"]]
    assert offsets == [64, 128, 150]
    scene.forget().events("c1", run(151, [message(n) for n in range(151, 215)]))
    assert len(scene.pings["c1"]) == 1, "none twice behind a full part"


def test_r18_what_the_agent_does_not_see_has_its_barrier_too() -> None:
    """Else the window would stand still over events that nobody is sent."""
    scene = Scene().agent("c1", intents=0)
    scene.events("c1", run(1, [message(n) for n in range(1, 4)])).pong("c1")
    assert "c1" not in scene.sent
    assert scene.receipts() == [3]
    scene.events("c1", gap_at(4)).pong("c1")
    assert scene.receipts() == [3, 4]


def test_r17_the_pong_is_a_receipt_for_what_stood_before_its_ping_on_this_socket() -> None:
    scene = Scene().agent("c1").agent("c2")
    scene.events("c1", run(1, [message(n) for n in range(1, 101)])).events("c2", run(1, [message(1)]))
    scene.send(ev.ConnPong("c1", scene.pings["c1"][0]))
    assert scene.of(act.Receipt) == [act.Receipt("c1", 64)]
    # Another socket's payload, junk, and the same again prove nothing.
    for junk in (scene.pings["c2"][-1], b"", b"x:99", scene.pings["c1"][0]):
        scene.send(ev.ConnPong("c1", junk))
    assert len(scene.of(act.Receipt)) == 1
    scene.pong("c1")
    assert scene.receipts() == [64, 100]


def test_r17_a_heartbeats_d_is_a_receipt_up_to_the_last_number_sent_on_this_socket() -> None:
    scene = Scene().agent("c1").events("c1", run(1, [message(1), message(2), message(3)]))  # s 3, 4, 5
    for ignored in (None, 0, 1, -4, 6, 10**9, "5", True, 4.0, [5], {"s": 5}):
        scene.say("c1", 1, ignored)
    assert scene.receipts() == []
    scene.say("c1", 1, 4)
    assert scene.of(act.Receipt) == [act.Receipt("c1", 2)]
    scene.say("c1", 1, 3).say("c1", 1, 4)
    assert scene.receipts() == [2], "a lower one is ignored"
    scene.say("c1", 1, 5)
    assert scene.receipts() == [2, 3]
    assert scene.types("c1").count("ACK") == 15


def test_r17_the_last_number_sent_covers_what_follows_unseen() -> None:
    scene = Scene().agent("c1", intents=1 << 9)
    reaction = payload("MESSAGE_REACTION_ADD", {"guild_id": "g1"})
    assert scene.half._sockets.get("c1").session.k == 1  # type: ignore[union-attr]
    scene.events("c1", run(1, [message(1), reaction, reaction])).say("c1", 1, 2)
    assert scene.receipts() == [3]


def test_r18_at_rest_an_agent_that_has_not_receipted_is_asked_for_a_beat() -> None:
    scene = Scene().agent("c1").events("c1", run(1, [message(1)])).wait(1)
    assert scene.types("c1") == ["MESSAGE_CREATE", "BEAT"]
    scene.say("c1", 1, 3)
    assert scene.types("c1") == ["MESSAGE_CREATE", "BEAT", "ACK"]
    assert scene.receipts() == [1]
    assert scene.wait(60).types("c1").count("BEAT") == 1, "nothing is without a receipt any more"


def test_r18_an_agent_whose_pongs_come_is_never_asked() -> None:
    scene = Scene().agent("c1")
    for n in range(1, 50):
        scene.events("c1", run(n, [message(n)])).pong("c1").wait(0.7)
    assert "BEAT" not in scene.wait(5).types("c1")


def test_R18_an_agent_that_answers_pings_but_is_busy_is_not_asked_on_top_of_it() -> None:
    """It could not answer sooner, and a beat of its own that is due meanwhile would find the asked one unanswered: a zombie."""
    scene = Scene().open("c1").identify("c1")
    assert len(scene.pings["c1"]) == 1, "behind READY and the guilds"
    scene.pong("c1").events("c1", run(1, [message(n) for n in range(1, 100)])).wait(30)
    assert scene.receipts() == []
    assert "BEAT" not in scene.types("c1")
    scene.pong("c1")
    assert scene.receipts() == [99]


def test_r18_not_before_a_second_of_quiet() -> None:
    scene = Scene().agent("c1")
    for n in range(1, 30):
        scene.events("c1", run(n, [message(n)])).wait(0.9)
    assert "BEAT" not in scene.types("c1")
    assert scene.wait(0.2).types("c1")[-1] == "BEAT"


def test_r18_at_most_twenty_a_minute() -> None:
    scene = Scene().agent("c1").wait(1)
    asked = 0
    for n in range(1, 61):  # an agent that answers at once but is sent more behind each answer
        scene.events("c1", run(n, [message(n)])).wait(1)
        beats = scene.types("c1").count("BEAT")
        if beats > asked:
            asked = beats
            scene.say("c1", 1, None)
    assert 15 <= asked <= 20


def test_r18_an_agent_that_sleeps_finds_one_question_when_it_wakes() -> None:
    scene = Scene().agent("c1").events("c1", run(1, [message(1)])).wait(590)
    assert scene.types("c1").count("BEAT") == 1


def test_a_weak_stacks_heartbeat_counts_in_full() -> None:
    """Its pong comes from the library's parser; `d` from the application."""
    scene = Scene().open("c1", headers=[("User-Agent", "Python/3.11 websockets/14.2")]).identify("c1")
    assert scene.of(act.Attach)[0].quality == "buffered"
    scene.events("c1", run(1, [message(1)])).say("c1", 1, 3)
    assert scene.of(act.ClientCursor) == [act.ClientCursor("c1", 1)]
    assert Scene().agent("c1").half._sockets.get("c1").weak is False  # type: ignore[union-attr]


@pytest.mark.parametrize("code", [1000, 1001, 1006, 4000, None])
def test_r20_c10_no_close_code_of_the_agent_ends_anything(code: int | None) -> None:
    scene = Scene().agent("c1").events("c1", run(1, [message(1)])).forget()
    rows = dict(scene.state)
    scene.send(ev.ConnClosed("c1", code))
    assert scene.did == [act.Detach("c1")]
    assert scene.state == rows
    scene.open("c2").resume("c2", scene.sid, 3)
    assert scene.of(act.Attach)[0].after == 1


def test_c12_live_only_frames_are_left_out_for_an_agent_that_takes_nothing() -> None:
    for target, droppable in (("/", True), ("/?compress=zlib-stream", False)):
        scene = Scene().agent("c1", target)
        typing = payload("TYPING_START", {"guild_id": "g1", "x": "x" * 1000})
        for _ in range(1000):
            scene.upstream(live="0/1", frame=typing)
        size = sum(map(len, scene.sent["c1"]))
        assert 200_000 < size < 300_000
        # What went into a compressor must arrive; else the socket may drop it.
        assert bool(scene.droppable) is droppable
        scene.say("c1", 1, None).upstream(live="0/1", frame=typing)
        assert scene.types("c1")[-2:] == ["ACK", "TYPING_START"]


def test_live_only_frames_go_to_those_who_asked_for_them_on_their_shard() -> None:
    scene = Scene()
    scene.view.stream("discord:42:1/2")
    scene.agent("c1").agent("c2", intents=ALL & ~(1 << 11)).agent("c3", shard=[1, 2]).open("c4")
    scene.upstream(live="0/1", frame=payload("TYPING_START", {"guild_id": "g1"}))
    assert [conn for conn in ("c1", "c2", "c3", "c4") if "TYPING_START" in scene.types(conn)] == ["c1"]


def test_c5_two_sockets_of_one_bot_are_both_served_each_with_its_session() -> None:
    scene = Scene().agent("c1")
    first = scene.sid
    scene.agent("c2")
    assert scene.sid != first
    for n in range(1, 10):
        for conn in ("c1", "c2"):
            scene.events(conn, run(n, [message(n)])).pong(conn).say(conn, 1, None)
        scene.wait(20)
    assert scene.numbers("c1") == scene.numbers("c2") == [(f"m{n}", n + 2) for n in range(1, 10)]
    assert scene.closed == {}


def test_c5_an_old_socket_that_is_silent_is_closed_and_a_new_one_is_not() -> None:
    scene = Scene(heartbeat_ms=20000).agent("c1").wait(30).agent("c2").wait(9)
    assert scene.closed == {}
    scene.wait(2)
    assert scene.closed == {"c1": 4000}
    scene.wait(60)
    assert scene.closed == {"c1": 4000}, "the only one of its agent may sleep for a minute"


def test_c5_a_pong_is_a_sign_of_life_too() -> None:
    scene = Scene().agent("c1").agent("c2")
    for n in range(1, 6):
        scene.events("c1", run(n, [message(n)])).wait(20).pong("c1")
    assert scene.closed == {}


def test_c5_the_old_one_is_the_newest_again_when_the_other_left() -> None:
    scene = Scene().agent("c1").agent("c2").say("c1", 1, None).send(ev.ConnClosed("c2", 1000)).wait(120)
    assert scene.closed == {}


def test_c5_a_resume_replaces_its_own_sessions_socket_only() -> None:
    scene = Scene().agent("c1")
    first = scene.sid
    scene.agent("c2").events("c1", run(1, [message(1)]))
    scene.open("c3").resume("c3", first, 3)
    assert scene.closed == {"c1": 4000}
    assert act.Detach("c1") in scene.did
    assert scene.of(act.Attach)[-1].session == "c3"
    assert scene.open("c4").resume("c4", first, 3).closed == {"c1": 4000, "c3": 4000}


def test_r24_c15_a_planned_stop_is_op_7_and_then_4000_for_all() -> None:
    scene = Scene().agent("c1").agent("c2", "/?compress=zlib-stream").open("c3")
    scene.ready = None
    scene.open("c4").identify("c4").forget()
    scene.send(ev.Draining())
    for conn in ("c1", "c2", "c3", "c4"):
        assert scene.types(conn) == ["RECONNECT"]
    assert scene.closed == {}, "op 7 has a moment's start: some clients inflate it behind their close handler"
    scene.send(ev.ConnClosed("c2", 4900)).wait(0.3)
    assert scene.closed == {"c1": 4000, "c3": 4000, "c4": 4000}
    assert scene.timers == {}
    assert [key for key in scene.state if key.startswith("session:")], "they come back with a RESUME"


def test_records_of_a_session_that_is_gone_are_nothing() -> None:
    scene = Scene().agent("c1").send(ev.ConnClosed("c1", None)).forget()
    scene.events("c1", run(1, [message(1)])).send(ev.ConnPong("c1", b"")).send(ev.ConnFrames("c1", [b"{}"])).send(ev.ConnClosed("c1", 1))
    assert scene.did == []
    assert scene.sent == {}
    assert STREAM in scene.view.streams()
