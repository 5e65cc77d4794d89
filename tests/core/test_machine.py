"""Delivery as a state machine: whatever happens in whatever order, nothing is skipped, nothing goes out beyond the window."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.barrier import PingBarrier
from tests.core.fake import Fake

SESSIONS = ("a", "b", "c")


class Peer:
    """A client of one session: what it was handed, from where, and what it answered."""

    def __init__(self, start: int, nonce: str) -> None:
        self.start = start
        self.position = start
        self.barriers: list[tuple[int, bytes]] = []
        self.proven = 0
        self.sought = self.elder = False
        self.ping = PingBarrier(nonce)
        self.marks: dict[str, tuple[int, int]] = {}


class Delivery(RuleBasedStateMachine):
    """Events are admitted, sockets come and go, answer right, late, wrong or not at all, the disk fails, the process dies."""

    @initialize(window=st.sampled_from([1, 2, 5, 300]), quality=st.sampled_from(["handled", "buffered"]))
    def begin(self, window: int, quality: Any) -> None:
        self.window = window
        self.quality = quality
        self.world = Fake(window=window)
        self.world.own()
        self.world.run()
        self.serial = 0
        self.marks = 0
        self.peers: dict[str, Peer] = {}
        self.read_to = 0
        self.highest_cursor = 0
        self.evidence = 0

    # --- what happens --------------------------------------------------------------------------------------------------------------

    @rule(n=st.integers(1, 6))
    def admit(self, n: int) -> None:
        if self.world.engine.accounts.by_name["A"].half is None:
            return
        names = [f"e{i}" for i in range(1, self.serial + n + 1)]
        self.serial += n
        # An upstream half that was dropped offers again what the journal may not have.
        self.world.admit(*names)
        self.look()

    @rule(name=st.sampled_from(SESSIONS))
    def attach(self, name: str) -> None:
        if name in self.peers:
            self.world.do(act.Detach(name))
        self.marks += 1
        known = self.world.engine.courier.consumers.get(("S", "agent"))
        self.peers[name] = Peer(known.cursor if known else 0, f"n{self.marks}")
        self.world.attach(name, quality=self.quality)
        self.look()

    @rule(name=st.sampled_from(SESSIONS))
    def detach(self, name: str) -> None:
        if self.peers.pop(name, None):
            self.world.do(act.Detach(name))
            self.look()

    @rule(name=st.sampled_from(SESSIONS), which=st.integers(0, 20))
    def pong(self, name: str, which: int) -> None:
        peer = self.peers.get(name)
        if peer is None or not peer.barriers:
            return
        offset, payload = peer.barriers[-1 - which % len(peer.barriers)]
        proven = peer.ping.pong(payload)
        assert proven == offset
        peer.proven = max(peer.proven, offset)
        self.evidence = max(self.evidence, offset)
        self.world.receipt(name, offset)
        self.look()

    @rule(name=st.sampled_from(SESSIONS), other=st.sampled_from(SESSIONS), payload=st.binary(max_size=8))
    def wrong_pong(self, name: str, other: str, payload: bytes) -> None:
        peer, from_ = self.peers.get(name), self.peers.get(other)
        if peer is None:
            return
        assert peer.ping.pong(payload) is None
        if from_ is not None and from_ is not peer and from_.barriers:
            assert peer.ping.pong(from_.barriers[-1][1]) is None

    @rule(name=st.sampled_from(SESSIONS))
    def bold_receipt(self, name: str) -> None:
        """Evidence for more than was sent: as much as was sent counts."""
        peer = self.peers.get(name)
        if peer is not None:
            peer.proven = max(peer.proven, peer.position)
            self.evidence = max(self.evidence, peer.position)
            self.world.receipt(name, 10**9)
            self.look()

    @rule(name=st.sampled_from(SESSIONS), ordinal=st.integers(-3, 60), on_wire=st.booleans())
    def seek(self, name: str, ordinal: int, on_wire: bool) -> None:
        peer = self.peers.get(name)
        if peer is None:
            return
        self.marks += 1
        mark = f"m{self.marks}"
        head = self.world.engine.admission.books["S"].committed
        place = max(0, min(ordinal, head))
        peer.marks[mark] = (place, head)
        peer.sought = True
        self.evidence = max(self.evidence, place)
        # It goes on behind the place, but for what is on its way without a receipt, or is asked for already.
        session = self.world.engine.courier.sessions[name]
        on_its_way = on_wire and max(session.received, peer.start) <= place < peer.position
        asked_for = place > peer.position and len(peer.marks) > 1
        if not on_its_way and not asked_for:
            peer.position = peer.start = place
        self.world.do(act.Seek(name, ordinal, mark, on_wire=on_wire))
        self.look()

    @rule()
    def written(self) -> None:
        if self.world.ports.batch is not None:
            self.world.disk()
            self.look()

    @rule()
    def read(self) -> None:
        if self.world.ports.reads:
            self.world.read()
            self.look()

    @rule()
    def fails(self) -> None:
        if self.world.ports.batch is not None:
            self.world.disk(OSError("no"))
            self.look()

    @rule(seconds=st.sampled_from([0.005, 0.02, 1.1, 20.0]))
    def time(self, seconds: float) -> None:
        self.world.wait(seconds)
        self.look()

    @rule(stop=st.booleans())
    def dies(self, stop: bool) -> None:
        if stop:
            self.world.engine.drain()
            self.world.wait(1)
            self.world.engine.close()
            self.world.run()
        self.world.reboot()
        self.world.own()
        self.peers = {}
        self.read_to = 0
        # A cursor may fall back to what is on disk, no further.
        self.highest_cursor = self.durable()

    # --- what is seen ----------------------------------------------------------------------------------------------------------------

    def durable(self) -> int:
        return self.world.durable() or 0

    def look(self) -> None:
        """Everything handed over since the last look."""
        inputs = self.world.down.inputs
        for event in inputs[self.read_to :]:
            if isinstance(event, ev.RecordsReady):
                peer = self.peers.get(event.session)
                if peer is None:
                    continue
                for record in event.records:
                    assert record.offset == peer.position + 1, "out of order, or one skipped"
                    assert record.payload == b"e%d" % record.offset
                    peer.position += 1
                assert event.barrier == peer.position
                peer.barriers.append((event.barrier, peer.ping.payload(event.barrier)))
            elif isinstance(event, ev.SeekDone):
                peer = self.peers.get(event.session)
                if peer is not None:
                    place, head = peer.marks.pop(event.mark)
                    assert (event.head, event.trimmed) == (head, False)
                    assert event.events == max(0, head - place), "replayed counts what stands behind the place"
        self.read_to = len(inputs)

    @invariant()
    @precondition(lambda self: hasattr(self, "world"))
    def holds(self) -> None:
        world = self.world
        on_disk = [r.payload for r in world.journaled()]
        assert on_disk == [b"e%d" % i for i in range(1, len(on_disk) + 1)]
        consumer = world.engine.courier.consumers.get(("S", "agent"))
        if consumer is None:
            return
        assert consumer.cursor >= self.highest_cursor, "a cursor went back"
        self.highest_cursor = consumer.cursor
        assert consumer.durable <= consumer.cursor <= self.evidence, "a cursor without evidence"
        assert consumer.durable <= self.durable(), "called durable, and not on disk"
        for name, peer in self.peers.items():
            assert peer.position <= len(on_disk), "handed over, but not on disk"
            session = world.engine.courier.sessions[name]
            if session.received and consumer.mover() is not session:
                # An older socket goes at its own pace, also if it takes over again.
                peer.elder = True
            if not peer.elder and peer.position > peer.start:
                # Where it stated a place, the bound is counted from there.
                known = max(self.durable(), peer.start) if peer.sought else self.durable()
                assert peer.position - known <= self.window, "beyond the last receipt on disk by more than the window"

    def teardown(self) -> None:
        """In the end everything reaches who is there."""
        if not hasattr(self, "world"):
            return
        self.attach("a")
        for name in ("b", "c"):
            self.detach(name)
        for _ in range(200):
            self.world.wait(1.5)
            self.look()
            if not self.world.engine.paused:
                self.admit(1)
                break
        for _ in range(400):
            self.world.wait(1.5)
            self.look()
            self.bold_receipt("a")
            if self.durable() == self.serial:
                break
        assert self.peers["a"].position == self.durable() == self.serial, "it does not come to its end"


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
