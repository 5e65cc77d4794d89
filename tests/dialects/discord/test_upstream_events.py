"""What becomes of events: R2, R14, R19 (live-only), R26, R34 (live side), and U15, U19."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sidecar.core.actions import AdmitRun
from sidecar.dialects.discord.shard import UNPRIVILEGED
from tests.dialects.discord.bench import RESUME_URL, SHARD, STREAM, Bench, at, channel, guild

G = guild(1, channel(11), channel(12))


def live(*guilds: dict[str, Any]) -> Bench:
    return Bench().start().live(*(guilds or (G,)))


def kept(b: Bench, number: str = "1") -> dict[str, Any]:
    """The guild's state on disk."""
    found: dict[str, Any] = msgspec.json.decode(b.state[f"guild:0/1/{number}"])
    return found


# --- payload, domain, order ---------------------------------------------------------------------


def test_a_record_is_the_frame_as_it_came() -> None:
    b = live()
    raw = b'{"t":"MESSAGE_CREATE","s":3,"op":0,"d":{"id":"5","channel_id":"11","guild_id":"1","x":"\\u00e4 \xc3\xa4"} }'
    b.say(raw)
    assert b.journal[-1].payload == raw


def test_a_frame_of_an_unknown_kind_or_an_odd_shape_is_an_event_all_the_same() -> None:
    b = live()
    b.event("NEVER_HEARD_OF", {"channel_id": "11", "id": 5, "guild_id": None})
    b.event("WITHOUT_OBJECT", [1, 2])  # type: ignore[arg-type]
    b.say(b"junk", b"[]", b'{"op":0,"s":5,"t":"LAST","d":null}')
    assert [e.gap.reason if e.gap else e.frame["t"] for e in b.journal] == ["NEVER_HEARD_OF", "WITHOUT_OBJECT", "lost", "lost", "LAST"]
    assert [e.domain for e in b.journal] == ["11", "", "", "", ""]


def test_the_domain_is_the_channel_else_the_guild_else_nothing() -> None:
    b = live()
    b.message(at(1), "11").event("GUILD_BAN_ADD", {"guild_id": "1", "user": {"id": "3"}})
    b.event("GUILD_UPDATE", {"id": "1", "name": "new"}).event("ENTITLEMENT_CREATE", {"id": "8"})
    assert [e.domain for e in b.journal] == ["11", "1", "1", ""]


def test_a_batch_is_one_run_in_which_each_event_names_its_channel() -> None:
    b = live()
    runs = []
    commit = b._commit
    b._commit = lambda ops: (runs.extend(op for op in ops if isinstance(op, AdmitRun)), commit(ops))[1]  # type: ignore[method-assign]
    frames = [b.dispatch("MESSAGE_CREATE", {"id": str(at(n)), "channel_id": c}) for n, c in enumerate(["11", "11", "12", "11"])]
    b.say(*frames, b.dispatch("GUILD_ROLE_CREATE", {"guild_id": "1", "role": {"id": "5"}}))
    (run,) = runs
    assert run.keys == [at(0), at(1), at(2), at(3), b"GUILD_ROLE_CREATE/5"]
    assert run.domains == ["11", "11", "12", "11", "1"]


def test_r19_live_only_events_are_told_and_not_journaled_and_move_the_number() -> None:
    b = live()
    for kind in ("TYPING_START", "PRESENCE_UPDATE", "VOICE_STATE_UPDATE", "VOICE_SERVER_UPDATE"):
        b.event(kind, {"guild_id": "1", "channel_id": "11", "user_id": "9"})
    assert b.journal == []
    assert [msgspec.json.decode(m["frame"])["t"] for m in b.told if "live" in m] == [
        "TYPING_START",
        "PRESENCE_UPDATE",
        "VOICE_STATE_UPDATE",
        "VOICE_SERVER_UPDATE",
    ]
    b.run(20.7).op(11).close(None).run(1).again(6)
    assert b.sent(6)[-1]["seq"] == 6
    assert b.committed()["seq"] == 6


# --- R2, U15: once ---------------------------------------------------------------------------------------


def test_u15_within_a_session_a_number_counts_once() -> None:
    b = live()
    reaction = {"message_id": "5", "channel_id": "11", "guild_id": "1"}
    b.event("MESSAGE_REACTION_ADD", reaction, 3).event("MESSAGE_REACTION_ADD", reaction, 3).event("MESSAGE_REACTION_ADD", reaction, 2)
    b.event("MESSAGE_REACTION_ADD", reaction, 4)
    assert b.names == ["MESSAGE_REACTION_ADD 5"] * 2


def test_u15_across_sessions_a_message_counts_once() -> None:
    b = live().message(at(1), "11").close(4009).run(6).open().hello().ready(G, session="up2")
    b.message(at(1), "11").message(at(2), "11")
    assert b.messages == [at(1), at(2)]


ONCE: list[tuple[str, dict[str, Any]]] = [
    ("INTERACTION_CREATE", {"id": "9", "channel_id": "11", "guild_id": "1"}),
    ("GUILD_AUDIT_LOG_ENTRY_CREATE", {"id": "9", "guild_id": "1"}),
    ("CHANNEL_CREATE", {"id": "19", "guild_id": "1", "type": 0}),
    ("CHANNEL_DELETE", {"id": "19", "guild_id": "1", "type": 0}),
    ("THREAD_CREATE", {"id": "19", "guild_id": "1", "newly_created": True}),
    ("THREAD_DELETE", {"id": "19", "guild_id": "1"}),
    ("GUILD_ROLE_CREATE", {"guild_id": "1", "role": {"id": "19"}}),
    ("GUILD_ROLE_DELETE", {"guild_id": "1", "role_id": "19"}),
    ("GUILD_SCHEDULED_EVENT_CREATE", {"id": "19", "guild_id": "1"}),
    ("GUILD_SCHEDULED_EVENT_DELETE", {"id": "19", "guild_id": "1"}),
    ("INTEGRATION_CREATE", {"id": "19", "guild_id": "1"}),
    ("INTEGRATION_DELETE", {"id": "19", "guild_id": "1"}),
    ("ENTITLEMENT_CREATE", {"id": "19"}),
    ("ENTITLEMENT_DELETE", {"id": "19"}),
    ("MESSAGE_DELETE", {"id": "5", "channel_id": "11", "guild_id": "1"}),
    ("MESSAGE_DELETE_BULK", {"ids": ["5", "6"], "channel_id": "11", "guild_id": "1"}),
    ("MESSAGE_CREATE", {"id": "5", "channel_id": "11", "guild_id": "1"}),
]


@pytest.mark.parametrize(("kind", "d"), ONCE, ids=[kind for kind, _ in ONCE])
def test_r2_these_happen_once_for_an_id(kind: str, d: dict[str, Any]) -> None:
    b = live().event(kind, d).event(kind, d)
    assert len(b.names) == 1
    other = {k: (v + "1" if isinstance(v, str) and k in ("id", "role_id") else v) for k, v in d.items()}
    other |= {"ids": ["5", "7"]} if "ids" in d else {}
    other |= {"role": {"id": "191"}} if "role" in d else {}
    b.event(kind, other)
    assert len(b.names) == 2


MORE: list[tuple[str, dict[str, Any]]] = [
    ("MESSAGE_REACTION_ADD", {"message_id": "5", "channel_id": "11", "guild_id": "1", "emoji": {"name": "x"}}),
    ("MESSAGE_REACTION_REMOVE", {"message_id": "5", "channel_id": "11", "guild_id": "1", "emoji": {"name": "x"}}),
    ("MESSAGE_UPDATE", {"id": "5", "channel_id": "11", "guild_id": "1"}),
    ("GUILD_BAN_ADD", {"guild_id": "1", "user": {"id": "3"}}),
    ("GUILD_MEMBER_UPDATE", {"guild_id": "1", "user": {"id": "3"}}),
    ("USER_UPDATE", {"id": "42", "username": "b"}),
    ("GUILD_UPDATE", {"id": "1", "name": "x"}),
    ("THREAD_CREATE", {"id": "19", "guild_id": "1", "type": 11}),
]


@pytest.mark.parametrize(("kind", "d"), MORE, ids=[kind for kind, _ in MORE])
def test_r2_these_are_never_taken_for_a_copy(kind: str, d: dict[str, Any]) -> None:
    assert len(live().event(kind, d).event(kind, d).names) == 2


# --- R14: guild state ------------------------------------------------------------------------------------


def change(kind: str, d: dict[str, Any], **state: Any) -> dict[str, Any]:
    g = guild(1, channel(11), members=[{"user": {"id": "42"}, "roles": []}, {"user": {"id": "3"}, "roles": []}], **state)
    b = live(g).event(kind, {"guild_id": "1", **d})
    assert len(b.journal) == 1
    # A restart has it too.
    b.crash().tell(snapshot="s", shard=SHARD)
    (shown,) = (msgspec.json.decode(raw) for raw in b.told[-1]["guilds"])
    found = kept(b)
    assert shown == found
    return found


def test_r14_each_kind_of_change() -> None:
    assert change("GUILD_UPDATE", {"id": "1", "name": "new"})["name"] == "new"
    assert [c["id"] for c in change("CHANNEL_CREATE", {"id": "19", "type": 0})["channels"]] == ["11", "19"]
    assert change("CHANNEL_UPDATE", {"id": "11", "topic": "t"})["channels"] == [channel(11, topic="t")]
    thread = {"id": "21", "parent_id": "11", "type": 11, "last_message_id": None}
    gone = change("CHANNEL_DELETE", {"id": "11", "type": 0}, threads=[thread])
    assert gone["channels"] == [] and gone["threads"] == []
    assert change("THREAD_CREATE", {**thread, "newly_created": True})["threads"] == [thread]
    assert change("THREAD_UPDATE", {**thread, "name": "n"}, threads=[thread])["threads"] == [{**thread, "name": "n"}]
    assert change("THREAD_UPDATE", {**thread, "thread_metadata": {"archived": True}}, threads=[thread])["threads"] == []
    assert change("THREAD_DELETE", {"id": "21"}, threads=[thread])["threads"] == []
    second = {**thread, "id": "22", "parent_id": "12"}
    assert change("THREAD_LIST_SYNC", {"threads": [second]}, threads=[thread])["threads"] == [second]
    assert change("THREAD_LIST_SYNC", {"threads": [second], "channel_ids": ["12"]}, threads=[thread])["threads"] == [thread, second]
    assert change("THREAD_MEMBER_UPDATE", {"id": "21", "flags": 1}, threads=[thread])["threads"][0]["member"] == {"id": "21", "flags": 1}
    assert change("THREAD_MEMBERS_UPDATE", {"id": "21", "member_count": 3}, threads=[thread])["threads"][0]["member_count"] == 3
    assert change("GUILD_ROLE_CREATE", {"role": {"id": "5"}})["roles"] == [{"id": "5"}]
    assert change("GUILD_ROLE_UPDATE", {"role": {"id": "5", "name": "x"}}, roles=[{"id": "5"}])["roles"] == [{"id": "5", "name": "x"}]
    assert change("GUILD_ROLE_DELETE", {"role_id": "5"}, roles=[{"id": "5"}])["roles"] == []
    assert change("GUILD_EMOJIS_UPDATE", {"emojis": [{"id": "5"}]})["emojis"] == [{"id": "5"}]
    assert change("GUILD_STICKERS_UPDATE", {"stickers": [{"id": "5"}]})["stickers"] == [{"id": "5"}]
    assert change("GUILD_SCHEDULED_EVENT_CREATE", {"id": "5"})["guild_scheduled_events"] == [{"id": "5"}]
    assert change("GUILD_SCHEDULED_EVENT_DELETE", {"id": "5"}, guild_scheduled_events=[{"id": "5"}])["guild_scheduled_events"] == []
    assert change("STAGE_INSTANCE_CREATE", {"id": "5"})["stage_instances"] == [{"id": "5"}]
    assert change("STAGE_INSTANCE_DELETE", {"id": "5"}, stage_instances=[{"id": "5"}])["stage_instances"] == []
    sound = {"sound_id": "5", "name": "x"}
    assert change("GUILD_SOUNDBOARD_SOUND_CREATE", sound)["soundboard_sounds"] == [sound]
    assert change("GUILD_SOUNDBOARD_SOUND_DELETE", {"sound_id": "5"}, soundboard_sounds=[sound])["soundboard_sounds"] == []
    louder, other = {"sound_id": "5", "name": "x", "volume": 1}, {"sound_id": "6"}
    assert change("GUILD_SOUNDBOARD_SOUND_UPDATE", louder, soundboard_sounds=[sound, other])["soundboard_sounds"] == [louder, other]
    both = change("GUILD_SOUNDBOARD_SOUNDS_UPDATE", {"soundboard_sounds": [louder]}, soundboard_sounds=[sound, other])
    assert both["soundboard_sounds"] == [louder, other]
    for kind, name in (("GUILD_SCHEDULED_EVENT_UPDATE", "guild_scheduled_events"), ("STAGE_INSTANCE_UPDATE", "stage_instances")):
        assert change(kind, {"id": "5", "name": "n"}, **{name: [{"id": "5", "topic": "t"}]})[name] == [
            {"id": "5", "topic": "t", "name": "n"}
        ]
    own = change("GUILD_MEMBER_UPDATE", {"user": {"id": "42"}, "roles": ["5"]})["members"]
    assert [m["roles"] for m in own] == [["5"], []]
    others = change("GUILD_MEMBER_UPDATE", {"user": {"id": "3"}, "roles": ["5"]})["members"]
    assert [m["roles"] for m in others] == [[], []]


def test_r14_user_update_changes_ready() -> None:
    b = live().event("USER_UPDATE", {"id": "42", "username": "new"})
    assert msgspec.json.decode(b.state["ready:0/1"])["user"] == {"id": "42", "username": "new"}


def test_r14_the_snapshot_names_the_newest_message_of_each_channel() -> None:
    forum = channel(15, at(-9))
    forum["type"] = 15
    b = live(guild(1, channel(11, at(-8)), channel(12), forum)).message(at(1), "12").tell(snapshot="s", shard=SHARD)
    (shown,) = (msgspec.json.decode(raw) for raw in b.told[-1]["guilds"])
    assert [c["last_message_id"] for c in shown["channels"]] == [str(at(-8)), str(at(1)), str(at(-9))]


def test_r14_the_first_guilds_are_state_and_a_guild_that_is_really_new_is_an_event() -> None:
    b = live()
    assert b.names == []
    b.event("GUILD_CREATE", guild(2, channel(21, at(-5))))
    assert b.names == ["GUILD_CREATE 2"] and b.journal[0].domain == "2"
    assert b.state["mark:0/1/21"] == f"{at(-5)} 2".encode()
    b.event("GUILD_DELETE", {"id": "2"})
    assert "guild:0/1/2" not in b.state and "mark:0/1/21" not in b.state and b.names[-1] == "GUILD_DELETE 2"


def test_r14_a_new_session_renews_known_guilds_without_an_event() -> None:
    b = live().close(4009).run(6).open().hello().ready({**G, "name": "renewed"}, session="up2")
    assert b.names == [] and kept(b)["name"] == "renewed"
    b.close(4009).run(6).open().hello().ready(G, guild(2), session="up3")
    assert b.names == ["GUILD_CREATE 2"]


def test_u19_a_guild_in_an_outage_keeps_its_state_and_its_return_is_an_event() -> None:
    b = live().event("GUILD_DELETE", {"id": "1", "unavailable": True})
    assert kept(b)["channels"] == G["channels"]
    b.crash().tell(snapshot="s", shard=SHARD)
    assert b.told[-1]["guilds"] == [] and msgspec.json.decode(b.told[-1]["ready"])["guilds"] == [{"id": "1", "unavailable": True}]
    b.again(3).event("GUILD_CREATE", G).resumed()
    assert b.names == ["GUILD_DELETE 1", "GUILD_CREATE 1"]
    b.tell(snapshot="s", shard=SHARD)
    assert len(b.told[-1]["guilds"]) == 1


def test_u19_an_outage_within_one_life() -> None:
    b = live().event("GUILD_DELETE", {"id": "1", "unavailable": True}).event("GUILD_CREATE", G).event("GUILD_CREATE", G)
    assert b.names == ["GUILD_DELETE 1", "GUILD_CREATE 1"]


def test_r14_a_guild_that_a_new_ready_does_not_name_is_gone() -> None:
    b = live(G, guild(2)).close(4009).run(6).open().hello().ready(G, session="up2")
    assert b.names == ["GUILD_DELETE 2"] and "guild:0/1/2" not in b.state


def test_u16_an_agent_is_answered_once_the_first_guilds_are_there_or_after_five_seconds() -> None:
    b = Bench().start().open().hello()
    b.event("READY", {"session_id": "up1", "resume_gateway_url": RESUME_URL, "guilds": [{"id": "1"}, {"id": "2"}]})
    b.tell(snapshot="s", shard=SHARD).event("GUILD_CREATE", G).tell(snapshot="s", shard=SHARD)
    assert [m["ready"] for m in b.told if "snapshot" in m] == [None, None] and {"ready": SHARD} not in b.told
    b.run(5.1).tell(snapshot="s", shard=SHARD)
    assert b.told[-1]["ready"] is not None and {"ready": SHARD} in b.told
    b.event("GUILD_CREATE", guild(2))
    assert b.names == ["GUILD_CREATE 2"]


def test_u16_a_snapshot_names_the_offset_that_it_reflects_and_only_when_that_is_on_disk() -> None:
    b = live().message(at(1), "11")
    b.disk_works = False
    b.message(at(2), "11").tell(snapshot="s", shard=SHARD)
    assert not any("snapshot" in m for m in b.told)
    b = live().message(at(1), "11").message(at(2), "11").message(at(2), "11").tell(snapshot="s", shard=SHARD)
    assert b.told[-1]["offset"] == 2
    b.crash().tell(snapshot="s", shard=SHARD)
    assert b.told[-1]["offset"] == 2


# --- watermarks (R34) ----------------------------------------------------------------------------------------------


def test_r34_watermarks_begin_at_the_newest_message_and_rise_with_what_is_admitted() -> None:
    b = live(guild(1, channel(11, at(-5)), channel(12)))
    assert (b.state["mark:0/1/11"], b.state["mark:0/1/12"]) == (f"{at(-5)} 1".encode(), b"0 1")
    b.message(at(2), "11").message(at(1), "11")
    assert b.state["mark:0/1/11"] == f"{at(2)} 1".encode()
    b.message(at(3), "77", guild=None)
    assert b.state["mark:0/1/77"] == f"{at(3)} ".encode()


def test_r34_new_channels_and_threads_get_a_watermark_and_deleted_ones_lose_it() -> None:
    b = live()
    b.event("CHANNEL_CREATE", {"guild_id": "1", "id": "19", "type": 0, "last_message_id": None})
    b.event("THREAD_CREATE", {"guild_id": "1", "id": "29", "parent_id": "11", "type": 11, "last_message_id": "5"})
    b.event("THREAD_LIST_SYNC", {"guild_id": "1", "threads": [{"id": "39", "parent_id": "11", "type": 11, "last_message_id": "7"}]})
    assert [b.state[f"mark:0/1/{c}"] for c in (19, 29, 39)] == [b"0 1", b"5 1", b"7 1"]
    b.event("CHANNEL_DELETE", {"guild_id": "1", "id": "19", "type": 0}).event("THREAD_DELETE", {"guild_id": "1", "id": "29"})
    assert "mark:0/1/19" not in b.state and "mark:0/1/29" not in b.state


def test_r34_an_update_of_a_thread_does_not_move_its_watermark() -> None:
    thread = {"guild_id": "1", "id": "29", "parent_id": "11", "type": 11, "last_message_id": "5"}
    b = live().event("THREAD_CREATE", thread).event("THREAD_UPDATE", {**thread, "last_message_id": "7"})
    assert b.state["mark:0/1/29"] == b"5 1"


def test_status_shows_each_shard_its_sessions_age_and_the_budget() -> None:
    b = live().message(at(1), "11")
    began = b.wall
    b.run(20.7).op(11).run(10)
    assert b.facts_["upstream"] == "live"
    assert b.facts_["streams"] == {
        "discord:42:0/1": {"upstream": "live", "shard": "0/1", "session_since": began, "seq": 3, "intents": UNPRIVILEGED, "guilds": 1}
    }
    assert b.facts_["identify_budget"] == {"used": 1, "ceiling": 200, "window_s": 86400, "left_upstream": 999}
    b.close(4009)
    shown = b.facts_["streams"][STREAM]
    assert (shown["upstream"], "session_since" in shown) == ("waiting", False)
    assert b.facts_["upstream"] == "waiting"


def test_status_has_a_state_word_for_each_shard() -> None:
    b = Bench(shards=("0/2", "1/2")).start().open("0/2").hello(name="0/2").ready(name="0/2")
    assert {name: told["upstream"] for name, told in b.facts_["streams"].items()} == {
        "discord:42:0/2": "live",
        "discord:42:1/2": "waiting",
    }
    assert b.facts_["upstream"] == "waiting"
