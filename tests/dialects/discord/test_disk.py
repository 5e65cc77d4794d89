"""The journal takes no writes, or the process ends, on the real engine: what was told to an upstream half reaches the next one."""

from __future__ import annotations

from typing import Any

import msgspec

from sidecar.core.events import ResponseReceived
from tests.dialects.discord.bench import BOT, BOT_METADATA, SHARD, at
from tests.dialects.discord.test_halves import IDENTIFY, agent, answer, begun, dispatches, message, sent, server, world
from tests.playbooks.world import World

FULL = OSError("disk full")
PRESENCE = {"op": 3, "d": {"since": None, "activities": [], "status": "idle", "afk": False}}


def heal(w: World) -> None:
    """The journal takes the next try."""
    w.mono += 1.5
    w.engine.timer(("engine", "retry"))
    w.run()


def redial(w: World) -> None:
    w.mono += 6
    for name in ("renew", "redial"):
        if (f"up:{BOT}", f"{name}:{SHARD}") in w.timers:
            w.engine.timer((f"up:{BOT}", f"{name}:{SHARD}"))
            w.run()
    answer(w)
    w.open(SHARD)
    server(w, 10, {"heartbeat_interval": 41250})


def fails(w: World, name: str, frame: dict[str, Any]) -> None:
    """An agent's frame whose commit the disk does not take."""
    run, w.run = w.run, lambda: None  # type: ignore[method-assign]
    agent(w, name, frame)
    w.run = run  # type: ignore[method-assign]
    w.disk(FULL)
    w.run()
    assert w.engine.paused


def test_the_first_identify_ever_is_taken_up_at_once_when_the_disk_takes_writes_again() -> None:
    w = world()
    agent(w, "a1", IDENTIFY)
    owner, request = w.asked.pop(0)
    w.engine.feed(owner, ResponseReceived(request.request, 200, [], msgspec.json.encode({"id": BOT})))
    w.disk(FULL)
    w.run()
    assert w.engine.paused and not w.links
    heal(w)
    # Without the timer that asks again every 5 s.
    assert [request.target for _, request in w.asked] == ["/api/v10/gateway/bot"]
    owner, request = w.asked.pop(0)
    w.engine.feed(owner, ResponseReceived(request.request, 200, [], msgspec.json.encode(BOT_METADATA)))
    w.run()
    w.open(SHARD)
    server(w, 10, {"heartbeat_interval": 41250})
    assert [d["intents"] for d in sent(w, 2)] == [IDENTIFY["d"]["intents"]]  # type: ignore[index]


def test_intents_and_presence_that_were_not_on_disk_are_told_again() -> None:
    """R23: else an agent that asked for more would be served, and never see an event of it."""
    w = begun()
    dispatches(w, "a1")
    wide = {"op": 2, "d": {"token": "tok", "intents": 33281 | 1 << 10, "properties": {}}}
    fails(w, "a2", wide)
    agent(w, "a1", PRESENCE)
    heal(w)
    redial(w)
    [identify] = sent(w, 2)
    assert identify["intents"] == 33281 | 1 << 10
    assert identify["presence"] == PRESENCE["d"]
    assert [name for name, _ in dispatches(w, "a2")] == ["READY", "GUILD_CREATE 1"]


def test_R21_the_last_presence_goes_into_the_next_identify_also_behind_a_kill() -> None:
    """Agents that RESUME do not say it again: the bot would be shown without it from the next session on."""
    w = begun()
    frames = [msgspec.json.decode(f) for f in w.took("a1") if f[:4] != b"ping"]
    session = next(f["d"]["session_id"] for f in frames if f["t"] == "READY")
    agent(w, "a1", PRESENCE)
    assert sent(w, 3) == [PRESENCE["d"]]
    w.crash()
    agent(w, "b1", {"op": 6, "d": {"token": "tok", "session_id": session, "seq": 2}})
    answer(w)
    w.open(SHARD)
    server(w, 10, {"heartbeat_interval": 41250})
    out = [msgspec.json.decode(f) for f in w.took(SHARD)]
    assert [f["op"] for f in out if f["op"] != 1] == [6], "the upstream session has it still"
    server(w, 9, False)
    redial(w)
    assert [d["presence"] for d in sent(w, 2)] == [PRESENCE["d"]]


def test_agents_stay_are_acknowledged_and_resumable_while_the_disk_is_full_and_the_upstream_is_resumed() -> None:
    """Contract, disk full: it heals like an upstream outage. RESUME with what is on disk, and nothing is lost or comes twice."""
    w = begun()
    session = next(
        f["d"]["session_id"] for f in map(msgspec.json.decode, (f for f in w.took("a1") if f[:4] != b"ping")) if f["t"] == "READY"
    )
    message(w, at(1), 3)
    assert dispatches(w, "a1") == [(f"MESSAGE_CREATE {at(1)}", 3)]
    run, w.run = w.run, lambda: None  # type: ignore[method-assign]
    message(w, at(2), 4)
    w.run = run  # type: ignore[method-assign]
    w.disk(FULL)
    w.run()
    assert w.engine.paused and not w.links
    agent(w, "a1", {"op": 1, "d": 3})
    assert [msgspec.json.decode(f)["op"] for f in w.took("a1")] == [11]
    agent(w, "b1", {"op": 6, "d": {"token": "tok", "session_id": session, "seq": 2}})
    assert dispatches(w, "b1") == [(f"MESSAGE_CREATE {at(1)}", 3), ("RESUMED", 3)]
    heal(w)
    redial(w)
    assert [d["seq"] for d in sent(w, 6)] == [3]
    message(w, at(2), 4)
    message(w, at(3), 5)
    server(w, 0, {}, 6, "RESUMED")
    assert dispatches(w, "b1") == [(f"MESSAGE_CREATE {at(2)}", 4), (f"MESSAGE_CREATE {at(3)}", 5)]
    assert "gaps" not in w.counted
