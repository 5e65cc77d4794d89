"""What the demo's verdict rests on: lost, twice, out of order, each counted."""

import json

from sidecar.demo.tally import Tally, key_of


def keys(count: int) -> list[str]:
    return [f"message.created {number}" for number in range(count)]


def taken(published: list[str], handled: list[str]) -> Tally:
    tally = Tally()
    for key in published:
        tally.publish(key)
    for key in handled:
        tally.take(key)
    return tally


def test_everything_once_and_in_order_is_within_the_promise() -> None:
    tally = taken(keys(5), keys(5))
    assert (tally.expected, tally.received, tally.missing, tally.twice) == (5, 5, 0, 0)
    assert tally.within_promise


def test_what_a_later_event_overtook_is_lost_and_what_is_not_there_yet_is_missing() -> None:
    one, two, three, four = keys(4)
    tally = taken([one, two, three, four], [one, three])
    assert (tally.overtaken, tally.missing) == (1, 2)
    assert not tally.within_promise
    tally.take(two)
    tally.take(four)
    assert tally.missing == 0
    assert tally.disordered == 1
    assert not tally.within_promise


def test_repeats_are_within_the_promise_only_up_to_a_window_for_each_kill() -> None:
    tally = taken(keys(3), [*keys(3), *keys(3)[1:]])
    assert tally.twice == 2
    assert not tally.within_promise
    tally.killed(2)
    assert tally.within_promise
    tally.take(keys(3)[2])
    assert not tally.within_promise


def test_an_event_that_was_never_published_breaks_the_promise() -> None:
    tally = taken(keys(1), [*keys(1), "message.created 7"])
    assert tally.strange == 1
    assert not tally.within_promise


def test_a_reaction_counts_as_disordered_only_before_its_message() -> None:
    message, later, reaction = "message.created 1", "message.created 2", "message.reacted 1 x Ann added"
    assert taken([message, later, reaction], [message, reaction, later]).within_promise
    assert taken([message, reaction], [reaction, message]).disordered == 1


def test_a_live_event_and_its_database_copy_have_one_key() -> None:
    live = {"id": "e", "type": "thread.reply", "channel": "g", "message": {"id": "7", "text": "t"}, "agent_seq": 3}
    copy = {"id": "e", "type": "thread.reply", "channel": "g", "message": {"id": "7", "text": "t"}, "replayed": True}
    assert key_of(json.dumps(live)) == key_of(json.dumps(copy)) == "thread.reply 7"
    added = {"type": "message.reacted", "message_id": "7", "emoji": "x", "agent_name": "Ann", "action": "added"}
    assert key_of(json.dumps(added)) != key_of(json.dumps(added | {"emoji": "y"}))
    assert key_of('{"type":"pong"}') == ""
