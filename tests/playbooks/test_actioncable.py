"""Playbook: Action Cable R9 with two links, R12 (a POST held until an id is on disk), R14 and R26."""

from __future__ import annotations

import random

import msgspec

from sidecar.core.actions import (
    Accept,
    Admit,
    Attach,
    Commit,
    OpenLink,
    Own,
    PingConn,
    PutState,
    Receipt,
    Route,
    SendConn,
    SendFrames,
    Tell,
)
from sidecar.core.events import (
    Committed,
    ConnFrames,
    ConnOpened,
    ConnPong,
    CredentialSeen,
    ExchangeSeen,
    FramesReceived,
    Head,
    HttpRequested,
    LinkClosed,
    LinkOpened,
    MessageFromDownstream,
    MessageFromUpstream,
    RecordsReady,
    Started,
)
from sidecar.core.record import Record, runs_of
from tests.playbooks.actioncable_halves import CableDownstream, CableUpstream
from tests.playbooks.playbook import FakeView, Playbook, like

# The same sub, in the spelling of two clients.
RAILS = rb'"{\"channel\":\"C\",\"agent_id\":42}"'
ANYCABLE = rb'"{\"agent_id\":42,\"channel\":\"C\"}"'
SUB = '{"agent_id":42,"channel":"C"}'
NOTIFY = Head("POST", "/api/v1/agent/notify", [("Content-Type", "application/json")], "127.0.0.1:8787")


def data(message: bytes) -> bytes:
    return b'{"identifier":%b,"message":%b}' % (RAILS, message)


def confirm() -> bytes:
    return b'{"identifier":%b,"type":"confirm_subscription"}' % RAILS


def two_links() -> Playbook:
    book = Playbook(CableUpstream(FakeView()))
    book.send(Started({}))
    book.expect(Tell, message="started")
    book.send(CredentialSeen("tok"))
    book.expect(OpenLink, link="a", target="/cable?token=tok")
    book.expect(OpenLink, link="b")
    book.send(LinkOpened("a"), FramesReceived("a", [b'{"type":"welcome"}']))
    book.send(MessageFromDownstream(("subscribe", SUB, RAILS)))
    book.expect(SendFrames, link="a", frames=[b'{"command":"subscribe","identifier":%b}' % RAILS])
    book.send(LinkOpened("b"), FramesReceived("b", [b'{"type":"welcome"}']))
    book.expect(SendFrames, link="b")
    book.send(FramesReceived("a", [confirm()]), FramesReceived("b", [confirm()]))
    book.expect(Tell, message=("confirmed", SUB))
    book.expect(Tell)
    return book


def test_r9_six_equal_payloads_in_six_out_also_across_the_change_of_a_link() -> None:
    book = two_links()
    event = data(b'{"type":"dispatch","task_id":null}')
    admit = like(Admit, stream=SUB, key=b"", payload=b'{"type":"dispatch","task_id":null}')

    # 1, 2: `a` is ahead by two; its second copy of the same bytes is a second event, b's two copies are not.
    book.send(FramesReceived("a", [event, event]))
    book.expect(Commit, ops=[admit])
    book.expect(Commit, ops=[admit])
    book.send(FramesReceived("b", [event, event]))

    # 3: b brings it, a dies before it does. A copy is awaited from the dead link no more.
    book.send(FramesReceived("b", [event]))
    book.expect(Commit, ops=[admit])
    book.send(LinkClosed("a", None))
    book.expect(OpenLink, link="a3")

    # 4: while the new link subscribes; its copy is awaited until 1 s after its confirm, and does come.
    book.send(LinkOpened("a3"), FramesReceived("a3", [b'{"type":"welcome"}']))
    book.expect(SendFrames, link="a3")
    book.send(FramesReceived("b", [event]))
    book.expect(Commit, ops=[admit])
    book.send(FramesReceived("a3", [confirm(), event]))
    book.expect(Tell)

    # 5: again while another link subscribes, but this copy never comes. 6, after that second, is new from either link.
    book.send(LinkClosed("b", 1006))
    book.expect(OpenLink, link="b4")
    book.send(LinkOpened("b4"), FramesReceived("b4", [b'{"type":"welcome"}']))
    book.expect(SendFrames, link="b4")
    book.send(FramesReceived("a3", [event]))
    book.expect(Commit, ops=[admit])
    book.send(FramesReceived("b4", [confirm()]))
    book.expect(Tell)
    book.wait(1.5).send(FramesReceived("b4", [event]))
    book.expect(Commit, ops=[admit])
    book.send(FramesReceived("a3", [event]))
    book.done()


def test_r9_awaits_end_and_r8_keys_are_for_the_core() -> None:
    book = two_links()
    event = data(b'{"type":"note"}')
    book.send(FramesReceived("a", [event]))
    book.expect(Commit)
    book.wait(10.0).send(FramesReceived("b", [event]))
    book.expect(Commit)
    decision = data(b'{"type":"permission_decision","request_id":"r1"}')
    for link in "ab":  # what has a key goes to admission from both links; the core drops the second
        book.send(FramesReceived(link, [decision]))
        book.expect(Commit, ops=[like(Admit, key=b"decision/r1")])
    book.done()


def test_r9_any_interleaving_of_two_links_counts_every_event_once() -> None:
    for seed in range(100):
        dice = random.Random(seed)
        sent = [data(b'{"n":%d}' % dice.randint(1, 3)) for _ in range(30)]
        book = two_links()
        left = {"a": list(sent), "b": list(sent)}
        admitted = []
        while any(left.values()):
            link = dice.choice([name for name, frames in left.items() if frames])
            admitted += [a.ops[0].payload for a in book.send(FramesReceived(link, [left[link].pop(0)])).left]  # type: ignore[attr-defined]
            book.left.clear()
        assert sorted(data(p) for p in admitted) == sorted(sent), f"seed {seed}"


def subscribed() -> Playbook:
    """Two clients of one sub, each with its own spelling of the identifier."""
    book = Playbook(CableDownstream(FakeView()))
    book.send(Started({}))
    for conn, identifier in (("c1", RAILS), ("c2", ANYCABLE)):
        book.send(ConnOpened(conn, Head("GET", "/cable?token=tok", [])))
        book.expect(Accept, conn=conn)
        book.expect(SendConn, conn=conn, frames=[b'{"type":"welcome"}'])
        book.expect(Own, account="t1", credential="tok")
        book.send(ConnFrames(conn, [b'{"command":"subscribe","identifier":%b}' % identifier]))
        book.expect(Own, streams=[SUB])
        book.expect(Tell, message=("subscribe", SUB, identifier))
    book.send(MessageFromUpstream("t1", ("confirmed", SUB)))
    for conn, identifier in (("c1", RAILS), ("c2", ANYCABLE)):
        book.expect(SendConn, conn=conn, frames=[b'{"identifier":%b,"type":"confirm_subscription"}' % identifier])
        book.expect(Attach, stream=SUB, consumer="t1", fresh="head")
    return book


def test_r26_every_client_gets_its_own_identifier_bytes() -> None:
    book = subscribed()
    record = Record(7, 7, 0, b'{"type":"note"}')
    for session, conn, identifier in (("c1/0", "c1", RAILS), ("c2/1", "c2", ANYCABLE)):
        book.send(RecordsReady(session, runs_of([record]), 7))
        book.expect(SendConn, conn=conn, frames=[b'{"identifier":%b,"message":{"type":"note"}}' % identifier])
        book.expect(PingConn, conn=conn, payload=f"{session}:7".encode())
    book.send(ConnPong("c2", b"c2/1:7"))
    book.expect(Receipt, session="c2/1", offset=7)
    book.done()


def test_r12_a_notify_is_held_until_its_pending_id_is_on_disk() -> None:
    book = subscribed()
    book.send(HttpRequested("x1", NOTIFY))
    held = book.expect(Route, exchange="x1", tap=True, hold="notify/x1")
    body = msgspec.json.encode({"topic_id": 7, "text": "", "permission_request_id": "req-1"})
    book.send(ExchangeSeen("x1", NOTIFY, body))
    book.expect(Tell, account="t1", message=("pending", SUB, ("req-1",)))
    book.expect(Commit, ticket=held.hold, ops=[PutState(f"pending/{SUB}", b'["req-1"]')])
    book.send(Committed(held.hold))  # here the engine lets the exchange go
    book.done()

    # A body that does not parse changes nothing, but is forwarded all the same.
    book.send(HttpRequested("x2", NOTIFY), ExchangeSeen("x2", NOTIFY, b"not json"))
    book.expect(Route, exchange="x2", hold="notify/x2")
    book.expect(Commit, ticket="notify/x2", ops=[])
    book.done()


def test_r14_pending_ids_are_pulled_after_each_confirm_also_by_a_new_upstream_half() -> None:
    down = subscribed()
    down.send(HttpRequested("x1", NOTIFY), ExchangeSeen("x1", NOTIFY, b'{"permission_request_id":"req-1"}'))
    down.expect(Route)
    down.expect(Tell)
    down.expect(Commit)
    down.send(MessageFromUpstream("t1", "started"))  # the engine dropped the upstream half and made another
    pending = down.expect(Tell, message=("pending", SUB, ["req-1"])).message
    wanted = down.expect(Tell, message=("subscribe", SUB, RAILS)).message
    down.expect(Tell, message=("subscribe", SUB, ANYCABLE))

    up = two_links()
    up.send(MessageFromDownstream(pending), MessageFromDownstream(wanted))
    up.send(FramesReceived("b", [confirm()]))
    up.expect(Tell)
    up.expect(
        SendFrames,
        link="b",
        frames=[
            b'{"command":"message","identifier":%b,"data":%b}'
            % (RAILS, rb'"{\"action\":\"replay_permissions\",\"request_ids\":[\"req-1\"]}"')
        ],
    )
    up.done()
