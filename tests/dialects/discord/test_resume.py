"""RESUME: exact, or op 9 (discord R16, R17, C7, C8, C11)."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.dialects.discord.sessions import KEPT
from tests.dialects.discord.scene import ALL, BOT, STREAM, TOKEN, Scene, gap_at, message, payload, run


def seen(scene: Scene, count: int) -> Scene:
    """An agent that was sent so many events; the journal has as many. s of event n is n + 2."""
    return scene.agent("c1").events("c1", run(1, [message(n) for n in range(1, count + 1)])).forget()


def test_r16_what_follows_seq_comes_and_then_resumed() -> None:
    scene = seen(Scene(), 5).send(ev.ConnClosed("c1", None)).forget()
    scene.open("c2").resume("c2", scene.sid, 4)
    owned, _, attach, cursor = scene.did[-4:]
    assert owned == act.Own(BOT, TOKEN, str(ALL), [STREAM])
    assert (attach.session, attach.stream, attach.consumer, attach.after, attach.mark) == ("c2", STREAM, "agent", 2, "resume")
    # R17: the seq of a RESUME is a cursor that the client states.
    assert cursor == act.ClientCursor("c2", 2)
    scene.events("c2", run(3, [message(3), message(4), message(5)]))
    assert "RESUMED" not in scene.types("c2")
    scene.send(ev.SeekDone("c2", "resume", 3, 5, False))
    assert scene.numbers("c2") == [("m3", 5), ("m4", 6), ("m5", 7), ("RESUMED", 7)]
    assert scene.frames("c2")[-1]["d"] == {}, "an object: discord.py assigns a key into it"
    scene.events("c2", run(6, [message(6)]))
    assert scene.numbers("c2")[-1] == ("m6", 8)


def test_r16_with_nothing_missed_resumed_repeats_the_seq() -> None:
    scene = seen(Scene(), 5)
    scene.open("c2").resume("c2", scene.sid, 7).send(ev.SeekDone("c2", "resume", 0, 5, False))
    assert scene.numbers("c2") == [("RESUMED", 7)]


def test_r16_right_behind_the_snapshot() -> None:
    scene = Scene().agent("c1")
    scene.open("c2").resume("c2", scene.sid, 2).send(ev.SeekDone("c2", "resume", 0, 0, False))
    assert scene.numbers("c2") == [("RESUMED", 2)]
    assert scene.of(act.Attach)[0].after == 0


def test_c8_exact_after_a_restart_with_the_upstream_away() -> None:
    scene = Scene()
    scene.view.stream(STREAM, 40)
    scene.view.cursors[STREAM, "agent"] = 37
    scene.offset = 40
    scene.agent("c1")  # base 37, k 2
    scene.view.stream(STREAM, 50)
    scene.who, scene.ready = {TOKEN: 0}, None
    scene.restart()
    scene.open("c1").resume("c1", scene.sid, 6)  # offset 41
    assert scene.of(act.Attach)[0].after == 41
    scene.events("c1", run(42, [message(42)])).send(ev.SeekDone("c1", "resume", 1, 42, False))
    assert scene.numbers("c1") == [("m42", 7), ("RESUMED", 7)]


def test_r16_the_same_filter_after_a_restart() -> None:
    scene = Scene().agent("c1", intents=1 << 9 | 1 << 15)
    scene.restart()
    scene.view.stream(STREAM, 3)
    scene.open("c1").resume("c1", scene.sid, 1)
    scene.events("c1", run(1, [message(1), payload("TYPING_START", {"guild_id": "g1"}), message(3)]))
    assert scene.numbers("c1") == [("m1", 2), ("m3", 4)]


@pytest.mark.parametrize("seq", [None, 8, 10**12, 1, 0, -1, "7", 5.0, True, [7]])
def test_c7_a_seq_that_is_none_of_the_sessions_is_refused_at_once_and_the_socket_stays(seq: Any) -> None:
    scene = seen(Scene(), 5)
    scene.open("c2").resume("c2", scene.sid, seq)
    assert scene.frames("c2")[-1] == {"op": 9, "d": False, "s": None, "t": None}
    assert scene.closed == {}
    assert not scene.of(act.Attach)
    scene.wait(5).identify("c2")
    assert scene.types("c2") == ["HELLO", "INVALID", "READY", "GUILD_CREATE"]


def test_c7_a_seq_within_the_snapshot_says_nothing_about_the_rest_of_it() -> None:
    scene = Scene()
    scene.view.stream(STREAM, 40)
    scene.offset = 40
    scene.agent("c1").open("c2").resume("c2", scene.sid, 1)
    assert scene.types("c2") == ["HELLO", "INVALID"]


@pytest.mark.parametrize(
    "d", [None, [], "x", {}, {"token": None, "session_id": None, "seq": None}, {"token": TOKEN, "session_id": 4, "seq": 4}]
)
def test_c7_null_and_junk(d: Any) -> None:
    scene = seen(Scene(), 5).open("c2").say("c2", 6, d)
    assert scene.types("c2") == ["HELLO", "INVALID"]
    assert scene.closed == {}


def test_c7_older_than_the_journal() -> None:
    scene = seen(Scene(), 50)
    scene.view.stream(STREAM, 50, first=21)
    scene.open("c2").resume("c2", scene.sid, 21)
    assert scene.types("c2") == ["HELLO", "INVALID"]
    scene.resume("c2", scene.sid, 22)  # offset 20: 21 is what follows
    assert scene.of(act.Attach)[0].after == 20


def test_c7_a_session_of_another_token_or_of_nobody() -> None:
    scene = seen(Scene(), 5)
    scene.who["other"] = BOT
    scene.open("c2").identify("c2", token="other").open("c3")
    scene.resume("c3", scene.sid, 4, token="other").resume("c3", "0" * 32, 4)
    assert scene.types("c3") == ["HELLO", "INVALID", "INVALID"]


def test_c11_a_close_during_the_replay_and_another_resume_begin_anew() -> None:
    scene = seen(Scene(), 50)
    scene.open("c2").resume("c2", scene.sid, 2).events("c2", run(1, [message(1), message(2)]))
    # The first socket still hangs; the second states less than was sent on it.
    scene.open("c3").resume("c3", scene.sid, 3)
    assert scene.closed["c2"] == 4000
    assert scene.of(act.Attach)[-1].after == 1
    scene.events("c2", run(3, [message(3)])).send(ev.SeekDone("c2", "resume", 1, 3, False)).events("c3", run(2, [message(2)]))
    assert scene.numbers("c2")[-1] == ("m2", 4), "nothing more on the old one"
    assert scene.numbers("c3") == [("m2", 4)]


def test_c11_a_resume_while_the_snapshot_still_goes_out() -> None:
    scene = Scene()
    scene.disk = False
    scene.open("c1").identify("c1")
    sid = scene.half._sockets.get("c1").key  # type: ignore[union-attr]
    scene.open("c2").resume("c2", sid, 2)
    assert scene.closed == {"c1": 4000}
    scene.disk_done()
    assert scene.types("c1") == ["HELLO"]
    assert [a.session for a in scene.of(act.Attach)] == ["c2"]


def test_sessions_are_bounded_and_those_connected_stay() -> None:
    scene = Scene().agent("c0")
    first = scene.sid
    second = scene.agent("c1").send(ev.ConnClosed("c1", None)).sid
    for n in range(2, KEPT + 20):
        scene.agent(f"c{n}").send(ev.ConnClosed(f"c{n}", None))
    rows = [key for key in scene.state if key.startswith("session:")]
    assert len(rows) == KEPT + 1
    assert f"session:{first}" in rows
    assert f"session:{second}" not in rows
    scene.restart()
    scene.open("a").resume("a", first, 2).open("b").resume("b", second, 2)
    assert scene.types("a") == ["HELLO"]
    assert scene.types("b") == ["HELLO", "INVALID"]


def test_r16_the_oldest_sessions_make_room_also_after_a_restart() -> None:
    scene, ids = Scene(), []
    for n in range(KEPT):
        ids.append(scene.wait(1).agent(f"c{n}").send(ev.ConnClosed(f"c{n}", None)).sid)
    scene.restart()
    scene.agent("new").open("old").resume("old", ids[0], 2).open("young").resume("young", ids[-1], 2)
    assert scene.types("old") == ["HELLO", "INVALID"]
    assert scene.types("young") == ["HELLO"]


def test_gaps_are_no_frames_of_a_replay() -> None:
    scene = seen(Scene(), 1)
    scene.open("c2").resume("c2", scene.sid, 3).events("c2", gap_at(2)).send(ev.SeekDone("c2", "resume", 0, 1, True))
    assert scene.numbers("c2") == [("RESUMED", 3)]


def test_R19_an_agent_whose_first_cursor_a_kill_took_goes_on_where_its_session_began() -> None:
    scene = Scene()
    scene.view.stream(STREAM, head=5)
    scene.offset = 5
    scene.agent("c1")
    assert scene.view.cursor(STREAM, "agent") is None, "no receipt reached the disk"
    scene.view.stream(STREAM, head=9)
    scene.offset = 9
    scene.restart()
    scene.forget().open("c2").identify("c2")
    assert [a.after for a in scene.of(act.Attach)] == [5]
    # Not if it was away for so long that the consumer would have been forgotten, and not behind what is kept.
    scene.view.stream(STREAM, head=9, first=8)
    scene.restart()
    scene.forget().open("c3").identify("c3")
    assert [a.after for a in scene.of(act.Attach)] == [7]
    scene.wall += 86401
    scene.restart()
    scene.forget().open("c4").identify("c4")
    assert [a.after for a in scene.of(act.Attach)] == [9]
