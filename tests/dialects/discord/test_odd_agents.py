"""Agents that ask for what no agent should, and what READY says of guilds in an outage (discord R13, R22, U19)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sidecar.core import actions as act
from sidecar.core import events as ev
from tests.dialects.discord.bench import RESUME_URL, SHARD, STREAM, Bench, at, channel
from tests.dialects.discord.bench import guild as seen
from tests.dialects.discord.scene import ALL, TOKEN, Scene, message, run


@pytest.mark.parametrize("token", ["", "   ", "a b", "a\r\nX-Evil: 1", "täken", "\x00", "a\x7fb"])
def test_R9_R22_what_cannot_be_a_token_is_4004_for_that_socket_alone_and_never_asked_for(token: str) -> None:
    scene = Scene().agent("c1").open("c2").open("c3").identify("c3", token=token)
    assert scene.closed == {"c3": 4004}
    scene.identify("c2")
    assert "READY" in scene.types("c2")
    assert scene.of(act.Request) == []
    assert scene.open("c4").resume("c4", scene.sid, 2, token=token).types("c4") == ["HELLO", "INVALID"]


@pytest.mark.parametrize(
    ("d", "code"),
    [
        ({"token": TOKEN, "intents": 1 << 80}, 4013),
        ({"token": TOKEN, "intents": 1.5}, 4013),
        ({"token": TOKEN, "intents": 1, "shard": [0, 10**30]}, 4010),
        ({"token": TOKEN, "intents": 1, "shard": [0, 1, 2]}, 4010),
        ({"token": TOKEN, "intents": 1, "shard": {}}, 4010),
        ([], 4002),
    ],
)
def test_R22_numbers_beyond_all_measure_never_reach_the_upstream(d: Any, code: int) -> None:
    scene = Scene().open("c1").say("c1", 2, d)
    assert scene.closed == {"c1": code}
    assert scene.told == []


def test_R13_U19_guilds_in_an_outage_are_listed_in_ready_and_said_to_be_away_behind_it() -> None:
    scene = Scene()
    scene.away = ["g7", "g9"]
    scene.open("c1").identify("c1", intents=ALL)
    ready, create, *deletes = scene.frames("c1")[1:]
    assert ready["d"]["guilds"] == [{"id": each, "unavailable": True} for each in ("g1", "g7", "g9")]
    assert (create["t"], create["s"]) == ("GUILD_CREATE", 2)
    assert [(f["t"], f["s"], f["d"]) for f in deletes] == [
        ("GUILD_DELETE", 3, {"id": "g7", "unavailable": True}),
        ("GUILD_DELETE", 4, {"id": "g9", "unavailable": True}),
    ]
    scene.forget().events("c1", run(1, [message(1)]))
    assert scene.numbers("c1") == [("m1", 5)]
    # Who did not ask for guilds is told nothing of them.
    scene.open("c2").identify("c2", intents=512)
    assert scene.types("c2") == ["HELLO", "READY"]


def told(b: Bench) -> tuple[list[str], list[str]]:
    """The guilds of READY and those of which there is state."""
    b.tell(snapshot="s", shard=SHARD)
    listed = [each["id"] for each in msgspec.json.decode(b.told[-1]["ready"])["guilds"]]
    return listed, [msgspec.json.decode(raw)["id"] for raw in b.told[-1]["guilds"]]


def test_R13_U19_a_guild_that_was_in_an_outage_from_the_first_ready_on_is_listed_until_the_bot_leaves_it() -> None:
    b = Bench().start().open().hello()
    b.event("READY", {"session_id": "up1", "resume_gateway_url": RESUME_URL, "guilds": [{"id": "1"}, {"id": "2"}, {"id": "3"}]})
    b.event("GUILD_CREATE", seen(1, channel(11))).run(5.1)
    assert told(b) == (["1", "2", "3"], ["1"])
    b.event("GUILD_DELETE", {"id": "2", "unavailable": True})
    assert told(b) == (["1", "2", "3"], ["1"])
    b.event("GUILD_DELETE", {"id": "2"}).event("GUILD_CREATE", seen(4))
    assert told(b) == (["1", "3", "4"], ["1", "4"])
    b.crash()
    assert told(b) == (["1", "3", "4"], ["1", "4"])


def narrow(**knobs: Any) -> Bench:
    """A session that began just now, with 513; an agent asks for more."""
    b = Bench(operators=False, **knobs).start().tell(intents=513, shard=SHARD).feed(ev.Attached(STREAM, 1)).live(seen(1, channel(11)))
    return b.tell(intents=32768, shard=SHARD)


def test_R23_R29_the_session_lives_until_the_identify_for_more_intents_may_be_sent() -> None:
    b = narrow().run(3).message(at(1), "11")
    assert b.links[0].ended == ""
    assert b.names == [f"MESSAGE_CREATE {at(1)}"]
    b.run(3)
    assert str(b.links[0].ended) == "4000"
    b.open().hello().ready(seen(1, channel(11)), session="up2")
    assert [d["intents"] for d in b.sent(2)] == [513, 513 | 32768]


def test_R23_R29_with_the_budget_of_identifies_spent_agents_go_on_with_what_they_had() -> None:
    b = narrow(identify_budget=1).run(20)
    b.message(at(1), "11")
    assert (len(b.links), b.links[0].ended) == (1, "")
    assert b.names == [f"MESSAGE_CREATE {at(1)}"]
    assert any("goes without" in line for line in b.said)


@pytest.mark.parametrize("target", ["//[::1", "/\x00?v=10", "/?v=10&&=&%ff", "?"])
def test_R3_whatever_the_upgrade_asks_for_says_HELLO(target: str) -> None:
    assert Scene().open("c1", target).types("c1") == ["HELLO"]


def test_R22_what_is_no_UTF8_is_4002_also_in_a_member_that_nobody_looks_at_and_never_goes_upstream() -> None:
    scene = Scene().agent("c1")
    scene.send(ev.ConnFrames("c1", [b'{"op":8,"d":{"guild_id":"1"},"x":"\xff"}']))
    assert scene.closed == {"c1": 4002} and not [said for said in scene.told if "command" in said]


def nested(depth: int) -> dict[str, Any]:
    found: Any = 1
    for _ in range(depth - 1):
        found = [found]
    return {"activities": found}


@pytest.mark.parametrize("presence", ["dnd", 5, [], True, nested(33), nested(900)])
def test_R22_a_presence_that_is_none_is_4002_for_that_socket_alone(presence: Any) -> None:
    scene = Scene().agent("c1").agent("c2").say("c1", 3, presence)
    scene.open("c3").identify("c3", presence=presence)
    assert scene.closed == {"c1": 4002, "c3": 4002} and not [said for said in scene.told if "presence" in said]


def test_R21_a_presence_may_nest_as_deep_as_any_does() -> None:
    scene = Scene().agent("c1").say("c1", 3, nested(32))
    assert scene.closed == {} and [said["presence"] for said in scene.told if "presence" in said] == [nested(32)]
