"""The foreign throw-away halves on the real engine: from a link to a conn, committed first; across a crash of the sidecar."""

from __future__ import annotations

from typing import Any

import msgspec

from sidecar.core.actions import Respond, Route
from sidecar.core.events import (
    ConnClosed,
    ConnFrames,
    ConnOpened,
    ConnPong,
    ExchangeSeen,
    Head,
    HttpRequested,
    ResponseReceived,
)
from tests.playbooks.actioncable_halves import CableDownstream, CableUpstream
from tests.playbooks.discord_halves import DiscordDownstream, DiscordUpstream, frame
from tests.playbooks.fabric_halves import SEP, FabricDownstream, FabricUpstream
from tests.playbooks.world import World

RAILS = rb'"{\"channel\":\"C\",\"agent_id\":42}"'
ANYCABLE = rb'"{\"agent_id\":42,\"channel\":\"C\"}"'
HELLO = frame(10, {"heartbeat_interval": 41250})
READY = {"user": {"id": "42"}, "session_id": "up", "resume_gateway_url": "wss://r.example/?v=10", "guilds": []}


def loads(data: bytes) -> Any:
    return msgspec.json.decode(data)


# --- Fabric ------------------------------------------------------------------------------------------------------------------------


def fabric_push(seq: int) -> bytes:
    return b'42/realtime,["message.created",{"id":"m%d","channelId":"c1","seq":%d}]' % (seq, seq)


class FabricAgent:
    """An unmodified client's transport: polling first, WebSocket later."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.n = 0
        self.target = "/socket.io/?EIO=4&transport=polling"
        self.sid = str(loads(self.get()[0][1:])["sid"])
        self.target += f"&sid={self.sid}"

    def open_get(self) -> str:
        self.n += 1
        self.world.down(HttpRequested(f"x{self.n}", Head("GET", self.target, [])))
        return f"x{self.n}"

    def get(self) -> list[bytes]:
        self.open_get()
        return self.answer()

    def answer(self) -> list[bytes]:
        return bytes(self.world.answered(Respond).body).split(SEP)

    def post(self, *packets: bytes) -> None:
        self.n += 1
        head = Head("POST", self.target, [])
        self.world.down(HttpRequested(f"x{self.n}", head))
        assert self.world.answered(Route).tap
        self.world.down(ExchangeSeen(f"x{self.n}", head, SEP.join(packets)))
        assert self.answer() == [b"ok"]

    def upgrade(self) -> None:
        self.world.down(ConnOpened("w", Head("GET", self.target.replace("polling", "websocket"), [])))
        self.world.down(ConnFrames("w", [b"2probe"]))
        assert self.world.took("w") == [b"3probe"]


def fabric() -> tuple[World, FabricAgent]:
    """A world with one agent connected, its channel c1 known up to seq 0 and joined."""
    world = World(FabricUpstream, FabricDownstream)
    agent = FabricAgent(world)
    agent.post(b'40/realtime,{"token":"tok"}')
    world.run()
    assert agent.get()[0].startswith(b"40/realtime,")
    world.open("g1")
    world.frames("g1", b'0{"sid":"s"}', b'40/realtime,{"sid":"n"}')
    return world, agent


def test_fabric_joins_merges_and_delivers_across_the_upgrade_after_the_commit_only() -> None:
    world, agent = fabric()
    owner, asked = world.asked.pop(0)
    world.engine.feed(owner, ResponseReceived(asked.request, 200, [], b'[{"id":"c1","lastSeq":2}]'))
    owner, asked = world.asked.pop(0)
    world.frames("g1", fabric_push(2), fabric_push(3))
    agent.open_get()
    rows = b'[{"id":"m2","channelId":"c1","seq":2},{"id":"m1","channelId":"c1","seq":1}]'
    world.engine.feed(owner, ResponseReceived(asked.request, 200, [], rows))
    assert world.did == [], "sent before the commit"
    world.disk()
    packets = agent.answer()
    assert [loads(p[12:])[1]["id"] for p in packets[:-1]] == ["m1", "m2", "m3"]
    assert packets[-1] == b"2"
    assert world.engine.admission.duplicates == 1

    # The fence is answered over the new transport; what comes in the middle of the upgrade comes once, in order.
    agent.open_get()
    agent.upgrade()
    assert agent.answer() == [b"6"]
    world.frames("g1", fabric_push(4))
    world.disk()
    assert world.took("w") == []
    world.down(ConnFrames("w", [b"5"]), ConnFrames("w", [b"3"]))
    world.frames("g1", fabric_push(5))
    world.run()
    assert world.took("w") == [fabric_push(4), b"2", fabric_push(5)]
    assert world.engine.courier.consumers["g1:u1", "u1@g1"].durable == 3

    # kill -9: the new process goes on behind the last receipt on disk.
    world.crash()
    agent = FabricAgent(world)
    agent.post(b'40/realtime,{"token":"tok"}')
    world.run()
    assert agent.get()[1:] == [fabric_push(4), fabric_push(5), b"2"]


# --- Action Cable ------------------------------------------------------------------------------------------------------------------


def cable_data(message: bytes) -> bytes:
    return b'{"identifier":%b,"message":%b}' % (RAILS, message)


def cable(*clients: tuple[str, bytes]) -> World:
    """Clients subscribed, both links confirmed."""
    world = World(CableUpstream, CableDownstream)
    for conn, identifier in clients:
        world.down(ConnOpened(conn, Head("GET", "/cable?token=tok", [])))
        world.down(ConnFrames(conn, [b'{"command":"subscribe","identifier":%b}' % identifier]))
    for link in "ab":
        world.open(link)
        world.frames(link, b'{"type":"welcome"}', b'{"identifier":%b,"type":"confirm_subscription"}' % RAILS)
    world.run()
    for conn, identifier in clients:
        assert world.took(conn) == [
            b'{"type":"welcome"}',
            b'{"identifier":%b,"type":"confirm_subscription"}' % identifier,
        ]
        assert world.took("a")
    return world


def test_cable_six_in_six_out_in_each_clients_own_spelling_after_the_commit_only() -> None:
    world = cable(("c1", RAILS))
    event = b'{"type":"dispatch","task_id":null}'
    decision = b'{"type":"permission_decision","request_id":"r1"}'
    world.frames("a", *[cable_data(event)] * 4, cable_data(decision))
    world.frames("b", *[cable_data(event)] * 6, cable_data(decision))
    world.frames("a", *[cable_data(event)] * 2)
    assert world.took("c1") == [], "sent before the commit"
    world.run()
    messages = [frame for frame in world.took("c1") if not frame.startswith(b"ping ")]
    assert messages.count(cable_data(event)) == 6
    assert messages.count(cable_data(decision)) == 1
    assert len(messages) == 7

    # A second client of the sub, with its own identifier bytes, starts at the same cursor: nothing was receipted yet.
    world.down(ConnOpened("c2", Head("GET", "/cable?token=tok", [])))
    world.down(ConnFrames("c2", [b'{"command":"subscribe","identifier":%b}' % ANYCABLE]))
    world.run()
    assert world.took("c2")[-2] == b'{"identifier":%b,"message":%b}' % (ANYCABLE, event)


def test_cable_a_notify_is_forwarded_after_its_commit_and_pulled_after_a_crash() -> None:
    world = cable(("c1", RAILS))
    head = Head("POST", "/api/v1/agent/notify", [])
    world.down(HttpRequested("x1", head), ExchangeSeen("x1", head, b'{"permission_request_id":"r1"}'))
    assert world.answered(Route).hold == "notify/x1"
    assert world.forwarded == []
    world.disk()
    assert world.forwarded == ["notify/x1"]

    # One that does not parse has nothing to commit, and is forwarded all the same.
    world.down(HttpRequested("x2", head), ExchangeSeen("x2", head, b"?"))
    world.run()
    assert world.forwarded[-1] == "notify/x2"

    world.crash()
    world.down(ConnOpened("c1", Head("GET", "/cable?token=tok", [])))
    world.down(ConnFrames("c1", [b'{"command":"subscribe","identifier":%b}' % RAILS]))
    world.open("a")
    world.frames("a", b'{"type":"welcome"}', b'{"identifier":%b,"type":"confirm_subscription"}' % RAILS)
    subscribe, pull = world.took("a")
    assert loads(subscribe)["command"] == "subscribe"
    assert loads(loads(pull)["data"]) == {"action": "replay_permissions", "request_ids": ["r1"]}


def test_cable_a_held_notify_outlives_a_full_disk() -> None:
    world = cable(("c1", RAILS))
    head = Head("POST", "/api/v1/agent/notify", [])
    world.down(HttpRequested("x1", head), ExchangeSeen("x1", head, b'{"permission_request_id":"r1"}'))
    world.disk(OSError("disk full"))
    assert world.forwarded == []
    world.engine.timer(("engine", "retry"))
    world.run()
    assert world.forwarded == ["notify/x1"]
    # The engine made a new upstream half, which was told again what it is to pull and to subscribe.
    world.open("a")
    world.frames("a", b'{"type":"welcome"}', b'{"identifier":%b,"type":"confirm_subscription"}' % RAILS)
    assert [loads(f)["command"] for f in world.took("a")] == ["subscribe", "message"]


# --- Discord -----------------------------------------------------------------------------------------------------------------------


def dispatch(s: int, t: str, **d: Any) -> bytes:
    return frame(0, d, s, t)


def identify(world: World, conn: str) -> None:
    world.down(ConnOpened(conn, Head("GET", "/?v=10", [])))
    assert [loads(f)["op"] for f in world.took(conn)] == [10]
    world.down(ConnFrames(conn, [frame(2, {"token": "tok", "intents": 33281})]))


def seen(frames: list[bytes]) -> list[tuple[str, int]]:
    """Type and s of dispatches."""
    return [(loads(f)["t"], loads(f)["s"]) for f in frames if not f.startswith(b"ping ") and loads(f)["op"] == 0]


def test_discord_a_held_identify_is_answered_when_ready_is_on_disk_then_events_then_the_backlog_after_a_crash() -> None:
    world = World(DiscordUpstream, DiscordDownstream)
    identify(world, "w1")
    world.run()
    world.down(ConnFrames("w1", [frame(1)]))
    assert [loads(f)["op"] for f in world.took("w1")] == [11], "held, but its beats are acknowledged"
    world.open("g")
    world.frames("g", HELLO)
    assert loads(world.took("g")[0])["op"] == 2
    world.frames("g", frame(0, READY, 1, "READY"))
    assert world.took("w1") == [], "answered before the commit"
    world.run()
    ready = world.took("w1")
    assert seen(ready) == [("READY", 1)]

    world.frames("g", *[dispatch(1 + n, "MESSAGE_CREATE", id=str(n), channel_id="c1") for n in range(1, 5)])
    assert world.took("w1") == [], "sent before the commit"
    world.run()
    events = world.took("w1")
    assert seen(events) == [("MESSAGE_CREATE", s) for s in (2, 3, 4, 5)]
    world.down(ConnFrames("w1", [frame(1, 2)]), ConnPong("w1", b"3"))
    world.run()

    # kill -9. RESUME with what the agent took goes on exactly there, with the upstream away.
    session = loads(ready[0])["d"]["session_id"]
    world.crash()
    world.down(ConnOpened("w2", Head("GET", "/?v=10", [])))
    world.down(ConnFrames("w2", [frame(6, {"token": "tok", "session_id": session, "seq": 4})]))
    world.run()
    resumed = world.took("w2")
    assert seen(resumed)[0] == ("MESSAGE_CREATE", 5)

    # A crash of the agent: a fresh IDENTIFY gets READY from state and everything behind the last receipt, newly numbered.
    world.crash()
    identify(world, "w3")
    world.run()
    again = world.took("w3")
    assert seen(again) == [("READY", 1), ("MESSAGE_CREATE", 2)], "the RESUME's seq 4 was a receipt"
    world.down(ConnPong("w3", b"2"))
    world.run()
    world.down(ConnClosed("w3", 1000))
    identify(world, "w4")
    world.run()
    assert seen(world.took("w4")) == [("READY", 1)]
