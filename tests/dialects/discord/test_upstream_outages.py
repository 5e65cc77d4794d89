"""What the walks against the strict reference found (R32 to R36): each find as a scenario of its own."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.core.record import LATE, REPLAYED
from sidecar.dialects.discord.budget import Budget
from tests.dialects.discord.bench import WALL, Bench, History, at, channel, guild
from tests.dialects.discord.test_upstream_backfill import OLD, anew, hole, lose, reads, start

THREAD = {"id": "31", "parent_id": "11", "type": 11, "last_message_id": str(OLD)}


def threaded(history: History, **knobs: Any) -> Bench:
    """A shard that is live in guild 1 with channel 11 and the active thread 31."""
    b = Bench(**knobs)
    b.rest = history
    return b.start().live(guild(1, channel(11, OLD), threads=[THREAD]))


# --- where there is something to look for (R33, R34) ---------------------------------------------------------------------------


def test_r34_a_guild_joined_while_there_was_no_session_gives_what_its_young_channels_have() -> None:
    b, history = start()
    born = at(10)
    history.put(str(born), at(11), at(12))
    lose(b).open().hello().ready(
        guild(1, channel(11, OLD), channel(12, OLD)), guild(2, channel(born, at(12)), channel(21, at(12))), session="up2"
    )
    b.message(at(110), str(born), guild="2").run(2)
    # The guild first, then its history, then what came live; of the older channel nothing is replayed.
    assert b.names == ["GUILD_CREATE 2", *(f"MESSAGE_CREATE {at(n)}" for n in (11, 12, 110))]


def test_r33_a_thread_archived_while_there_was_no_session_is_read() -> None:
    b = anew(lose(threaded(History().put("31", at(1)))), channel(11, OLD)).run(2)
    assert b.messages == [at(1)]


def test_r33_a_thread_archived_in_a_hole_is_read() -> None:
    history = History().put("31", at(1))
    history.guilds["1"] = [channel(11, OLD)]
    b = threaded(history)
    b.close(None).run(1).again(2).resumed(6).run(2)
    assert b.messages == [at(1)]


def test_r33_a_thread_that_is_gone_is_asked_for_once_and_leaves_no_gap_of_its_own() -> None:
    history = History()
    history.special["channels/31"] = [(404, {}, {})] * 9
    b = anew(lose(threaded(history)), channel(11, OLD)).run(100)
    assert len(reads(b)) == 1 and [e.domain for e in b.gaps] == [""]


@pytest.mark.parametrize("kind", ["THREAD_UPDATE", "CHANNEL_UPDATE", "THREAD_LIST_SYNC"])
def test_r33_an_event_that_names_a_newer_last_message_has_the_channel_read(kind: str) -> None:
    history = History().put("31", at(1), at(2))
    b = threaded(history)
    named = {**THREAD, "last_message_id": str(at(2)), "guild_id": "1"}
    b.event(kind, {"guild_id": "1", "threads": [named], "members": []} if kind == "THREAD_LIST_SYNC" else named).run(1)
    assert b.messages == [at(1), at(2)] and b.gaps == []
    b.message(at(2), "31").message(at(3), "31")
    assert b.messages == [at(1), at(2), at(3)]


def test_r33_what_nobody_asked_for_is_not_read_and_not_replayed_when_somebody_does_ask() -> None:
    b, history = start(intents=1)
    history.put("11", at(1), at(2), at(120), at(121))
    anew(lose(b), channel(11, at(2)), channel(12, OLD)).run(100)
    assert reads(b) == [] and b.sent(2)[-1]["intents"] == 1
    # An agent asks for messages: a new session, whose messages count from its own beginning on.
    b.tell(intents=513, shard="0/1").run(5)
    anew(b, channel(11, at(120)), channel(12, OLD), session="up3").run(2)
    assert reads(b) == [] and b.messages == []
    b.message(at(121), "11").run(1)
    history.put("11", at(300))
    b.close(4009).run(10)
    anew(b, channel(11, at(300)), channel(12, OLD), session="up4").run(2)
    assert b.messages == [at(121), at(300)]


# --- what is found takes its place (R33, invariant 9) --------------------------------------------------------------------------


def test_r33_a_hole_between_two_held_messages_is_filled_between_them() -> None:
    b, history = start()
    history.special["guilds/1/channels"] = [None]
    b.message(at(1), "11", 4).message(at(2), "11", 5)
    b.event("MESSAGE_REACTION_ADD", {"message_id": str(at(3)), "channel_id": "11", "guild_id": "1"}, 6)
    b.message(at(5), "11", 9)
    history.put("11", *(at(n) for n in (1, 2, 3, 4, 5)))
    hole(history, one=at(5))
    b.let().run(2)
    assert b.messages == [at(n) for n in (1, 2, 3, 4, 5)]
    assert [e.flags for e in b.journal if e.name.startswith("MESSAGE_CREATE")] == [0, 0, REPLAYED, REPLAYED, 0]


def test_r33_a_hole_between_two_held_messages_keeps_its_place_at_the_bound_too() -> None:
    b, history = start()
    history.special["channels/12"] = [None]
    history.special["guilds/1/channels"] = [None]
    b.message(at(1), "11", 4).message(at(3), "11", 6)
    history.put("11", at(1), at(2), at(3)).put("12", at(1))
    hole(history, one=at(3), two=at(1))
    b.let().run(20).op(11).run(11)
    assert [(int(e.frame["d"]["id"]), e.flags & LATE) for e in b.journal if e.domain == "11"] == [(at(1), 0), (at(2), 0), (at(3), 0)]


def test_r33_what_was_read_before_the_bound_is_over_with_it() -> None:
    b, history = start()
    b.message(at(-50), "77", guild=None)
    history.put("77", at(-50)).put("11", at(1)).special["channels/77"] = [None]
    history.special["channels/11"] = [None]
    anew(lose(b), channel(11, at(1)), channel(12, OLD)).run(1).let().run(19).op(11).run(11).op(11)
    assert b.state["fill:0/1"].count(b"channel") == 1
    b.let().run(2)
    assert b.messages[1:] == [at(1)] and "fill:0/1" not in b.state


def test_r33_what_is_held_when_the_session_is_lost_again_waits_on_for_history_and_comes_in_order() -> None:
    b, history = start()
    b.message(at(-50), "77", guild=None)
    history.put("11", at(1)).put("77", at(-50)).special["channels/11"] = [None]
    anew(lose(b), channel(11, at(1)), channel(12, at(2))).run(1)
    b.message(at(110), "11", 3).message(at(111), "12", 4)
    # A reaction is in no history: what is held of its channel takes its way before the numbers are lost.
    b.event("MESSAGE_REACTION_ADD", {"message_id": str(at(111)), "channel_id": "12", "guild_id": "1"}, 5)
    history.put("11", at(110), at(111)).put("12", at(2), at(111))
    b.close(4009).run(6)
    anew(b, channel(11, at(111)), channel(12, at(111)), session="up3")
    assert b.messages == [at(-50), at(111)] and "MESSAGE_REACTION_ADD" in b.names[-1]
    b.message(at(120), "11", 3).run(2)
    assert [(int(e.frame["d"]["id"]), e.flags) for e in b.journal if e.domain == "11"] == [
        (at(1), REPLAYED), (at(110), 0), (at(111), REPLAYED), (at(120), 0),
    ]  # fmt: skip
    assert b.committed()["seq"] == 3 and "fill:0/1" not in b.state


def test_r33_what_is_held_on_has_no_more_time_than_it_had_and_survives_a_kill_in_history() -> None:
    b, history = start()
    history.put("11", at(1)).special["channels/11"] = [None]
    anew(lose(b), channel(11, at(1)), channel(12, OLD)).message(at(110), "11", 3).run(20).op(11)
    history.put("11", at(110)).special["channels/11"] = [None]
    b.close(4009).run(6)
    anew(b, channel(11, at(110)), channel(12, OLD), session="up3").run(3.9)
    assert b.messages == []
    b.run(0.2)
    assert b.messages == [at(110)]
    b.crash().again(2).resumed().run(3)
    assert sorted(b.messages) == [at(1), at(110)]


# --- a RESUME without any replay (U14) ------------------------------------------------------------------------------------------


def test_u14_resumed_with_numbers_that_close_ranks_is_looked_into_and_filled_in_order() -> None:
    b, history = start()
    b.message(at(1), "11").run(20).op(11).close(None).run(10).again(3)
    history.put("11", at(1), at(22), at(23)).put("12", at(24))
    hole(history, one=at(23), two=at(24))
    history.special["guilds/1/channels"] = [None]
    b.resumed(4).message(at(40), "11").let().run(2)
    assert b.messages == [at(n) for n in (1, 22, 23, 24, 40)]
    (gap,) = b.gaps
    assert gap.gap is not None and (gap.gap.reason, gap.gap.unit) == ("lost", "time")
    assert (gap.gap.from_, gap.gap.to) == (int((WALL + 20) * 1000), int((WALL + 30) * 1000))


def test_u14_resumed_with_a_lower_number_than_we_had_loses_nothing_of_what_follows() -> None:
    b, history = start()
    hole(history)
    history.special["channels/11"] = [None]
    history.put("11", at(1))
    anew(lose(b), channel(11, at(1)), channel(12, OLD)).message(at(110), "11", 3).message(at(111), "12", 4).message(at(112), "11", 5)
    assert b.committed()["seq"] == 2
    b.close(None).run(3).open().hello().resumed(3)
    b.message(at(120), "12", 4).message(at(121), "12", 5).let().run(2)
    assert sorted(b.messages) == [at(n) for n in (1, 110, 111, 112, 120, 121)]


def test_u15_a_copy_of_an_older_resumed_does_not_turn_the_numbers_back() -> None:
    b, history = start()
    hole(history)
    b.close(None).run(1).again(2).message(at(1), "11").resumed(4).message(at(2), "11", 5)
    b.close(None).run(1).open().hello().resumed(4)
    assert b.committed()["top"] == 5
    b.message(at(2), "11", 5).message(at(3), "11", 6).resumed(7).run(2)
    assert b.messages == [at(1), at(2), at(3)] and b.committed()["seq"] == 7 and b.gaps == []


def test_u14_nothing_happened_leaves_no_trace_and_is_looked_into_once_a_minute_at_most() -> None:
    b, history = start()
    hole(history, one=OLD, two=OLD)
    for turn in range(5):
        b.close(None).run(10).again(2).resumed(3 + turn).run(1)
    assert len([t for t in b.asked if t.endswith("/channels")]) == 1
    assert b.gaps == [] and b.messages == [] and b.counted.get("suspected_gaps", 0) == 0


def test_u14_a_replay_that_brought_something_is_not_doubted() -> None:
    b, _ = start()
    b.close(None).run(10).again(2).message(at(1), "11").resumed().run(5)
    assert [t for t in b.asked if "guilds" in t] == []


def test_u14_a_mere_doubt_holds_nothing_back_for_longer_than_two_seconds() -> None:
    b, history = start()
    history.special["guilds/1/channels"] = [None]
    b.close(None).run(10).again(2).resumed(3).message(at(40), "11").run(1.9)
    assert b.messages == []
    b.run(0.2)
    assert b.messages == [at(40)]


# --- what cannot be had is told (R33, R36) ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answers", "reason"), [([(403, {}, {})], "denied"), ([(500, {}, {})] * 9, "upstream_down")])
def test_r33_direct_messages_that_cannot_be_read_are_a_gap_record(answers: Any, reason: str) -> None:
    b, history = start(channel(11, OLD))
    b.message(at(-50), "77", guild=None)
    history.special["channels/77"] = answers
    anew(lose(b), channel(11, OLD))
    for _ in range(10):
        b.op(11).run(20)
    assert [(e.domain, e.gap.reason) for e in b.gaps[1:] if e.gap] == [("77", reason)]


def test_r33_the_gap_of_a_channel_that_was_empty_begins_with_the_channel() -> None:
    born = at(10)
    b, history = start(channel(11, OLD))
    b.run(10).event("CHANNEL_CREATE", {**channel(born), "guild_id": "1"})
    history.special[f"channels/{born}"] = [(403, {}, {})]
    anew(lose(b), channel(11, OLD), channel(born, at(50))).run(2)
    gap = b.gaps[-1].gap
    assert gap is not None and gap.reason == "denied" and (gap.from_, gap.to) == (int((WALL + 10) * 1000), int((WALL + 50) * 1000))


@pytest.mark.parametrize("seconds", [1, 31])
def test_r33_a_channel_with_live_messages_that_an_audit_may_not_read_is_a_gap_record_and_an_idle_one_is_none(seconds: int) -> None:
    b, history = start()
    history.special["guilds/1/channels"] = [None, (403, {}, {})]
    history.special["channels/1"] = [(403, {}, {})] * 2
    b.message(at(1), "11", 4).run(seconds)
    assert len(b.messages) == (seconds > 30)
    b.op(11).let().run(2)
    assert [(e.domain, e.gap.reason) for e in b.gaps if e.gap] == [("11", "denied")]


# --- the budget (R29) ------------------------------------------------------------------------------------------------------------


def test_r29_what_rounding_leaves_of_a_pause_is_no_timer_that_never_ends() -> None:
    budget = Budget(200)
    budget.spend("0/1", 1021.5497698020245, WALL)
    budget.succeeded()
    now = 1021.5497698020245 + 5.0 - 1e-12
    assert (budget.wait("0/1", now, WALL + 5), budget.spacing("0/1", now)) == (0.0, 0.0)
    assert budget.wait("0/1", now - 0.5, WALL + 4.5) > 0.49 and budget.spacing("0/1", now - 0.5) > 0.49
