"""What may happen to a dialect's half: past-tense inputs, the first half of the sans-I/O seam.

Theory of operation
-------------------
A dialect is two state machines. The *upstream half* (one instance an account) knows how to connect, resume and read the
server; the *downstream half* (one instance a process) knows how to look like that server to an unmodified client. Neither
does I/O, reads a clock or draws a random number: whatever they need comes in as one of the inputs below together with a
`Moment`, and whatever they want goes out as a list of the actions in `sidecar.core.actions`. `sidecar.core.engine` stands
between the halves and the world: it feeds inputs, carries out actions, owns admission, the journal's batches and delivery.

A failed or paused journal is not an input of its own. The engine drops the upstream half whole and, when the journal takes
writes again, starts a new one from the durable state, as after a crash: one way back in, exercised by every test of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sidecar.core.record import Record, Run


class Binary(bytes):
    """A binary WebSocket frame; text frames are plain `bytes` (UTF-8)."""


class Moment(msgspec.Struct, frozen=True, gc=False):
    """When an input happened. `mono`: monotonic seconds; `wall`: Unix seconds; `random`: one draw from [0, 1)."""

    mono: float
    wall: float
    random: float


class Head(msgspec.Struct, frozen=True):
    """A request's head as it arrived: raw target (path and query, undecoded), header names in their own case."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    host: str = ""

    def header(self, name: str) -> str | None:
        """The first value of a header, by case-insensitive name."""
        low = name.lower()
        return next((v for k, v in self.headers if k.lower() == low), None)


class Input(msgspec.Struct, frozen=True):
    """Base of all inputs."""


# --- either half -------------------------------------------------------------------------------------------------------


class Started(Input, frozen=True):
    """The half begins. `state`: what it put durably before (PutState), by key; `credential`: from the environment."""

    state: Mapping[str, bytes]
    credential: str | None = None


class TimerFired(Input, frozen=True):
    """A timer this half started ran out (it is no longer running)."""

    timer: str


class Committed(Input, frozen=True):
    """The commit with this ticket, and every one before it, is on disk. `offsets`: of its events (Admit, AdmitRun), in order;
    0: dropped as known."""

    ticket: str
    offsets: Sequence[int] = ()


class ResponseReceived(Input, frozen=True):
    """An own request was answered. `headers` keep their case and repetition."""

    request: str
    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header, by case-insensitive name."""
        low = name.lower()
        return next((v for k, v in self.headers if k.lower() == low), None)


class RequestFailed(Input, frozen=True):
    """An own request got no answer: not connected, timed out, cut."""

    request: str
    error: str


class Draining(Input, frozen=True):
    """A planned stop has begun: nothing new is admitted; sessions get until SIDECAR_DRAIN_S for their receipts."""


# --- upstream half -----------------------------------------------------------------------------------------------------


class CredentialSeen(Input, frozen=True):
    """A credential that leads to this account, newest last; `hints`: what came with it (a telemetry query, say)."""

    credential: str
    hints: str = ""


class LinkOpened(Input, frozen=True):
    """The link's WebSocket handshake was accepted."""

    link: str
    subprotocol: str | None = None


class LinkRefused(Input, frozen=True):
    """The link could not be opened. `status` 0: no HTTP answer at all, `error` says why."""

    link: str
    status: int
    body: bytes = b""
    error: str = ""
    headers: Sequence[tuple[str, str]] = ()


class LinkClosed(Input, frozen=True):
    """The link ended. `code` None: without a close frame (cut, reset, aborted by us)."""

    link: str
    code: int | None
    reason: str = ""


class FramesReceived(Input, frozen=True):
    """Frames of one link in order, as many as were at hand (a batch only for speed; its borders mean nothing)."""

    link: str
    frames: Sequence[bytes]


class PongReceived(Input, frozen=True):
    """The upstream answered our WebSocket ping."""

    link: str
    payload: bytes


class Attached(Input, frozen=True):
    """A local session of the dialect joined a stream of this account (native readers do not count); `count`: sessions on it now."""

    stream: str
    count: int


class Detached(Input, frozen=True):
    """A local session left; `count`: sessions that remain on the stream."""

    stream: str
    count: int


class Receipted(Input, frozen=True):
    """A consumer's cursor moved, durably, to `offset`."""

    stream: str
    consumer: str
    offset: int


class MessageFromDownstream(Input, frozen=True):
    """The downstream half told this account something (`Tell`)."""

    message: Any


# --- downstream half ---------------------------------------------------------------------------------------------------


class ConnOpened(Input, frozen=True):
    """A WebSocket upgrade arrived and passed the guard. Answer with Accept, Refuse or Tunnel, now or later. `stopping`: a planned stop
    is under way; what is accepted now gets no records, and the half's Draining follows within seconds."""

    conn: str
    head: Head
    stopping: bool = False


class ConnFrames(Input, frozen=True):
    """Frames from the client, in order."""

    conn: str
    frames: Sequence[bytes]


class ConnPong(Input, frozen=True):
    """The client answered a WebSocket ping of ours (or volunteered a pong)."""

    conn: str
    payload: bytes


class ConnDrained(Input, frozen=True):
    """Everything sent to the conn before AwaitDrain(conn, token) has left the process (for the kernel: no receipt)."""

    conn: str
    token: str


class ConnClosed(Input, frozen=True):
    """The connection is gone. Its sessions are for the half to detach."""

    conn: str
    code: int | None


class HttpRequested(Input, frozen=True):
    """A plain HTTP request arrived and passed the guard; its body is not read yet. Answer with Route or Respond."""

    exchange: str
    head: Head


class ExchangeSeen(Input, frozen=True):
    """An exchange's bodies. With `status` None: the request's body, before it is forwarded (Route with tap, hold; ReadBody). Else the
    upstream's answer as it came, before the client sees its end. `body` None: larger than what is kept."""

    exchange: str
    head: Head
    body: bytes | None
    status: int | None = None


class ExchangeClosed(Input, frozen=True):
    """An exchange is over. `sent`: the client was sent the whole answer; else it went away, or the upstream failed."""

    exchange: str
    sent: bool


class RecordsReady(Input, frozen=True):
    """The next records of a session's stream, in offset order, for the half to encode and send. After the frames it owes a
    barrier naming `barrier`: evidence that the client passed it comes back as Receipt(session, barrier)."""

    session: str
    runs: Sequence[Run]
    barrier: int

    @property
    def records(self) -> list[Record]:
        """The records one by one, for halves that need not be fast."""
        return [record for run in self.runs for record in run.records()]


class SeekDone(Input, frozen=True):
    """All that a Seek asked for has been handed over (RecordsReady came before). `events`: how many events; `head`: ordinal of
    the last event at the time of the Seek; `trimmed`: retention had dropped some of what was asked for."""

    session: str
    mark: str
    events: int
    head: int
    trimmed: bool


class Ousted(Input, frozen=True):
    """The operator set this session's consumer to another place: the session has ended. Close its connection, so that the client
    begins anew."""

    session: str
    reason: str


class MessageFromUpstream(Input, frozen=True):
    """An account's upstream half told the downstream half something (`Tell`)."""

    account: str
    message: Any
