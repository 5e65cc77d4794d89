"""The operator sets the consumer to another place (`sidecar consumer reset`), on the real engine: connected, away, and in between."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sidecar.core.actions import CloseConn
from sidecar.core.events import ConnClosed, ConnFrames, ConnOpened, Head
from tests.dialects.discord.bench import BOT, at
from tests.dialects.discord.test_halves import IDENTIFY, agent, begun, dispatches, message
from tests.playbooks.world import World

STREAM = f"discord:{BOT}:0/1"
WHOLE = [(f"MESSAGE_CREATE {at(n)}", n + 2) for n in (1, 2, 3)]


def taken() -> tuple[World, str]:
    """An agent that took three messages; its session's id."""
    w = begun()
    frames = [msgspec.json.decode(f) for f in w.took("a1") if f[:4] != b"ping"]
    for n in (1, 2, 3):
        message(w, at(n), n + 2)
    assert dispatches(w, "a1") == WHOLE
    return w, next(f["d"]["session_id"] for f in frames if f["t"] == "READY")


def resume(w: World, name: str, session: str, seq: int = 5) -> list[Any]:
    agent(w, name, {"op": 6, "d": {"token": "tok", "session_id": session, "seq": seq}})
    return [f for f in map(msgspec.json.decode, (f for f in w.took(name) if f[:4] != b"ping")) if f["op"] != 10]


@pytest.mark.parametrize(("offset", "again"), [(1, [2, 3]), (3, [])])
def test_a_connected_agent_identifies_anew_and_is_handed_what_the_operator_chose(offset: int, again: list[int]) -> None:
    w, _ = taken()
    w.engine.reset(STREAM, "agent", offset)
    w.run()
    assert [msgspec.json.decode(f)["op"] for f in w.took("a1")] == [9]
    assert w.answered(CloseConn) == CloseConn("a1", 4000)
    agent(w, "a2", IDENTIFY)
    assert [name for name, _ in dispatches(w, "a2")][2:] == [f"MESSAGE_CREATE {at(n)}" for n in again]


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted-since"])
@pytest.mark.parametrize(("offset", "again"), [(1, [2, 3]), (3, [])])
def test_an_agent_that_was_away_cannot_resume_behind_the_operators_back(offset: int, again: list[int], restarted: bool) -> None:
    """Its RESUME states its own cursor, which would undo what the operator did: op 9, then IDENTIFY from the place he chose."""
    w, session = taken()
    w.down(ConnClosed("a1", None))
    w.run()
    w.engine.reset(STREAM, "agent", offset)
    w.run()
    if restarted:
        w.crash()
    assert [(f["op"], f["d"]) for f in resume(w, "b1", session)] == [(9, False)]
    w.down(ConnFrames("b1", [msgspec.json.encode(IDENTIFY)]))
    w.run()
    assert [name for name, _ in dispatches(w, "b1")][2:] == [f"MESSAGE_CREATE {at(n)}" for n in again]
    assert w.engine.courier.consumers[STREAM, "agent"].cursor == 3


def test_a_session_that_began_after_it_is_resumed_as_ever() -> None:
    w, _ = taken()
    w.engine.reset(STREAM, "agent", 1)
    w.run()
    agent(w, "a2", IDENTIFY)
    frames = [msgspec.json.decode(f) for f in w.took("a2") if f[:4] != b"ping"]
    session = next(f["d"]["session_id"] for f in frames if f["t"] == "READY")
    w.crash()
    assert [f["t"] for f in resume(w, "b1", session, 4)] == ["RESUMED"]


def test_an_agent_whose_ready_is_on_its_way_begins_anew_too() -> None:
    w, _ = taken()
    w.down(ConnClosed("a1", None))
    w.run()
    w.down(ConnOpened("a2", Head("GET", "/?v=10&encoding=json", [], "127.0.0.1:8787")), ConnFrames("a2", [msgspec.json.encode(IDENTIFY)]))
    while not any(key[1] == "row:a2" for key in w.timers):
        w.disk()
    # READY is made, its session's row is being written.
    w.engine.reset(STREAM, "agent", 1)
    w.run()
    assert w.answered(CloseConn) == CloseConn("a2", 4000)
    agent(w, "a3", IDENTIFY)
    assert [name for name, _ in dispatches(w, "a3")][2:] == [f"MESSAGE_CREATE {at(n)}" for n in (2, 3)]
