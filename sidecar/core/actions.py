"""What a dialect's half may ask for: imperative actions, the second half of the sans-I/O seam (see events.py).

Names of links, timers, tickets and requests are chosen by the half and unique within it; conns and exchanges are named by the
driver; sessions by the downstream half; accounts and streams by the dialect. An action on something that is gone is a no-op.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from sidecar.core.record import Gap

Quality = Literal["handled", "buffered", "written", "none"]


class Action(msgspec.Struct, frozen=True):
    """Base of all actions."""


# --- operations of one commit --------------------------------------------------------------------------------------------


class Op(msgspec.Struct, frozen=True, gc=False):
    """Base of what a Commit may hold."""


class Admit(Op, frozen=True):
    """Put an event into the journal unless its key is known.

    `key`: the event's identity in (stream, domain): bytes, or a number below 2**64 (cheaper, and best where keys mostly rise); empty:
    none, always admitted. `flags`: REPLAYED, LATE, BINARY. An event whose key is known is dropped and not counted."""

    stream: str
    payload: bytes
    key: bytes | int = b""
    domain: str = ""
    flags: int = 0


class AdmitRun(Op, frozen=True):
    """Many Admits of one stream at once, in order: the hot path. `keys` is as long as `payloads`, and so is `domains` if they are not
    all of `domain`: the records then name none, and lie on disk as one run."""

    stream: str
    payloads: Sequence[bytes]
    keys: Sequence[bytes | int]
    domain: str = ""
    flags: int = 0
    domains: Sequence[str] = ()


class RecordGap(Op, frozen=True):
    """Put a gap into the journal at this place in the order; it is counted, logged and shown."""

    stream: str
    gap: Gap
    domain: str = ""


class PutState(Op, frozen=True):
    """Keep bytes under a key of this half's own durable state; None deletes."""

    key: str
    value: bytes | None


class Commit(Action, frozen=True):
    """Carry out all operations in one transaction, or none. Committed(ticket) follows if a ticket is given; without operations that
    is a barrier: everything before it, receipts too, is on disk then."""

    ops: Sequence[Op]
    ticket: str = ""


# --- upstream links and own requests ---------------------------------------------------------------------------------------


class OpenLink(Action, frozen=True):
    """Dial a WebSocket. `target`: absolute http(s)/ws(s) URL, or a raw target below SIDECAR_UPSTREAM. A link of that name that is
    still open is aborted first, silently."""

    link: str
    target: str
    headers: Sequence[tuple[str, str]] = ()
    subprotocols: Sequence[str] = ()
    timeout: float = 10.0


class SendFrames(Action, frozen=True):
    """Send frames on a link, in order (`Binary` ones as binary)."""

    link: str
    frames: Sequence[bytes]


class PingLink(Action, frozen=True):
    """Send a WebSocket ping on a link."""

    link: str
    payload: bytes = b""


class CloseLink(Action, frozen=True):
    """Close a link with a code, or abort it at once (`code` None). No input follows: the half is done with it."""

    link: str
    code: int | None = 1000


class Request(Action, frozen=True):
    """An own HTTP request below SIDECAR_UPSTREAM (or an absolute URL). Requests of one `lane` go one at a time, after the agents' own
    (relaycast R16); `urgent` ones at once. Answered by ResponseReceived or RequestFailed."""

    request: str
    method: str
    target: str
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    timeout: float = 10.0
    lane: str = ""
    urgent: bool = False


class CancelRequest(Action, frozen=True):
    """Forget a request; no input follows."""

    request: str


class StartTimer(Action, frozen=True):
    """(Re)start a timer: TimerFired after `seconds`."""

    timer: str
    seconds: float


class CancelTimer(Action, frozen=True):
    """Stop a timer if it runs."""

    timer: str


# --- accounts ----------------------------------------------------------------------------------------------------------------


class Own(Action, frozen=True):
    """Downstream half: this credential leads to this account. The account's upstream half is started if there is none, then
    gets CredentialSeen. `streams`: streams of the account that must exist from now on."""

    account: str
    credential: str
    hints: str = ""
    streams: Sequence[str] = ()


class Disown(Action, frozen=True):
    """Stop an account's upstream half and its links; its streams and consumers stay in the journal."""

    account: str


class Tell(Action, frozen=True):
    """Say something to the other half. From an upstream half `account` is ignored (its own is filled in)."""

    message: Any
    account: str = ""


class Status(Action, frozen=True):
    """Facts for the status page, merged into what the half said before. For an upstream half: key `upstream` is the short state
    word of its streams."""

    facts: Mapping[str, Any]


class Log(Action, frozen=True):
    """One log line about a state change (never one an event)."""

    level: Literal["debug", "info", "warning", "error"]
    text: str


class Count(Action, frozen=True):
    """Add to a counter `sidecar_<name>_total` that the dialect registered."""

    name: str
    by: int = 1


class Fatal(Action, frozen=True):
    """The account cannot go on until something outside changes: shown in status, metrics and log with its mend."""

    code: str
    mend: str


# --- local connections -------------------------------------------------------------------------------------------------------


class Accept(Action, frozen=True):
    """Complete a conn's WebSocket handshake."""

    conn: str
    subprotocol: str | None = None


class Refuse(Action, frozen=True):
    """Answer a conn's upgrade with a plain HTTP status."""

    conn: str
    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""


class Tunnel(Action, frozen=True):
    """Splice a conn to the same target upstream (or to another `base` and `target`), frames untouched; shown as unprotected."""

    conn: str
    base: str | None = None
    target: str | None = None


class SendConn(Action, frozen=True):
    """Send frames to a client, in order. `droppable`: live only, left out if the client reads too slowly."""

    conn: str
    frames: Sequence[bytes]
    droppable: bool = False


class PingConn(Action, frozen=True):
    """Send a WebSocket ping to a client, behind everything sent before."""

    conn: str
    payload: bytes


class CloseConn(Action, frozen=True):
    """Close a conn with a code, or abort it (`code` None)."""

    conn: str
    code: int | None = 1000
    reason: str = ""


class Respond(Action, frozen=True):
    """Answer an HTTP exchange here."""

    exchange: str
    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""


class ReadBody(Action, frozen=True):
    """Read an exchange's request body, at most `limit` bytes (else the client gets 413): ExchangeSeen with status None follows, and
    then the half answers with Respond or Route."""

    exchange: str
    limit: int = 1 << 20


class Route(Action, frozen=True):
    """Send an HTTP exchange upstream. `base`: another base URL than SIDECAR_UPSTREAM; `target`: another raw target. `tap`: show the
    bodies to the half as ExchangeSeen. `hold`: do not forward before a Commit with this ticket is on disk. `rewrite`: name of
    the half's rewrite function for the answer's body, if its media type is among `only` (none named: whatever it is). `drop`: request
    fields, in lower case, that stay here. `retype`: content types as the upstream spells them, each with what the agent is told
    instead."""

    exchange: str
    base: str | None = None
    target: str | None = None
    tap: bool = False
    hold: str = ""
    rewrite: str = ""
    only: Sequence[str] = ()
    drop: Sequence[str] = ()
    retype: Sequence[tuple[str, str]] = ()


# --- sessions and delivery -----------------------------------------------------------------------------------------------------


class Attach(Action, frozen=True):
    """Begin delivery to a session. It starts after the consumer's durable cursor; a consumer never seen before at `fresh`: the
    oldest kept record or the head. `after`: a cursor the client states (offset), which wins; `after_ordinal`: the same as an
    event's ordinal. `quality`: what a pong of this client's stack proves. `paced`: only the transport paces it: a Receipt opens its
    window and proves nothing, the cursor moves by ClientCursor alone."""

    session: str
    stream: str
    consumer: str
    account: str = ""
    fresh: Literal["oldest", "head"] = "oldest"
    after: int | None = None
    after_ordinal: int | None = None
    mark: str = ""
    quality: Quality = "handled"
    paced: bool = False


class Detach(Action, frozen=True):
    """End a session; the next newest session of its consumer takes over the cursor."""

    session: str


class Receipt(Action, frozen=True):
    """Evidence from the transport that the client passed everything up to `offset` on this session. Never credits more than was
    sent on it (invariant 5)."""

    session: str
    offset: int


class ClientCursor(Action, frozen=True):
    """A cursor the client itself stated: counts up to the head of this epoch."""

    session: str
    offset: int


class Seek(Action, frozen=True):
    """Continue a session's delivery after the event with this ordinal (or after this offset), from now on. SeekDone(mark), if there
    is a mark, comes once everything up to the present head was handed over. `receipt`: the place also counts as a cursor the client
    stated. `on_wire`: the client cannot have seen yet what is on its way without a receipt; where that is all there is behind the
    place, it is not sent a second time."""

    session: str
    after_ordinal: int | None = None
    mark: str = ""
    receipt: bool = True
    on_wire: bool = False
    after: int | None = None


class Downgrade(Action, frozen=True):
    """What this session's pongs prove turned out to be less."""

    session: str
    quality: Quality


class AwaitDrain(Action, frozen=True):
    """Ask for ConnDrained(conn, token) once everything sent to the conn so far has left the process."""

    conn: str
    token: str
