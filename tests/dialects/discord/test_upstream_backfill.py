"""What was missed and how it comes back: R32 to R36, R2 across paths, U14, invariant 9."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sidecar.core.record import LATE, REPLAYED
from sidecar.dialects.discord.frames import time_of
from sidecar.dialects.discord.session import Session
from tests.dialects.discord.bench import SHARD, Bench, History, at, channel, guild, row

OLD = at(-100)


def start(*channels: dict[str, Any], history: History | None = None, **knobs: Any) -> tuple[Bench, History]:
    """A shard that is live in guild 1 with channels 11 and 12, both read up to OLD."""
    b, history = Bench(**knobs), history or History()
    b.rest = history
    b.start().live(guild(1, *(channels or (channel(11, OLD), channel(12, OLD)))))
    return b, history


def lose(b: Bench, seconds: float = 100) -> Bench:
    """The session is lost; time passes without one."""
    return b.close(None).run(1).open().hello().op(9, False).run(seconds)


def anew(b: Bench, *channels: dict[str, Any], session: str = "up2") -> Bench:
    """A new session, whose GUILD_CREATE names these channels."""
    return b.open().hello().ready(guild(1, *channels), session=session)


def reads(b: Bench) -> list[str]:
    return [target for target in b.asked if "/messages" in target]


# --- a new session (R33) ------------------------------------------------------------------------------------------


def test_r33_a_new_session_reads_back_what_the_channels_have_more_merged_by_id() -> None:
    b, history = start()
    history.put("11", at(1), at(3), at(5)).put("12", at(2), at(4))
    anew(lose(b), channel(11, at(5)), channel(12, at(4))).run(2)
    assert b.messages == [at(n) for n in (1, 2, 3, 4, 5)]
    assert reads(b) == [f"/api/v10/channels/11/messages?after={OLD}&limit=100", f"/api/v10/channels/12/messages?after={OLD}&limit=100"]
    assert {entry.flags for entry in b.journal if entry.gap is None} == {REPLAYED}
    assert b.state["mark:0/1/11"] == f"{at(5)} 1".encode() and "fill:0/1" not in b.state


def test_r33_r34_a_channel_that_was_empty_is_read_from_its_own_birth_on_for_0_is_no_snowflake_to_every_server() -> None:
    b, history = start(channel(11, None))
    history.put("11", at(1))
    anew(lose(b), channel(11, at(1))).run(2)
    assert reads(b) == ["/api/v10/channels/11/messages?after=10&limit=100"]
    assert b.messages == [at(1)]


def test_r33_only_channels_with_something_new_are_asked_for() -> None:
    b, history = start(channel(11, OLD), channel(12, OLD), {**channel(15, OLD), "type": 15})
    history.put("11", at(1))
    anew(lose(b), channel(11, at(1)), channel(12, OLD), {**channel(15, at(1)), "type": 15}).run(2)
    assert len(reads(b)) == 1


def test_r33_a_backfilled_event_has_the_gateways_shape_and_nothing_else() -> None:
    members = [{"user": {"id": "7", "username": "u"}, "nick": "n", "roles": ["3"]}]
    b, history = Bench(), History()
    b.rest = history.put("11", at(1))
    b.start().live(guild(1, channel(11, OLD), members=members))
    lose(b).open().hello().ready(guild(1, channel(11, at(1)), members=members), session="up2").run(1)
    (found,) = [e.frame for e in b.journal if e.gap is None]
    d = row(at(1), "11") | {"guild_id": "1", "channel_type": 0, "member": {"nick": "n", "roles": ["3"]}}
    assert found == {"t": "MESSAGE_CREATE", "s": None, "op": 0, "d": d}


def test_r33_a_webhooks_message_and_an_unknown_author_have_no_member() -> None:
    b, history = start(channel(11, OLD))
    history.channels["11"] = [row(at(1), "11") | {"webhook_id": "9"}]
    anew(lose(b), channel(11, at(1))).run(1)
    assert "member" not in b.journal[-1].frame["d"]


def test_r33_pages_come_newest_first_and_are_read_until_one_is_short() -> None:
    b, history = start(channel(11, OLD))
    numbers = [at(1, n) for n in range(250)]
    history.put("11", *numbers)
    anew(lose(b), channel(11, numbers[-1])).run(5)
    assert b.messages == numbers
    assert [target.split("after=")[1] for target in reads(b)] == [f"{n}&limit=100" for n in (OLD, numbers[99], numbers[199])]


def test_r33_a_full_page_that_ends_with_the_newest_message_is_doubted_once() -> None:
    b, history = start(channel(11, OLD))
    numbers = [at(1, n) for n in range(200)]
    history.put("11", OLD - 1, OLD, *numbers)
    anew(lose(b), channel(11, numbers[-1])).run(5)
    assert b.messages == numbers and len(b.gaps) == 1
    queries = [target.partition("?")[2] for target in reads(b)]
    assert queries == [*(f"after={n}&limit=100" for n in (OLD, numbers[99], numbers[199])), f"before={numbers[100]}&limit=100"]


@pytest.mark.parametrize("count", [100, 101, 250, 300])
def test_r33_a_server_that_answers_with_the_newest_hundred_is_read_backwards(count: int) -> None:
    b, history = start(channel(11, OLD), history=History(newest=True))
    numbers = [at(1, n) for n in range(count)]
    history.put("11", OLD - 1, OLD, *numbers)
    anew(lose(b), channel(11, numbers[-1])).run(5)
    assert b.messages == numbers and len(b.gaps) == 1


def test_r33_what_a_server_cannot_give_since_it_heeds_neither_after_nor_before_is_a_gap() -> None:
    b, history = start(channel(11, OLD), history=History(newest=True, deaf=True))
    numbers = [at(n) for n in range(1, 251)]
    history.put("11", OLD, *numbers)
    anew(lose(b, 1000), channel(11, numbers[-1])).run(5)
    assert b.messages == numbers[150:]
    (gap,) = [entry.gap for entry in b.journal if entry.gap is not None and entry.domain == "11"]
    assert (gap.reason, gap.from_, gap.to) == ("limit", time_of(OLD) + 1, time_of(numbers[150]))


def test_r33_backwards_too_a_channel_is_read_up_to_its_bound() -> None:
    b, history = start(channel(11, OLD), history=History(newest=True), backfill_max=150)
    numbers = [at(n) for n in range(1, 401)]
    history.put("11", OLD, *numbers)
    anew(lose(b, 1000), channel(11, numbers[-1])).run(5)
    assert b.messages == numbers[200:]
    (gap,) = [entry.gap for entry in b.journal if entry.gap is not None and entry.domain == "11"]
    assert (gap.reason, gap.to) == ("limit", time_of(numbers[200]))


def test_r33_threads_are_read_too() -> None:
    thread = {"id": "31", "parent_id": "11", "type": 11, "last_message_id": str(OLD)}
    b, history = Bench(), History()
    b.rest = history.put("31", at(1))
    b.start().live(guild(1, channel(11, OLD), threads=[thread]))
    lose(b).open().hello().ready(guild(1, channel(11, OLD), threads=[{**thread, "last_message_id": str(at(1))}]), session="up2").run(1)
    assert b.messages == [at(1)] and b.journal[-1].frame["d"]["channel_type"] == 11


def test_r33_direct_messages_are_read_from_the_channels_seen_and_have_no_guild() -> None:
    b, history = start(channel(11, OLD))
    b.message(at(-50), "77", guild=None)
    history.put("77", at(-50), at(1), at(2))
    anew(lose(b), channel(11, OLD)).run(1)
    assert b.messages == [at(-50), at(1), at(2)]
    assert b.journal[-1].frame["d"] == row(at(2), "77") | {"channel_type": 1}


def test_r33_live_messages_of_a_channel_being_filled_wait_and_other_channels_and_interactions_flow() -> None:
    b, history = start()
    history.put("11", at(1), at(2)).special["channels/11"] = [None]
    anew(lose(b), channel(11, at(2)), channel(12, OLD))
    b.message(at(110), "11").message(at(111), "12")
    b.event("MESSAGE_REACTION_ADD", {"message_id": str(at(110)), "channel_id": "11", "guild_id": "1"})
    b.event("INTERACTION_CREATE", {"id": "9", "channel_id": "11", "guild_id": "1"})
    b.message(at(112), "11")
    assert b.names == [f"MESSAGE_CREATE {at(111)}", "INTERACTION_CREATE 9"]
    history.put("11", at(110))
    b.let().run(1)
    assert b.names[2:] == [
        f"MESSAGE_CREATE {at(1)}",
        f"MESSAGE_CREATE {at(2)}",
        f"MESSAGE_CREATE {at(110)}",
        f"MESSAGE_REACTION_ADD {at(110)}",
        f"MESSAGE_CREATE {at(112)}",
    ]
    assert [e.flags for e in b.journal if e.gap is None] == [0, 0, REPLAYED, REPLAYED, 0, 0, 0]
    # The held one came live: its own frame is in the journal, not the one made from history.
    assert b.journal[-3].frame["s"] is not None


def test_r33_before_the_guild_create_of_a_known_guild_its_messages_wait() -> None:
    b, history = start(channel(11, OLD), channel(12, OLD))
    history.put("11", at(1))
    lose(b).open().hello().event("READY", {"session_id": "up2", "resume_gateway_url": "", "guilds": [{"id": "1"}]})
    b.message(at(110), "11").message(at(111), "12")
    assert b.messages == []
    b.event("GUILD_CREATE", guild(1, channel(11, at(110)), channel(12, at(111)))).run(2)
    assert b.messages == [at(1), at(110), at(111)] and reads(b)[1:] == [f"/api/v10/channels/12/messages?after={OLD}&limit=100"]


def test_r33_held_events_are_not_counted_as_admitted_and_survive_a_kill() -> None:
    b, history = start()
    history.put("11", at(1)).special["channels/11"] = [None]
    anew(lose(b), channel(11, at(1)), channel(12, OLD))
    reaction = {"message_id": "5", "channel_id": "12", "guild_id": "1"}
    b.message(at(110), "11", 3).event("MESSAGE_REACTION_ADD", reaction, 4).message(at(111), "11", 5)
    row_ = b.committed()
    assert (row_["seq"], row_["top"]) == (2, 4)
    b.crash().open().hello()
    assert b.sent(6, b.link)[0]["seq"] == 2
    b.message(at(110), "11", 3).event("MESSAGE_REACTION_ADD", reaction, 4).message(at(111), "11", 5).resumed(6).run(1)
    assert b.names == ["MESSAGE_REACTION_ADD 5", *(f"MESSAGE_CREATE {at(n)}" for n in (1, 110, 111))]
    assert b.committed()["seq"] == 6


def test_r33_the_heartbeat_goes_on_while_rest_hangs() -> None:
    b, history = start()
    history.special["channels/11"] = [None]
    anew(lose(b), channel(11, at(1)))
    for _ in range(3):
        b.run(20.7).op(11).run(20.55)
    assert len(b.sent(1, b.link)) == 3 and len(b.requests) == 1


# --- bounds and what is refused --------------------------------------------------------------------------------------


def test_r33_the_cap_of_a_channel_is_a_gap_record() -> None:
    b, history = start(channel(11, OLD), backfill_max=150)
    numbers = [at(n) for n in range(1, 201)]
    history.put("11", *numbers)
    anew(lose(b, 300), channel(11, numbers[-1])).run(5)
    assert b.messages == numbers[:150]
    gap = b.gaps[-1]
    assert gap.domain == "11" and gap.gap is not None and (gap.gap.reason, gap.gap.unit) == ("limit", "time")
    assert (numbers[149] >> 22) < gap.gap.from_ - 1_420_070_400_000 <= (numbers[150] >> 22)
    b.message(at(400), "11")
    assert b.messages[-1] == at(400)


def test_r33_a_cap_that_is_just_reached_is_no_gap() -> None:
    b, history = start(channel(11, OLD), backfill_max=100)
    history.put("11", *(at(1, n) for n in range(100)))
    anew(lose(b), channel(11, at(1, 99))).run(5)
    assert len(b.messages) == 100 and len(b.gaps) == 1


def test_r33_messages_older_than_the_bound_are_a_gap_record() -> None:
    b, history = start(channel(11, OLD), backfill_max_age_s=60)
    history.put("11", at(1), at(2), at(80), at(90))
    anew(lose(b, 100), channel(11, at(90))).run(5)
    assert b.messages == [at(80), at(90)]
    assert [e.gap.reason for e in b.gaps if e.gap and e.domain == "11"] == ["limit"]
    # In its place in the order.
    assert [e.gap is None for e in b.journal if e.domain == "11"] == [False, True, True]


@pytest.mark.parametrize(("answer", "reason"), [((403, {}, {}), "denied"), ((404, {}, {}), "absent"), ((200, [], {}), "absent")])
def test_r33_a_channel_that_gives_nothing_though_it_has_more_is_a_gap_record(answer: Any, reason: str) -> None:
    b, history = start()
    history.put("12", at(2)).special["channels/11"] = [answer]
    anew(lose(b), channel(11, at(1)), channel(12, at(2))).run(2)
    assert b.messages == [at(2)]
    assert [(e.domain, e.gap.reason) for e in b.gaps[1:] if e.gap] == [("11", reason)]
    b.run(3600)
    assert len(reads(b)) == 2


def test_r33_429_waits_retry_after_and_goes_on_with_others_meanwhile() -> None:
    b, history = start()
    history.put("11", at(1)).put("12", at(2)).special["channels/11"] = [(429, {"retry_after": 7.5, "global": False}, {"Retry-After": "7"})]
    anew(lose(b), channel(11, at(1)), channel(12, at(2))).run(1)
    assert len(reads(b)) == 2 and b.messages == []
    b.run(6.4)
    assert len(reads(b)) == 2
    b.run(0.5)
    assert b.messages == [at(1), at(2)] and len(reads(b)) == 3


def test_r33_a_global_429_stops_all_own_calls() -> None:
    b, history = start()
    history.special["channels/11"] = [(429, {"retry_after": 7.5, "global": True}, {})]
    anew(lose(b), channel(11, at(1)), channel(12, at(2))).run(7.4)
    assert len(reads(b)) == 1
    b.run(0.3)
    assert len(reads(b)) > 1


def test_r33_a_spent_bucket_is_left_alone_until_it_resets() -> None:
    b, history = start(channel(11, OLD))
    numbers = [at(1, n) for n in range(150)]
    page = [row(n, "11") for n in reversed(numbers[:100])]
    history.put("11", *numbers).special["channels/11"] = [(200, page, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset-After": "3.5"})]
    anew(lose(b), channel(11, numbers[-1])).run(3.4)
    assert len(reads(b)) == 1
    b.run(0.2)
    assert b.messages == numbers


def test_r33_own_calls_are_at_most_20_a_second() -> None:
    channels = [channel(n, OLD) for n in range(100, 160)]
    b, history = start(*channels)
    for each in channels:
        history.put(each["id"], at(1, int(each["id"])))
    anew(lose(b), *(channel(c["id"], at(1, int(c["id"]))) for c in channels)).run(0.999)
    assert 15 <= len(reads(b)) <= 21
    b.run(3)
    assert len(b.messages) == 60


def test_r33_the_agents_calls_go_first_and_ours_one_at_a_time() -> None:
    b, history = start()
    history.special["messages"] = [None]
    anew(lose(b), channel(11, at(1)), channel(12, at(2)))
    (ours,) = b.requests.values()
    assert not ours.urgent and ours.lane == "42"
    b.run(5)
    assert len(reads(b)) == 1


def test_r23_an_agent_that_wants_more_costs_the_others_no_message() -> None:
    b, history = Bench(operators=False), History()
    b.rest = history
    b.start().tell(intents=513, shard=SHARD).live(guild(1, channel(11, OLD), channel(12, OLD))).message(at(1), "11")
    b.tell(intents=32768, shard=SHARD)
    history.put("11", at(1), at(3)).put("12", at(2))
    b.run(6).open().hello().ready(guild(1, channel(11, at(3)), channel(12, at(2))), session="up2").run(2).message(at(9), "11")
    assert b.messages == [at(1), at(2), at(3), at(9)]
    assert [d["intents"] for d in b.sent(2)] == [513, 513 | 32768]


def test_r33_5xx_and_no_answer_are_tried_again_and_give_up_with_a_gap() -> None:
    b, history = start(channel(11, OLD))
    history.put("11", at(1)).special["channels/11"] = [(500, {}, {}), (0, {}, {}), (502, b"<html>", {})]
    anew(lose(b), channel(11, at(1))).run(20)
    assert b.messages == [at(1)] and len(b.gaps) == 1
    b, history = start(channel(11, OLD))
    history.special["channels/11"] = [(500, {}, {})] * 100
    anew(lose(b), channel(11, at(1)))
    for _ in range(20):
        b.op(11).run(20)
    assert [e.gap.reason for e in b.gaps[1:] if e.gap] == ["upstream_down"] and len(reads(b)) == 9


def test_r33_401_ends_own_calls() -> None:
    b, history = start()
    history.special["channels/11"] = [(401, {}, {})]
    anew(lose(b), channel(11, at(1)), channel(12, at(2)))
    for _ in range(10):
        b.op(11).run(20)
    assert len(reads(b)) == 1


# --- the hold's bound (invariant 9) ------------------------------------------------------------------------------------


def test_after_30_s_live_goes_on_and_what_is_found_later_is_late() -> None:
    b, history = start()
    history.put("11", at(1), at(2)).put("12", at(3)).special["channels/11"] = [None]
    anew(lose(b), channel(11, at(2)), channel(12, at(3)))
    b.message(at(110), "11").run(20).op(11).run(9.9)
    assert b.messages == []
    b.run(0.2).message(at(111), "11")
    assert b.messages == [at(110), at(111)]
    b.op(11).let().run(2)
    late = LATE | REPLAYED
    assert [(e.frame["d"]["id"], e.flags) for e in b.journal if e.gap is None][2:] == [
        (str(at(1)), late),
        (str(at(2)), late),
        (str(at(3)), REPLAYED),
    ]
    assert "fill:0/1" not in b.state and b.state["mark:0/1/11"] == f"{at(111)} 1".encode()


def test_a_fill_that_a_kill_interrupted_is_taken_up_again() -> None:
    b, history = start()
    history.put("11", at(1), at(2)).special["channels/11"] = [None]
    anew(lose(b), channel(11, at(2)), channel(12, OLD)).message(at(110), "11").run(31)
    assert b.messages == [at(110)]
    b.crash().again(3).resumed().run(2)
    assert b.messages == [at(110), at(1), at(2)]
    assert len(b.sent(2)) == 2


def test_more_than_can_be_held_lets_go_early() -> None:
    b, history = start()
    history.put("11", at(1)).special["channels/11"] = [None]
    anew(lose(b), channel(11, at(1)), channel(12, OLD))
    for n in range(9):
        b.event("MESSAGE_CREATE", {"id": str(at(110 + n)), "channel_id": "11", "guild_id": "1", "content": "x" * (4 << 20)})
    assert b.messages == [at(110 + n) for n in range(9)]
    b.let().run(1)
    assert b.messages[-1] == at(1) and b.journal[-1].flags == LATE | REPLAYED


def test_a_second_loss_during_a_fill_loses_nothing() -> None:
    b, history = start()
    history.put("11", at(1)).special["channels/11"] = [None]
    anew(lose(b), channel(11, at(1)), channel(12, OLD)).message(at(110), "11")
    history.put("11", at(110), at(150))
    b.close(4009).run(50)
    anew(b, channel(11, at(150)), channel(12, OLD), session="up3").run(2)
    assert sorted(b.messages) == [at(1), at(110), at(150)] and len(set(b.messages)) == 3


def test_a_second_loss_during_a_fill_keeps_held_events_that_rest_cannot_give() -> None:
    b, history = start()
    history.put("11", at(1)).special["channels/11"] = [None]
    anew(lose(b), channel(11, at(1)), channel(12, OLD))
    b.event("MESSAGE_REACTION_ADD", {"message_id": "5", "channel_id": "11", "guild_id": "1"}).close(4009).run(6)
    anew(b, channel(11, at(1)), channel(12, OLD), session="up3").run(2)
    assert b.names == ["MESSAGE_REACTION_ADD 5", f"MESSAGE_CREATE {at(1)}"]


def test_a_second_loss_after_the_bound_still_reads_from_the_first_ones_watermark() -> None:
    b, history = start()
    history.put("11", at(1)).special["channels/11"] = [None]
    anew(lose(b), channel(11, at(1)), channel(12, OLD)).message(at(110), "11").run(31).op(11)
    # A hole while that is under way: its audit must not forget the older watermark.
    b.message(at(120), "11", b.link.s + 3).message(at(121), "11")
    assert b.messages == [at(110), at(120), at(121)]
    history.put("11", at(110), at(120), at(121))
    b.close(4009).run(6)
    anew(b, channel(11, at(121)), channel(12, OLD), session="up3").run(2)
    assert b.messages[3:] == [at(1)]


def test_a_thread_that_was_being_read_and_is_archived_meanwhile_is_read_on() -> None:
    thread = {"id": "31", "parent_id": "11", "type": 11, "last_message_id": str(OLD)}
    b, history = Bench(), History()
    b.rest = history.put("31", at(1))
    history.special["channels/31"] = [None]
    b.start().live(guild(1, channel(11, OLD), threads=[thread]))
    lose(b).open().hello().ready(guild(1, channel(11, OLD), threads=[{**thread, "last_message_id": str(at(1))}]), session="up2")
    b.close(4009).run(6)
    anew(b, channel(11, OLD), session="up3").run(2)
    assert b.messages == [at(1)]


def test_a_late_fill_goes_on_after_a_kill_where_it_was() -> None:
    b, history = start(channel(11, OLD))
    numbers = [at(1, n) for n in range(250)]
    history.put("11", *numbers).special["channels/11"] = [None]
    history.special[f"after={numbers[99]}"] = [None]
    anew(lose(b), channel(11, numbers[-1])).message(at(110), "11").run(31).op(11)
    b.let().run(0.1)
    assert len(b.messages) == 101
    hole(history, one=numbers[-1])
    b.crash().again(3).resumed().run(2)
    assert reads(b)[2:] == [f"/api/v10/channels/11/messages?after={n}&limit=100" for n in (numbers[99], numbers[199])]
    assert len(b.messages) == 251


def test_killed_while_holding_and_the_replay_does_not_bring_it_again() -> None:
    b, history = start()
    history.special["channels/12"] = [None]
    hole(history, one=at(111), two=at(110))
    history.put("12", at(2), at(110))
    anew(lose(b), channel(11, OLD), channel(12, at(2))).message(at(110), "12", 3).message(at(111), "11", 4)
    assert b.committed()["missing"] == [[3, 3]]
    b.crash().open().hello().resumed(5).run(2)
    assert sorted(b.messages) == [at(2), at(110), at(111)]
    assert b.counted["suspected_gaps"] == 1
    assert b.committed()["seq"] == 5


def test_killed_while_holding_and_then_the_session_is_lost() -> None:
    b, history = start()
    history.put("11", at(1)).special["channels/11"] = [None]
    anew(lose(b), channel(11, at(1)), channel(12, OLD)).message(at(110), "11", 3).message(at(111), "12", 4)
    b.crash().open().hello().op(9, False).run(6)
    history.put("11", at(110))
    anew(b, channel(11, at(110)), channel(12, OLD), session="up3").run(2)
    assert b.messages == [at(111), at(1), at(110)]
    b.message(at(200), "11").close(None).run(1).again(3)
    assert b.sent(6)[-1] == {"token": "tok", "session_id": "up3", "seq": 3}


# --- watermarks (R34) ---------------------------------------------------------------------------------------------------


def test_r34_a_later_guild_create_never_moves_a_watermark_forward() -> None:
    b, history = start(channel(11, OLD))
    history.put("11", at(1)).special["channels/11"] = [(500, {}, {})] * 3
    anew(lose(b), channel(11, at(1)))
    assert b.state["mark:0/1/11"] == f"{OLD} 1".encode()
    b.close(4009).run(6)
    anew(b, channel(11, at(1)), session="up3").run(30)
    assert b.messages == [at(1)]


def test_r34_an_empty_channel_gives_all_that_came() -> None:
    b, history = start(channel(11))
    history.put("11", at(1))
    anew(lose(b), channel(11, at(1))).run(1)
    assert b.messages == [at(1)]


def test_r34_a_channel_without_a_watermark_starts_at_its_newest() -> None:
    b, history = start(channel(11, OLD))
    history.put("13", at(1), at(2))
    anew(lose(b), channel(11, OLD), channel(13, at(2))).run(1)
    assert b.messages == [] and reads(b) == []
    b.message(at(110), "13").close(4009).run(6)
    history.put("13", at(110), at(111))
    anew(b, channel(11, OLD), channel(13, at(111)), session="up3").run(1)
    assert b.messages == [at(110), at(111)]


def test_r34_a_channel_born_while_there_was_no_session_was_empty_before() -> None:
    b, history = start(channel(11, OLD))
    born = at(10)
    history.put(str(born), at(11), at(12))
    anew(lose(b), channel(11, OLD), channel(born, at(12))).run(1)
    assert b.messages == [at(11), at(12)]


def test_r34_a_first_session_reads_nothing() -> None:
    b, _ = start(channel(11, at(-1)), channel(12))
    b.run(100)
    assert reads(b) == [] and b.gaps == []


# --- holes (R32, U14) --------------------------------------------------------------------------------------------------------


def hole(history: History, *, one: int = OLD, two: int = OLD) -> None:
    history.guilds["1"] = [channel(11, one), channel(12, two)]


def test_u14_resumed_without_a_replay_is_found_and_filled() -> None:
    b, history = start()
    b.message(at(1), "11").close(None).run(1).again(3)
    history.put("11", at(1), at(2), at(3)).put("12", at(4))
    hole(history, one=at(3), two=at(4))
    b.resumed(7).run(2)
    assert b.messages == [at(n) for n in (1, 2, 3, 4)]
    assert b.asked[1:3] == ["/api/v10/guilds/1/channels", "/api/v10/guilds/1/threads/active"]
    assert b.gaps == [] and b.committed()["seq"] == 7 and len(b.sent(2)) == 1


def test_u14_a_hole_in_the_replay_keeps_the_order_of_each_channel() -> None:
    b, history = start()
    b.message(at(1), "11").close(None).run(1).again(3)
    history.put("11", at(1), at(2), at(3), at(4))
    hole(history, one=at(4))
    b.message(at(2), "11", 4).message(at(4), "11", 6).resumed(7).run(2)
    assert b.messages == [at(n) for n in (1, 2, 3, 4)] and b.gaps == []


def test_r32_a_jump_in_live_is_audited_and_an_innocent_one_leaves_no_trace() -> None:
    b, history = start()
    hole(history)
    b.message(at(1), "11", 3)
    history.put("11", at(1))
    b.message(at(2), "11", 5).run(2)
    assert b.messages == [at(1), at(2)] and b.gaps == []
    assert b.counted["suspected_gaps"] == 1 and len([t for t in b.asked if "guilds" in t]) == 2


def test_r32_audits_are_a_minute_apart_and_the_second_still_finds_what_is_behind_later_messages() -> None:
    b, history = start()
    hole(history)
    b.message(at(1), "11", 4).run(2)
    looks = [t for t in b.asked if t.endswith("/channels")]
    b.message(at(5), "11", 6).message(at(6), "11", 7)
    history.put("11", at(1), at(4), at(5), at(6))
    hole(history, one=at(6))
    b.op(11).run(30).op(11).run(27)
    assert [t for t in b.asked if t.endswith("/channels")] == looks
    assert b.messages == [at(1), at(5), at(6)]
    b.op(11).run(5)
    assert b.messages == [at(1), at(5), at(6), at(4)]
    assert b.journal[-1].flags == LATE | REPLAYED


def test_r32_holes_behind_resumes_are_filled_at_once_and_in_order_whatever_was_audited_in_live() -> None:
    b, history = start()
    hole(history)
    b.message(at(1), "11", 4).run(2)
    for n in (2, 3):
        last = b.link.s
        b.close(None).run(1).again(last)
        history.put("11", at(n * 100), at(n * 101))
        hole(history, one=at(n * 101))
        b.message(at(n * 101), "11", last + 4).resumed().run(2)
    assert b.messages == [at(1), at(200), at(202), at(300), at(303)]
    assert b.gaps == []
    looks = len(b.asked)
    b.message(at(400), "11", b.link.s + 3).run(10)
    assert len(b.asked) == looks, "in live it is a minute again"


def test_r32_numbers_that_jump_with_every_event_are_told_of_once_a_minute_and_keep_a_bounded_row() -> None:
    b, history = start()
    hole(history)
    for n in range(200):
        b.message(at(1, n), "11", b.link.s + 2).run(0.01)
    assert b.counted["suspected_gaps"] == 200
    assert len([line for line in b.said if "did not come" in line]) == 2
    assert len(msgspec.json.decode(b.state["suspect:0/1"])["missing"]) == 64
    assert msgspec.json.decode(b.state["suspect:0/1"])["missing"][-1][1] == b.link.s - 1


def test_r32_a_waiting_audit_survives_a_kill() -> None:
    b, history = start()
    hole(history)
    b.message(at(1), "11", 4).run(2).message(at(5), "11", 6)
    history.put("11", at(1), at(4), at(5))
    hole(history, one=at(5))
    b.crash().again(6).resumed().run(5)
    assert b.messages == [at(1), at(5), at(4)]


def test_r32_a_proven_hole_that_was_more_than_messages_is_a_gap_record() -> None:
    b, history = start()
    b.close(None).run(10).again(2)
    history.put("11", at(1))
    hole(history, one=at(1))
    b.resumed(6).run(2)
    (gap,) = b.gaps
    assert gap.gap is not None and (gap.gap.reason, gap.gap.unit, gap.gap.from_, gap.gap.to, gap.gap.count) == ("lost", "seq", 3, 5, 2)


def test_r32_an_audit_that_may_not_look_reads_every_channel_it_knows() -> None:
    b, history = start()
    history.put("11", at(1)).special["guilds/1"] = [(403, {}, {})]
    b.resumed(7).run(2)
    assert b.messages == [at(1)] and len(reads(b)) == 2


def test_r32_direct_messages_are_part_of_an_audit() -> None:
    b, history = start()
    hole(history)
    b.message(at(1), "77", 3, guild=None)
    history.put("77", at(1), at(2))
    b.resumed(6).run(2)
    assert b.messages == [at(1), at(2)]


# --- what cannot be had (R36) -----------------------------------------------------------------------------------------------------


def test_r36_a_lost_session_is_one_gap_record_that_names_the_numbers_and_the_time() -> None:
    b, _ = start()
    b.run(5).message(at(5), "11")
    seen = int(b.wall * 1000)
    b.run(10).op(1)
    anew(lose(b, 60), channel(11, OLD), channel(12, OLD))
    (gap,) = b.gaps
    assert gap.domain == "" and gap.gap is not None
    assert (gap.gap.reason, gap.gap.unit, gap.gap.to) == ("lost", "time", int(b.wall * 1000))
    assert seen + 10_000 == gap.gap.from_
    assert gap.gap.detail == "of the session before: numbers from 4 on"
    assert gap.gap.detail in " ".join(b.said)


def held_reaction() -> tuple[Bench, History, int]:
    """A reaction (number 4) and a message (3) are held when the sidecar is killed; when the reaction came (Unix milliseconds)."""
    b, history = start()
    history.put("11", at(1)).special["channels/11"] = [None]
    anew(lose(b), channel(11, at(1)), channel(12, OLD)).message(at(110), "11", 3)
    b.run(3)
    came = int(b.wall * 1000)
    b.event("MESSAGE_REACTION_ADD", {"message_id": "5", "channel_id": "11", "guild_id": "1"}, 4).run(4).message(at(111), "12", 5)
    assert b.names == [f"MESSAGE_CREATE {at(111)}"] and len(b.gaps) == 1
    b.crash()
    return b, history, came


def test_r36_u17_what_was_held_at_a_kill_comes_again_with_the_replay_and_leaves_no_gap() -> None:
    b, _history, _ = held_reaction()
    b.open().hello()
    assert b.sent(6, b.link)[0]["seq"] == 2
    b.message(at(110), "11", 3).event("MESSAGE_REACTION_ADD", {"message_id": "5", "channel_id": "11", "guild_id": "1"}, 4)
    b.message(at(111), "12", 5).resumed(6).run(2)
    assert b.names == [f"MESSAGE_CREATE {at(111)}", f"MESSAGE_CREATE {at(1)}", f"MESSAGE_CREATE {at(110)}", "MESSAGE_REACTION_ADD 5"]
    assert len(b.gaps) == 1 and "other" not in b.committed() and "missing" not in b.committed()


def test_r36_what_a_replay_brings_is_owed_no_more() -> None:
    first = Session()
    first.begin("x", "", 2, 1, 0)
    assert first.take(3)
    first.hold(3, 5, is_message=False)
    second = Session(first.dump(6))
    assert second.others() == [3]
    assert second.take(3)
    assert second.others() == [] and second.give_up() == []


def test_r36_what_was_held_at_a_kill_and_never_comes_again_is_a_gap_that_names_its_number() -> None:
    b, history, _ = held_reaction()
    history.put("11", at(110))
    hole(history, one=at(110), two=at(111))
    b.open().hello().resumed(6).run(2)
    assert b.messages == [at(111), at(1), at(110)]
    gap = b.gaps[-1].gap
    assert len(b.gaps) == 2 and gap is not None
    assert (gap.reason, gap.unit, gap.from_, gap.to, gap.count) == ("lost", "seq", 4, 4, 1)
    b.crash().again(6).resumed().run(2)
    assert len(b.gaps) == 2


def test_r36_what_was_held_at_a_kill_is_within_the_gap_of_a_session_that_is_lost_then() -> None:
    b, history, came = held_reaction()
    history.put("11", at(110))
    b.open().hello().op(9, False).run(6)
    anew(b, channel(11, at(110)), channel(12, at(111)), session="up3").run(2)
    assert b.messages == [at(111), at(1), at(110)]
    gap = b.gaps[-1].gap
    assert len(b.gaps) == 2 and gap is not None
    assert came - 3000 <= gap.from_ <= came
    assert (gap.reason, gap.detail) == ("sidecar_down", "of the session before: numbers from 4 on")


def test_r36_after_a_restart_and_after_a_linger_the_reason_says_so() -> None:
    b, _ = start()
    anew(lose(b.crash().again(2).resumed()), channel(11, OLD))
    b.crash().open().hello().op(9, False).run(6)
    anew(b, channel(11, OLD), session="up3")
    assert [e.gap.reason for e in b.gaps if e.gap] == ["lost", "sidecar_down"]
    b = Bench(operators=False, linger_s=10)
    b.start().tell(intents=513, shard=SHARD).live(guild(1, channel(11))).run(11)
    assert b.phase() == "idle"
    b.tell(intents=513, shard=SHARD).open().hello().op(9, False).run(6).open().hello().ready(guild(1, channel(11)), session="up2")
    assert [e.gap.reason for e in b.gaps if e.gap] == ["released"]


def test_r36_a_resumed_session_leaves_no_gap() -> None:
    b, _ = start()
    for _ in range(5):
        b.close(None).run(31).again(2).resumed()
    assert b.gaps == []


def test_r35_nothing_is_asked_again_because_somebody_answered_or_did_not() -> None:
    # Completion is the agent's receipt: the bot's own replies in a channel change nothing about what is read.
    b, history = start(channel(11, OLD))
    history.channels["11"] = [row(at(1), "11"), row(at(2), "11", author="42")]
    anew(lose(b), channel(11, at(2))).run(2)
    b.crash().again(2).resumed().run(100)
    assert b.messages == [at(1), at(2)] and len(reads(b)) == 1


def test_state_row_holds_what_a_recovery_still_owes() -> None:
    b, history = start()
    history.special["channels/11"] = [None]
    anew(lose(b), channel(11, at(2)), channel(12, OLD))
    assert list(msgspec.json.decode(b.state["fill:0/1"])["fills"]) == ["11"]
    assert SHARD in b.half.shards
