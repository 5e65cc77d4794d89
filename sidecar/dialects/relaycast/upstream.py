"""One agent's connection upstream (relaycast R2 to R17): the state machine, all transitions here.

Theory of operation
-------------------
`phase` is the state. A credential and somebody who wants the stream (a session, the linger after it, SIDECAR_UPSTREAM_TOKEN) make
it leave `idle`; a durable `Progress` tells a first connect from a later one.

    idle ──wanted──► birth ──any answer (its Date)──► dialing        first connect only: GET /v1/agent (R4)
         └─wanted, progress known──────────────────► dialing
    dialing ──open, no progress──► baseline ──counter, committed──► resync, to learn what stands before the birth
            └─open───────────────► resync                            (R5) all frames go to the recovery (R6)
    resync ──Ask──► resync        another exchange on the same socket (R7, R8)
           ├─History──► backfill  over REST (R8, R9, R10)
           └─Merge──► live        one commit: events in order, gaps, progress
    backfill ──done──► live (a last resync first if numbers are still missing and the first one was not answered)
    live ──hole, or a number that runs backwards──► resync on the same socket (R13, R7)
    resync, backfill ──30 s or two overflows──► live with the recovery `released` (invariant 9): live events pass, what is missing is
           debt, what the recovery still finds is late
    any with a link ──closed, dead──► waiting ──redial──► birth, dialing      recovery thrown away (R6); backoff (R2)
    any ──401──► refused ──another credential──► dialing;   any ──nobody wants it──► idle;   any ──Draining──► stopped

Every commit carries the progress, so a commit that fails or a crash leads back to `Started` with the state of the last good one,
and the next open asks again for whatever was not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from sidecar.core.actions import (
    Action,
    Admit,
    CancelRequest,
    CancelTimer,
    CloseLink,
    Commit,
    Fatal,
    Log,
    Op,
    OpenLink,
    Request,
    SendFrames,
    StartTimer,
    Status,
    Tell,
)
from sidecar.core.backoff import Backoff
from sidecar.core.events import (
    Attached,
    Binary,
    CredentialSeen,
    Detached,
    Draining,
    FramesReceived,
    Input,
    LinkClosed,
    LinkOpened,
    LinkRefused,
    Moment,
    RequestFailed,
    ResponseReceived,
    Started,
    TimerFired,
)
from sidecar.core.record import BINARY, LATE, REPLAYED
from sidecar.dialects.base import View
from sidecar.dialects.relaycast import frames
from sidecar.dialects.relaycast import progress as durable
from sidecar.dialects.relaycast.frames import Frame
from sidecar.dialects.relaycast.instants import parse_http_date
from sidecar.dialects.relaycast.merge import Merger, note
from sidecar.dialects.relaycast.progress import Progress, ReactionBook
from sidecar.dialects.relaycast.resync import COUNTER, Ask, History, Recovery, Step, ack_of

LINK = "ws"
PING = b'{"type":"ping"}'
HOLD_S = 30.0
MOVED = b"node transport"


class UpstreamHalf:
    """The upstream half of one account. Its one stream has the account's name and is one order domain.

    `settings`: sidecar.config.Settings, of which knobs (RelaycastSettings), upstream_token and linger_s are read."""

    def __init__(self, account: str, settings: Any, view: View) -> None:
        self.account = account
        self.stream = account
        self.knobs = settings.knobs
        self.always = bool(settings.upstream_token)
        self.linger_s: float = settings.linger_s
        self.view = view
        self.phase = "idle"
        self.progress: Progress | None = None
        self.book = ReactionBook()
        self.birth: int | None = None
        self.credential = ""
        self.hints = ""
        self.next: tuple[str, str] | None = None
        self.refused: str | None = None
        self.sessions = 0
        self.lingering = False
        self.link = False
        self.heard = 0.0
        self.proven = False
        self.recovery: Recovery | None = None
        self.backoff = Backoff()
        self.out: list[Action] = []
        self.moment = Moment(0.0, 0.0, 0.0)

    def handle(self, moment: Moment, event: Input) -> Sequence[Action]:
        """Take one input, return what to do about it."""
        self.moment = moment
        self.out = []
        handler = _HANDLERS.get(type(event))
        if handler is not None and (self.phase != "stopped"):
            handler(self, event)
        return self.out

    # --- beginning, end and who wants the stream -----------------------------------------------------------------------------------

    def _started(self, event: Started) -> None:
        self.progress = durable.load(event.state[durable.STATE]) if durable.STATE in event.state else None
        self.book = ReactionBook(event.state.get(durable.REACTIONS))
        self._enter("idle")
        if event.credential:
            self.next = (event.credential, "")
            self._want()

    def _credential_seen(self, event: CredentialSeen) -> None:
        if (event.credential, event.hints) != (self.credential, self.hints) or self.phase == "refused":
            self.next = (event.credential, event.hints)
        if self.phase == "refused":
            self.refused = None
            self._enter("idle")
        if not self.sessions and not self.always:
            self._linger()
        self._want()

    def _attached(self, event: Attached) -> None:
        self.sessions = event.count
        if self.lingering:
            self.lingering = False
            self.out.append(CancelTimer("linger"))
        self._want()

    def _detached(self, event: Detached) -> None:
        self.sessions = event.count
        if not self.sessions and not self.always:
            self._linger()

    def _linger(self) -> None:
        self.lingering = True
        self.out.append(StartTimer("linger", self.linger_s))

    def _linger_over(self) -> None:
        self.lingering = False
        if not self.wanted and self.phase not in ("idle", "refused"):
            self._drop_link(1000)
            self._stop_waiting()
            self._enter("idle")

    @property
    def wanted(self) -> bool:
        """Is there somebody to hold the upstream for (R17)?"""
        return self.always or self.sessions > 0 or self.lingering

    def _draining(self, event: Draining) -> None:
        self._drop_link(None)
        self._stop_waiting()
        self._enter("stopped")

    def _stop_waiting(self) -> None:
        self.out.extend([CancelTimer("redial"), CancelTimer("linger"), CancelRequest("birth")])

    # --- dialling --------------------------------------------------------------------------------------------------------------------

    def _want(self) -> None:
        """Connect if it is wanted and nothing is under way."""
        if self.phase == "idle" and self.wanted and (self.next or self.credential):
            self._connect()

    def _connect(self) -> None:
        if self.next is not None:
            self.credential, self.hints = self.next
            self.next = None
        if self.progress is None and self.birth is None:
            self._enter("birth")
            self.out.append(Request("birth", "GET", "/v1/agent", self._bearer()))
            return
        self._enter("dialing")
        query = f"token={quote(self.credential, safe='')}" + (f"&{self.hints}" if self.hints else "")
        self.out.append(OpenLink(LINK, f"/v1/ws?{query}"))

    def _bearer(self) -> tuple[tuple[str, str], ...]:
        return (("Authorization", f"Bearer {self.credential}"),)

    def _birth_answered(self, event: ResponseReceived) -> None:
        """Whatever the answer, its Date is the server's time (R4); a server without this path has one, too."""
        if event.status == 401:
            self._refuse(event.body)
            return
        date = parse_http_date(event.header("date"))
        if date is None and event.status >= 500:
            self._wait(f"GET /v1/agent was answered with status {event.status}")
            return
        if date is None:
            self._log("warning", "the upstream's answers have no Date header; the local clock stands in for its time of birth")
        self.birth = int(self.moment.wall) * 1000 if date is None else date
        self._connect()

    def _wait(self, why: str) -> None:
        """Dial again after a while (R2)."""
        delay = self.backoff.next(self.moment.random)
        self._enter("waiting", f"{why}; next attempt in {delay:.1f} s")
        self.out.append(StartTimer("redial", delay))

    def _redial(self) -> None:
        if self.phase == "waiting":
            self._enter("idle")
            self._want()

    def _link_refused(self, event: LinkRefused) -> None:
        if event.status == 401:
            self._refuse(event.body)
        else:
            self._wait(f"the agent socket did not open: {event.error or f'status {event.status}'}")

    def _refuse(self, body: bytes) -> None:
        """401 ends a credential (R2); a newer one that was seen meanwhile is tried."""
        self.refused = self.credential
        self.out.append(Tell({"refused": self.credential, "status": 401, "body": body}))
        if self.next is not None and self.next[0] != self.refused:
            self._wait("the credential was refused, a newer one is known")
            return
        self.next = None
        if MOVED in body.lower():
            self._enter("refused", "the server's agent sockets have moved to node transport")
            self.out.append(
                Fatal("node_transport", "use a server up to engine 5.0.0: agent sockets of later ones have moved to node transport")
            )
        else:
            self._enter("refused", "the upstream refuses the credential (401)")
            self.out.append(Fatal("credential_refused", "give the agent a valid token (at_live_...), or set SIDECAR_UPSTREAM_TOKEN"))

    def _link_opened(self, event: LinkOpened) -> None:
        self.link = True
        self.proven = False
        self.heard = self.moment.mono
        self.out.extend([Tell({"link": "up"}), StartTimer("ping", self.knobs.ping_s), StartTimer("dead", self.knobs.dead_s)])
        if self.progress is None:
            # Frames that come before the counter is known are held as if every number were new.
            self.recovery = Recovery(Progress(1, -1, self.birth or 0, []), self.birth or 0)
            self.recovery.hold.begin(self.moment.mono)
            self._ask(Ask(COUNTER, self._since(self.birth or 0)), "baseline")
        else:
            self._recover("open")

    def _since(self, ms: int) -> int:
        return ms - int(self.knobs.since_bias_s * 1000)

    def _link_closed(self, event: LinkClosed) -> None:
        self.link = False
        self._forget_link()
        if event.code == 1000 and not self.sessions and not self.always:
            self._stop_waiting()
            self.lingering = False
            self._enter("idle", "the server closed the socket (1000) and no local client is attached")
            return
        self._wait(f"the agent socket closed ({event.code if event.code is not None else 'cut'})")

    def _drop_link(self, code: int | None) -> None:
        if self.link or self.phase == "dialing":
            self.out.append(CloseLink(LINK, code))
        if self.link:
            self.link = False
            self._forget_link()

    def _forget_link(self) -> None:
        """The socket is gone, and with it whatever was not acknowledged on it (R6)."""
        self.recovery = None
        self.out.extend([Tell({"link": "down"}), *map(CancelTimer, ("ping", "dead", "ack", "hold"))])

    # --- liveness (R3) -----------------------------------------------------------------------------------------------------------------

    def _ping(self) -> None:
        self.out.extend([SendFrames(LINK, [PING]), StartTimer("ping", self.knobs.ping_s)])

    def _maybe_dead(self) -> None:
        left = self.heard + self.knobs.dead_s - self.moment.mono
        if left > 0.001:
            self.out.append(StartTimer("dead", left))
            return
        self._drop_link(None)
        self._wait(f"nothing was heard from the upstream for {self.knobs.dead_s:g} s")

    # --- resync (R5 to R9) ---------------------------------------------------------------------------------------------------------------

    def _recover(self, cause: str, *, learning: bool = False) -> None:
        """Begin a recovery; frames are collected from now on."""
        known = self.progress
        assert known is not None
        since = self._since(known.newest_ms())
        recovery = Recovery(known, since, proven=self.proven, learning=learning, cause=cause)
        recovery.hold.begin(self.moment.mono)
        self.recovery = recovery
        self.out.append(StartTimer("hold", HOLD_S))
        seq = known.cursor if cause == "hole" else max(known.cursor - self.knobs.overlap, -1)
        self._ask(Ask(seq, since))

    def _ask(self, ask: Ask, phase: str = "resync") -> None:
        assert self.recovery is not None
        self._enter(phase)
        self.out.extend([SendFrames(LINK, [self.recovery.ask(ask)]), StartTimer("ack", self.knobs.ack_timeout_s)])

    def _acked(self, frame: Frame) -> None:
        """An acknowledgement. One that nobody waits for any more changes nothing."""
        recovery = self.recovery
        ack = ack_of(frame)
        if ack is None or recovery is None or recovery.exchange is None or ack.asked != recovery.exchange.ask.seq:
            return
        self.out.append(CancelTimer("ack"))
        self.backoff.reset()
        if self.phase == "baseline":
            self._baseline(ack.current)
        else:
            self._step(recovery.acked(ack))

    def _not_acked(self) -> None:
        recovery = self.recovery
        if recovery is None or recovery.exchange is None:
            return
        if self.phase == "baseline":
            if recovery.seqd:
                self._baseline(min(recovery.seqd) - 1)
            else:
                self._ask(recovery.exchange.ask, "baseline")
            return
        self._step(recovery.unanswered())

    def _step(self, step: Step) -> None:
        if isinstance(step, Ask):
            self._ask(step)
        elif isinstance(step, History):
            self._merge()
        else:
            self._merge()

    def _baseline(self, counter: int) -> None:
        """The first counter: commit it with the birth before anything is admitted (R4). What came on this socket before the counter was
        read is part of the stream, if it leads up to it without a hole."""
        held = self.recovery
        assert held is not None
        cursor = counter
        while cursor in held.seqd:
            cursor -= 1
        self.progress = Progress(1, cursor, self.birth or 0, [])
        self.out.append(Commit([self.progress.put()]))
        self._log("info", f"the stream begins after number {cursor} of the upstream")
        self.proven = True
        early = [held.seqd[seq] for seq in sorted(held.seqd) if seq > cursor]
        others = [frame for _, frame in held.others]
        if cursor:
            self._recover("open", learning=True)
        else:
            self._enter("live")
            self.recovery = None
        for frame in others + early:
            self._receive([frame.payload])

    def _merge(self) -> None:
        """Everything that can be had is there: one commit, then live."""
        recovery = self.recovery
        assert recovery is not None and self.progress is not None
        self.out.append(CancelTimer("hold"))
        merger = Merger(self.stream, recovery, self.book, lambda key: self.view.seen(self.stream, "", key), lambda frame: True)
        merged = merger.run()
        self.proven = True
        self._commit(merged.ops)
        self.recovery = None
        if recovery.fresh:
            self._log("warning", f"the upstream counts anew: life {self.progress.life}, number {self.progress.cursor}")
        if merged.lost:
            self._log("warning", f"{merged.lost} events are lost: the upstream has them no more")
        self._enter("live")
        self._receive([frame.payload for frame in merged.rest])

    def _commit(self, ops: list[Op]) -> None:
        assert self.progress is not None
        ops.append(self.progress.put())
        reactions = self.book.put(self._since(self.progress.newest_ms()), self.progress.newest)
        if reactions is not None:
            ops.append(reactions)
        self.out.append(Commit(ops))

    # --- frames ------------------------------------------------------------------------------------------------------------------------

    def _frames_received(self, event: FramesReceived) -> None:
        self.heard = self.moment.mono
        self._receive(event.frames)

    def _receive(self, payloads: Sequence[bytes]) -> None:
        """Take frames in order: while a recovery runs they are collected, else admitted."""
        at, end = 0, len(payloads)
        while at < end:
            if self.recovery is not None:
                self._collect(payloads[at])
                at += 1
            else:
                at = self._live(payloads, at)

    def _collect(self, payload: bytes) -> None:
        """A frame during a recovery (R6)."""
        frame = frames.read(payload)
        recovery = self.recovery
        assert recovery is not None
        if frame.type == "resync_ack" and frame.seq < 0:
            self._acked(frame)
        elif (frame.type != "pong" or frame.seq >= 0) and not recovery.take(frame):
            self._log("warning", "the hold overflowed during a resync; asking again")
            since = recovery.since
            self._ask(Ask(max(recovery.progress.cursor - self.knobs.overlap, -1), since))

    def _live(self, payloads: Sequence[bytes], at: int) -> int:
        """The hot path: admit frames from `at` on in one commit. Returns where it stopped: the end, or after what led to a recovery."""
        known = self.progress
        assert known is not None
        stream, read = self.stream, frames.read
        ops: list[Op] = []
        run: list[Frame] = []
        expected = known.cursor + 1
        end = len(payloads)
        stop = False
        while at < end and not stop:
            payload = payloads[at]
            frame = read(payload)
            at += 1
            if frame.seq == expected:
                expected += 1
                run.append(frame)
                ops.append(Admit(stream, payload, frame.key, "", BINARY if type(payload) is Binary else 0, frame.meta))
                if not frame.key and frame.type in _REACTIONS:
                    self._flush(run)
                    note(known, self.book, frame)
            else:
                self._flush(run)
                stop = not self._odd(frame, ops)
                expected = known.cursor + 1
        self._flush(run)
        if ops:
            self.backoff.reset()
            self._commit(ops)
        return at

    def _flush(self, run: list[Frame]) -> None:
        """Note the frames admitted in a row so far."""
        if not run:
            return
        known = self.progress
        assert known is not None
        last = next((frame for frame in reversed(run) if frame.key), None)
        if last is not None:
            known.saw_message(last.message_id)
            if not known.variant:
                known.variant = frames.variant_of(last) or "array"
        known.extend(run)
        run.clear()

    def _odd(self, frame: Frame, ops: list[Op]) -> bool:
        """A live frame that is not the next number. False: it began a recovery, which has collected it."""
        known = self.progress
        assert known is not None
        if frame.seq < 0:
            if frame.type not in ("pong", "resync_ack"):
                ops.append(Admit(self.stream, frame.payload, frame.key, "", BINARY if type(frame.payload) is Binary else 0, frame.meta))
                note(known, self.book, frame)
            return True
        if frame.seq <= known.cursor:
            if known.owes(frame.seq):
                known.settle(frame.seq)
                ops.append(Admit(self.stream, frame.payload, frame.key, "", LATE | REPLAYED, frame.meta))
                note(known, self.book, frame)
                return True
            if known.mark_at(frame.seq) == frames.mark(frame):
                return True
        self._recover("hole" if frame.seq > known.cursor else "backwards")
        assert self.recovery is not None
        self.recovery.take(frame)
        return False

    # --- telling -------------------------------------------------------------------------------------------------------------------------

    def _enter(self, phase: str, why: str = "") -> None:
        """Change the state; told once each."""
        if phase == self.phase and not why:
            return
        self.phase = phase
        facts: dict[str, Any] = {"upstream": _WORDS[phase]}
        if self.progress is not None:
            facts |= {"seq": self.progress.cursor, "life": self.progress.life}
        self.out.extend([Status(facts), Log("warning" if why else "info", f"upstream {_WORDS[phase]}" + (f": {why}" if why else ""))])

    def _log(self, level: Any, text: str) -> None:
        self.out.append(Log(level, text))

    def _response(self, event: ResponseReceived) -> None:
        if event.request == "birth" and self.phase == "birth":
            self._birth_answered(event)

    def _request_failed(self, event: RequestFailed) -> None:
        if event.request == "birth" and self.phase == "birth":
            self._wait(f"GET /v1/agent failed: {event.error}")

    def _timer(self, event: TimerFired) -> None:
        _TIMERS[event.timer](self)


_REACTIONS = frozenset(("message.reacted", "reaction.added", "reaction.removed"))
_WORDS = {
    "idle": "idle", "birth": "connecting", "dialing": "connecting", "baseline": "resync", "resync": "resync",
    "backfill": "backfill", "live": "live", "waiting": "waiting", "refused": "refused", "stopped": "idle",
}  # fmt: skip
_TIMERS: dict[str, Callable[[UpstreamHalf], None]] = {
    "ping": UpstreamHalf._ping,
    "dead": UpstreamHalf._maybe_dead,
    "ack": UpstreamHalf._not_acked,
    "redial": UpstreamHalf._redial,
    "linger": UpstreamHalf._linger_over,
    "hold": lambda half: None,
}
_HANDLERS: dict[type[Input], Callable[[UpstreamHalf, Any], None]] = {
    Started: UpstreamHalf._started,
    CredentialSeen: UpstreamHalf._credential_seen,
    Attached: UpstreamHalf._attached,
    Detached: UpstreamHalf._detached,
    Draining: UpstreamHalf._draining,
    LinkOpened: UpstreamHalf._link_opened,
    LinkRefused: UpstreamHalf._link_refused,
    LinkClosed: UpstreamHalf._link_closed,
    FramesReceived: UpstreamHalf._frames_received,
    ResponseReceived: UpstreamHalf._response,
    RequestFailed: UpstreamHalf._request_failed,
    TimerFired: UpstreamHalf._timer,
}
