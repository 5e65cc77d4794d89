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
    AdmitRun,
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
from sidecar.core.hold import MAX_OVERFLOWS, MAX_SECONDS
from sidecar.core.record import BINARY, LATE, REPLAYED
from sidecar.dialects.base import View
from sidecar.dialects.relaycast import frames
from sidecar.dialects.relaycast import progress as durable
from sidecar.dialects.relaycast.backfill import Backfill, Plan
from sidecar.dialects.relaycast.frames import Frame
from sidecar.dialects.relaycast.instants import parse_http_date
from sidecar.dialects.relaycast.merge import Merger
from sidecar.dialects.relaycast.progress import CHANNEL, Memory, Progress, ReactionBook, ThreadBook
from sidecar.dialects.relaycast.resync import COUNTER, Ask, History, Recovery, Step, ack_of, is_row

LINK = "ws"
PING = b'{"type":"ping"}'
HOLD_S = MAX_SECONDS
DEEP_EVERY_S = 30.0
"""How often a hole that the ring does not fill is asked of the database, at most: a server that burns numbers must not be made to
replay everything for each."""
MAX_CHANNELS = 1000
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
        self.memory: Memory | None = None
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
        self.probed = -DEEP_EVERY_S
        self.channels: set[str] = set()
        self.recovery: Recovery | None = None
        self.fill: Backfill | None = None
        self.overflows = 0
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

    # --- beginning, end and who wants the stream ---------------------------------------------------------------------

    def _started(self, event: Started) -> None:
        state = event.state
        if durable.STATE in state:
            reactions, threads = ReactionBook(state.get(durable.REACTIONS)), ThreadBook(state.get(durable.THREADS))
            self.memory = Memory(durable.load(state[durable.STATE]), reactions, threads)
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
    def progress(self) -> Progress | None:
        """How far the stream is journaled, None before the first connect."""
        return None if self.memory is None else self.memory.progress

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

    # --- dialling ----------------------------------------------------------------------------------------------------

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
            self.recovery = Recovery(Progress(1, -1, self.birth or 0, []), self.birth or 0, "baseline")
            self.recovery.hold.begin(self.moment.mono)
            self._ask(Ask(COUNTER, self._since(self.birth or 0)), "baseline")
        else:
            self._recover("open")

    def _since(self, ms: int) -> int:
        return ms - int(self.knobs.since_bias_s * 1000)

    def _asked_since(self, known: Progress) -> int:
        """From when the next recovery wants the database's rows: the newest message, or an older time that is still in question."""
        since = self._since(known.newest_ms())
        return min(known.debt.since if known.debt else since, known.doubt or since, since)

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
        """The socket is gone, and with it whatever was not acknowledged on it (R6). Late events that were found are kept."""
        if self.recovery is not None and self.recovery.released:
            self._pay(final=False)
        self.recovery = None
        self.fill = None
        self.out.extend([Tell({"link": "down"}), CancelRequest("fill"), *map(CancelTimer, ("ping", "dead", "ack", "hold", "rest"))])

    # --- liveness (R3) -----------------------------------------------------------------------------------------------

    def _ping(self) -> None:
        self.out.extend([SendFrames(LINK, [PING]), StartTimer("ping", self.knobs.ping_s)])

    def _maybe_dead(self) -> None:
        left = self.heard + self.knobs.dead_s - self.moment.mono
        if left > 0.001:
            self.out.append(StartTimer("dead", left))
            return
        self._drop_link(None)
        self._wait(f"nothing was heard from the upstream for {self.knobs.dead_s:g} s")

    # --- resync (R5 to R9) -------------------------------------------------------------------------------------------

    def _recover(self, cause: str) -> None:
        """Begin a recovery; frames are collected from now on. `cause`: open, birth (the first open), hole or backwards."""
        known = self.progress
        assert known is not None
        since = self._asked_since(known)
        seq = known.cursor if cause == "hole" else max(known.cursor - self.knobs.overlap, -1)
        for first, _ in known.doubtful + (known.debt.ranges if known.debt else []):
            seq = min(seq, first - 1)
        deep = cause != "hole" or self.moment.mono - self.probed >= DEEP_EVERY_S
        self.recovery = Recovery(known, since, cause, proven=self.proven, deep=deep)
        self.recovery.hold.begin(self.moment.mono)
        if self.overflows >= MAX_OVERFLOWS:
            self._log("warning", "twice more came than can be held: live events are let through, what is found between them is late")
            self.recovery.release()
            self._enter("live")
        else:
            self.out.append(StartTimer("hold", HOLD_S))
        self._ask(Ask(seq, since))

    def _ask(self, ask: Ask, phase: str = "resync") -> None:
        recovery = self.recovery
        assert recovery is not None
        if not recovery.released:
            self._enter(phase)
        if recovery.cause == "hole" and ask.seq < 0:
            self.probed = self.moment.mono
        self.out.extend([SendFrames(LINK, [recovery.ask(ask)]), StartTimer("ack", self.knobs.ack_timeout_s)])

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
            return
        if recovery.released:
            if self.progress is not None and ack.current < self.progress.cursor:
                self._live_in_new_life()
            self._owe_up_to(ack.current + 1)
        self._step(recovery.acked(ack))

    def _not_acked(self) -> None:
        recovery = self.recovery
        if recovery is None or recovery.exchange is None:
            return
        if self.phase != "baseline":
            self._step(recovery.unanswered())
        elif recovery.seqd:
            self._baseline(min(recovery.seqd) - 1)
        else:
            self._ask(recovery.exchange.ask, "baseline")

    def _step(self, step: Step) -> None:
        """Carry out what a recovery wants next."""
        recovery = self.recovery
        assert recovery is not None
        if isinstance(step, Ask):
            self._ask(step)
        elif isinstance(step, History):
            self._log("info", f"reading history over REST: {step.why}")
            self._read_history(True, frozenset())
        elif check := self._unchecked():
            self._read_history(False, check)
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
        known = Progress(1, cursor, self.birth or 0, [])
        self.memory = Memory(known, ReactionBook(), ThreadBook())
        self._commit([])
        self._log("info", f"the stream begins after number {cursor} of the upstream")
        self.proven = True
        early = [frame for _, frame in held.others] + [held.seqd[seq] for seq in sorted(held.seqd) if seq > cursor]
        self.recovery = None
        if cursor > 0:
            # Learn the numbers before the birth: by them a later new life is known, and by their ids what is older than it.
            self._recover("birth")
        else:
            self._enter("live")
        self._receive([frame.payload for frame in early])

    # --- the end of a recovery ---------------------------------------------------------------------------------------

    def _merger(self) -> Merger:
        assert self.recovery is not None and self.memory is not None
        allowed = self.fill.allows if self.fill is not None else lambda frame: True
        return Merger(self.stream, self.recovery, self.memory, self._seen, allowed)

    def _seen(self, key: int | bytes) -> bool:
        return self.view.seen(self.stream, "", key)

    def _merge(self) -> None:
        """Everything that can be had is there: one commit, then live."""
        recovery = self.recovery
        assert recovery is not None and self.memory is not None
        known = self.memory.progress
        if recovery.released:
            self._pay(final=True)
        else:
            merger = self._merger()
            merger.run()
            known.dated = recovery.dated or known.dated
            self._finish(merger)
        if self.fill is not None:
            for root, count in self.fill.replies.items():
                self.memory.threads.counted(root, count)
        rest = [frame.payload for frame in (() if recovery.released else merger.rest)]
        self.recovery = self.fill = None
        self.overflows = 0
        self.out.append(CancelTimer("hold"))
        if recovery.fresh:
            self._log("warning", f"the upstream counts anew: life {known.life}, number {known.cursor}")
        self._enter("live")
        self._receive(rest)

    def _finish(self, merger: Merger) -> None:
        """Commit what a merger came to."""
        self.proven = merger.recovery.proven or merger.recovery.fresh
        self._commit(merger.ops)
        if merger.lost:
            self._log("warning", f"gap: {merger.lost} events are missing, and the upstream does not give them")

    def _release(self) -> None:
        """The hold has reached its bound (invariant 9): let live events through, the fill goes on behind them."""
        recovery = self.recovery
        if recovery is None or recovery.released or self.phase == "baseline":
            return
        merger = self._merger()
        merger.release()
        recovery.release()
        self._finish(merger)
        self._log("warning", "live events are let through while history is still being read; what it finds is marked late")
        self._enter("live")
        self._receive([frame.payload for frame in merger.rest])

    def _pay(self, final: bool) -> None:
        """Admit what a released recovery has found so far."""
        merger = self._merger()
        merger.late(final)
        recovery = self.recovery
        assert recovery is not None
        recovery.rows, recovery.reactions, recovery.strange = {}, {}, {}
        recovery.hold.clear()
        self._finish(merger)

    def _live_in_new_life(self) -> None:
        """A new life shows while a released recovery runs (R7): everything below its counter is owed."""
        known, recovery = self.progress, self.recovery
        assert known is not None and recovery is not None
        if known.debt is not None:
            known.debt = durable.Debt(known.debt.since, [], durable.size(known.debt.ranges) + known.debt.older, known.debt.rows)
        known.start_life()
        recovery.fresh = True
        recovery.base = 0

    def _owe_up_to(self, seq: int) -> None:
        """While a released recovery runs, a hole is added to what it owes."""
        known = self.progress
        assert known is not None and self.recovery is not None
        if seq > known.cursor + 1:
            if known.debt is None:
                known.debt = durable.Debt(self.recovery.since, [])
            known.debt.ranges = [*known.debt.ranges, (known.cursor + 1, seq - 1)]
            known.advance(seq - 1, 0)

    def _commit(self, ops: list[Op]) -> None:
        assert self.memory is not None
        ops.extend(self.memory.puts(self._asked_since(self.memory.progress)))
        self.out.append(Commit(ops))

    # --- history over REST (R8 to R10, R16) --------------------------------------------------------------------------

    def _unchecked(self) -> frozenset[str]:
        """Channels of rows that would be admitted and whose membership nobody vouched for (R10); empty if there are none."""
        recovery = self.recovery
        assert recovery is not None
        if self.fill is not None:
            return frozenset()
        rows = self._merger().rows()
        return frozenset(name for frame in rows if frame.in_channel and (name := channel_of(frame.payload)))

    def _read_history(self, history: bool, check: frozenset[str]) -> None:
        """Begin a fill; without `history` only to ask about channels. A channel with a numbered event in this recovery is not muted."""
        recovery, memory = self.recovery, self.memory
        assert recovery is not None and memory is not None
        known = memory.progress
        if not recovery.released:
            self._enter("backfill" if history else "resync")
        numbered = {frame.key for frame in recovery.seqd.values()}
        heard = {name for frame in recovery.seqd.values() if frame.in_channel and (name := channel_of(frame.payload))}
        replayed = {name for frame in recovery.rows.values() if frame.in_channel and (name := channel_of(frame.payload))}
        self.fill = Backfill(
            Plan(
                low=max(frames.first_id(recovery.since // 1000 * 1000), frames.first_id(known.birth), known.floor + 1) - 1,
                high=self._history_end(),
                limit=self.knobs.max_backfill,
                history=history,
                check=check - heard,
                roots=memory.threads.roots,
                counted_from=(1 << 63) if memory.threads.dropped else max(frames.first_id(known.birth), known.floor + 1),
                member_of=frozenset(self.channels | heard | replayed),
                known=lambda key: key in numbered or self._seen(key),
                variant=durable.known_variant(known),
            )
        )
        self._next_request()

    def _history_end(self) -> int | None:
        """History is not needed from where numbered events reach up to the present without a hole, with a margin for ids out of order."""
        recovery = self.recovery
        assert recovery is not None
        missing = recovery.missing()
        after = missing[-1][1] if missing else recovery.base
        ids = [frame.message_id for seq, frame in recovery.seqd.items() if seq > after and frame.key]
        if not ids or recovery.top is None:
            return None
        return frames.first_id(frames.server_ms(min(ids)) + int(self.knobs.since_bias_s * 1000))

    def _next_request(self) -> None:
        fill, recovery = self.fill, self.recovery
        if fill is None or recovery is None:
            return
        if fill.target is not None:
            self.out.append(Request("fill", "GET", fill.target, self._bearer()))
            return
        recovery.add_history(fill.rows, fill.date)
        fill.rows = []
        recovery.limited = fill.limited
        recovery.denied = bool(fill.denied or fill.failed)
        self._step(recovery.searched_all())

    def _after(self, delay: float) -> None:
        if delay > 0:
            self.out.append(StartTimer("rest", delay))
        else:
            self._next_request()

    # --- frames ------------------------------------------------------------------------------------------------------

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
        if frame.seq < 0 and frame.type == "resync_ack":
            self._acked(frame)
        elif (frame.seq >= 0 or frame.type != "pong") and not recovery.take(frame):
            # What was thrown away may be followed by its acknowledgement: only a new socket tells the two replays apart.
            self.overflows += 1
            self._drop_link(None)
            self._wait("more came during a resync than can be held (R6)")

    def _live(self, payloads: Sequence[bytes], at: int) -> int:
        """The hot path: admit frames from `at` on in one commit. Returns where it stopped: the end, or behind a frame that is no event."""
        memory = self.memory
        assert memory is not None
        known = memory.progress
        ops: list[Op] = []
        end = len(payloads)
        turn: Frame | None = None
        while at < end and turn is None:
            keys, replies = frames.message_keys(payloads, at, known.cursor + 1)
            if keys:
                run = payloads[at : at + len(keys)]
                at += len(keys)
                ops.append(AdmitRun(self.stream, run, keys))
                self._went_by(run, keys, replies)
                continue
            frame = frames.read(payloads[at])
            at += 1
            if not self._other(frame, ops):
                turn = frame
        if ops:
            self.backoff.reset()
            self._commit(ops)
        if turn is not None:
            self._turn(turn)
        return at

    def _went_by(self, run: Sequence[bytes], keys: list[int], replies: list[bytes]) -> None:
        """Note message events that were admitted in a row."""
        memory = self.memory
        assert memory is not None
        memory.progress.extend(keys)
        for payload in replies:
            memory.threads.replied(payload)
        if not memory.progress.variant:
            memory.progress.variant = frames.variant_of(frames.read(run[-1])) or "array"
        if (name := channel_of(run[-1])) and len(self.channels) < MAX_CHANNELS:
            self.channels.add(name)

    def _other(self, frame: Frame, ops: list[Op]) -> bool:
        """A live frame that is not simply the next message: admit or drop it. False: it changes the state, once what came before it is
        committed."""
        memory = self.memory
        assert memory is not None
        known = memory.progress
        released = self.recovery is not None
        flags = BINARY if type(frame.payload) is Binary else 0
        if frame.seq == known.cursor + 1:
            known.advance(frame.seq, frames.mark(frame))
        elif frame.seq < 0:
            if frame.type == "pong":
                return True
            if frame.type == "resync_ack" or (released and is_row(frame)):
                return False
            if is_row(frame):
                # The rest of a replay that nobody waits for any more: of use only if something is known to be missing.
                if not frame.key or not known.gaps or known.is_older_than_birth(frame.message_id) or self._seen(frame.key):
                    return True
                flags |= LATE | REPLAYED
        elif frame.seq <= known.cursor:
            if self.recovery is not None:
                self.recovery.passed(frame)
            mark = known.mark_at(frame.seq)
            if released and mark not in (0, frames.mark(frame)) and (frame.key or mark & 1):
                self._live_in_new_life()
                self._owe_up_to(frame.seq)
                known.advance(frame.seq, frames.mark(frame))
            elif self.proven and known.owes(frame.seq):
                known.settle(frame.seq)
                flags |= LATE | REPLAYED
            else:
                # The same event again; or, while a replay passes by, one that is too old to be remembered.
                return released or mark == frames.mark(frame)
        elif released:
            self._owe_up_to(frame.seq)
            known.advance(frame.seq, frames.mark(frame))
        else:
            return False
        if not memory.is_copy(frame):
            ops.append(Admit(self.stream, frame.payload, frame.key or b"", "", flags))
            memory.note(frame)
        return True

    def _turn(self, frame: Frame) -> None:
        """A live frame that changes the state: an acknowledgement, a row of a released recovery, a hole (R13), a number that runs
        backwards (R7)."""
        recovery = self.recovery
        if frame.seq < 0 and frame.type == "resync_ack":
            self._acked(frame)
        elif recovery is not None:
            if not recovery.take(frame):
                self._pay(final=False)
                recovery.take(frame)
        else:
            known = self.progress
            assert known is not None
            self._recover("hole" if frame.seq > known.cursor else "backwards")
            self._collect(frame.payload)

    # --- telling -----------------------------------------------------------------------------------------------------

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
        elif event.request == "fill" and self.fill is not None:
            self._after(self.fill.answer(event.status, event.header, event.body, self.moment.random))

    def _request_failed(self, event: RequestFailed) -> None:
        if event.request == "birth" and self.phase == "birth":
            self._wait(f"GET /v1/agent failed: {event.error}")
        elif event.request == "fill" and self.fill is not None:
            self._after(self.fill.fail(self.moment.random))

    def _timer(self, event: TimerFired) -> None:
        _TIMERS[event.timer](self)


def channel_of(payload: bytes) -> str:
    """The channel of a message event, empty for direct messages."""
    found = CHANNEL(payload)
    return found[1].decode(errors="replace") if found else ""


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
    "hold": UpstreamHalf._release,
    "rest": UpstreamHalf._next_request,
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
