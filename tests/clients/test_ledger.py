"""The ledger tells each kind of fault from the others, and takes an event for the same on every path."""

from __future__ import annotations

from tests.clients.ledger import Verdict, key_of

A, B, C = (f"message.created {number}" for number in (1, 2, 3))
R = "message.reacted 2 👍 added"


def test_a_whole_stream_is_whole() -> None:
    assert Verdict.of([A, B, R, C], [A, B, R, C]).whole


def test_each_fault_is_told_by_its_name() -> None:
    assert Verdict.of([A, B, C], [A, C]) == Verdict(lost=[B])
    assert Verdict.of([A, B, C], [A, B, C, B]) == Verdict(twice=[B])
    assert Verdict.of([A, C], [A, B, C]) == Verdict(foreign=[B])
    assert Verdict.of([A, B, C], [A, C, B]) == Verdict(disordered=[B])


def test_a_reaction_may_move_where_the_page_says_so_but_not_before_its_message() -> None:
    moved, early = [A, B, C, R], [A, R, B, C]
    assert Verdict.of([A, B, R, C], moved).disordered and Verdict.of([A, B, R, C], early).disordered
    assert Verdict.of([A, B, R, C], moved, reactions_move=True).whole
    assert Verdict.of([A, B, R, C], early, reactions_move=True) == Verdict(disordered=[R])


def test_keys_are_the_same_in_both_spellings_and_on_every_path() -> None:
    wire = {"type": "message.reacted", "message_id": "2", "emoji": "👍", "agent_name": "x", "action": "added", "agent_seq": 7}
    camel = {"type": "message.reacted", "messageId": "2", "emoji": "👍", "agentName": "x", "action": "added", "replayed": True}
    assert key_of(wire) == key_of(camel) == R
    assert key_of({"type": "message.created", "message": {"id": "1", "text": "one"}, "replayed": True}) == A
