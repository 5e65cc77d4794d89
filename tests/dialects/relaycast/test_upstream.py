"""The upstream half, requirement by requirement (relaycast R2 to R17, L1 to L9, D1, O1).

Two kinds of test: a playbook reads as a dialogue, inputs in and expected actions out; a harness runs the half against the reference
model of a server and compares what was published with what was admitted.
"""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.record import LATE, REPLAYED, Gap
from sidecar.dialects.relaycast import frames
from sidecar.dialects.relaycast.settings import RelaycastSettings
from sidecar.dialects.relaycast.upstream import UpstreamHalf
from tests.dialects.relaycast.harness import Harness, Town, identity, town
from tests.playbooks.playbook import FakeView, Playbook, json_with, like

FIRST = 249685982163529728
"""A message id of about 2026-11-21."""
DATE = "Sat, 21 Nov 2026 00:00:00 GMT"


def message(number: int, seq: int | None = None, **more: Any) -> bytes:
    """A channel message, `number` milliseconds after FIRST; without seq: the database's copy."""
    body = {"id": str(FIRST + (number << 22)), "agent_name": "Ann", "text": f"m{number}"}
    frame: dict[str, Any] = {"type": "message.created", "channel": "general", "message": body, **more}
    return msgspec.json.encode(frame | ({"replayed": True} if seq is None else {"agent_seq": seq}))


def presence(seq: int, text: str = "active") -> bytes:
    return msgspec.json.encode({"type": "agent.status.active", "status": text, "agent_seq": seq})


def reacted(number: int, seq: int | None = None, action: str = "added") -> bytes:
    frame = {"type": "message.reacted", "message_id": str(FIRST + (number << 22)), "emoji": "x", "agent_name": "Ann", "action": action}
    return msgspec.json.encode(frame | ({"replayed": True} if seq is None else {"agent_seq": seq}))


def ack(asked: int, current: int, replayed: int = 0, gap: bool = False) -> bytes:
    return msgspec.json.encode(
        {"type": "resync_ack", "last_seen_seq": asked, "current_seq": current, "replayed": replayed, "gap_detected": gap}
    )


def half(view: FakeView | None = None, *, token: str | None = "at_live_1", **knobs: Any) -> UpstreamHalf:
    settings = SimpleNamespace(knobs=RelaycastSettings(**knobs), upstream_token=token, linger_s=300.0)
    return UpstreamHalf("s", settings, view or FakeView())


def resync_frame(seq: int, **more: Any) -> Any:
    return [json_with(type="resync", last_seen_seq=seq, **more)]


def frames_of(ops: Any) -> list[bytes]:
    """Payloads of a commit's events."""
    found: list[bytes] = []
    for op in ops:
        if isinstance(op, act.Admit):
            found.append(op.payload)
        elif isinstance(op, act.AdmitRun):
            found.extend(op.payloads)
    return found


def admits(*payloads: bytes) -> Any:
    """A commit with exactly these events in this order."""
    return lambda ops: frames_of(ops) == list(payloads)


def gaps_of(ops: Any) -> list[Gap]:
    return [op.gap for op in ops if isinstance(op, act.RecordGap)]


def flags_of(ops: Any) -> dict[bytes, int]:
    return {payload: op.flags for op in ops if isinstance(op, act.Admit | act.AdmitRun) for payload in frames_of([op])}


def received(*payloads: bytes) -> ev.FramesReceived:
    return ev.FramesReceived("ws", list(payloads))


def live(cursor: int = 0, **knobs: Any) -> Playbook:
    """A first connect that found the counter at `cursor`; the dialogue is at `live`."""
    book = Playbook(half(**knobs))
    book.send(ev.Started({}, "at_live_1")).expect(act.Request)
    book.send(ev.ResponseReceived("birth", 200, [("Date", DATE)], b"{}")).expect(act.OpenLink)
    book.send(ev.LinkOpened("ws"))
    book.left.clear()
    book.send(received(ack(9007199254740991, cursor)))
    if cursor:
        book.left.clear()
        book.send(received(ack(max(cursor - 16, -1), cursor)))
    assert book.half.phase == "live"  # type: ignore[attr-defined]
    book.left.clear()
    return book


def reopened(book: Playbook) -> Playbook:
    """The socket is cut, the half dials again, and the socket opens; its resync is the next action."""
    book.send(ev.LinkClosed("ws", None))
    book.left.clear()
    book.send(ev.TimerFired("redial")).expect(act.OpenLink)
    book.send(ev.LinkOpened("ws"))
    book.left = [a for a in book.left if isinstance(a, act.SendFrames)]
    return book


def knows(book: Playbook, *payloads: bytes) -> None:
    """The journal has these messages."""
    book.half.view.known |= {("s", "", frames.read(payload).key) for payload in payloads}  # type: ignore[attr-defined]


def quiet(book: Playbook, kind: type[act.Action]) -> Any:
    """The only action of a type among those left; the others are passed over."""
    (found,) = [a for a in book.left if isinstance(a, kind)]
    book.left.clear()
    return found


# --- the live socket --------------------------------------------------------------------------------------------------


def test_R13_a_hole_is_asked_for_on_the_same_socket_and_what_came_after_it_waits() -> None:
    book = live()
    book.send(received(message(1, 1)))
    book.expect(act.Commit, ops=admits(message(1, 1)))

    book.send(received(message(3, 3), message(4, 4)))
    book.expect(act.StartTimer, timer="hold")
    book.expect(act.SendFrames, link="ws", frames=resync_frame(1))
    book.expect(act.StartTimer, timer="ack", seconds=10.0)

    book.send(received(message(5, 5)))  # waits as well
    book.send(received(message(2, 2), message(3, 3), message(4, 4), message(5, 5), ack(1, 5, 4)))
    book.expect(act.CancelTimer, timer="ack")
    commit = book.expect(act.Commit, ops=admits(message(2, 2), message(3, 3), message(4, 4), message(5, 5)))
    assert not gaps_of(commit.ops)
    book.expect(act.CancelTimer, timer="hold")

    book.send(received(message(6, 6)))
    book.expect(act.Commit, ops=admits(message(6, 6)))


def test_R13_what_nobody_has_becomes_a_gap_in_its_place() -> None:
    book = live()
    book.send(received(message(1, 1)))
    book.left.clear()
    book.send(received(message(3, 3)))
    book.left.clear()
    book.send(received(message(3, 3), ack(1, 3, 1)))
    # The ring does not have number 2; perhaps the database does.
    assert quiet(book, act.SendFrames).frames[0].startswith(b'{"type":"resync","last_seen_seq":-1,')
    knows(book, message(1))
    book.send(received(message(1, 1), message(3, 3), message(1), message(3), ack(-1, 3, 4, True)))
    commit = quiet(book, act.Commit)
    assert gaps_of(commit.ops) == [Gap("lost", "seq", 2, 2, 1)]
    assert isinstance(commit.ops[0], act.RecordGap), "the gap stands before what came after it"
    assert frames_of(commit.ops) == [message(3, 3)]

    book.send(received(message(2, 2)))
    commit = quiet(book, act.Commit)
    assert flags_of(commit.ops) == {message(2, 2): LATE | REPLAYED}, "what turns up later in a gap is late, no new life"


def test_R13_a_server_that_burns_numbers_is_not_made_to_replay_everything_each_time() -> None:
    book = live()
    asked = []
    for seq in (2, 4, 6):
        book.send(received(message(seq, seq)))
        book.left.clear()
        book.send(received(message(seq, seq), ack(seq - 2, seq, 1)))
        asked.append([a for a in book.left if isinstance(a, act.SendFrames)])
        book.left.clear()
        if asked[-1]:
            book.send(received(ack(-1, seq, 0, True)))
            book.left.clear()
            book.send(ev.ResponseReceived("fill", 404, [], b""))
            book.left.clear()
    assert asked[0] and not asked[1] and not asked[2]


def test_R3_a_silent_socket_is_dead_whatever_its_pongs_say() -> None:
    book = live()
    book.wait(15).send(ev.TimerFired("ping"))
    book.expect(act.SendFrames, link="ws", frames=[json_with(type="ping")])
    book.expect(act.StartTimer, timer="ping", seconds=15.0)
    book.send(received(b'{"type":"pong"}'))  # heard at 15 s
    book.send(ev.PongReceived("ws", b""))
    book.wait(15).send(ev.TimerFired("dead"))
    book.expect(act.StartTimer, timer="dead", seconds=15.0)
    book.wait(15).send(ev.PongReceived("ws", b"")).send(ev.TimerFired("dead"))
    book.expect(act.CloseLink, link="ws", code=None)
    assert any(isinstance(a, act.StartTimer) and a.timer == "redial" for a in book.left)


def test_L9_a_deaf_socket_is_left_and_nothing_is_lost() -> None:
    here = started()
    here.world.go_silent("deaf")
    post(here, 20)
    here.sidecar.run(60)
    here.sidecar.check_whole()


def test_unknown_kinds_odd_shapes_and_junk_pass() -> None:
    book = live()
    odd = [
        presence(1),
        b'{"type":"no.such.kind","agent_seq":2,"x":{"agent_seq":9}}',
        b'{"type":7,"agent_seq":3}',
        b'{"type":"message.created","message":"text","agent_seq":4}',
        b'{"type":"file.uploaded"}',
        b"[1,2]",
        b"junk \xff",
        b'{"type":"message.created","message":{"id":5},"agent_seq":5}',
    ]
    book.send(received(*odd))
    assert quiet(book, act.Commit).ops and book.half.progress.cursor == 5  # type: ignore[attr-defined]
    book.send(received(b'{"type":"pong"}', ack(5, 5)))
    book.done()


def test_one_commit_a_batch_with_the_progress_in_it() -> None:
    book = live()
    book.send(received(message(1, 1), presence(2), message(3, 3)))
    commit = book.expect(act.Commit, ops=admits(message(1, 1), presence(2), message(3, 3)))
    book.done()
    state = {op.key: op.value for op in commit.ops if isinstance(op, act.PutState)}
    again = Playbook(half())
    again.send(ev.Started(state, "at_live_1")).expect(act.OpenLink)  # type: ignore[arg-type]
    again.send(ev.LinkOpened("ws"))
    assert json_with(last_seen_seq=-1).fits(quiet(again, act.SendFrames).frames[0])


def test_a_repeated_live_frame_is_dropped() -> None:
    book = live()
    book.send(received(message(1, 1), presence(2), presence(2), message(1, 1)))
    book.expect(act.Commit, ops=admits(message(1, 1), presence(2)))
    book.done()


# --- dialling ---------------------------------------------------------------------------------------------------------


def test_R2_dials_with_the_token_and_the_telemetry_as_it_came() -> None:
    book = Playbook(half(token=None))
    book.send(ev.Started({"progress": b"[1,5,0,[]]"}))
    book.send(ev.CredentialSeen("at_live_a b", "origin_client=%40relaycast%2Fsdk&harness=x"))
    book.expect(act.StartTimer, timer="linger")
    book.expect(act.OpenLink, link="ws", target="/v1/ws?token=at_live_a%20b&origin_client=%40relaycast%2Fsdk&harness=x")


def test_R2_a_401_ends_the_credential_and_a_newer_one_is_tried() -> None:
    book = Playbook(half(token=None))
    book.send(ev.Started({"progress": b"[1,5,0,[]]"}), ev.CredentialSeen("old")).left.clear()
    book.send(ev.LinkRefused("ws", 401, b""))
    book.expect(act.Tell, message={"refused": "old", "status": 401, "body": b""})
    book.expect(act.Fatal, code="credential_refused")
    book.send(ev.TimerFired("redial"))
    book.send(ev.CredentialSeen("new"))
    book.expect(act.StartTimer, timer="linger")
    book.expect(act.OpenLink, target="/v1/ws?token=new")


def test_R2_a_credential_seen_meanwhile_is_for_the_next_dial() -> None:
    book = Playbook(half(token=None))
    book.send(ev.Started({"progress": b"[1,5,0,[]]"}), ev.CredentialSeen("old")).left.clear()
    book.send(ev.CredentialSeen("new")).left.clear()
    book.send(ev.LinkRefused("ws", 401, b"")).left.clear()
    book.send(ev.TimerFired("redial"))
    book.expect(act.OpenLink, target="/v1/ws?token=new")


def test_R2_moved_to_node_transport_is_told_as_what_it_is() -> None:
    book = Playbook(half())
    book.send(ev.Started({"progress": b"[1,5,0,[]]"}, "at_live_1")).left.clear()
    book.send(ev.LinkRefused("ws", 401, b'{"error":{"message":"Agent realtime WebSockets have moved to node transport"}}'))
    book.expect(act.Tell)
    book.expect(act.Fatal, code="node_transport")


def test_R2_other_failures_are_tried_again_with_jitter_up_to_30_s() -> None:
    book = Playbook(half(), random=0.99)
    book.send(ev.Started({"progress": b"[1,5,0,[]]"}, "at_live_1")).left.clear()
    delays = []
    for _ in range(12):
        book.send(ev.LinkRefused("ws", 503))
        delays.append(book.expect(act.StartTimer, timer="redial").seconds)
        book.send(ev.TimerFired("redial")).expect(act.OpenLink)
    assert delays[0] <= 0.2 and delays == sorted(delays) and 29 < delays[-1] <= 30
    book.random = 0.0
    book.send(ev.LinkRefused("ws", 503))
    assert 0 < book.expect(act.StartTimer, timer="redial").seconds < 1, "full jitter"


def test_R2_an_open_alone_does_not_reset_the_backoff() -> None:
    book = Playbook(half(), random=0.99)
    book.send(ev.Started({"progress": b"[1,5,0,[]]"}, "at_live_1")).left.clear()
    delays = []
    for _ in range(6):
        book.send(ev.LinkOpened("ws")).left.clear()
        book.send(ev.LinkClosed("ws", None))
        delays.append(next(a.seconds for a in book.left if isinstance(a, act.StartTimer) and a.timer == "redial"))
        book.left.clear()
        book.send(ev.TimerFired("redial")).left.clear()
    assert delays[-1] > 5
    book.send(ev.LinkOpened("ws")).left.clear()
    book.send(received(ack(-1, 5, 0, True))).left.clear()
    book.send(ev.LinkClosed("ws", None))
    assert next(a.seconds for a in book.left if isinstance(a, act.StartTimer) and a.timer == "redial") < 0.3
    book.left.clear()


def test_R17_without_anybody_the_upstream_is_let_go_after_the_linger() -> None:
    book = Playbook(half(token=None))
    book.send(ev.Started({"progress": b"[1,5,0,[]]"}), ev.CredentialSeen("t"), ev.Attached("s", 1), ev.LinkOpened("ws")).left.clear()
    book.send(ev.Detached("s", 0)).expect(act.StartTimer, timer="linger", seconds=300.0)
    book.send(ev.Attached("s", 1)).expect(act.CancelTimer, timer="linger")
    book.send(ev.Detached("s", 0)).expect(act.StartTimer, timer="linger")
    book.send(ev.TimerFired("linger"))
    book.expect(act.CloseLink, link="ws", code=1000)
    book.left.clear()
    book.send(ev.Attached("s", 1)).expect(act.OpenLink)


def test_R17_after_force_disconnect_dials_only_for_somebody() -> None:
    book = Playbook(half(token=None))
    book.send(ev.Started({"progress": b"[1,5,0,[]]"}), ev.CredentialSeen("t"), ev.LinkOpened("ws")).left.clear()
    book.send(ev.LinkClosed("ws", 1000, "force-disconnect"))
    assert not [a for a in book.left if isinstance(a, act.StartTimer)]
    book.left.clear()
    book.send(ev.Attached("s", 1))
    assert any(isinstance(a, act.OpenLink) for a in book.left)
    book.left.clear()
    book.send(ev.LinkOpened("ws")).left.clear()
    book.send(ev.LinkClosed("ws", 1000, "force-disconnect"))
    assert [a.timer for a in book.left if isinstance(a, act.StartTimer)] == ["redial"]
    book.left.clear()


def test_draining_tells_the_server_nothing() -> None:
    book = live()
    book.send(ev.Draining()).expect(act.CloseLink, link="ws", code=None)
    book.left.clear()
    book.send(received(message(1, 1)), ev.TimerFired("redial"))
    book.done()


# --- the beginning ----------------------------------------------------------------------------------------------------


def test_R4_the_first_connect_commits_counter_and_birth_before_any_event() -> None:
    book = Playbook(half())
    book.send(ev.Started({}, "at_live_1"))
    book.expect(act.Request, request="birth", method="GET", target="/v1/agent", headers=[("Authorization", "Bearer at_live_1")])
    book.send(ev.ResponseReceived("birth", 200, [("date", DATE)], b"{}")).expect(act.OpenLink)
    book.send(ev.LinkOpened("ws"))
    assert json_with(last_seen_seq=9007199254740991).fits(quiet(book, act.SendFrames).frames[0])
    book.send(received(message(9, 41), message(10, 42)))  # live, before the counter is told
    book.done()
    book.send(received(ack(9007199254740991, 40)))
    book.expect(act.CancelTimer, timer="ack")
    commit = book.expect(act.Commit, ops=admits())
    assert commit.ops[0].key == "progress" and commit.ops[0].value.startswith(b"[1,40,1795219200000,")
    book.left.clear()
    book.send(received(ack(24, 42, 2)))
    assert frames_of(quiet(book, act.Commit).ops) == [message(9, 41), message(10, 42)]


def test_R4_nothing_older_than_the_birth_is_ever_admitted() -> None:
    here = town()
    post(here, 30)
    here.sidecar.now += 0.2
    here.world.presence(here.bob)
    here.world.react(here.ann, here.roots[-1], "old")
    begun = len(here.bob.history)
    here.sidecar.start().run(1)
    here.world.restart()
    here.sidecar.run(1)
    post(here, 3)
    here.sidecar.run(1)
    here.world.restart()
    here.sidecar.run(1)
    here.sidecar.check_whole(begun)


def test_R4_an_outage_before_the_first_event_is_recovered() -> None:
    here = town()
    post(here, 5)
    begun = len(here.bob.history)
    here.sidecar.start().run(1)
    outage(here, 700)
    here.sidecar.check_whole(begun)


def test_R4_an_outage_before_the_first_event_and_a_restart_is_recovered() -> None:
    here = town()
    here.sidecar.start().run(2)
    here.world.cut_all()
    post(here, 20)
    here.world.restart()
    post(here, 5)
    here.sidecar.run(5)
    here.sidecar.check_whole()


# --- resync -----------------------------------------------------------------------------------------------------------


def test_R5_a_later_open_asks_with_overlap_and_server_time() -> None:
    book = live(cursor=100)
    book.send(received(message(1, 101), message(8_000, 102))).left.clear()
    reopened(book).expect(act.SendFrames, frames=resync_frame(102 - 16, since="2026-11-21T00:03:00.089Z"))


def test_R6_a_socket_that_dies_before_the_ack_leaves_nothing_behind() -> None:
    book = live()
    book.send(received(*(message(n, n) for n in range(1, 21)))).left.clear()
    reopened(book).expect(act.SendFrames, frames=resync_frame(4))
    book.send(received(message(20, 20), message(21, 21), message(23, 23)))
    book.done()
    reopened(book).expect(act.SendFrames, frames=resync_frame(4))
    rows = [message(n, n) for n in range(5, 24)]
    book.send(received(*rows, ack(4, 23, 19)))
    assert frames_of(quiet(book, act.Commit).ops) == rows[-3:]


def test_R6_an_overflow_asks_again_from_the_same_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    here = started()
    post(here, 5)
    here.sidecar.run(1)
    here.world.cut_all()
    post(here, 100)
    here.sidecar.run(0.01)
    here.sidecar.half.handle = once_small(here.sidecar.half)  # type: ignore[method-assign]
    here.sidecar.run(20)
    here.sidecar.check_whole()


def once_small(half: UpstreamHalf) -> Any:
    """Make the first hold of the next recovery too small."""
    handle = half.handle
    done: list[object] = []

    def smaller(moment: ev.Moment, event: ev.Input) -> Any:
        if half.recovery is not None and (not done or done[0] is half.recovery) and not half.recovery.hold.overflows:
            done.append(half.recovery)
            half.recovery.hold.max_bytes = 3000
        elif half.recovery is not None:
            half.recovery.hold.max_bytes = 1 << 25
        return handle(moment, event)

    return smaller


def test_R6_after_two_overflows_live_is_let_through_and_nothing_is_lost() -> None:
    here = started()
    post(here, 5)
    here.sidecar.run(1)
    here.world.refuse_connects(503, 3)
    here.world.cut_all()
    post(here, 300)
    handle = here.sidecar.half.handle

    def small(moment: ev.Moment, event: ev.Input) -> Any:
        if here.sidecar.half.recovery is not None:
            here.sidecar.half.recovery.hold.max_bytes = 20_000
        return handle(moment, event)

    here.sidecar.half.handle = small  # type: ignore[method-assign]
    here.sidecar.run(20)
    here.sidecar.check_whole(ordered=False)
    assert not here.sidecar.gaps


def test_R7_a_counter_below_the_cursor_is_a_new_life() -> None:
    book = live()
    book.send(received(*(message(n, n) for n in range(1, 31)))).left.clear()
    knows(book, *(message(n) for n in range(1, 31)))
    reopened(book).expect(act.SendFrames, frames=resync_frame(14))
    book.send(received(ack(14, 2)))
    assert json_with(last_seen_seq=-1).fits(quiet(book, act.SendFrames).frames[0])
    book.send(received(message(33, 1), presence(2), message(30), message(31), message(32), message(33), ack(-1, 2, 6, True)))
    # Rows of a channel whose membership nobody vouched for are checked (R10).
    assert quiet(book, act.Request).target == "/v1/agent"
    me = {"id": "7", "channels": [{"name": "general", "joined_at": "2026-01-01T00:00:00.000Z"}]}
    book.send(ev.ResponseReceived("fill", 200, [], msgspec.json.encode({"ok": True, "data": me})))
    commit = quiet(book, act.Commit)
    assert frames_of(commit.ops) == [message(31), message(32), message(33, 1), presence(2)]
    assert not gaps_of(commit.ops) and book.half.progress.life == 2  # type: ignore[attr-defined]


def test_R7_a_number_that_runs_backwards_on_a_live_socket_is_a_new_life() -> None:
    here = started()
    post(here, 30)
    here.sidecar.run(1)
    here.bob.seq = 0  # the server forgot, the socket lives
    here.bob.ring.clear()
    post(here, 4)
    here.sidecar.run(1)
    here.sidecar.check_whole()
    assert here.sidecar.facts["life"] == 2


def test_R8_pages_by_resync_and_spends_no_rest_on_messages() -> None:
    here = started()
    post(here, 3)
    here.sidecar.run(1)
    outage(here, 4500, pause=0.02)
    here.sidecar.check_whole()
    assert [target for target in here.sidecar.requests if "messages" in target] == []
    assert sum(b"resync" in asked.body for asked in here.world.log) > 4


def test_R8_a_second_of_more_than_1000_rows_is_read_over_rest() -> None:
    here = started()
    post(here, 3)
    here.sidecar.run(1.5)
    outage(here, 2600, pause=0.0)
    here.sidecar.check_whole()
    assert any("/messages?limit=100&before=" in target for target in here.sidecar.requests)


def test_R8_beyond_the_bound_of_rows_a_gap_says_limit() -> None:
    here = started(max_backfill=300)
    post(here, 3)
    here.sidecar.run(1.5)
    outage(here, 2600, pause=0.0)
    (gap,) = here.sidecar.gaps
    lost = len(here.sidecar.published()) - len(here.sidecar.admitted())
    assert (gap.reason, gap.count) == ("limit", lost) and lost > 0


def test_R9_without_an_acknowledgement_history_is_read_over_rest() -> None:
    here = started()
    post(here, 20)
    here.sidecar.run(1)
    root = here.roots[3]
    here.world.swallow_resync()
    here.world.cut_all()
    post(here, 250)
    here.world.reply(here.ann, root, "a reply to a root from before")
    here.world.dm(here.ann, [here.bob], "a direct message")
    here.sidecar.run(5)
    assert here.sidecar.facts["upstream"] == "resync"
    here.sidecar.run(10)
    assert here.sidecar.facts["upstream"] == "live"
    here.sidecar.check_whole(ordered=False)
    post(here, 2)
    here.sidecar.run(1)
    here.sidecar.check_whole(ordered=False)


def test_R10_muted_and_foreign_channels_and_what_was_before_joining_stay_out() -> None:
    here = started()
    team = here.ann.workspace
    for name in ("muted", "joined"):
        here.world.add_channel(team, name, [here.ann])
    here.world.add_channel(team, "foreign", [here.ann])
    here.world.join(here.bob, "muted")
    here.world.mute(here.bob, "muted")
    post(here, 3)
    here.sidecar.run(1.5)
    here.world.refuse_connects(503, 2)
    here.world.cut_all()
    for name in ("muted", "joined", "foreign"):
        post(here, 20, channel=name)
    post(here, 700)
    here.sidecar.now += 2
    here.world.join(here.bob, "joined")
    here.sidecar.now += 2
    post(here, 5, channel="joined")
    post(here, 20)
    here.sidecar.run(20)
    here.sidecar.check_whole()
    here.world.swallow_resync()
    here.world.cut_all()
    for name in ("muted", "foreign", "joined", "general"):
        post(here, 5, channel=name)
    here.sidecar.run(30)
    here.sidecar.check_whole(ordered=False)


@pytest.mark.parametrize("endpoint", ["bare", "missing"])
def test_R10_without_a_list_of_channels_members_tell(endpoint: str) -> None:
    here = started()
    here.world.agent_endpoint = endpoint
    here.world.add_channel(here.ann.workspace, "foreign", [here.ann])
    post(here, 3)
    here.sidecar.run(1.5)
    here.world.swallow_resync()
    here.world.cut_all()
    post(here, 30, channel="foreign")
    post(here, 30)
    here.sidecar.run(20)
    here.sidecar.check_whole()


def test_R11_one_message_by_ring_database_and_rest_is_one_event() -> None:
    book = live(cursor=20)
    reopened(book).expect(act.SendFrames, frames=resync_frame(4))
    book.send(received(message(1, 21), message(1), message(2, 22), message(2), ack(4, 22, 4, True)))
    commit = quiet(book, act.Commit)
    assert frames_of(commit.ops) == [message(1, 21), message(2, 22)]
    assert [op.key for op in commit.ops if isinstance(op, act.Admit)] == [frames.read(message(n)).key for n in (1, 2)]


def test_R12_rows_stand_before_numbered_frames_and_a_reaction_not_before_its_message() -> None:
    here = started()
    post(here, 3)
    here.sidecar.run(1.5)
    here.world.refuse_connects(503, 2)
    here.world.cut_all()
    post(here, 200)
    here.world.react(here.ann, here.roots[-1], "x")
    here.world.react(here.ann, here.roots[0], "y")
    post(here, 600)
    here.sidecar.run(20)
    here.sidecar.check_whole(ordered=False)
    order = here.sidecar.admitted()
    for root, emoji in ((here.roots[-601], "x"), (here.roots[0], "y")):
        assert order.index(("message.reacted", str(root.id), emoji, "Ann", "added")) > order.index(("message.created", str(root.id)))
    posts = [int(one[1]) for one in order if one[0] == "message.created"]
    assert posts == sorted(posts)


def test_R14_fewer_than_missed_is_a_gap_with_the_count() -> None:
    here = started()
    post(here, 3)
    here.sidecar.run(1.5)
    here.world.refuse_connects(503, 2)
    here.world.cut_all()
    for n in range(40):
        here.world.emit([here.bob], {"type": "agent.status.active", "n": n})
        post(here, 2)
    post(here, 600)
    here.sidecar.run(20)
    (gap,) = here.sidecar.gaps
    assert (gap.reason, gap.unit, gap.count) == ("lost", "seq", 40)
    assert gap.from_ == 4 and gap.to == 3 + 40 * 3 + 600 - 500
    assert len(here.sidecar.admitted()) == len(here.sidecar.published()) - 40


def test_R14_gap_detected_alone_is_no_gap() -> None:
    book = live()
    book.send(received(message(1, 1))).left.clear()
    reopened(book).expect(act.SendFrames, frames=resync_frame(-1))
    book.send(received(message(1, 1), message(2, 2), message(1), message(2), ack(-1, 2, 4, True)))
    commit = quiet(book, act.Commit)
    assert frames_of(commit.ops) == [message(2, 2)] and not gaps_of(commit.ops)


def test_R14_what_the_server_has_deleted_is_a_gap_of_that_size() -> None:
    here = started()
    post(here, 3)
    here.sidecar.run(1.5)
    here.world.refuse_connects(503, 2)
    here.world.cut_all()
    post(here, 700)
    here.world.forget(here.roots[3:20])
    here.sidecar.run(20)
    assert [gap.count for gap in here.sidecar.gaps] == [17]


def test_R15_frames_made_from_rest_look_like_the_database_s_rows() -> None:
    here = started()
    here.world.joined_event_ids = True
    post(here, 3)
    here.sidecar.run(1)
    here.world.swallow_resync()
    here.world.cut_all()
    files = [{"file_id": "f1"}]
    row = here.world.post(here.ann, "general", "with a file", mode="steer", attachments=files)
    reply = here.world.reply(here.ann, row, "re")
    direct = here.world.dm(here.ann, [here.bob], "psst")
    here.sidecar.run(20)
    by_id = {msgspec.json.decode(e.payload)["message"]["id"]: msgspec.json.decode(e.payload) for e in here.sidecar.events[3:]}
    body = by_id[str(row.id)]
    assert list(body) == ["id", "type", "channel", "message", "replayed"]
    assert body["message"]["attachments"] == files and body["message"]["injection_mode"] == "steer" and body["replayed"] is True
    assert body["id"] == frames.event_id(row.id, "joined")
    assert by_id[str(reply.id)]["parent_id"] == str(row.id) and by_id[str(reply.id)]["type"] == "thread.reply"
    assert by_id[str(direct.id)]["conversation_id"].startswith("dm_") and by_id[str(direct.id)]["type"] == "dm.received"


def test_R16_one_get_at_a_time_and_silence_after_429() -> None:
    here = started()
    post(here, 3)
    here.sidecar.run(1)
    here.world.swallow_resync()
    here.world.rate_limit(1, "7")
    here.world.rate_limit(2, None)
    here.world.cut_all()
    post(here, 30)
    here.sidecar.run(11)
    at = [(asked.at, asked.status) for asked in here.world.log if asked.method == "GET" and asked.at > here.sidecar.now - 5]
    assert len(at) == 1 and at[0][1] == 429
    here.sidecar.run(60)
    times = [asked.at for asked in here.world.log if asked.method == "GET"][1:]
    waits = [round(b - a) for a, b in itertools.pairwise(times)][:3]
    assert waits == [7, 5, 10]
    assert {asked.method for asked in here.world.log} <= {"GET", "UPGRADE", "WS"}
    here.sidecar.check_whole(ordered=False)


def test_R16_one_channel_that_is_denied_does_not_stop_the_others() -> None:
    here = started()
    here.world.add_channel(here.ann.workspace, "aaa", [here.ann, here.bob])
    post(here, 3)
    here.sidecar.run(1)
    here.world.swallow_resync()
    here.world.fail_rest(1, 403, prefix="/v1/channels/aaa/messages")
    here.world.fail_rest(3, 500, prefix="/v1/channels/general/messages")
    here.world.cut_all()
    post(here, 30)
    here.sidecar.run(30)
    here.sidecar.check_whole(ordered=False)


def test_invariant_9_after_30_s_live_passes_and_the_fill_is_late() -> None:
    here = started()
    post(here, 20)
    here.sidecar.run(1)
    here.world.swallow_resync()
    here.world.rate_limit(1, "60")
    here.world.cut_all()
    post(here, 40)
    here.sidecar.run(1)
    post(here, 5)
    here.sidecar.run(25)
    assert len(here.sidecar.events) == 20, "live waits"
    here.sidecar.run(6)
    assert [identity(e.payload) for e in here.sidecar.events[20:]] == here.sidecar.published(60)
    assert here.sidecar.facts["upstream"] == "live"
    here.sidecar.run(60)
    here.sidecar.check_whole(ordered=False)
    assert [bool(e.flags & LATE) for e in here.sidecar.events] == [False] * 25 + [True] * 40


def test_invariant_9_a_crash_during_a_late_fill_loses_nothing() -> None:
    here = started()
    post(here, 20)
    here.sidecar.run(1)
    here.world.swallow_resync()
    here.world.rate_limit(1, "600")
    here.world.cut_all()
    post(here, 40)
    here.sidecar.run(1)
    post(here, 5)
    here.sidecar.run(50)
    assert len(here.sidecar.events) == 25
    here.sidecar.crash()
    here.sidecar.run(5)
    here.sidecar.check_whole(ordered=False)


# --- the loss modes, against the reference model ------------------------------------------------------------------------


def started(**knobs: Any) -> Town:
    """A sidecar that holds Bob's stream from its first event on."""
    here = town(**knobs)
    here.sidecar.start().run(1.2)
    return here


def post(here: Town, count: int, *, channel: str = "general", pause: float = 0.01) -> None:
    for n in range(count):
        here.sidecar.now += pause
        here.roots.append(here.world.post(here.ann, channel, f"m{n}"))


def outage(here: Town, count: int, *, pause: float = 0.01) -> None:
    """The socket is cut, `count` messages are missed, and the sidecar comes back."""
    here.world.refuse_connects(503, 2)
    here.world.cut_all()
    post(here, count, pause=pause)
    here.sidecar.run(20)


def test_L1_the_second_of_the_last_event_is_not_lost() -> None:
    here = started()
    post(here, 3)
    here.sidecar.run(0.001)
    outage(here, 660, pause=0.001)
    here.sidecar.check_whole()
    assert any(b"resync_ack" not in a.body and b"since" in a.body for a in here.world.log)


def test_L2_more_than_the_ring_holds_is_recovered() -> None:
    here = started()
    post(here, 30)
    here.sidecar.run(1)
    outage(here, 660)
    here.sidecar.check_whole()


def test_L3_the_middle_of_a_long_outage_is_recovered() -> None:
    here = started()
    post(here, 30)
    here.sidecar.run(1)
    outage(here, 1800)
    here.sidecar.check_whole()


def test_L4_a_restart_with_the_counter_below_the_cursor() -> None:
    here = started()
    post(here, 60)
    here.sidecar.run(1)
    here.world.cut_all()
    post(here, 20)
    here.world.restart()
    post(here, 5)
    here.sidecar.run(5)
    here.sidecar.check_whole()


@pytest.mark.parametrize("after", [50, 61, 70, 400, 900])
def test_L5_a_restart_with_the_counter_above_the_cursor(after: int) -> None:
    here = started()
    post(here, 50)
    here.sidecar.run(1)
    here.world.cut_all()
    post(here, 20)
    here.world.restart()
    post(here, after)
    here.sidecar.run(5)
    here.sidecar.check_whole()


@pytest.mark.parametrize("rows", [0, 3, 200])
def test_L6_an_acknowledgement_that_never_comes(rows: int) -> None:
    here = started()
    post(here, 30)
    here.sidecar.run(1)
    here.world.break_resync(rows, cut=False)
    here.world.cut_all()
    post(here, 400)
    here.sidecar.run(30)
    here.sidecar.check_whole(ordered=False)
    post(here, 5)
    here.sidecar.run(30)
    here.sidecar.check_whole(ordered=False)


def test_L6_a_replay_that_breaks_off_is_asked_for_again() -> None:
    here = started()
    post(here, 30)
    here.sidecar.run(1)
    here.world.break_resync(70, times=3)
    here.world.cut_all()
    post(here, 400)
    here.sidecar.run(30)
    here.sidecar.check_whole()


def test_L6_an_acknowledgement_of_nothing_is_not_believed() -> None:
    here = started()
    post(here, 30)
    here.sidecar.run(1)
    here.world.hollow_resync(2)
    here.world.cut_all()
    post(here, 400)
    here.sidecar.run(30)
    here.sidecar.check_whole(ordered=False)


def test_L7_a_lost_push_is_found_at_once() -> None:
    here = started()
    post(here, 5)
    here.sidecar.run(1)
    here.world.lose_pushes(3, here.bob)
    post(here, 5)
    here.sidecar.run(1)
    here.sidecar.check_whole()


def test_L7_a_push_that_the_ring_lost_too_comes_from_the_database() -> None:
    here = started()
    post(here, 5)
    here.sidecar.run(1)
    here.world.lose_pushes(1, here.bob, from_ring=True)
    post(here, 2)
    here.sidecar.run(1)
    here.sidecar.check_whole()


def test_L8_kinds_without_rows_older_than_the_ring_are_a_true_gap() -> None:
    here = started()
    post(here, 3)
    here.sidecar.run(1)
    here.world.refuse_connects(503, 1)
    here.world.cut_all()
    for n in range(7):
        here.world.emit([here.bob], {"type": "agent.status.active", "n": n})
    post(here, 500)
    here.sidecar.run(20)
    assert here.sidecar.gaps == [Gap("lost", "seq", 4, 10, 7)]
    assert here.sidecar.journal[3].gap is not None, "in its place"


def test_D1_a_reaction_in_ring_and_database_is_one_event() -> None:
    here = started()
    post(here, 30)
    here.world.react(here.ann, here.roots[2], "live")
    here.sidecar.run(1)
    here.world.refuse_connects(503, 1)
    here.world.cut_all()
    here.world.react(here.ann, here.roots[3], "only in the database")
    post(here, 600)
    here.world.react(here.ann, here.roots[-1], "in both")
    here.sidecar.run(20)
    here.sidecar.check_whole(ordered=False)


def test_D1_an_add_after_a_removal_is_an_event_of_its_own() -> None:
    here = started()
    post(here, 30)
    for action in ("added", "removed"):
        here.world.react(here.ann, here.roots[-1], "x", action)
    here.sidecar.run(1)
    here.world.refuse_connects(503, 1)
    here.world.cut_all()
    here.world.react(here.ann, here.roots[-1], "x")
    post(here, 600)
    here.sidecar.run(20)
    here.sidecar.check_whole(ordered=False)


def test_O1_live_events_between_the_rows_of_a_replay_keep_their_place() -> None:
    here = started()
    post(here, 30)
    here.sidecar.run(1)
    pushed: list[int] = []

    def between(socket: object, part: str, index: int) -> None:
        if index % 100 == 50 and len(pushed) < 30:
            pushed.append(index)
            post(here, 1)

    here.world.on_replay = between
    outage(here, 1800)
    assert len(pushed) > 5
    here.sidecar.check_whole()


def test_a_first_page_of_rest_that_changes_and_repeats_comes_to_an_end() -> None:
    from sidecar.dialects.relaycast.backfill import Backfill, Plan

    fill = Backfill(Plan(0, None, 20000, True, frozenset(), {}, 0, frozenset(), lambda key: False, "array"))
    rows = [{"id": str(FIRST - n), "text": "x"} for n in range(100)]
    me = {"id": "1", "channels": [{"name": "general"}]}
    for _ in range(20):
        if fill.target is None:
            break
        data: Any = me if fill.target == "/v1/agent" else rows if "messages" in fill.target else {} if "general" in fill.target else []
        fill.answer(200, lambda name: None, msgspec.json.encode({"ok": True, "data": data}), 0.5)
    assert fill.target is None and fill.count <= 300


def test_garbage_over_rest_is_tried_again_and_then_left() -> None:
    from sidecar.dialects.relaycast.backfill import MAX_FAILURES, Backfill, Plan

    fill = Backfill(Plan(0, None, 20000, False, frozenset({"general"}), {}, 0, frozenset({"general"}), lambda key: False, "array"))
    for n in range(MAX_FAILURES + 1):
        assert fill.target == "/v1/agent", n
        fill.answer(200, lambda name: None, b"<html>", 0.5)
    assert fill.target is None and fill.failed == ["/v1/agent"]


def test_harness_sees_a_loss() -> None:
    """The judge itself: a half that ignores resync is found out."""
    here = started()
    post(here, 3)
    here.sidecar.run(1)
    here.sidecar.journal.pop()
    with pytest.raises(AssertionError, match="lost 1"):
        here.sidecar.check_whole()
    assert isinstance(here.sidecar, Harness) and like(act.Commit).fits(act.Commit([]))
