"""The downstream half on the real engine and a journal: nothing lost, nothing twice, whatever happens to agents and to us (discord R12,
R15 to R19, C5, C7 to C11). The upstream half is a few lines that admit messages and say what the guilds are."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.record import Gap
from sidecar.dialects.base import View
from sidecar.dialects.discord.downstream import DownstreamHalf
from tests.dialects.discord.scene import ALL, BOT, READY, STREAM, TOKEN, guild, message
from tests.playbooks.world import World

SETTINGS = SimpleNamespace(knobs=SimpleNamespace(heartbeat_ms=20000, media="keep", shards=()), retention_s=86400.0)


class Upstream:
    """Admits each frame of its link; `s` of the last is its state."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.count = 0

    def handle(self, moment: ev.Moment, event: ev.Input) -> Sequence[act.Action]:
        if isinstance(event, ev.Started):
            return [act.OpenLink("up", "ws://127.0.0.1:9/")]
        if isinstance(event, ev.FramesReceived):
            return [act.Commit([act.Admit(STREAM, f) if f else act.RecordGap(STREAM, Gap("lost", "seq", 1, 2)) for f in event.frames])]
        if isinstance(event, ev.MessageFromDownstream) and "snapshot" in event.message:
            facts = self.view.facts(STREAM)
            answer = {
                "snapshot": event.message["snapshot"],
                "ready": msgspec.json.encode(READY),
                "guilds": [msgspec.json.encode(guild("g1"))],
                "offset": facts.head if facts else 0,
            }
            return [act.Tell(answer)]
        return ()


class Agent:
    """A bot's side of one socket: what it took, in order; it answers pings unless it is `deaf`."""

    def __init__(self, town: Town, name: str) -> None:
        self.town = town
        self.name = name
        self.deaf = False
        self.taken: list[str] = []
        self.seq: int | None = None
        self.session = ""
        self.others: list[str] = []
        town.world.down(ev.ConnOpened(name, ev.Head("GET", "/?v=10&encoding=json", [], "127.0.0.1:8787")))
        self.read()

    def read(self) -> Agent:
        """Take what was sent; a pong goes out where the ping stands."""
        while raw := self.town.world.took(self.name):
            for data in raw:
                if data.startswith(b"ping "):
                    if not self.deaf:
                        self.town.world.down(ev.ConnPong(self.name, data[5:]))
                    continue
                frame = msgspec.json.decode(data)
                if frame["op"] != 0:
                    self.others.append(f"op {frame['op']}")
                    continue
                assert frame["s"] >= (self.seq or 0), "s never falls"
                self.seq = frame["s"]
                if frame["t"] == "READY":
                    self.session = frame["d"]["session_id"]
                if frame["t"] == "MESSAGE_CREATE":
                    self.taken.append(frame["d"]["content"])
                else:
                    self.others.append(frame["t"])
            self.town.world.run()
        return self

    def say(self, op: int, d: Any) -> Agent:
        self.town.world.down(ev.ConnFrames(self.name, [msgspec.json.encode({"op": op, "d": d})]))
        self.town.world.run()
        return self.read()

    def identify(self) -> Agent:
        return self.say(2, {"token": TOKEN, "intents": ALL})

    def resume(self, session: str, seq: int | None) -> Agent:
        self.seq = seq
        return self.say(6, {"token": TOKEN, "session_id": session, "seq": seq})

    def leave(self, code: int | None = None) -> None:
        self.town.world.down(ev.ConnClosed(self.name, code))
        self.town.world.run()


class Town:
    """A world with the Discord downstream half, and one bot."""

    def __init__(self, window: int = 256) -> None:
        self.world = World(Upstream, lambda view: DownstreamHalf(SETTINGS, view), window=window)
        self.said = 0
        self.serial = 0

    def agent(self) -> Agent:
        self.serial += 1
        return Agent(self, f"c{self.serial}")

    def who(self) -> None:
        """The upstream says whose token it is."""
        for _, request in list(self.world.asked):
            self.world.asked.clear()
            body = msgspec.json.encode({"id": BOT})
            self.world.down(ev.ResponseReceived(request.request, 200, [], body))
        self.world.run()

    def publish(self, count: int = 1) -> None:
        for _ in range(count):
            self.said += 1
            self.world.frames("up", message(self.said))
        self.world.run()

    def all(self, start: int = 1) -> list[str]:
        return [f"m{n}" for n in range(start, self.said + 1)]

    def first(self) -> Agent:
        """The first agent, with its token proven."""
        agent = self.agent().identify()
        assert agent.others == ["op 10"]
        self.who()
        return agent.read()

    def crash(self) -> None:
        self.world.crash()
        self.serial += 100


def test_r12_r19_a_first_agent_gets_ready_and_then_what_comes() -> None:
    town = Town()
    agent = town.first()
    assert agent.others == ["op 10", "READY", "GUILD_CREATE"]
    town.publish(300)
    assert agent.read().taken == town.all()
    assert agent.seq == 302
    assert town.world.counted.get("redelivered", 0) == 0


def test_r19_c9_a_restarted_agent_gets_all_that_it_has_no_receipt_for() -> None:
    town = Town(window=16)
    first = town.first()
    town.publish(10)
    first.read()
    first.deaf = True
    town.publish(50)
    assert first.read().taken == town.all()[:26], "the window holds"
    first.leave()
    town.publish(40)
    second = town.agent().identify()
    assert second.others == ["op 10", "READY", "GUILD_CREATE"]
    assert second.taken == town.all(11)
    assert second.seq == 2 + 90
    third = town.agent().identify()
    assert third.taken == []


def test_r16_c8_resume_is_exact_also_after_a_kill_of_ours() -> None:
    town = Town()
    first = town.first()
    town.publish(20)
    session, seq = first.read().session, 2 + 13  # it took 13
    town.crash()
    second = town.agent().resume(session, seq)
    assert second.taken == town.all(14)
    assert second.others == ["op 10", "RESUMED"]
    town.publish(5)
    assert second.read().taken == town.all(14)
    second.leave(1000)
    town.publish(5)
    town.crash()
    third = town.agent().resume(session, second.seq)
    assert third.taken == town.all(26)
    assert third.others == ["op 10", "RESUMED"]


def test_r17_the_seq_of_a_resume_is_a_receipt_that_a_later_identify_builds_on() -> None:
    town = Town()
    first = town.first()
    first.deaf = True
    town.publish(20)
    assert len(first.read().taken) == 20
    first.leave()
    second = town.agent()
    second.deaf = True
    assert second.resume(first.session, 2 + 12).taken == town.all(13)
    second.leave()
    assert town.agent().identify().taken == town.all(13)


def test_c7_a_resume_that_is_refused_and_the_identify_behind_it() -> None:
    town = Town()
    first = town.first()
    town.publish(5)
    first.read().leave()
    town.publish(5)
    agent = town.agent().resume(first.session, 99)
    assert agent.others == ["op 10", "op 9"]
    agent.seq = None
    assert agent.identify().taken == town.all(6)


def test_c11_a_resume_during_the_replay_of_another() -> None:
    town = Town(window=8)
    first = town.first()
    town.publish(40)
    first.read().leave()
    slow = town.agent()
    slow.deaf = True
    slow.resume(first.session, 2 + 10)
    assert slow.taken == town.all(11)[:8]
    assert "RESUMED" not in slow.others
    again = town.agent().resume(first.session, 2 + 14)
    assert again.taken == town.all(15)
    assert again.others == ["op 10", "RESUMED"]
    assert town.world.answered(act.CloseConn).code == 4000


def test_c12_a_slow_reader_reads_on_from_the_journal_and_slows_no_one() -> None:
    town = Town(window=8)
    quick = town.first()
    town.publish(1)
    quick.read()
    slow = town.agent().identify()
    slow.deaf = True
    for _ in range(30):
        town.publish(10)
        quick.read()
    assert quick.taken == town.all()
    assert slow.read().taken == town.all(2)[:8], "no more than a window is on its way"
    slow.deaf = False
    slow.say(1, slow.seq)
    assert slow.taken == town.all(2)


def test_c5_two_agents_of_one_bot_each_get_everything_and_the_newest_moves_the_cursor() -> None:
    town = Town()
    first = town.first()
    second = town.agent().identify()
    second.deaf = True
    town.publish(10)
    assert first.read().taken == second.read().taken == town.all()
    # The older one's receipts count only while the newer one's do not work at all.
    second.deaf = False
    town.publish(1)
    assert second.read().taken == town.all()
    second.deaf = True
    town.publish(5)
    first.read()
    second.read()
    second.leave()
    first.leave()
    assert town.agent().identify().taken == []  # the older one took over, and had them


def test_gaps_and_numbers() -> None:
    town = Town()
    agent = town.first()
    town.publish(2)
    town.world.frames("up", b"")
    town.world.run()
    town.publish(2)
    assert agent.read().taken == town.all()
    assert agent.seq == 2 + 5
    agent.leave()
    again = town.agent().resume(agent.session, 2 + 2)
    assert again.taken == town.all(3)


def test_the_row_is_on_disk_before_ready() -> None:
    town = Town()
    town.first().leave()
    agent = town.agent()
    town.world.down(ev.ConnFrames(agent.name, [msgspec.json.encode({"op": 2, "d": {"token": TOKEN, "intents": ALL}})]))
    agent_frames = town.world.took(agent.name)
    assert agent_frames == []
    town.world.disk()
    town.world.run()
    session = agent.read().session
    town.crash()
    assert town.agent().resume(session, 2).others == ["op 10", "RESUMED"]


def test_a_full_disk_keeps_no_agent_waiting() -> None:
    town = Town()
    first = town.first()
    town.publish(3)
    first.read().leave()
    town.publish(3)
    town.world.down(ev.ConnOpened("z", ev.Head("GET", "/", [], "h")))
    town.world.down(ev.ConnFrames("z", [msgspec.json.encode({"op": 2, "d": {"token": TOKEN, "intents": ALL}})]))
    while town.world.batch is not None:
        town.world.disk(OSError("full"))
    town.world.took("z")
    town.world.engine.timer(("down:dialect", "row:z"))
    while town.world.reads:
        session, *wanted = town.world.reads.pop(0)
        town.world.engine.records(session, town.world.rows.read(*wanted))
    kinds = [msgspec.json.decode(data)["t"] for data in town.world.took("z") if data.startswith(b"{")]
    assert kinds == ["READY", "GUILD_CREATE", *["MESSAGE_CREATE"] * 3]
