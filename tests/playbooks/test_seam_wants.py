"""What the foreign dialects need of the engine, each found by its playbook; the requirement stands above its test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.actions import Action
from sidecar.core.events import Input, Moment
from sidecar.dialects.base import View
from tests.playbooks.world import World


class Puppet:
    """A half that does what it is handed and notes what it is told; it receipts what it gets unless told otherwise."""

    def __init__(self, view: View) -> None:
        self.told: list[Any] = []
        self.receipts = True

    def handle(self, moment: Moment, event: Input) -> Sequence[Action]:
        match event:
            case ev.MessageFromDownstream():
                return list(event.message)
            case ev.ConnFrames():
                return list(event.frames)  # type: ignore[arg-type]
        self.told.append(event)
        if isinstance(event, ev.RecordsReady) and self.receipts:
            return [act.Receipt(event.session, event.barrier)]
        return []


def world(events: int = 0, window: int = 16) -> World:
    """One account A with stream S, and as many events."""
    made = World(Puppet, Puppet, window=window)
    down(made, act.Own("A", "tok", streams=["S"]))
    up(made, act.Commit([act.Admit("S", b"%d" % n) for n in range(events)]))
    return made


def down(made: World, *actions: Action) -> None:
    """The downstream half does this."""
    made.down(ev.ConnFrames("c", list(actions)))  # type: ignore[arg-type]
    made.run()


def up(made: World, *actions: Action) -> None:
    """The upstream half of A does this."""
    down(made, act.Tell(list(actions), "A"))


def local(made: World, kind: type[Input]) -> list[Any]:
    """What the downstream half was told."""
    return [e for e in made.engine.halves["dialect"].told if isinstance(e, kind)]  # type: ignore[attr-defined]


def remote(made: World, kind: type[Input]) -> list[Any]:
    """What the upstream half of A was told."""
    return [e for e in made.engine.accounts.by_name["A"].half.told if isinstance(e, kind)]  # type: ignore[union-attr]


def handed(made: World) -> list[int]:
    """Offsets handed to the downstream half, in order."""
    return [r.offset for e in local(made, ev.RecordsReady) for r in e.records]


# Attach(after, mark) gives no SeekDone: discord R16's RESUMED, actioncable R29's confirm_history
def test_attach_at_an_offset_ends_with_its_mark() -> None:
    made = world(5)
    down(made, act.Attach("s", "S", "c", "A", after=3, mark="resume"))
    assert [(e.mark, e.events) for e in local(made, ev.SeekDone)] == [("resume", 2)]


# receipts below an earlier one free no window: fabric R29 re-joins, relaycast R25 resyncs
def test_a_seek_behind_the_receipts_goes_on_beyond_one_window() -> None:
    made = world(100)
    down(made, act.Attach("s", "S", "c", "A"))
    assert handed(made) == list(range(1, 101))
    down(made, act.Seek("s", 0, "again", receipt=False))
    assert handed(made)[100:] == list(range(1, 101))


# tickets are unique within a half, but release a Route(hold) of any half
def test_a_ticket_of_an_upstream_half_lets_no_exchange_go() -> None:
    made = world()
    up(made, act.Commit([act.PutState("k", b"v")], "notify/x1"))
    assert made.forwarded == []


# streams are named by the upstream half (fabric's guilds), but only Own can open one
def test_an_upstream_half_may_admit_into_a_stream_of_its_own() -> None:
    made = world()
    up(made, act.Commit([act.Admit("g2:u1", b"event")]))
    assert made.engine.admission.books["g2:u1"].committed == 1


# Attach opens an account's stream without making it the account's
def test_an_account_hears_of_sessions_on_a_stream_that_an_attach_opened() -> None:
    made = world()
    down(made, act.Attach("s", "S2", "c", "A"))
    assert [e.stream for e in remote(made, ev.Attached)] == ["S2"]


# a stream stays with the first account that named it: actioncable R28, adoption under a new token
def test_a_stream_follows_the_account_that_owned_it_last() -> None:
    made = world()
    down(made, act.Disown("A"), act.Own("B", "new", streams=["S"]), act.Attach("s", "S", "c", "B"))
    half: Any = made.engine.accounts.by_name["B"].half
    assert [e.stream for e in half.told if isinstance(e, ev.Attached)] == ["S"]
