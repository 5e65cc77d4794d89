"""The playbook driver itself: a driver that cannot fail would prove nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sidecar.core.actions import Action, Commit, Log, PutState, SendConn, StartTimer
from sidecar.core.events import ConnFrames, Input, Moment
from tests.playbooks.playbook import Playbook, json_with, like


class Echo:
    """Echoes frames, keeps each, says so in the log."""

    def handle(self, moment: Moment, event: Input) -> Sequence[Action]:
        assert isinstance(event, ConnFrames)
        return [
            Log("info", "echo"),
            SendConn(event.conn, event.frames),
            Commit([PutState(f"at{moment.mono:g}", event.frames[0])]),
        ]


def test_dialogue_passes_with_partial_fields_and_patterns() -> None:
    book = Playbook(Echo()).wait(1.5).send(ConnFrames("c", [b'{"op":1,"d":2}']))
    assert book.expect(SendConn, frames=[json_with(op=1)]).conn == "c"
    book.expect(Commit, ops=[like(PutState, key="at1001.5")])
    book.done()


@pytest.mark.parametrize(
    ("kind", "fields", "shown"),
    [
        (StartTimer, {}, "wanted StartTimer"),
        (SendConn, {"conn": "other"}, "conn: wanted 'other'"),
        (SendConn, {"frames": [json_with(op=2)]}, "json_with(op=2)"),
        (SendConn, {"frames": ["text"]}, "frames"),
    ],
)
def test_a_misfit_shows_what_was_wanted_and_found(kind: type[Action], fields: dict[str, object], shown: str) -> None:
    book = Playbook(Echo()).send(ConnFrames("c", [b'{"op":1}']))
    with pytest.raises(AssertionError) as caught:
        book.expect(kind, **fields)
    assert shown in str(caught.value)
    assert "> ConnFrames(conn='c'" in str(caught.value)


def test_what_nobody_expected_fails() -> None:
    book = Playbook(Echo()).send(ConnFrames("c", [b"1"]))
    book.expect(SendConn)
    with pytest.raises(AssertionError, match="nobody expected"):
        book.send(ConnFrames("c", [b"2"]))


def test_silence_fails() -> None:
    with pytest.raises(AssertionError, match="did nothing more"):
        Playbook(Echo()).expect(SendConn)
