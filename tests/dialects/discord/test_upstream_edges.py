"""The upstream half at its edges: what a channel's first mark is, whose message is whose, when nothing may be read at all (discord R33,
R34), bots without guilds and restarts in the middle of the first READY (R12, U16)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecar.config import load
from sidecar.dialects.discord import recovery
from sidecar.dialects.discord.settings import DiscordSettings
from sidecar.errors import ConfigError
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


def test_r21_a_refusal_of_a_command_goes_to_who_asked() -> None:
    b, _ = start()
    b.tell(command=b'{"op":8,"d":{"guild_id":"1","nonce":"n"}}', shard=SHARD, **{"from": "s1"})
    b.event("RATE_LIMITED", {"opcode": 8, "retry_after": 5.0, "meta": {"guild_id": "1", "nonce": "n"}})
    assert [m["chunk"] for m in b.told if "chunk" in m] == ["s1"] and b.journal == []


def test_r21_a_presence_that_is_said_again_is_sent_once() -> None:
    b, _ = start()
    for _ in range(5):
        b.tell(presence={"status": "dnd"}, shard=SHARD)
    assert b.sent(3) == [{"status": "dnd"}]


def test_r21_commands_that_wait_are_bounded_in_bytes_and_not_over_a_life() -> None:
    frame = b'{"op":4,"d":{"x":"%b"}}' % (b"x" * 4000)
    b = Bench().start()
    for _ in range(300):
        b.tell(command=frame, shard=SHARD, **{"from": "s1"})
    assert 30 < len([text for text in b.said if "dropped" in text]) < 60
    b, _ = start()
    for _ in range(600):
        b.tell(command=frame, shard=SHARD, **{"from": "s1"}).op(11).run(1)
    assert len(b.sent(4)) == 600


def test_r21_the_last_chunk_ends_the_question() -> None:
    b, _ = start()
    b.tell(command=b'{"op":8,"d":{"guild_id":"1","nonce":"n"}}', shard=SHARD, **{"from": "s1"})
    for index in (0, 1, 1):
        b.event("GUILD_MEMBERS_CHUNK", {"guild_id": "1", "nonce": "n", "chunk_index": index, "chunk_count": 2})
    assert len([m for m in b.told if "chunk" in m]) == 2


def test_r2_a_bulk_deletion_is_the_same_in_any_order_of_its_ids() -> None:
    b, _ = start()
    for ids in (["5", "6"], ["6", "5"], ["5", "6", "7"]):
        b.event("MESSAGE_DELETE_BULK", {"ids": ids, "channel_id": "11", "guild_id": "1"})
    assert [e.frame["d"]["ids"] for e in b.journal] == [["5", "6"], ["5", "6", "7"]]


def test_r14_neither_an_outage_nor_an_update_takes_a_guilds_channels_away() -> None:
    b, _ = start()
    b.event("GUILD_UPDATE", {"id": "1", "name": "new", "channels": [], "threads": [], "members": []})
    b.event("GUILD_CREATE", {"id": "1", "unavailable": True})
    kept: dict[str, Any] = msgspec.json.decode(b.state["guild:0/1/1"])
    assert kept["name"] == "new" and [c["id"] for c in kept["channels"]] == ["11", "12"]


def test_r33_of_very_many_direct_channels_the_newest_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "MAX_DIRECT", 2)
    b, history = start(channel(11, OLD))
    for n in (3, 1, 2):
        b.message(at(n), f"7{n}", guild=None)
        history.put(f"7{n}", at(n), at(10 + n))
    anew(lose(b), channel(11, OLD)).run(2)
    assert b.messages[3:] == [at(12), at(13)]
    assert any("3 channels of direct messages" in text for text in b.said)


def test_r33_a_server_that_repeats_what_was_asked_behind_brings_nothing_twice() -> None:
    b, history = start(channel(11, OLD))
    b.message(at(1), "11")
    page = [row(n, "11") for n in (at(2), at(1), at(0))]
    history.special["channels/11"] = [(200, page, {})]
    anew(lose(b), channel(11, at(2))).run(2)
    assert b.messages == [at(1), at(2)]


def test_r33_a_fill_that_a_restart_takes_up_asks_nothing_before_the_session_is_there() -> None:
    b, history = start()
    history.put("11", at(1)).special["channels/11"] = [None]
    anew(lose(b), channel(11, at(1)), channel(12, OLD))
    asked = len(reads(b))
    b.crash().open().hello().run(5)
    assert len(reads(b)) == asked
    b.resumed(3).run(1)
    assert b.messages == [at(1)]


def test_section_8_the_defaults_are_the_wire_pages(tmp_path: Path) -> None:
    settings = load({"SIDECAR_DIALECT": "discord", "HOME": str(tmp_path)})
    assert (settings.upstream, settings.linger_s) == ("https://discord.com", 86400.0)
    assert (
        settings.knobs
        == DiscordSettings()
        == DiscordSettings(
            intents=None,
            shards=(),
            gateway_url="",
            heartbeat_ms=20000,
            media="keep",
            compress="zlib-stream",
            identify_budget=200,
            backfill_max=1000,
            backfill_max_age_s=None,
        )
    )


@pytest.mark.parametrize("url", ["wss://[::1", "wss://h:99999", "wss://h:x", "wss://h:0", "http://h", "wss://u:p@h", "wss://h/?v=10"])
def test_section_8_a_gateway_address_that_cannot_be_dialled_is_named_at_the_start(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SIDECAR_DISCORD_GATEWAY_URL is not a gateway URL"):
        load({"SIDECAR_DIALECT": "discord", "HOME": str(tmp_path), "SIDECAR_DISCORD_GATEWAY_URL": url})
