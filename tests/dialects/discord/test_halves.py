"""Both halves and the real engine: a held IDENTIFY, READY, events, a kill -9 and a RESUME on either side (R12, R26, U16, U17, U20)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec

from sidecar.core.events import ConnFrames, ConnOpened, ConnPong, Head, RequestFailed, ResponseReceived
from sidecar.dialects.discord.downstream import DownstreamHalf
from sidecar.dialects.discord.settings import DiscordSettings
from sidecar.dialects.discord.upstream import UpstreamHalf
from tests.dialects.discord.bench import BOT, BOT_METADATA, RESUME_URL, SHARD, at, channel, guild, row
from tests.playbooks.world import World

SETTINGS: Any = SimpleNamespace(
    knobs=DiscordSettings(compress="none"),
    upstream="https://discord.com",
    upstream_token=None,
    linger_s=86400.0,
    retention_s=7 * 86400.0,
)
IDENTIFY = {"op": 2, "d": {"token": "tok", "intents": 33281, "properties": {}}}


def world() -> World:
    return World(lambda view: UpstreamHalf(BOT, SETTINGS, view), lambda view: DownstreamHalf(SETTINGS, view))


def answer(w: World) -> None:
    """REST, as far as it is asked."""
    while w.asked:
        owner, request = w.asked.pop(0)
        body = BOT_METADATA if request.target.endswith("bot") else {"id": BOT}
        w.engine.feed(owner, ResponseReceived(request.request, 200, [], msgspec.json.encode(body)))
        w.run()


def agent(w: World, name: str, *frames: dict[str, Any]) -> None:
    if frames[0]["op"] in (2, 6):
        w.down(ConnOpened(name, Head("GET", "/?v=10&encoding=json", [], "127.0.0.1:8787")))
    w.down(ConnFrames(name, [msgspec.json.encode(f) for f in frames]))
    w.run()


def server(w: World, op: int, d: Any, s: int | None = None, t: str | None = None) -> None:
    w.frames(SHARD, msgspec.json.encode({"t": t, "s": s, "op": op, "d": d}))
    w.run()


def dispatches(w: World, name: str) -> list[tuple[str, int]]:
    """What an agent got of op 0; each ping is answered."""
    found = []
    for frame in w.took(name):
        if frame.startswith(b"ping "):
            w.down(ConnPong(name, frame[5:]))
            w.run()
        elif (got := msgspec.json.decode(frame))["op"] == 0:
            found.append((got["t"] + " " + got["d"].get("id", ""), got["s"]))
    return [(name.strip(), s) for name, s in found]


def sent(w: World, op: int) -> list[Any]:
    return [f["d"] for f in map(msgspec.json.decode, w.took(SHARD)) if f["op"] == op]


def message(w: World, number: int, s: int) -> None:
    server(w, 0, row(number, "11") | {"guild_id": "1"}, s, "MESSAGE_CREATE")


def begun() -> World:
    w = world()
    agent(w, "a1", IDENTIFY)
    answer(w)
    assert dispatches(w, "a1") == []
    w.open(SHARD)
    server(w, 10, {"heartbeat_interval": 41250})
    assert [d["intents"] for d in sent(w, 2)] == [33281]
    server(w, 0, {"session_id": "up1", "resume_gateway_url": RESUME_URL, "user": {"id": BOT}, "guilds": [{"id": "1"}]}, 1, "READY")
    assert dispatches(w, "a1") == []
    server(w, 0, guild(1, channel(11)), 2, "GUILD_CREATE")
    return w


def test_a_held_identify_is_answered_and_events_follow() -> None:
    w = begun()
    assert dispatches(w, "a1") == [("READY", 1), ("GUILD_CREATE 1", 2)]
    message(w, at(1), 3)
    message(w, at(1), 3)
    assert dispatches(w, "a1") == [(f"MESSAGE_CREATE {at(1)}", 3)]
    # A second agent joins the same upstream session.
    agent(w, "a2", IDENTIFY)
    answer(w)
    assert [name for name, _ in dispatches(w, "a2")] == ["READY", "GUILD_CREATE 1"]
    assert len(w.links) == 1


def test_after_kill_9_agents_resume_at_once_and_the_upstream_resumes_with_the_committed_number() -> None:
    w = begun()
    session = next(
        f["d"]["session_id"] for f in map(msgspec.json.decode, (f for f in w.took("a1") if f[:4] != b"ping")) if f["t"] == "READY"
    )
    message(w, at(1), 3)
    w.crash()
    agent(w, "b1", {"op": 6, "d": {"token": "tok", "session_id": session, "seq": 2}})
    # With the upstream away: what the journal has, then RESUMED.
    assert dispatches(w, "b1") == [(f"MESSAGE_CREATE {at(1)}", 3), ("RESUMED", 3)]
    while w.asked:
        owner, request = w.asked.pop(0)
        w.engine.feed(owner, RequestFailed(request.request, "away"))
    w.run()
    assert w.links[SHARD][2].target.startswith(RESUME_URL)
    w.open(SHARD)
    server(w, 10, {"heartbeat_interval": 41250})
    assert sent(w, 6) == [{"token": "tok", "session_id": "up1", "seq": 3}]
    message(w, at(1), 3)
    message(w, at(2), 4)
    server(w, 0, {}, 5, "RESUMED")
    assert dispatches(w, "b1") == [(f"MESSAGE_CREATE {at(2)}", 4)]


def test_u20_a_new_upstream_session_is_none_of_the_agents_business() -> None:
    w = begun()
    dispatches(w, "a1")
    message(w, at(1), 3)
    server(w, 9, False)
    w.mono += 6
    w.engine.timer(("up:42", f"redial:{SHARD}"))
    w.run()
    answer(w)
    w.open(SHARD)
    server(w, 10, {"heartbeat_interval": 41250})
    server(w, 0, {"session_id": "up2", "resume_gateway_url": RESUME_URL, "user": {"id": BOT}, "guilds": [{"id": "1"}]}, 1, "READY")
    server(w, 0, guild(1, channel(11, at(1))), 2, "GUILD_CREATE")
    message(w, at(1), 3)
    message(w, at(2), 4)
    assert [name for name, _ in dispatches(w, "a1")] == [f"MESSAGE_CREATE {at(1)}", f"MESSAGE_CREATE {at(2)}"]
    assert w.counted["gaps"] == 1
