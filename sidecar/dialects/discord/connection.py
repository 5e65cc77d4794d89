"""One shard's socket: from dialling to READY or RESUMED, its heartbeats, its deadlines and its end (discord R25 to R31).

Theory of operation
-------------------
    idle ──no session──► metadata ──answered or not──► (budget) ──► dialing ──open──► hello
      └─session known──────────────────────────────────────────────► dialing
    hello ──HELLO, session──► resuming ──RESUMED──► live          (each dispatch moves the deadline)
        └─HELLO, none──► spacing ──bucket free──► counting ──time on disk──► identifying ──READY──► live
    any with a socket ──closed, op 7, op 9, deadline, no ACK──► waiting ──redial──► idle

Single flight: one phase, one link name, and the driver numbers its generations; a timer that was cancelled does nothing (`_armed`).
We never close with 1000 or 1001. Nothing but READY or RESUMED with one acknowledged beat after it resets the back-off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sidecar.core.actions import CancelTimer, CloseLink, Commit, Count, Log, OpenLink, PutState, SendFrames, StartTimer
from sidecar.core.events import Binary, LinkClosed, LinkRefused
from sidecar.dialects.discord import frames, gateway
from sidecar.dialects.discord.commands import Limiter
from sidecar.dialects.discord.frames import Frame
from sidecar.dialects.discord.inflate import Corrupt, Inflate
from sidecar.dialects.discord.ports import Account, Owner

CONNECT_S, HELLO_S, READY_S, RESUME_S = 10.0, 20.0, 25.0, 20.0
MAX_RESUMES, MAX_PUT_OFF = 3, 10
"""RESUMEs in a row without an answer, and put off by op 9 `true`, after which a session counts as poisoned (R30)."""
MAX_DIALS = 3
"""Dials of the resume URL that fail before the gateway's own is tried for a RESUME, too."""


class Connection:
    """See above. `phase` is the state; `lived`: it was live in this process; `alive`: when it last heard anything while live (Unix
    seconds)."""

    def __init__(self, account: Account, owner: Owner) -> None:
        self._account = account
        self._owner = owner
        self.name = owner.name
        self.phase = "idle"
        self.retry = gateway.Retry()
        self.resumes = 0
        self.put_off = 0
        self.dials = 0
        self.lived = False
        self.alive = 0.0
        self._has_link = False
        self._generation = 0
        self._inflate: Inflate | None = None
        self._interval = 0.0
        self._last_beat = 0.0
        self._awaits_ack = False
        self._beats_live = False
        self._heard = 0.0
        self._answered = False
        self._armed: set[str] = set()

    # --- beginning and end -----------------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect if that is wanted and nothing is under way."""
        if self.phase != "idle" or not self._owner.is_wanted() or not self._account.token:
            return
        if self._owner.session.is_resumable:
            known = self._owner.session.row.resume_url
            self._dial(known if known and self.dials % (2 * MAX_DIALS) < MAX_DIALS else self._account.gateway_url())
        elif not self._must_wait():
            self._enter("metadata")
            if not self._account.ask_metadata():
                self.metadata_known()

    def metadata_known(self) -> None:
        """There is an answer to /gateway/bot, or there will be none."""
        if self.phase == "metadata" and not self._must_wait():
            self._account.budget.reserve(self.name, self._account.moment.mono)
            self._dial(self._account.gateway_url())

    def _must_wait(self) -> bool:
        moment = self._account.moment
        wait = self._account.budget.wait(self.name, moment.mono, moment.wall)
        if wait > 0:
            self._enter("waiting")
            self._start("redial", wait)
            if wait > 60:
                self._log("warning", f"no new session for {wait:.0f} s: the budget of IDENTIFYs is spent")
        return wait > 0

    def _dial(self, url: str) -> None:
        self._generation += 1
        self._enter("dialing")
        target = gateway.connect_url(url, zlib=self._account.zlib)
        self._account.out.append(OpenLink(self.name, target, gateway.headers(), timeout=CONNECT_S))

    def stop(self) -> None:
        """Let go of the socket and of every attempt, in a way that keeps the session (R24)."""
        self._drop()
        self._enter("idle")

    def renew(self) -> None:
        """A new session is wanted in place of the present one (R23)."""
        self._owner.session.dropped = True
        if self.phase in ("dialing", "hello", "resuming", "live"):
            self._again("a new session with more intents is needed", 0.0)

    def _drop(self) -> None:
        if self._has_link or self.phase == "dialing":
            self._account.out.append(CloseLink(self.name, gateway.COME_BACK))
        self._forget()

    def _forget(self) -> None:
        self._has_link = False
        self._inflate = None
        for timer in sorted(self._armed):
            self._account.out.append(CancelTimer(f"{timer}:{self.name}"))
        self._armed.clear()

    def _again(self, why: str, delay: float | None = None) -> None:
        """Leave this socket, if there is one, and connect anew after a while (R28)."""
        self._drop()
        pause = self.retry.next(self._account.moment.random) if delay is None else delay
        self._enter("waiting")
        self._log("warning", f"{why}; next attempt in {pause:.1f} s")
        self._start("redial", pause)

    def _redial(self) -> None:
        if self.phase == "waiting":
            self._enter("idle")
            self.connect()

    # --- what the driver says ----------------------------------------------------------------------------------------------------------

    def opened(self) -> None:
        """The handshake is through; that alone proves nothing."""
        if self.phase != "dialing":
            return
        self._has_link = True
        self.dials = 0
        self._inflate = Inflate() if self._account.zlib else None
        self._owner.commands.limiter = Limiter()
        self._awaits_ack = self._beats_live = self._answered = False
        self._enter("hello")
        self._start("wait", HELLO_S)

    def refused(self, event: LinkRefused) -> None:
        """No socket."""
        if self.phase != "dialing":
            return
        self.dials += 1
        self._again(f"the gateway did not open: {event.error or f'status {event.status}'}", gateway.retry_after(event))

    def closed(self, event: LinkClosed) -> None:
        """The socket is gone (section 1.3)."""
        if not self._has_link:
            return
        self._has_link = False
        code, session = event.code, self._owner.session
        verdict = gateway.verdict(code)
        if self.phase == "identifying" and code == gateway.BAD_FRAME and self._owner.commands.presence is not None:
            # All that is not ours in an IDENTIFY is an agent's presence.
            self._owner.commands.identified(refused=True)
            self._account.out.append(Commit([PutState(f"presence:{self.name}", None)]))
        if verdict == "fatal":
            self._account.fatal(code or 0)
            return
        if verdict == "identify":
            session.dropped = True
        elif self.phase == "resuming":
            self._resume_failed()
        text = f"the gateway closed ({code if code is not None else 'cut'}{f', {event.reason}' if event.reason else ''})"
        slowly = self.retry.next(self._account.moment.random) + 5.0 if verdict == "slowly" else None
        self._again(text, slowly)

    def received(self, batch: list[bytes]) -> None:
        """Frames of the socket, in order."""
        events: list[Frame] = []
        mono = self._account.moment.mono
        if self.phase == "live":
            self.alive = self._account.moment.wall
        for data in batch:
            payload = self._inflated(data) if type(data) is Binary else data
            if not self._has_link:
                break
            if payload is None:
                continue
            frame = frames.read(frames.utf8(payload))
            if frame.op == frames.DISPATCH:
                self._heard, self._answered = mono, True
                events.append(frame)
                continue
            if events:
                self._owner.dispatched(events)
                events = []
            self._control(frame)
            if not self._has_link:
                return
        if events:
            self._owner.dispatched(events)

    def _inflated(self, data: bytes) -> bytes | None:
        try:
            return self._inflate.feed(data) if self._inflate is not None else None
        except Corrupt as error:
            if self.phase == "resuming":
                self._resume_failed()
            self._again(f"the gateway's compressed stream is broken: {error}")
            return None

    def _control(self, frame: Frame) -> None:
        match frame.op:
            case frames.HELLO:
                self._hello(frame)
            case frames.ACK:
                self._acked()
            case frames.BEAT:
                self._beat()
            case frames.RECONNECT:  # before HELLO, or instead of it, too (U3)
                self._again("the gateway asks to reconnect")
            case frames.INVALID:
                self._invalid(frames.body(frame.payload) == b"true")
            case -1 if self.phase in ("resuming", "live"):
                self._account.out.append(gateway.unreadable(self._owner.stream, frame.payload, self._account.moment.wall))

    # --- opening a session -------------------------------------------------------------------------------------------------------------

    def _hello(self, frame: Frame) -> None:
        if self.phase != "hello":
            return
        moment = self._account.moment
        self._interval = gateway.interval(frame.payload)
        self._last_beat = moment.mono
        self._start("beat", self._interval * moment.random)
        session = self._owner.session
        if session.is_resumable:
            self._enter("resuming")
            self._heard = moment.mono
            self._start("wait", RESUME_S)
            self._account.out.append(Count("resumes_upstream"))
            self._send(gateway.resume(self._account.token, session.row.session_id, session.seq))
        else:
            self._cancel("wait")
            self._enter("spacing")
            self._identify()

    def _identify(self) -> None:
        """Once the bucket is free, and the attempt is on disk (R29)."""
        moment, budget = self._account.moment, self._account.budget
        if self.phase != "spacing":
            return
        if (pause := budget.spacing(self.name, moment.mono)) > 0:
            self._start("spacing", pause)
            return
        budget.spend(self.name, moment.mono, moment.wall)
        self._enter("counting")
        self._account.out.append(Commit([PutState("budget", budget.dump())], f"identify:{self.name}:{self._generation}"))

    def counted(self, generation: str) -> None:
        """The attempt is on disk: IDENTIFY."""
        if self.phase != "counting" or generation != str(self._generation):
            return
        owner = self._owner
        self._enter("identifying")
        self._start("wait", READY_S)
        self._account.out.append(Count("identifies_upstream"))
        self._send(gateway.identify(self._account.token, self.name, owner.intents(), owner.commands.presence))
        owner.commands.identified()

    def ready(self) -> None:
        """READY or RESUMED came."""
        self.resumes = self.put_off = 0
        self.lived = True
        self._cancel("wait")
        self._enter("live")
        self.send_commands()

    def _invalid(self, resumable: bool) -> None:
        """op 9: both kinds wait 1 to 5 s; a new session begins at the gateway's own URL (U7)."""
        if not resumable:
            self._owner.session.dropped = True
        elif self.phase == "resuming":
            self.put_off += 1
            if self.put_off >= MAX_PUT_OFF:
                self._give_up(f"RESUME was put off {MAX_PUT_OFF} times")
        random = self._account.moment.random
        pause = max(1.0 + 4.0 * random, self.retry.next(random))
        self._again(f"the gateway says the session is invalid{' for now' if resumable else ''}", pause)

    def _resume_failed(self) -> None:
        if self._answered:
            self.resumes = 0
            return
        self.resumes += 1
        if self.resumes >= MAX_RESUMES:
            self._give_up(f"{MAX_RESUMES} RESUMEs had no answer")

    def _give_up(self, why: str) -> None:
        self.resumes = self.put_off = 0
        self._owner.session.dropped = True
        self._log("warning", f"{why}: the session is given up")

    def _deadline(self) -> None:
        """HELLO, READY, or an answer to RESUME did not come in time (R27)."""
        if self.phase == "resuming":
            left = self._heard + RESUME_S - self._account.moment.mono
            if left > 0.001:
                self._start("wait", left)
                return
            # A replay that stops half way is no answer either.
            self._answered = False
            self._resume_failed()
        what = {"hello": "HELLO", "identifying": "READY", "resuming": "an answer to RESUME"}.get(self.phase, "a sign of life")
        self._again(f"the gateway did not send {what} in time")

    # --- heartbeats (R27, U12, U13) ------------------------------------------------------------------------------------------------------

    def _beat_due(self) -> None:
        if self._account.moment.mono - self._last_beat > 2 * self._interval:
            self._zombie("no beat went out for more than two intervals (a clock jump, or the machine slept)")
            return
        self._start("beat", self._interval)
        self._owner.resting()
        self._beat()

    def _beat(self) -> None:
        self._last_beat = self._account.moment.mono
        session = self._owner.session
        self._send(gateway.beat(session.committed if session.is_resumable else 0))
        if not self._awaits_ack:
            self._awaits_ack = True
            self._beats_live = self.phase == "live"
            self._start("ack", self._interval / 2)

    def _acked(self) -> None:
        self._awaits_ack = False
        self._cancel("ack")
        if self._beats_live:
            self.retry.reset()

    def _not_acked(self) -> None:
        self._zombie("a heartbeat was not acknowledged")

    def _zombie(self, why: str) -> None:
        self._account.out.append(Count("zombies"))
        if self.phase == "resuming":
            self._resume_failed()
        self._again(why)

    # --- sending -----------------------------------------------------------------------------------------------------------------------

    def send_commands(self) -> None:
        """What agents want sent, as far as the limits allow (R21)."""
        if self.phase != "live":
            return
        out, pause = self._owner.commands.next(self._account.moment.mono)
        if out:
            self._account.out.append(SendFrames(self.name, out))
        if pause > 0:
            self._start("commands", pause)

    def _send(self, frame: bytes) -> None:
        self._owner.commands.limiter.note(self._account.moment.mono)
        self._account.out.append(SendFrames(self.name, [frame]))

    # --- time --------------------------------------------------------------------------------------------------------------------------

    def fired(self, kind: str) -> None:
        """A timer ran out. One that was cancelled meanwhile does nothing."""
        if kind in self._armed:
            self._armed.discard(kind)
            _TIMERS[kind](self)

    def _start(self, kind: str, seconds: float) -> None:
        self._armed.add(kind)
        self._account.out.append(StartTimer(f"{kind}:{self.name}", seconds))

    def _cancel(self, kind: str) -> None:
        if kind in self._armed:
            self._armed.discard(kind)
            self._account.out.append(CancelTimer(f"{kind}:{self.name}"))

    def _enter(self, phase: str) -> None:
        if phase != self.phase:
            self.phase = phase
            self._owner.changed()

    def _log(self, level: Any, text: str) -> None:
        self._account.out.append(Log(level, f"shard {self.name}: {text}"))


_TIMERS: dict[str, Callable[[Connection], None]] = {
    "redial": Connection._redial,
    "wait": Connection._deadline,
    "spacing": Connection._identify,
    "beat": Connection._beat_due,
    "ack": Connection._not_acked,
    "commands": Connection.send_commands,
}
TIMERS = frozenset(_TIMERS)
