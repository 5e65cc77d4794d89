"""The engine's loop: tickets, group commit, accounts and their generations, drains, defects of a half."""

from __future__ import annotations

import pytest

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.engine import PENDING_BYTES
from sidecar.core.layout import Table
from tests.core.fake import DOWN, Fake


def world(**options: object) -> Fake:
    made = Fake(**options)  # type: ignore[arg-type]
    made.own()
    made.run()
    return made


# --- commits -----------------------------------------------------------------------------------------------------------------------


def test_everything_admitted_while_a_write_is_under_way_rides_in_the_next_one() -> None:
    made = world()
    before = made.ports.written_batches
    for name in "abcde":
        made.admit(name, ticket=name)
    made.run()
    assert made.ports.written_batches == before + 2, "a alone, the others together"
    assert [c.ticket for c in made.ups["A"].got(ev.Committed)] == list("abcde")
    assert [c.offsets for c in made.ups["A"].got(ev.Committed)] == [[1], [2], [3], [4], [5]]


def test_offsets_tell_what_was_dropped_as_known() -> None:
    made = world()
    made.admit("a", "b", "a", "c", ticket="t")
    made.run()
    assert [c.offsets for c in made.ups["A"].got(ev.Committed)] == [[1, 2, 0, 3]]
    assert made.engine.admission.duplicates == 1


def test_a_commit_without_operations_is_a_barrier() -> None:
    made = world()
    made.admit("a", "b")
    made.attach("s")
    made.run()
    made.receipt("s", 2)
    made.do(act.Commit([], "t"))
    assert not made.down.got(ev.Committed)
    made.run()
    assert made.down.got(ev.Committed)[0].ticket == "t" and made.durable() == 2


def test_a_commit_of_duplicates_alone_needs_no_disk() -> None:
    made = world()
    made.admit("a")
    made.run()
    before = made.ports.written_batches
    made.admit("a", ticket="t")
    assert made.ups["A"].got(ev.Committed)[0].offsets == [0] and made.ports.written_batches == before


def test_links_are_paused_while_too_much_waits_for_the_disk() -> None:
    made = world()
    made.admit("a")
    made.up("A", act.Commit([act.Admit("S", b"x" * (PENDING_BYTES + 1), b"big")]))
    assert made.ports.paused_links == [True]
    made.run()
    assert made.ports.paused_links == [True, False]


def test_only_tickets_of_downstream_halves_let_exchanges_go() -> None:
    made = world()
    made.admit("a", ticket="x")
    made.do(act.Commit([act.PutState("k", b"v")], "y"))
    made.run()
    assert made.ports.released == ["y"]


# --- accounts ------------------------------------------------------------------------------------------------------------------------


def test_a_link_of_an_old_generation_is_a_no_op() -> None:
    made = world()
    made.up("A", act.OpenLink("l", "/1"))
    owner, old, _ = made.ports.links[-1]
    made.up("A", act.OpenLink("l", "/2"))
    assert (owner, "l", None) in made.ports.closed_links, "the one still open is aborted"
    new = made.ports.links[-1][1]
    assert new > old
    for event in (ev.LinkOpened("l"), ev.FramesReceived("l", [b"x"]), ev.LinkClosed("l", 1000)):
        made.engine.link(owner, old, event)
    assert not made.ups["A"].got(ev.LinkOpened) and not made.ups["A"].got(ev.LinkClosed)
    made.engine.link(owner, new, ev.LinkOpened("l"))
    made.engine.link(owner, new, ev.LinkClosed("l", 1006))
    made.engine.link(owner, new, ev.FramesReceived("l", [b"late"]))
    made.engine.link(owner, new, ev.LinkClosed("l", 1006))
    assert len(made.ups["A"].got(ev.LinkOpened)) == len(made.ups["A"].got(ev.LinkClosed)) == 1
    assert not made.ups["A"].got(ev.FramesReceived)


def test_what_a_closed_link_says_is_nothing() -> None:
    made = world()
    made.up("A", act.OpenLink("l", "/1"), act.CloseLink("l"), act.SendFrames("l", [b"x"]))
    owner, generation, _ = made.ports.links[-1]
    made.engine.link(owner, generation, ev.LinkOpened("l"))
    assert not made.ups["A"].got(ev.LinkOpened) and made.ports.sent == []


def test_a_link_of_another_account_is_not_touched() -> None:
    made = world()
    made.own("B", "T", "t2")
    made.up("A", act.OpenLink("l", "/1"))
    made.up("B", act.OpenLink("l", "/2"))
    owner, generation, _ = made.ports.links[-1]
    made.engine.link("up:A", generation, ev.LinkOpened("l"))
    assert not made.ups["A"].got(ev.LinkOpened)
    made.engine.link(owner, generation, ev.LinkOpened("l"))
    assert made.ups["B"].got(ev.LinkOpened)


def test_a_half_that_raises_begins_anew_and_others_go_on() -> None:
    made = world(strict=False)
    made.own("B", "T", "t2")
    made.run()
    first = made.ups["A"]
    made.admit("a", ticket="old")
    made.up("A", act.StartTimer("t", 9), act.PutState("not an action", b""))  # type: ignore[arg-type]
    assert made.logged("internal error") and made.ports.counts["internal_errors"] == 1
    assert ("up:A", "t") not in made.ports.timers
    made.up("B", act.Commit([act.Admit("T", b"x", b"x")]))
    made.fire("restart", "A")
    made.run()
    assert made.ups["A"] is not first and made.ups["A"].got(ev.Started)
    assert not made.ups["A"].got(ev.Committed), "a ticket of the one before"
    assert made.engine.admission.books["T"].committed == 1 and made.engine.admission.books["S"].committed == 1


def test_what_was_meant_for_a_half_that_is_gone_does_not_reach_the_next_one() -> None:
    made = world()
    first = made.ups["A"]
    made.do(
        act.Tell("for the first", "A"),
        act.Disown("A"),
        act.Own("A", "t9", "", ["S"]),
        act.Tell("for the second", "A"),
    )
    assert made.ups["A"] is not first
    assert [m.message for m in made.ups["A"].got(ev.MessageFromDownstream)] == ["for the second"]
    assert isinstance(made.ups["A"].inputs[0], ev.Started)


def test_a_disowned_account_stays_away() -> None:
    made = world()
    made.do(act.Disown("A"))
    made.admit("a")
    made.do(act.Commit([act.PutState("k", b"v")]))
    made.disk(OSError("full"))
    made.wait(3)
    made.engine.timer(("restart", "A"))
    assert made.engine.accounts.by_name["A"].half is None
    assert made.engine.admission.books["S"].head == 0


def test_answered_requests_are_not_kept() -> None:
    made = world()
    for i in range(100):
        made.up("A", act.Request(f"r{i}", "GET", "/"))
        answer = ev.ResponseReceived(f"r{i}", 200, [], b"") if i % 2 else ev.RequestFailed(f"r{i}", "cut")
        made.engine.feed("up:A", answer)
    assert made.engine.accounts.by_name["A"].requests == set()
    assert len(made.ups["A"].got(ev.ResponseReceived)) == len(made.ups["A"].got(ev.RequestFailed)) == 50


def test_a_second_credential_is_told_and_only_a_few_are_kept() -> None:
    made = world()
    for i in range(20):
        made.own(credential=f"t{i}")
    assert [c.credential for c in made.ups["A"].got(ev.CredentialSeen)][-1] == "t19"
    account = made.engine.accounts.by_name["A"]
    assert len(account.credentials) == 8 and account.credentials[-1][0] == "t19"


def test_the_upstream_half_hears_how_many_sessions_and_which_receipts() -> None:
    made = world()
    made.admit("a", "b")
    made.attach("s")
    made.attach("t")
    made.run()
    made.receipt("t", 2)
    made.wait(0.05)
    made.do(act.Detach("s"))
    half = made.ups["A"]
    assert [(e.stream, e.count) for e in half.got(ev.Attached)] == [("S", 1), ("S", 2)]
    assert [(e.stream, e.count) for e in half.got(ev.Detached)] == [("S", 1)]
    assert [(e.consumer, e.offset) for e in half.got(ev.Receipted)] == [("agent", 2)]


def test_actions_on_what_is_gone_are_no_ops() -> None:
    made = world()
    made.do(
        act.Detach("x"),
        act.Receipt("x", 1),
        act.ClientCursor("x", 1),
        act.Seek("x", 1, "m"),
        act.Downgrade("x", "written"),
        act.Disown("x"),
        act.Tell("m", "x"),
    )
    made.up("A", act.CloseLink("x"), act.SendFrames("x", [b""]), act.PingLink("x"), act.CancelTimer("x"), act.CancelRequest("x"))
    made.engine.timer(("quiet", "x"))
    made.engine.timer(("reread", "x"))
    made.engine.timer(("restart", "x"))
    assert made.down.inputs[1:] == []


def test_a_fatal_of_either_half_is_kept_for_the_status() -> None:
    made = world()
    made.do(act.Fatal("4004", "mend the token"))
    made.up("A", act.Fatal("4014", "mend the intents"))
    assert made.engine.said["fatal"] == {"code": "4004", "mend": "mend the token"}
    assert made.engine.accounts.by_name["A"].facts["fatal"] == {"code": "4014", "mend": "mend the intents"}


# --- stopping ------------------------------------------------------------------------------------------------------------------------


def test_a_drain_waits_for_receipts_on_disk_and_then_says_goodbye() -> None:
    made = world()
    made.admit("a")
    made.attach("s")
    made.run()
    made.wait(0.05)
    made.engine.drain()
    assert made.ups["A"].got(ev.Draining) and not made.down.got(ev.Draining)
    assert not made.engine.drained()
    made.receipt("s", 1)
    assert not made.engine.drained(), "on disk first"
    made.wait(0.05)
    assert made.engine.drained()
    made.engine.close()
    assert made.down.got(ev.Draining)


def test_a_drain_with_a_client_that_never_answers_is_no_clean_stop() -> None:
    made = world()
    made.admit("a")
    made.attach("s")
    made.run()
    made.engine.drain()
    made.wait(5)
    assert not made.engine.drained()
    made.engine.close()
    made.run()
    made.reboot()
    made.own()
    made.attach("s")
    made.run()
    assert made.names("s") == ["a"] and made.ports.counts["redelivered"] == 1


def test_no_half_begins_while_draining() -> None:
    made = world()
    made.engine.drain()
    made.own("B", "T", "t2")
    assert "B" not in made.ups


# --- the view ------------------------------------------------------------------------------------------------------------------------


def test_the_view_shows_what_is_on_disk_but_knows_keys_at_once() -> None:
    made = world()
    view = made.down.view
    assert view.facts("nothing") is None and view.cursor("S", "agent") is None
    made.admit("a")
    facts = view.facts("S")
    assert facts is not None and (facts.head, facts.ordinal, facts.first) == (0, 0, 1)
    assert view.seen("S", "", b"ka") and not view.seen("S", "", b"kb") and not view.seen("S", "other", b"ka")
    made.run()
    facts = view.facts("S")
    assert facts is not None and (facts.head, facts.ordinal) == (1, 1)
    assert list(view.streams()) == ["S"]


@pytest.mark.parametrize("times", [1, 3])
def test_a_restart_remembers_everything(times: int) -> None:
    made = world()
    made.admit("a", "b", state=("cursor", b"7"))
    made.do(act.Commit([act.PutState("token", b"A")]))
    made.attach("s")
    made.run()
    made.receipt("s", 1)
    made.wait(0.05)
    base = made.engine.admission.books["S"].base
    for _ in range(times):
        made.reboot()
        made.run()
    assert made.engine.admission.books["S"].base == base
    assert made.down.got(ev.Started)[0].state == {"token": b"A"}
    made.own()
    assert made.ups["A"].got(ev.Started)[0].state == {"cursor": b"7"}
    made.admit("a", "b", "c")
    made.attach("s")
    made.run()
    assert made.names("s") == ["b", "c"]
    assert [r.offset for r in made.journaled()] == [1, 2, 3]
    assert made.store.get(Table.STATE, b"up:A\0cursor") == b"7" and made.engine.halves["dialect"] is made.down
    assert DOWN == "down:dialect"
