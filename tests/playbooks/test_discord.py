"""Playbook: Discord R12 with R19 (a held IDENTIFY, READY from state, the backlog), receipts (R17, R18) and RESUME (R16)."""

from __future__ import annotations

from typing import Any

import msgspec

from sidecar.core.actions import (
    Accept,
    Admit,
    Attach,
    ClientCursor,
    Commit,
    OpenLink,
    Own,
    PingConn,
    PutState,
    Receipt,
    SendConn,
    SendFrames,
    StartTimer,
    Tell,
)
from sidecar.core.events import (
    Committed,
    ConnClosed,
    ConnFrames,
    ConnOpened,
    ConnPong,
    CredentialSeen,
    FramesReceived,
    Head,
    LinkOpened,
    MessageFromUpstream,
    RecordsReady,
    SeekDone,
    Started,
    TimerFired,
)
from sidecar.core.record import Record, runs_of
from tests.playbooks.discord_halves import STREAM, DiscordDownstream, DiscordUpstream, frame
from tests.playbooks.playbook import FakeView, Playbook, holding, json_with, like

HEAD = Head("GET", "/?v=10&encoding=json", [], "127.0.0.1:8787")
READY = {"v": 10, "user": {"id": "42"}, "session_id": "up", "resume_gateway_url": "wss://r.example/?v=10", "guilds": []}
GUILD = {"id": "g1", "name": "one", "channels": []}
STATE = (READY, (msgspec.json.encode(GUILD),))
IDENTIFY = frame(2, {"token": "tok", "intents": 33281})


def message(n: int) -> dict[str, Any]:
    return {"id": str(n), "channel_id": "c1", "content": "x"}


def record(offset: int) -> Record:
    payload = b'{"op":0,"s":%d,"t":"MESSAGE_CREATE","d":%b}' % (9000 + offset, msgspec.json.encode(message(offset)))
    return Record(offset, offset, 0, payload)


def dispatch(offset: int, s: int) -> bytes:
    return b'{"op":0,"s":%d,"t":"MESSAGE_CREATE","d":%b}' % (s, msgspec.json.encode(message(offset)))


def opened(book: Playbook, conn: str) -> None:
    book.send(ConnOpened(conn, HEAD))
    book.expect(Accept, conn=conn)
    book.expect(SendConn, conn=conn, frames=[json_with(op=10, s=None, t=None)])


def known_consumer() -> FakeView:
    """A journal of 43 events; the agent's last receipt was for 40."""
    view = FakeView().stream(STREAM, 43)
    view.cursors[STREAM, "agent"] = 40
    return view


def test_r12_r19_a_held_identify_then_ready_from_state_then_the_backlog() -> None:
    book = Playbook(DiscordDownstream(known_consumer()))
    book.send(Started({}))

    # HELLO at once; beats are acknowledged before the IDENTIFY and while it is held.
    opened(book, "w1")
    book.send(ConnFrames("w1", [frame(1)]))
    book.expect(SendConn, conn="w1", frames=[json_with(op=11)])
    book.send(ConnFrames("w1", [IDENTIFY]))
    book.expect(Own, account="42", credential="tok", hints="33281", streams=[STREAM])
    book.wait(10).send(ConnFrames("w1", [frame(1)]))
    book.expect(SendConn, conn="w1", frames=[json_with(op=11)])

    # A second socket joins the same waiting; the first gives up (discord.js after 15 s).
    opened(book, "w2")
    book.send(ConnFrames("w2", [IDENTIFY]))
    book.expect(Own, account="42")
    book.send(ConnClosed("w1", 1000))

    # The upstream's READY is on disk: our session's row is committed, then READY, the guilds, and the rest from the journal.
    book.send(MessageFromUpstream("42", STATE))
    row = book.expect(Commit, ticket="session/w2", ops=[like(PutState, value=json_with(base=40, k=2))]).ops[0]
    assert isinstance(row, PutState)
    book.send(Committed("session/w2"))
    book.expect(
        SendConn,
        conn="w2",
        frames=[
            json_with(op=0, t="READY", s=1, d=holding(session_id=row.key, guilds=[{"id": "g1", "unavailable": True}])),
            json_with(op=0, t="GUILD_CREATE", s=2, d=GUILD | {"unavailable": False}),
        ],
    )
    book.expect(Attach, session="w2", stream=STREAM, consumer="agent", after=40, fresh="head")

    # s = k + (offset − base): the backlog begins at 3. Then one barrier.
    book.send(RecordsReady("w2", runs_of([record(n) for n in (41, 42, 43)]), 43))
    book.expect(SendConn, conn="w2", frames=[dispatch(41, 3), dispatch(42, 4), dispatch(43, 5)])
    book.expect(PingConn, conn="w2", payload=b"5")

    # Receipts: a heartbeat's d, and the pong; what lies within the snapshot receipts nothing.
    book.send(ConnFrames("w2", [frame(1, 2)]))
    book.expect(SendConn, frames=[json_with(op=11)])
    book.send(ConnFrames("w2", [frame(1, 4)]))
    book.expect(SendConn, frames=[json_with(op=11)])
    book.expect(Receipt, session="w2", offset=42)
    book.send(ConnPong("w2", b"5"))
    book.expect(Receipt, session="w2", offset=43)
    book.done()


def test_r18_a_barrier_each_64_frames() -> None:
    book = Playbook(DiscordDownstream(known_consumer()))
    book.send(Started({}), MessageFromUpstream("42", STATE))
    opened(book, "w1")
    book.send(ConnFrames("w1", [IDENTIFY]))
    book.expect(Own)
    book.expect(Commit)
    book.send(Committed("session/w1"))
    book.expect(SendConn)
    book.expect(Attach)
    book.send(RecordsReady("w1", runs_of([record(n) for n in range(41, 141)]), 140))
    for count, payload in ((64, b"66"), (36, b"102")):
        book.expect(SendConn, frames=lambda sent, count=count: len(sent) == count)
        book.expect(PingConn, payload=payload)
    book.done()


def test_r16_resume_is_exact_after_a_restart_and_else_refused() -> None:
    book = Playbook(DiscordDownstream(known_consumer()))
    book.send(Started({"abc": b'{"id":"abc","base":40,"k":2}'}))
    opened(book, "w1")
    for seq, session in ((None, None), (4, "other"), (99, "abc")):
        book.send(ConnFrames("w1", [frame(6, {"token": "tok", "session_id": session, "seq": seq})]))
        book.expect(SendConn, conn="w1", frames=[json_with(op=9, d=False)])
    book.send(ConnFrames("w1", [frame(6, {"token": "tok", "session_id": "abc", "seq": 4})]))
    book.expect(Own)
    book.expect(Attach, session="w1", after=42, mark="resume")
    book.expect(ClientCursor, session="w1", offset=42)
    book.send(RecordsReady("w1", runs_of([record(43)]), 43), SeekDone("w1", "resume", 1, 43, False))
    book.expect(SendConn, frames=[dispatch(43, 5)])
    book.expect(PingConn, payload=b"5")
    book.expect(SendConn, frames=[json_with(op=0, t="RESUMED", d={}, s=5)])
    book.done()


def test_r26_upstream_keeps_session_and_seq_with_the_events_and_tells_only_what_is_on_disk() -> None:
    book = Playbook(DiscordUpstream(FakeView()))
    book.send(Started({}), CredentialSeen("tok"))
    book.expect(OpenLink, link="g", target="wss://gateway.discord.gg/?v=10&encoding=json")
    book.send(LinkOpened("g"), FramesReceived("g", [frame(10, {"heartbeat_interval": 41250})]))
    book.expect(SendFrames, frames=[json_with(op=2, d=holding(token="tok", shard=[0, 1]))])
    book.expect(StartTimer, timer="beat", seconds=41.25 * 0.5)
    book.send(FramesReceived("g", [frame(0, READY, 1, "READY")]))
    book.expect(Commit, ticket="state", ops=[PutState("ready", msgspec.json.encode(READY)), PutState("seq", b"1")])
    book.send(Committed("state"))
    book.expect(Tell, message=(READY, ()))
    book.send(FramesReceived("g", [frame(0, GUILD, 2, "GUILD_CREATE"), frame(0, message(7), 3, "MESSAGE_CREATE")]))
    book.expect(Commit, ticket="state", ops=[like(PutState, key="guild/g1"), PutState("seq", b"2")])
    book.expect(Commit, ops=[like(Admit, stream=STREAM, key=b"MESSAGE_CREATE:7", domain="c1"), PutState("seq", b"3")], ticket="")
    book.send(FramesReceived("g", [frame(0, message(7), 3, "MESSAGE_CREATE")]))  # R2: s ≤ last
    book.send(TimerFired("beat"))
    book.expect(SendFrames, frames=[json_with(op=1, d=3)])
    book.expect(StartTimer)

    # After a kill -9: READY from disk without the upstream, and RESUME with the committed seq.
    state = {"ready": msgspec.json.encode(READY), "seq": b"3", "guild/g1": msgspec.json.encode(GUILD)}
    book = Playbook(DiscordUpstream(FakeView()))
    book.send(Started(state))
    book.expect(Tell, message=STATE)
    book.send(CredentialSeen("tok"))
    book.expect(OpenLink, target="wss://r.example/?v=10")
    book.send(FramesReceived("g", [frame(10, {"heartbeat_interval": 41250})]))
    book.expect(SendFrames, frames=[json_with(op=6, d={"token": "tok", "session_id": "up", "seq": 3})])
    book.expect(StartTimer)
    book.done()
