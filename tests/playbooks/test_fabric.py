"""Playbook: Fabric R4 (join, history and live pushes merged) and R24/R27/R28 over a polling-to-websocket upgrade."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from sidecar.core.actions import (
    Accept,
    Admit,
    Attach,
    CancelTimer,
    Commit,
    Detach,
    OpenLink,
    Own,
    PutState,
    Receipt,
    Request,
    Respond,
    Route,
    SendConn,
    SendFrames,
    StartTimer,
)
from sidecar.core.events import (
    ConnClosed,
    ConnFrames,
    ConnOpened,
    CredentialSeen,
    ExchangeSeen,
    FramesReceived,
    Head,
    HttpRequested,
    LinkOpened,
    RecordsReady,
    ResponseReceived,
    Started,
    TimerFired,
)
from sidecar.core.record import REPLAYED, Record, runs_of
from tests.playbooks.fabric_halves import SEP, FabricDownstream, FabricUpstream
from tests.playbooks.playbook import FakeView, Playbook, like


def row(channel: str, seq: int) -> dict[str, object]:
    return {"id": f"{channel}-{seq}", "channelId": channel, "seq": seq, "content": "x", "xType": "dm"}


def push(channel: str, seq: int) -> bytes:
    return b"42/realtime," + msgspec.json.encode(["message.created", row(channel, seq) | {"wakeup": True}])


def answer(request: str, rows: Sequence[dict[str, object]]) -> ResponseReceived:
    return ResponseReceived(request, 200, [], msgspec.json.encode(rows))


def admit(channel: str, seq: int, flags: int) -> object:
    return like(Admit, stream="g1:u1", key=f"{channel}-{seq}".encode(), domain=channel, flags=flags)


def connected(state: dict[str, bytes]) -> Playbook:
    book = Playbook(FabricUpstream(FakeView()))
    book.send(Started(state), CredentialSeen("tok"))
    book.expect(OpenLink, link="g1", target="http://127.0.0.1:7002/socket.io/?EIO=4&transport=websocket")
    book.send(LinkOpened("g1"), FramesReceived("g1", [b'0{"sid":"s","upgrades":[],"pingInterval":25000}']))
    book.expect(SendFrames, frames=[b'40/realtime,{"token":"tok"}'])
    book.send(FramesReceived("g1", [b'40/realtime,{"sid":"n"}']))
    book.expect(Request, request="list#1", headers=[("Authorization", "Bearer tok")])
    return book


def test_r4_join_merges_history_with_pushes_of_that_channel_only() -> None:
    book = connected({"channel/c1": b"4", "channel/c2": b"9"})
    book.send(answer("list#1", [{"id": "c2", "lastSeq": 9}, {"id": "c1", "lastSeq": 7}]))
    # Most messages behind first; history is read without waiting for the ack.
    book.expect(SendFrames, frames=[b'42/realtime,1["join_channel",{"channelId":"c1"}]'])
    book.expect(Request, request="history/c1#1", target=lambda t: t.endswith("/c1/messages?seqFrom=5&seqTo=7"))
    book.expect(StartTimer, timer="ack/c1", seconds=1.0)
    book.expect(SendFrames, frames=[b'42/realtime,2["join_channel",{"channelId":"c2"}]'])
    book.expect(Request, request="history/c2#1")
    book.expect(StartTimer, timer="ack/c2")

    # A push of c1 is held; c2's history comes first and opens c2 alone (order domain: the channel).
    book.send(FramesReceived("g1", [push("c1", 7), push("c1", 8)]))
    book.send(answer("history/c2#1", []), FramesReceived("g1", [push("c2", 10)]))
    book.expect(Commit, ops=[admit("c2", 10, 0), PutState("channel/c2", b"10")])

    # History ascending though it arrived unordered, then the buffer; 7 stands in both and is dropped by its key.
    book.send(answer("history/c1#1", [row("c1", 7), row("c1", 5), row("c1", 6)]))
    book.expect(
        Commit,
        ops=[
            *(admit("c1", seq, REPLAYED) for seq in (5, 6, 7)),
            admit("c1", 7, 0),
            admit("c1", 8, 0),
            PutState("channel/c1", b"8"),
        ],
    )

    # LIVE; then the one confirm read: after c1's ack, and a second later for c2, which has none.
    book.send(FramesReceived("g1", [push("c1", 9), b'43/realtime,1[{"ok":true}]']))
    book.expect(Commit, ops=[admit("c1", 9, 0), PutState("channel/c1", b"9")])
    book.expect(CancelTimer, timer="ack/c1")
    book.expect(Request, request="confirm/c1#1", target=lambda t: t.endswith("seqFrom=10&seqTo=10"))
    book.wait(1.0).send(TimerFired("ack/c2"))
    book.expect(Request, request="confirm/c2#1")

    # What the confirm read finds was posted between the history and the join.
    book.send(answer("confirm/c1#1", [row("c1", 10)]))
    book.expect(Commit, ops=[admit("c1", 10, REPLAYED), PutState("channel/c1", b"10")])
    book.done()


def test_r12_an_answer_of_a_link_that_is_over_changes_nothing() -> None:
    book = connected({})
    book.send(FramesReceived("g1", [b'40/realtime,{"sid":"n2"}']))
    book.expect(Request, request="list#2")
    book.send(answer("list#1", [{"id": "c1", "lastSeq": 7}]))
    book.done()


# --- downstream: one session over polling, then WebSocket ------------------------------------------------------------------------


def get(sid: str = "", transport: str = "polling") -> Head:
    return Head("GET", f"/socket.io/?EIO=4&transport={transport}" + (f"&sid={sid}" if sid else ""), [], "127.0.0.1:8787")


def records(low: int, high: int) -> list[Record]:
    return [Record(n, n, 0, b'["message.created",{"n":%d}]' % n) for n in range(low, high + 1)]


def events(low: int, high: int) -> list[bytes]:
    return [b'42/realtime,["message.created",{"n":%d}]' % n for n in range(low, high + 1)]


def handshake(book: Playbook) -> str:
    book.send(HttpRequested("x1", get()))
    opened = book.expect(Respond, exchange="x1", status=200)
    return str(msgspec.json.decode(opened.body[1:])["sid"])


def post(book: Playbook, exchange: str, sid: str, *packets: bytes) -> None:
    head = Head("POST", get(sid).target, [], "127.0.0.1:8787")
    book.send(HttpRequested(exchange, head))
    book.expect(Route, exchange=exchange, tap=True, hold=f"never/{exchange}")
    book.send(ExchangeSeen(exchange, head, SEP.join(packets)))
    book.expect(Respond, exchange=exchange, status=200, body=b"ok")


def test_r24_r27_r28_delivery_and_fence_across_the_upgrade() -> None:
    book = Playbook(FabricDownstream(FakeView().stream("g1:u1", 0)))
    sid = handshake(book)

    # CONNECT and a burst of joins in one POST; delivery starts with the CONNECT, not with the joins (R27).
    post(book, "x2", sid, b'40/realtime,{"token":"tok"}', b'42/realtime,7["join_channel",{"channelId":"c1"}]')
    book.expect(Own, account="u1", credential="tok", streams=["g1:u1"])
    book.expect(Attach, session=sid, stream="g1:u1", consumer="u1@g1", fresh="head")
    book.send(HttpRequested("x3", get(sid)))
    connect = b'40/realtime,{"sid":"n%s"}' % sid.encode()
    book.expect(Respond, exchange="x3", body=SEP.join([connect, b'43/realtime,7[{"ok":true}]']))

    # A GET is held until there is something; an answer has at most 16 packets, the fence comes behind the last frame.
    book.send(HttpRequested("x4", get(sid)))
    book.send(RecordsReady(sid, runs_of(records(1, 20)), 20))
    book.expect(Respond, exchange="x4", body=SEP.join(events(1, 16)))
    book.send(HttpRequested("x5", get(sid)))
    book.expect(Respond, exchange="x5", body=SEP.join([*events(17, 20), b"2"]))
    post(book, "x6", sid, b"3")
    book.expect(Receipt, session=sid, offset=20)

    # The upgrade: the probe releases the GET that waits; what comes before `5` waits in the queue, in no transport.
    book.send(HttpRequested("x7", get(sid)))
    book.send(RecordsReady(sid, runs_of(records(21, 22)), 22))
    book.expect(Respond, exchange="x7", body=SEP.join([*events(21, 22), b"2"]))
    book.send(HttpRequested("x8", get(sid)), ConnOpened("w1", get(sid, "websocket")))
    book.expect(Accept, conn="w1")
    book.send(ConnFrames("w1", [b"2probe"]))
    book.expect(SendConn, conn="w1", frames=[b"3probe"])
    book.expect(Respond, exchange="x8", body=b"6")
    book.send(RecordsReady(sid, runs_of(records(23, 24)), 24))

    # `5`: everything queued follows on the WebSocket. One fence is outstanding (asked by polling), so none is added;
    # its `3` comes over the new transport, receipts 22, and the next fence goes out.
    book.send(ConnFrames("w1", [b"5"]))
    book.expect(SendConn, conn="w1", frames=events(23, 24))
    book.send(ConnFrames("w1", [b"3"]))
    book.expect(Receipt, session=sid, offset=22)
    book.expect(SendConn, conn="w1", frames=[b"2"])
    book.send(ConnFrames("w1", [b"3"]))
    book.expect(Receipt, session=sid, offset=24)

    # The old transport is over; the session ends with its last conn.
    book.send(HttpRequested("x9", get(sid)))
    book.expect(Respond, exchange="x9", status=400, body=lambda b: b'"code":3' in b)
    book.send(ConnClosed("w1", 1006))
    book.expect(Detach, session=sid)
    book.done()


class Client:
    """An Engine.IO client that polls, upgrades when it likes, and notes every event in the order it was handed over."""

    def __init__(self, half: FabricDownstream) -> None:
        self.book = Playbook(half)
        self.sid = handshake(self.book)
        self.took: list[bytes] = []
        self.pongs = self.number = 0
        self.polling = self.probing = self.upgraded = False

    def send(self, event: object) -> list[object]:
        return list(self.book.send(event).left)  # type: ignore[arg-type]

    def run(self, event: object) -> None:
        actions = self.send(event)
        self.book.left.clear()
        for action in actions:
            match action:
                case Respond(body=body, status=200):
                    self.polling = False
                    self._take(body.split(SEP))
                case SendConn(frames=frames):
                    self._take(frames)

    def _take(self, packets: Sequence[bytes]) -> None:
        for packet in packets:
            if packet == b"2":
                self.pongs += 1
            elif packet == b"3probe":
                self.probing = True
            elif packet.startswith(b"42"):
                self.took.append(packet)

    def poll(self) -> None:
        if not self.polling and not self.probing and not self.upgraded:
            self.number += 1
            self.polling = True
            self.run(HttpRequested(f"g{self.number}", get(self.sid)))

    def upgrade(self) -> None:
        if not self.probing and not self.upgraded:
            self.run(ConnOpened("w", get(self.sid, "websocket")))
            self.run(ConnFrames("w", [b"2probe"]))
        elif not self.upgraded and not self.polling:
            self.upgraded = True  # an engine.io client pauses polling, then sends `5`
            self.run(ConnFrames("w", [b"5"]))

    def pong(self) -> None:
        if self.pongs and self.upgraded:
            self.pongs -= 1
            self.run(ConnFrames("w", [b"3"]))


def run_upgrade(seed: int) -> tuple[list[bytes], list[bytes]]:
    """What a client took, and what there was, with the upgrade at a random place."""
    dice = random.Random(seed)
    client = Client(FabricDownstream(FakeView()))
    head = 0
    while head < 200:
        step = dice.choice(["records", "records", "poll", "poll", "pong", "upgrade"])
        if step == "records":
            low, head = head + 1, head + dice.randint(1, 30)
            client.run(RecordsReady(client.sid, runs_of(records(low, head)), head))
        elif step != "upgrade" or dice.random() < 0.1:
            getattr(client, step)()
    for _ in range(40):
        client.poll()
        client.upgrade()
    return client.took, events(1, head)


def test_r24_no_frame_is_lost_doubled_or_reordered_wherever_the_upgrade_falls() -> None:
    for seed in range(200):
        took, there_was = run_upgrade(seed)
        assert took == there_was, f"seed {seed}"
