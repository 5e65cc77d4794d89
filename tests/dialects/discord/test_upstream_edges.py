"""The upstream half at its edges: what a channel's first mark is, whose message is whose, when nothing may be read at all (discord R33,
R34), bots without guilds and restarts in the middle of the first READY (R12, U16)."""

from __future__ import annotations

import pytest

from tests.dialects.discord.bench import SHARD, Bench, History, at, channel, guild, row
from tests.dialects.discord.test_upstream_backfill import OLD, anew, hole, lose, reads, start


def test_r33_a_webhooks_message_has_no_member_though_its_author_is_known() -> None:
    b, history = Bench(), History()
    history.channels["11"] = [row(at(1), "11") | {"webhook_id": "9"}, row(at(2), "11")]
    b.rest = history
    members = [{"user": {"id": "7", "username": "u"}, "nick": "n"}]
    b.start().live(guild(1, channel(11, OLD), members=members))
    lose(b).open().hello().ready(guild(1, channel(11, at(2)), members=members), session="up2").run(1)
    assert ["member" in e.frame["d"] for e in b.journal if e.gap is None] == [False, True]


def test_r33_with_a_cap_of_nothing_no_channel_is_read_and_each_is_a_gap_record() -> None:
    b, _ = start(backfill_max=0)
    anew(lose(b), channel(11, at(1)), channel(12, OLD)).run(2)
    assert reads(b) == [] and b.messages == []
    assert [(e.domain, e.gap.reason) for e in b.gaps[1:] if e.gap] == [("11", "limit")]
    b.message(at(110), "11")
    assert b.messages == [at(110)]


@pytest.mark.parametrize(
    "headers", [{"X-RateLimit-Scope": "global", "Retry-After": "7"}, {"X-RateLimit-Global": "true", "Retry-After": "7"}]
)
def test_r33_a_global_429_is_known_by_its_headers_too(headers: dict[str, str]) -> None:
    b, history = start()
    history.special["channels/11"] = [(429, {}, headers)]
    anew(lose(b), channel(11, at(1)), channel(12, at(2))).run(6.9)
    assert len(reads(b)) == 1
    b.run(1)
    assert len(reads(b)) > 1


def test_r34_an_old_channel_that_is_seen_while_an_audit_waits_is_not_replayed_from_its_beginning() -> None:
    b, history = start()
    hole(history)
    b.message(at(1), "11", 4).run(2)
    history.put("11", at(1)).put("77", at(-300), at(-200), at(5), at(6))
    # A second hole: its audit waits for its minute. Meanwhile an old direct channel is heard of for the first time.
    b.message(at(5), "77", 6, guild=None).op(11).run(30).op(11).run(35).op(11).run(2)
    assert b.messages == [at(1), at(5), at(6)]


def test_r34_a_channel_born_before_a_second_loss_was_empty_before_the_first() -> None:
    b, history = start(channel(11, OLD))
    born = at(10)
    history.put(str(born), at(11), at(12))
    lose(b).open().hello().event("READY", {"session_id": "up2", "resume_gateway_url": "", "guilds": [{"id": "1"}]})
    # Its GUILD_CREATE never comes, and something newer than the channel is admitted meanwhile.
    b.message(at(50), "77", guild=None).close(4009).run(6)
    anew(b, channel(11, OLD), channel(born, at(12)), session="up3").run(2)
    assert b.messages == [at(50), at(11), at(12)]
    assert SHARD in b.half.shards


def test_r12_a_bot_without_guilds_is_ready_at_once() -> None:
    b = Bench().start().open().hello().ready()
    assert {"ready": SHARD} in b.told
    b.tell(snapshot="s", shard=SHARD)
    assert b.told[-1]["ready"] is not None and b.told[-1]["guilds"] == []


def test_u16_killed_before_the_first_guilds_came_agents_are_answered_after_five_seconds_all_the_same() -> None:
    b = Bench().start().open().hello()
    b.event("READY", {"session_id": "up1", "resume_gateway_url": "", "guilds": [{"id": "1"}, {"id": "2"}]}).event("GUILD_CREATE", guild(1))
    b.crash().tell(snapshot="s", shard=SHARD)
    assert b.told[-1]["ready"] is None
    b.run(5.1)
    assert {"ready": SHARD} in b.told
    b.tell(snapshot="s", shard=SHARD)
    assert len(b.told[-1]["guilds"]) == 1


def test_r36_after_a_linger_the_next_loss_is_called_lost_again() -> None:
    b = Bench(operators=False, linger_s=10)
    b.start().tell(intents=513, shard=SHARD).live(guild(1, channel(11))).run(11).tell(intents=513, shard=SHARD)
    b.open().hello().op(9, False).run(6).open().hello().ready(guild(1, channel(11)), session="up2")
    b.tell(intents=513, shard=SHARD).close(4009).tell(intents=513, shard=SHARD).run(6)
    b.open().hello().ready(guild(1, channel(11)), session="up3")
    assert [e.gap.reason for e in b.gaps if e.gap] == ["released", "lost"]


@pytest.mark.parametrize(
    "kind",
    [
        "TYPING_START",
        "PRESENCE_UPDATE",
        "VOICE_STATE_UPDATE",
        "VOICE_SERVER_UPDATE",
        "VOICE_CHANNEL_EFFECT_SEND",
        "VOICE_CHANNEL_STATUS_UPDATE",
    ],
)
def test_r19_r21_typing_presence_and_voice_are_told_on_and_not_kept(kind: str) -> None:
    b, _ = start()
    b.told.clear()
    b.event(kind, {"guild_id": "1", "channel_id": "11", "user_id": "9"})
    assert [list(m) for m in b.told] == [["live", "frame"]] and b.journal == []


@pytest.mark.parametrize(("op", "kind"), [(8, "GUILD_MEMBERS_CHUNK"), (31, "SOUNDBOARD_SOUNDS"), (43, "CHANNEL_INFO")])
def test_r21_an_answer_to_a_command_goes_to_who_asked_and_is_not_journaled(op: int, kind: str) -> None:
    b, _ = start()
    asked = {8: b'{"op":8,"d":{"guild_id":"1"}}', 31: b'{"op":31,"d":{"guild_ids":["7","1"]}}', 43: b'{"op":43,"d":{"guild_id":"1"}}'}
    b.tell(command=asked[op], shard=SHARD, **{"from": "s1"}).event(kind, {"guild_id": "1"})
    assert [m["chunk"] for m in b.told if "chunk" in m] == ["s1"] and b.journal == []
