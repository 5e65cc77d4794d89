"""What an agent's frames earn, and what it may ask of the upstream (discord R21, R22, C6, C14)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sidecar.core import actions as act
from sidecar.core import events as ev
from tests.dialects.discord.bench import Bench
from tests.dialects.discord.scene import ALL, BOT, READY, TOKEN, Scene, guild, message, payload, run


@pytest.mark.parametrize(
    "frame",
    [
        b"{",
        b"\xff",
        b"[]",
        b'"x"',
        b"{}",
        b'{"op":"1"}',
        b'{"op":null}',
        b"[" * 3000,
        ev.Binary(b'{"op":1,"d":null}'),
        b'{"op":1,"d":"' + b"x" * 4082 + b'"}',
    ],
)
def test_r22_c14_bad_frames_close_that_socket_with_4002(frame: bytes) -> None:
    scene = Scene().agent("c1").agent("c2")
    scene.send(ev.ConnFrames("c1", [frame, b'{"op":1,"d":null}']))
    assert scene.closed == {"c1": 4002}
    assert "c1" not in scene.sent
    assert act.Detach("c1") in scene.did
    assert scene.say("c2", 1, None).types("c2") == ["ACK"]


def test_r22_4096_bytes_are_not_too_many() -> None:
    frame = b'{"op":1,"d":"' + b"x" * 4081 + b'"}'
    assert len(frame) == 4096
    assert Scene().agent("c1").send(ev.ConnFrames("c1", [frame])).types("c1") == ["ACK"]


def _binary(op: int, d: Any) -> ev.Binary:
    return ev.Binary(msgspec.json.encode({"op": op, "d": d}))


def test_r12_r22_an_agent_that_says_all_in_binary_messages_is_served_as_hikari_is_and_the_upstream_gets_text() -> None:
    scene = Scene().open("c1")
    scene.send(ev.ConnFrames("c1", [_binary(2, {"token": TOKEN, "intents": ALL, "shard": [0, 1]}), _binary(1, None)]))
    assert {"READY", "ACK"} <= set(scene.types("c1"))
    scene.send(ev.ConnFrames("c1", [_binary(8, {"guild_id": "g1", "query": "", "limit": 0, "nonce": "n"})]))
    commands = [tell["command"] for tell in scene.told if "command" in tell]
    assert [type(command) for command in commands] == [bytes]
    assert scene.closed == {}
    sid = next(frame["d"]["session_id"] for frame in scene.frames("c1") if frame["t"] == "READY")
    scene.open("c2").send(ev.ConnFrames("c2", [_binary(6, {"token": TOKEN, "session_id": sid, "seq": 2})]))
    assert scene.closed == {"c1": 4000}
    assert [cursor.session for cursor in scene.of(act.ClientCursor)] == ["c2"]


@pytest.mark.parametrize("frame", [b"\x00", b"\x83h", b'{"op":2', b'{"op":0}'])
def test_r22_binary_that_is_no_frame_of_an_agents_is_refused(frame: bytes) -> None:
    scene = Scene().open("c1").send(ev.ConnFrames("c1", [ev.Binary(frame)]))
    assert scene.closed == {"c1": 4001 if frame == b'{"op":0}' else 4002}


@pytest.mark.parametrize("op", [0, 7, 9, 10, 11])
def test_r22_a_servers_opcode_never_reaches_the_upstream(op: int) -> None:
    scene = Scene().agent("c1").say("c1", op)
    assert scene.closed == {"c1": 4001}
    assert scene.told == []


@pytest.mark.parametrize(
    ("d", "code"),
    [
        (None, 4002),
        ({"intents": 1}, 4002),
        ({"token": 5, "intents": 1}, 4002),
        ({"token": TOKEN}, 4013),
        ({"token": TOKEN, "intents": -1}, 4013),
        ({"token": TOKEN, "intents": True}, 4013),
        ({"token": TOKEN, "intents": "1"}, 4013),
        ({"token": TOKEN, "intents": 1, "shard": [1, 1]}, 4010),
        ({"token": TOKEN, "intents": 1, "shard": [-1, 1]}, 4010),
        ({"token": TOKEN, "intents": 1, "shard": [0]}, 4010),
        ({"token": TOKEN, "intents": 1, "shard": "0/1"}, 4010),
        ({"token": TOKEN, "intents": 1, "shard": [True, 2]}, 4010),
    ],
)
def test_r22_an_identify_that_says_nothing_of_use(d: Any, code: int) -> None:
    scene = Scene().open("c1").say("c1", 2, d)
    assert scene.closed == {"c1": code}
    assert not scene.of(act.Own)


def test_c6_a_second_identify_or_resume_is_4005() -> None:
    scene = Scene().agent("c1").identify("c1")
    scene.agent("c2").resume("c2", scene.sid, 2)
    scene.agent("c3").open("c4").resume("c4", scene.sid, 2).identify("c4")
    scene.ready = None
    scene.open("c5").identify("c5").identify("c5")
    assert scene.closed == {"c1": 4005, "c2": 4005, "c3": 4000, "c4": 4005, "c5": 4005}


@pytest.mark.parametrize("code", [4010, 4011, 4012, 4013, 4014])
def test_r22_the_upstreams_fatal_code_goes_to_every_agent_of_that_identity_and_to_new_ones_for_a_minute(code: int) -> None:
    scene = Scene()
    scene.who |= {"second": BOT, "other": "43"}
    scene.view.stream("discord:43:0/1")
    scene.agent("c1").open("c2").identify("c2", token="second").open("c3").identify("c3", token="other")
    sid = scene.sid
    scene.ready = None
    scene.open("c4").identify("c4")
    scene.upstream(refused=TOKEN, code=code)
    assert scene.closed == {"c1": code, "c2": code, "c4": code}
    scene.forget().wait(59).open("c5").identify("c5").open("c6").resume("c6", sid, 2)
    assert {conn: scene.closed[conn] for conn in ("c5", "c6")} == {"c5": code, "c6": code}
    assert scene.told == []
    assert not scene.of(act.Own)
    scene.wait(2).open("c7").identify("c7")
    assert "c7" not in scene.closed
    assert scene.of(act.Own)


@pytest.mark.parametrize("code", [4013, 4014])
def test_r22_an_agent_mended_to_ask_for_other_intents_need_not_wait(code: int) -> None:
    scene = Scene().agent("c1", intents=ALL).upstream(refused=TOKEN, code=code).forget()
    scene.open("c2").identify("c2", intents=513).open("c3").identify("c3", intents=ALL)
    assert scene.closed == {"c1": code, "c3": code}
    assert scene.of(act.Own)


def test_r22_a_refused_token_is_not_asked_for_again_for_a_minute() -> None:
    scene = Scene()
    scene.who["second"] = BOT
    scene.agent("c1").open("c2").identify("c2", token="second")
    scene.upstream(refused=TOKEN, code=4004)
    assert scene.closed == {"c1": 4004}, "another token of this bot may be good"
    scene.forget()
    for n in range(3, 30):
        scene.open(f"c{n}").identify(f"c{n}").wait(2)
    assert {scene.closed[f"c{n}"] for n in range(3, 30)} == {4004}
    assert scene.did == [each for each in scene.did if isinstance(each, act.Accept)]
    scene.wait(10).open("c40").identify("c40")
    assert len(scene.of(act.Request)) == 1
    assert "c40" not in scene.closed


def test_r22_a_token_refused_over_rest_is_not_asked_for_again_either() -> None:
    scene = Scene()
    for n in range(20):
        scene.open(f"c{n}").identify(f"c{n}", token="Bot wrong").wait(2)
    assert len(scene.of(act.Request)) == 1
    assert set(scene.closed.values()) == {4004}


def test_c6_early_commands_wait_for_ready_and_keep_their_order() -> None:
    scene = Scene().open("c1").say("c1", 3, {"status": "idle"})
    scene.ready = None
    scene.identify("c1").say("c1", 8, {"guild_id": "g1"}).say("c1", 4, {"guild_id": "g1"})
    assert scene.closed == {}
    assert not [said for said in scene.told if {"presence", "command"} & said.keys()]
    scene.ready = READY
    scene.upstream(ready="0/1")
    assert scene.told[-3:] == [
        {"presence": {"status": "idle"}, "shard": "0/1"},
        {"command": b'{"op":8,"d":{"guild_id":"g1"}}', "from": scene.frames("c1")[1]["d"]["session_id"], "shard": "0/1"},
        {"command": b'{"op":4,"d":{"guild_id":"g1"}}', "from": scene.frames("c1")[1]["d"]["session_id"], "shard": "0/1"},
    ]


def test_r21_early_commands_are_bounded() -> None:
    scene = Scene().open("c1")
    for _ in range(120):
        scene.say("c1", 3, {})
    assert scene.closed == {}
    scene.say("c1", 3, {})
    assert scene.closed == {"c1": 4008}


@pytest.mark.parametrize("op", [4, 8, 31, 43, 99])
def test_r21_commands_go_to_the_upstream_half_as_they_came(op: int) -> None:
    scene = Scene().agent("c1")
    frame = b'{"d": {"guild_id" : "g1"},  "op": %d}' % op
    scene.send(ev.ConnFrames("c1", [frame]))
    assert scene.told == [{"command": frame, "shard": "0/1", "from": scene.sid}]
    scene.say("c1", 3, {"status": "dnd"})
    assert scene.told[1:] == [{"presence": {"status": "dnd"}, "shard": "0/1"}]


def test_r21_a_command_before_resumed_is_not_lost() -> None:
    scene = Scene().agent("c1").open("c2").say("c2", 8, {}).resume("c2", None, None)
    scene.resume("c2", scene.sid, 2).say("c2", 4, {})
    assert [said["command"][:7] for said in scene.told if "command" in said] == [b'{"op":8', b'{"op":4']


def test_r21_chunks_go_to_the_asking_session_wherever_it_is_now() -> None:
    scene = Scene().agent("c1").agent("c2")
    sid = scene.sid
    chunk = payload("GUILD_MEMBERS_CHUNK", {"nonce": "n", "chunk_index": 0, "chunk_count": 1})
    scene.open("c3").resume("c3", sid, 2).events("c3", run(1, [message(1)])).upstream(chunk=sid, frame=chunk)
    assert scene.types("c3") == ["HELLO", "MESSAGE_CREATE", "GUILD_MEMBERS_CHUNK"]
    assert "GUILD_MEMBERS_CHUNK" not in scene.types("c1") + scene.types("c2")
    scene.send(ev.ConnClosed("c3", None)).upstream(chunk=sid, frame=chunk)
    assert scene.types("c3").count("GUILD_MEMBERS_CHUNK") == 1


def test_an_answer_for_a_socket_that_is_gone_is_nothing() -> None:
    scene = Scene()
    scene.ready = None
    scene.open("c1").identify("c1")
    key = next(said["snapshot"] for said in scene.told if "snapshot" in said)
    answer = {"snapshot": key, "ready": msgspec.json.encode(READY), "guilds": [msgspec.json.encode(guild("g1"))], "offset": 0}
    scene.send(ev.ConnClosed("c1", 1000)).upstream(**answer).upstream(ready="0/1").upstream(unheard_of=1)
    assert scene.types("c1") == ["HELLO"]
    assert [key for key in scene.state if key.startswith("session:")] == []
    scene.ready = READY
    scene.open("c2").identify("c2")
    key = scene.half._sockets.get("c2").key  # type: ignore[union-attr]
    scene.upstream(**answer | {"snapshot": key})
    assert scene.types("c2").count("READY") == 1


def test_r9_r22_a_stale_token_of_one_agent_does_not_leave_the_others_without_an_upstream() -> None:
    scene = Scene(credential="operators")
    scene.who |= {"operators": BOT, "new": BOT, "stale": BOT}
    scene.restart("operators")
    scene.agent("c1", token="new").agent("c2", token="stale")
    scene.upstream(refused="stale", code=4004)
    assert scene.closed == {"c2": 4004}
    assert [own.credential for own in scene.of(act.Own)] == ["operators", "new"], "the half takes up what it is told again"
    scene.forget().upstream(refused="new", code=4004).upstream(refused="operators", code=4004)
    assert [own.credential for own in scene.of(act.Own)] == ["operators"], "nothing that was refused is told again"


def test_r9_r22_a_half_that_a_stale_token_stopped_goes_on_with_the_next() -> None:
    b = Bench(operators=False).start()
    b.feed(ev.Attached(f"discord:{BOT}:0/1", 1)).open().hello().ready()
    b.feed(ev.CredentialSeen("stale")).close(None).run(1).open().hello()
    assert b.sent(6)[-1]["token"] == "stale"
    b.close(4004)
    assert b.fatal and not b.current
    b.feed(ev.CredentialSeen("new")).run(1).open().hello()
    assert b.sent(6)[-1]["token"] == "new" and len(b.sent(2)) == 1
