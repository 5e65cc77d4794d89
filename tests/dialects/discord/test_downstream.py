"""The downstream half from HELLO to live (discord R3, R5, R9 to R15, R19, C1 to C4, C9)."""

from __future__ import annotations

import pytest

from sidecar.core import actions as act
from sidecar.core import events as ev
from tests.dialects.discord.scene import BOT, READY, STREAM, TOKEN, Scene, gap_at, guild, message, run


@pytest.mark.parametrize("target", ["/", "/gateway", "/?v=10&encoding=json", "/any/path?v=9", "/?v=9&encoding=json&compress=zstd-stream"])
def test_r3_any_path_is_the_gateway_with_and_without_version_and_encoding(target: str) -> None:
    scene = Scene().open("c1", target)
    assert [(a.conn, type(a)) for a in scene.did] == [("c1", act.Accept)]
    assert scene.frames("c1") == [{"op": 10, "s": None, "t": None, "d": {"heartbeat_interval": 20000}}]
    scene.identify("c1")
    assert scene.types("c1")[1] == "READY"


@pytest.mark.parametrize("target", ["/?v=10&encoding=etf", "/?v=8", "/?encoding=ETF&v=10"])
def test_r3_what_cannot_be_served_is_accepted_and_closed_and_never_left_hanging(target: str) -> None:
    scene = Scene().open("c1", target)
    assert scene.of(act.Accept)
    assert scene.closed == {"c1": 4012}
    scene.identify("c1")
    assert "c1" not in scene.sent


def test_r10_hello_comes_at_once_with_nothing_known_and_during_a_stop() -> None:
    scene = Scene(heartbeat_ms=12345)
    scene.ready = None
    scene.who = {TOKEN: None}
    scene.open("c1")
    assert scene.frames("c1")[0]["d"] == {"heartbeat_interval": 12345}
    scene.send(ev.Draining()).open("c2")
    assert scene.types("c2") == ["HELLO", "RECONNECT"]
    assert scene.wait(1).closed == {"c1": 4000, "c2": 4000}


def test_r11_c3_every_beat_is_acknowledged_before_identify_while_held_and_during_a_replay() -> None:
    scene = Scene().open("c1")
    scene.ready = None
    scene.say("c1", 1, None)
    assert scene.types("c1") == ["HELLO", "ACK"]
    scene.identify("c1").say("c1", 1, None)
    assert scene.types("c1") == ["HELLO", "ACK", "ACK"]
    scene.ready = READY
    scene.guilds = [guild(f"g{n}", topic="x" * 600_000) for n in range(4)]
    scene.upstream(ready="0/1").say("c1", 1, None)
    # The snapshot goes out in parts that the socket takes in; an ACK does not wait behind all of it.
    assert scene.types("c1")[3:] == ["READY", "GUILD_CREATE", "GUILD_CREATE", "ACK"]
    scene.drained().say("c1", 1, 1).drained()
    assert scene.types("c1")[7:] == ["GUILD_CREATE", "GUILD_CREATE", "ACK"]
    scene.forget().events("c1", run(1, [message(1)])).say("c1", 1, 5).events("c1", run(2, [message(2)]))
    assert scene.types("c1") == ["MESSAGE_CREATE", "ACK", "MESSAGE_CREATE"]


def test_r12_c1_an_identify_before_the_upstreams_ready_is_held_and_every_retry_joins_the_same_waiting() -> None:
    scene = Scene().open("c1")
    scene.ready = None
    scene.identify("c1")
    # discord.js gives up after 15 s: close 1000, and a new IDENTIFY.
    scene.wait(15).send(ev.ConnClosed("c1", 1000)).open("c2").identify("c2").wait(3)
    owned = scene.of(act.Own)
    assert {(o.account, o.credential, tuple(o.streams)) for o in owned} == {(BOT, TOKEN, (STREAM,))}
    assert scene.types("c1") == scene.types("c2") == ["HELLO"]
    scene.ready = READY
    scene.upstream(ready="0/1")
    assert scene.types("c1") == ["HELLO"]
    assert scene.types("c2") == ["HELLO", "READY", "GUILD_CREATE"]
    assert scene.closed == {}


def test_r12_a_held_identify_is_told_again_for_what_was_told_may_have_been_lost() -> None:
    scene = Scene().open("c1")
    scene.ready = None
    scene.identify("c1", intents=513).wait(1)
    scene.told.clear()
    scene.ready = READY
    scene.wait(5)
    assert {"intents": 513, "shard": "0/1"} in scene.told
    assert "READY" in scene.types("c1")


def test_r12_a_token_that_is_not_proven_yet_is_held_until_the_upstream_can_be_asked() -> None:
    scene = Scene()
    scene.who = {TOKEN: 0}
    scene.open("c1").identify("c1").wait(20).say("c1", 1, None)
    assert scene.types("c1") == ["HELLO", "ACK"]
    assert not scene.of(act.Own)
    assert 3 < len(scene.of(act.Request)) < 10, "asked again, ever more slowly"
    scene.who = {TOKEN: BOT}
    scene.wait(31)
    assert scene.types("c1") == ["HELLO", "ACK", "READY", "GUILD_CREATE"]


def test_r9_many_agents_of_one_token_are_one_question() -> None:
    scene = Scene()
    scene.who = {TOKEN: None}
    for n in range(20):
        scene.open(f"c{n}").identify(f"c{n}").wait(0.1)
    assert len(scene.of(act.Request)) == 1


@pytest.mark.parametrize("status", [403, 429, 500, 302])
def test_r9_an_answer_that_says_nothing_about_the_token_refuses_nobody(status: int) -> None:
    scene = Scene()
    scene.who = {TOKEN: status}
    scene.open("c1").identify("c1").wait(5)
    assert scene.closed == {}
    assert not scene.of(act.Own)


@pytest.mark.parametrize("status", [404, 405, 501])
def test_r9_an_upstream_without_that_route_proves_a_token_by_its_gateway_alone(status: int) -> None:
    scene = Scene()
    scene.who = {TOKEN: status, "another": status}
    scene.open("c1").identify("c1").wait(1)
    assert not scene.of(act.Own), "once may be a proxy's"
    scene.wait(10).open("c2").identify("c2", token="another").wait(30)
    first, second = (o.account for o in {o.credential: o for o in scene.of(act.Own)}.values())
    assert first != second and first.startswith("token-") and second.startswith("token-")
    assert not any(TOKEN in key or TOKEN in value.decode() for key, value in scene.state.items())
    # The name stays when the route is there one day: the bot's stream goes on.
    scene.who = {TOKEN: BOT}
    scene.restart()
    scene.forget().open("c3").identify("c3").wait(5)
    assert {o.account for o in scene.of(act.Own)} == {first}


def test_r9_a_bot_that_is_known_stays_itself_where_the_route_is_gone() -> None:
    scene = Scene().agent("c1")
    scene.who = {TOKEN: 404}
    scene.restart()
    scene.forget().open("c1").identify("c1").wait(30)
    assert {o.account for o in scene.of(act.Own)} == {BOT}


def test_r9_a_token_that_the_upstream_refuses_gets_4004_and_nothing_else() -> None:
    scene = Scene().agent("c1").open("c2").identify("c2", token="wrong")
    assert scene.types("c2") == ["HELLO"]
    assert scene.closed == {"c2": 4004}
    # Another bot's session is not for it either.
    scene.who["other"] = "43"
    scene.open("c3").resume("c3", scene.sid, 2, token="other").resume("c3", scene.sid, 2, token="wrong")
    assert scene.types("c3") == ["HELLO", "INVALID", "INVALID"]


def test_r9_a_proven_token_is_known_after_a_restart_by_its_keyed_hash_alone() -> None:
    scene = Scene().agent("c1")
    assert not any(TOKEN in key or TOKEN.encode() in value for key, value in scene.state.items())
    scene.who = {TOKEN: None}
    scene.restart()
    scene.open("c1").identify("c1")
    assert scene.types("c1") == ["HELLO", "READY", "GUILD_CREATE"], "the upstream may be away"
    # It is asked all the same, and its no counts.
    scene.send(ev.ResponseReceived(scene.pending[0].request, 401, [], b"{}"))
    assert scene.closed == {"c1": 4004}
    assert not [key for key in scene.state if key.startswith("token:")]


def test_r9_a_session_of_a_token_that_was_refused_is_no_way_in() -> None:
    scene = Scene().agent("c1").upstream(refused=TOKEN, code=4004).wait(61)
    scene.open("c2").resume("c2", scene.sid, 2)
    assert scene.types("c2") == ["HELLO", "INVALID"]


def test_r9_a_resume_after_a_restart_has_its_token_asked_for_too() -> None:
    scene = Scene().agent("c1")
    scene.who = {TOKEN: None}
    scene.restart()
    scene.open("c1").resume("c1", scene.sid, 2)
    assert scene.of(act.Attach)
    scene.send(ev.ResponseReceived(scene.pending[0].request, 401, [], b"{}"))
    assert scene.closed == {"c1": 4004}


def test_r12_with_state_ready_waits_for_nobody_but_the_sessions_row() -> None:
    scene = Scene()
    scene.disk = False
    scene.open("c1").identify("c1")
    assert scene.types("c1") == ["HELLO"]
    scene.disk_done()
    assert scene.types("c1") == ["HELLO", "READY", "GUILD_CREATE"]
    # A disk that is full holds no READY back for a second.
    scene.disk = False
    scene.open("c2").identify("c2").wait(0.9)
    assert scene.types("c2") == ["HELLO", "READY", "GUILD_CREATE"]
    before = len(scene.did)
    scene.disk_done()
    assert scene.did[before:] == []
    assert len(scene.of(act.Attach)) == 2


def test_r13_r5_ready_is_the_upstreams_with_our_own_session_and_address() -> None:
    scene = Scene().open("c1", host="localhost:9")
    scene.guilds = [guild("g1", unavailable=True), guild("g2")]
    scene.identify("c1")
    ready, one, two = scene.frames("c1")[1:]
    assert [f["s"] for f in (ready, one, two)] == [1, 2, 3]
    assert ready["t"] == "READY"
    d = ready["d"]
    sid = d["session_id"]
    assert len(sid) == 32
    assert set(sid) <= set("0123456789abcdef")
    assert d == {k: v for k, v in READY.items() if k != "shard"} | {
        "session_id": sid,
        "resume_gateway_url": "ws://localhost:9",
        "guilds": [{"id": "g1", "unavailable": True}, {"id": "g2", "unavailable": True}],
    }
    assert [f["d"] for f in (one, two)] == [guild("g1"), guild("g2")]


def test_r13_the_shard_is_echoed_only_if_it_was_asked_for() -> None:
    scene = Scene().open("c1").identify("c1", shard=[0, 1]).open("c2").identify("c2", shard=None)
    assert scene.frames("c1")[1]["d"]["shard"] == [0, 1]
    assert "shard" not in scene.frames("c2")[1]["d"]


def test_r12_a_shard_has_a_stream_of_its_own() -> None:
    scene = Scene()
    scene.view.stream("discord:42:1/2")
    scene.open("c1").identify("c1", shard=[1, 2])
    assert scene.of(act.Own)[0].streams == ["discord:42:1/2"]
    assert scene.of(act.Attach)[0].stream == "discord:42:1/2"
    assert all(said["shard"] == "1/2" for said in scene.told)
    # News of another shard is none for it.
    scene.ready = None
    scene.open("c2").identify("c2", shard=[1, 2])
    scene.ready = READY
    scene.upstream(ready="0/2")
    assert scene.types("c2") == ["HELLO"]
    scene.upstream(ready="1/2")
    assert "READY" in scene.types("c2")


def test_r13_each_session_has_its_own_id() -> None:
    scene = Scene()
    ids = {scene.agent(f"c{n}").sid for n in range(5)}
    scene.restart()
    ids.add(scene.wait(1).agent("c0").sid)
    assert len(ids) == 6


def test_r19_c9_a_known_consumer_gets_what_it_has_no_receipt_for_behind_the_guilds() -> None:
    scene = Scene()
    scene.view.stream(STREAM, 43)
    scene.view.cursors[STREAM, "agent"] = 40
    scene.offset = 43
    scene.open("c1").identify("c1")
    attach = scene.of(act.Attach)[0]
    assert (attach.session, attach.stream, attach.consumer, attach.account, attach.after) == ("c1", STREAM, "agent", BOT, 40)
    scene.events("c1", run(41, [message(41), message(42), message(43)]))
    assert scene.numbers("c1") == [("READY", 1), ("GUILD_CREATE", 2), ("m41", 3), ("m42", 4), ("m43", 5)]


def test_r19_a_consumer_never_seen_starts_where_the_snapshot_stands() -> None:
    scene = Scene()
    scene.view.stream(STREAM, 43)
    scene.offset = 42  # event 43 is not in the snapshot: the agent would miss it
    scene.open("c1").identify("c1")
    attach = scene.of(act.Attach)[0]
    assert (attach.fresh, attach.after) == ("head", 42)


def test_r15_numbers_follow_offsets_whatever_stands_between() -> None:
    scene = Scene().agent("c1")
    scene.events("c1", run(1, [message(1)]), gap_at(2), run(3, [message(3), b"no json", message(5)]))
    assert scene.numbers("c1") == [("m1", 3), ("m3", 5), ("m5", 7)]


def test_r15_what_is_not_journaled_repeats_the_last_number() -> None:
    scene = Scene().agent("c1").events("c1", run(1, [message(1)]))
    typing = b'{"t":"TYPING_START","s":77,"op":0,"d":{"guild_id":"g1"}}'
    chunk = b'{"t":"GUILD_MEMBERS_CHUNK","s":78,"op":0,"d":{"nonce":"n"}}'
    scene.upstream(live="0/1", frame=typing).upstream(chunk=scene.sid, frame=chunk).events("c1", run(2, [message(2)]))
    assert scene.numbers("c1") == [("m1", 3), ("TYPING_START", 3), ("GUILD_MEMBERS_CHUNK", 3), ("m2", 4)]


def test_r15_what_is_not_journaled_has_the_snapshots_last_number_before_any_event() -> None:
    typing = b'{"t":"TYPING_START","s":77,"op":0,"d":{"guild_id":"g1"}}'
    scene = Scene().agent("c1").upstream(live="0/1", frame=typing)
    assert scene.numbers("c1") == [("TYPING_START", 2)]


def test_c4_an_identify_may_come_late() -> None:
    scene = Scene().open("c1").wait(29)
    for _ in range(20):
        scene.say("c1", 1, None).wait(20)
    assert scene.identify("c1").types("c1")[-2:] == ["READY", "GUILD_CREATE"]


def test_c2_a_mute_socket_is_counted_told_of_and_closed_after_ten_minutes() -> None:
    scene = Scene().open("c1").open("c2").wait(29)
    scene.identify("c2")
    assert "mute_sockets" not in scene.counted
    scene.wait(2)
    assert scene.counted["mute_sockets"] == 1
    assert len(scene.logged) == 1
    for _ in range(28):
        scene.say("c1", 1, None).say("c2", 1, None).wait(20)
    assert scene.closed == {}
    scene.wait(10)
    assert scene.closed == {"c1": 4003}, "and no one else"
    assert scene.counted["mute_sockets"] == 1


def test_the_operators_token_holds_its_shards_before_any_agent_comes() -> None:
    scene = Scene(credential="Bot " + TOKEN, shards=("0/2", "1/2"))
    assert scene.of(act.Own) == [act.Own(BOT, TOKEN, streams=["discord:42:0/2", "discord:42:1/2"])]
    # After a restart at once, with the upstream away.
    scene.who = {TOKEN: 0}
    scene.restart(TOKEN)
    assert scene.of(act.Own) == [act.Own(BOT, TOKEN, streams=["discord:42:0/2", "discord:42:1/2"])]
    scene = Scene(credential=TOKEN)
    assert scene.of(act.Own) == [act.Own(BOT, TOKEN, streams=[STREAM])]


def test_an_operators_token_that_is_refused_is_told_and_one_that_cannot_be_asked_is_asked_again() -> None:
    scene = Scene(credential="wrong")
    assert [a.code for a in scene.of(act.Fatal)] == ["4004"]
    assert "restart the sidecar" in scene.of(act.Fatal)[0].mend
    assert not scene.wait(3600).of(act.Own) and len(scene.of(act.Request)) == 1
    scene.who["wrong"] = BOT
    scene.open("c1").identify("c1", token="wrong")
    assert scene.of(act.Status) == [act.Status({"fatal": None})] and scene.of(act.Own)
    scene = Scene()
    scene.who = {TOKEN: 0}
    scene.restart(TOKEN)
    scene.who = {TOKEN: BOT}
    assert not scene.of(act.Own)
    assert scene.wait(2).of(act.Own)


def test_a_reset_by_the_operator_makes_the_agent_identify() -> None:
    scene = Scene().agent("c1").events("c1", run(1, [message(1)])).forget()
    scene.send(ev.Ousted("c1", "consumer was reset"))
    assert scene.types("c1") == ["INVALID"]
    assert scene.closed == {"c1": 4000}
    scene.open("c2").resume("c2", scene.sid, 3)
    assert scene.types("c2") == ["HELLO", "INVALID"]


def test_intents_and_presence_are_told_to_the_upstream_half_before_the_snapshot_is_asked_for() -> None:
    scene = Scene().open("c1").identify("c1", intents=513, presence={"status": "dnd"})
    assert scene.told[:2] == [{"intents": 513, "shard": "0/1"}, {"presence": {"status": "dnd"}, "shard": "0/1"}]
    assert list(scene.told[2]) == ["snapshot", "shard"]
    assert scene.of(act.Own)[0].hints == "513"
