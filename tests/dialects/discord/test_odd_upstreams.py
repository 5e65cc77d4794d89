"""Upstreams that say what no gateway should: nothing of it stops a half, stays on disk to stop the next one, or keeps an agent from what
comes behind it (discord R7, R14, R19, R21, R33)."""

from __future__ import annotations

import json
import zlib
from typing import Any

import msgspec
import pytest

from sidecar.core.events import Binary, FramesReceived
from sidecar.dialects.discord import gateway
from sidecar.dialects.discord.encoder import Encoder
from sidecar.dialects.discord.intents import CONTENT, PRESENCES, Allowance
from tests.dialects.discord.bench import BOT, SHARD, Bench, at, channel, guild, row
from tests.dialects.discord.scene import ALL, Scene
from tests.dialects.discord.scene import guild as known
from tests.dialects.discord.test_upstream_backfill import OLD, anew, hole, lose, start


def spoilt(value: Any) -> bytes:
    """JSON in which the word `SPOILT` is bytes that are no UTF-8."""
    return msgspec.json.encode(value).replace(b"SPOILT", b"\xff\xc3(")


def halved(value: Any) -> bytes:
    """JSON in which the word `HALF` is half a surrogate pair, as JavaScript writes a text that was cut within an emoji."""
    return json.dumps(value).encode().replace(b"HALF", rb"\ud83d")


@pytest.mark.parametrize(
    "odd", [5, None, "x", [], {"id": []}, {"id": "11", "type": "0"}, {"id": "11", "last_message_id": 1.5}, {"id": "9" * 600}]
)
def test_R14_a_channel_of_an_odd_shape_keeps_no_agent_from_READY_also_after_a_restart(odd: Any) -> None:
    b = Bench().start().open().hello().ready(guild(1, odd, channel(12, OLD)), guild(2, channel(21, OLD)))
    for _ in range(2):
        b.told.clear()
        b.tell(snapshot="k1", shard=SHARD)
        told = next(m for m in b.told if m.get("snapshot") == "k1")
        assert [msgspec.json.decode(d)["id"] for d in told["guilds"]] == ["1", "2"]
        assert msgspec.json.decode(told["guilds"][0])["channels"][0] == odd
        b.crash().again(b.committed()["seq"]).resumed().run(3)
    b.message(at(1), "12").run(3)
    assert b.messages == [at(1)]


@pytest.mark.parametrize("kind", ["GUILD_UPDATE", "CHANNEL_UPDATE", "THREAD_UPDATE", "GUILD_ROLE_UPDATE", "USER_UPDATE", "MESSAGE_CREATE"])
def test_R14_an_event_that_is_no_UTF8_is_mended_and_passed_on(kind: str) -> None:
    b, _ = start()
    said = b.dispatch(kind, {"id": "11", "guild_id": "1", "channel_id": "11", "SPOILT": 1, "name": "SPOILT", "role": {"id": "SPOILT"}})
    b.say(spoilt(said)).message(at(1), "12")
    assert [entry.frame["t"] for entry in b.journal] == [kind, "MESSAGE_CREATE"]
    assert "\ufffd" in b.journal[0].frame["d"]["name"], "what an agent can read"


def test_R33_history_that_is_no_UTF8_is_mended_and_passed_on() -> None:
    b, history = start()
    lose(b)
    history.special["channels/11/messages"] = [(200, spoilt([{**row(at(1), "11"), "content": "SPOILT"}]), {})]
    anew(b, channel(11, at(1)), channel(12, OLD)).run(2)
    assert b.messages == [at(1)] and "\ufffd" in b.journal[-1].frame["d"]["content"]


@pytest.mark.parametrize("name", ["id", "channel_id", "guild_id"])
def test_R26_an_id_that_is_too_long_for_a_durable_row_is_none(name: str) -> None:
    b, _ = start()
    b.event("MESSAGE_CREATE", {"id": str(at(1)), "channel_id": "11", "guild_id": "1"} | {name: "9" * 600})
    b.event("GUILD_CREATE", {"id": "9" * 600, "channels": []}).message(at(2), "12")
    assert len(b.journal) == 3 and max(map(len, b.state)) < 300
    b.crash().again(b.committed()["seq"]).resumed().run(3).message(at(3), "12").run(3)
    assert b.messages[-1] == at(3)


def test_R14_a_GUILD_CREATE_without_an_id_is_passed_on_and_is_no_guild() -> None:
    b, _ = start()
    b.event("GUILD_CREATE", {"channels": [channel(31, OLD)]})
    assert [entry.frame["t"] for entry in b.journal] == ["GUILD_CREATE"]
    b.tell(snapshot="k1", shard=SHARD)
    assert len(next(m for m in b.told if "snapshot" in m)["guilds"]) == 1


def test_R14_a_THREAD_LIST_SYNC_of_an_odd_shape_changes_nothing_else() -> None:
    b = Bench().start().live(guild(1, channel(12, OLD), threads=[channel(11, OLD, parent_id="12")]))
    b.event("THREAD_LIST_SYNC", {"guild_id": "1", "channel_ids": 5, "threads": []}).message(at(1), "12")
    assert b.messages == [at(1)]


def test_R32_a_channel_whose_id_only_looks_like_a_number_stops_no_audit() -> None:
    b, history = start()
    hole(history)
    b.message(at(1), "11", 3).message(at(2), "11", 9)
    b.message(at(3), "11", 20)
    b.event("MESSAGE_CREATE", {"id": str(at(4)), "channel_id": "²"}, 21).message(at(5), "12")
    b.run(70)
    assert {at(1), at(2), at(3), at(4), at(5)} <= set(b.messages)


def test_R27_numbers_beyond_all_bounds_are_the_longest_or_none() -> None:
    huge = b"9" * 400
    assert gateway.interval(b'{"op":10,"d":{"heartbeat_interval":' + huge + b"}}") == 600.0
    limit = b'{"remaining":0,"reset_after":' + huge + b',"max_concurrency":' + huge + b"}"
    found = gateway.metadata(b'{"url":"wss://gw.example","shards":1,"session_start_limit":' + limit + b"}", 0.0)
    assert found is not None and found.reset_at == (1 << 53) / 1000


def test_R21_a_presence_that_the_upstream_cannot_read_costs_one_IDENTIFY_and_does_not_come_back() -> None:
    b = Bench().start()
    b.tell(presence={"status": 5}, shard=SHARD).open().hello()
    assert b.sent(2)[-1]["presence"] == {"status": 5}
    b.close(4002)
    b.tell(presence={"status": 5}, shard=SHARD).run(40).open().hello()
    assert "presence" not in b.sent(2)[-1] and f"presence:{SHARD}" not in b.state
    b.ready(guild(1)).tell(presence={"status": "dnd"}, shard=SHARD)
    assert b.sent(3) == [{"status": "dnd"}]


# --- what agents are handed


@pytest.mark.parametrize("s", [b'"5"', b"5.0", b"[]"])
def test_R19_an_event_with_an_odd_number_is_handed_over_all_the_same(s: bytes) -> None:
    b, _ = start()
    b.say(b'{"t":"MESSAGE_CREATE","s":%b,"op":0,"d":{"id":"%d","channel_id":"11","guild_id":"1"}}' % (s, at(1)))
    (entry,) = b.journal
    sent = Encoder(Allowance(ALL, BOT)).encode(entry.payload, 7)
    assert sent is not None and msgspec.json.decode(sent)["s"] == 7


def test_R2_half_a_surrogate_pair_costs_no_message_neither_live_nor_in_history() -> None:
    b, history = start()
    d = {"id": str(at(1)), "channel_id": "11", "guild_id": "1", "content": "HALF \\ \U0001f600"}
    b.say(halved(b.dispatch("MESSAGE_CREATE", d)))
    lose(b)
    history.special["channels/11/messages"] = [(200, halved([{**row(at(2), "11"), "content": "HALF"}]), {})]
    anew(b, channel(11, at(2)), channel(12, OLD)).run(2)
    assert b.messages == [at(1), at(2)]
    assert [e.frame["d"]["content"] for e in b.journal if e.gap is None] == ["\ufffd \\ \U0001f600", "\ufffd"]
    assert b.link.s == b.committed()["seq"]


def test_an_event_that_cannot_be_read_at_all_is_a_gap_record_in_its_place() -> None:
    b, _ = start()
    b.message(at(1), "11").say(b'{"t":"MESSAGE_CREATE","s":4,"op":0,"d":').message(at(2), "11", 4)
    assert [e.gap.reason if e.gap else e.name for e in b.journal] == [f"MESSAGE_CREATE {at(1)}", "lost", f"MESSAGE_CREATE {at(2)}"]
    assert Bench().start().open().say(b"<html>").journal == [], "before there is a session nothing can be lost"


def test_R23_what_cannot_be_looked_into_is_rather_shown_than_lost() -> None:
    text = b'{"t":"MESSAGE_CREATE","s":1,"op":0,"d":{"id":"1","guild_id":"g1","content":1e999}}'
    sent = Encoder(Allowance(ALL & ~(1 << CONTENT), BOT)).encode(text, 7)
    assert sent is not None and b"1e999" in sent
    assert msgspec.json.decode(text.replace(b"1e999", b"1"))["d"]["content"] == 1


def test_R12_guilds_of_an_odd_shape_keep_no_agent_with_fewer_intents_from_READY() -> None:
    scene = Scene()
    scene.guilds = [known("g1", members=[5, {"user": []}], voice_states=[{"user_id": {}}, 7], presences={})]
    scene.agent("c1", intents=ALL & ~(1 << PRESENCES))
    assert "GUILD_CREATE" in [f["t"] for f in scene.open("c2").identify("c2", intents=1).frames("c2")]


def test_R30_a_replay_that_cannot_be_inflated_is_no_answer_the_third_time_a_new_session_begins() -> None:
    b = Bench(compress="zlib-stream").start()

    def packed(*frames: bytes) -> list[bytes]:
        deflate = zlib.compressobj()
        return [Binary(deflate.compress(frame) + deflate.flush(zlib.Z_SYNC_FLUSH)) for frame in frames]

    hello = b'{"op":10,"d":{"heartbeat_interval":41250}}'
    ready = msgspec.json.encode({"t": "READY", "s": 1, "op": 0, "d": {"session_id": "up1", "guilds": []}})
    b.open()
    for each in packed(hello, ready):
        b.feed(FramesReceived(SHARD, [each]))
    assert b.phase() == "live"
    b.close(None)
    for _ in range(3):
        b.run(60).open().feed(FramesReceived(SHARD, [*packed(hello), Binary(b"\xff\xff\x00\x00\xff\xff")]))
    assert len(b.sent(6)) == 3 and len(b.sent(2)) == 1
    b.run(60).open().feed(FramesReceived(SHARD, packed(hello)))
    assert len(b.sent(2)) == 2
