"""The Relaycast downstream half: looks like the server's `/v1/ws` to an unmodified client (relaycast R20 to R28).

Life of a conn: OPENED (token known? else asked upstream, at most 5 s; and at most 1 s until an agent's first socket upstream is open or
refused) -> refused bare, or ACCEPTED -> SDKs from 3.1 get up to 250 ms to send `resync` first -> ATTACHED: records come, each frame as
it came but for `agent_seq`, which is the sidecar's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from sidecar.core import actions as act
from sidecar.core import events as ev
from sidecar.core.barrier import PingBarrier
from sidecar.dialects.base import View
from sidecar.dialects.relaycast.identity import REFUSED_S, VERIFY_S, Identities, Outcome
from sidecar.dialects.relaycast.numbering import renumber

ASK_S = 0.25
LINK_S = 1.0
MUTE_S = 20.0
CONSUMER = "agent"
OTHER_TOKENS = ("rk_", "ot_", "nt_")
WEAK_STACKS = ("websockets/", "Mozilla/")

PONG = b'{"type":"pong"}'

OPENED, ACCEPTED, ATTACHED = "opened", "accepted", "attached"


class _Frame(msgspec.Struct):
    """What a client sends; `last_seen_seq` is checked by hand since bad ones are ignored in silence (section 3)."""

    type: str
    last_seen_seq: Any = None


class Conn:
    """One local socket."""

    def __init__(self, name: str, token: str, head: ev.Head, query: dict[str, str], nonce: str) -> None:
        self.name = name
        self.token = token
        self.hints = _without_token(head.target)
        self.state = OPENED
        self.account = ""
        self.barrier = PingBarrier(nonce)
        self.asks = query.get("origin_client") == "@relaycast/sdk" and _at_least(query.get("origin_version", ""), (3, 1))
        agent = head.header("user-agent") or ""
        self.weak = any(word in agent for word in WEAK_STACKS)
        self.written = False
        self.last_barrier = 0
        self.last_seqs: dict[str, int | float] = {}
        self.serial = 0


class DownstreamHalf:
    """One a process. `held`: a token is in the environment (its account is held from start-up)."""

    def __init__(self, settings: Any, view: View) -> None:
        self._settings = settings
        self._view = view
        self._identities = Identities({}, view.keyed_hash)
        self._conns: dict[str, Conn] = {}
        self._held: str | None = None
        self._held_tries = 0
        self._unverified: set[str] = set()
        self._refused: dict[str, float] = {}
        self._refusals: dict[str, int] = {}
        self._linked: set[str] = set()
        self._now = 0.0
        self._draining = False

    def handle(self, moment: ev.Moment, event: ev.Input) -> Sequence[act.Action]:
        """One input; see `sidecar.dialects.base.Half`."""
        self._now = moment.mono
        if type(event) is ev.ConnOpened:
            return self._opened(event, moment)
        handler = self._INPUTS.get(type(event))
        return handler(self, event) if handler else ()

    # --- start and identity ----------------------------------------------------------------------------------------------------

    def _started(self, event: ev.Started) -> list[act.Action]:
        self._identities = Identities(dict(event.state), self._view.keyed_hash)
        if not event.credential:
            return []
        self._held = event.credential
        account = self._identities.vouched(self._held)
        actions = self._identities.ask(self._held)
        if account is not None:
            self._unverified.add(self._held)
            actions.append(self._own(self._held, account, ""))
        return actions

    def _own(self, token: str, account: str, hints: str) -> act.Own:
        return act.Own(account, token, hints, [account])

    def _answered(self, event: ev.ResponseReceived | ev.RequestFailed) -> list[act.Action]:
        outcome, actions = self._identities.answered(event)
        if outcome is None:
            return actions
        token = outcome.token
        if outcome.verdict == "yes":
            actions += self._verified(outcome)
        elif outcome.verdict == "no":
            actions += self._refuse_token(token, outcome.status)
            if token == self._held:
                actions.append(act.StartTimer("verify", REFUSED_S))
                mend = "set SIDECAR_UPSTREAM_TOKEN to a token that the upstream accepts"
                actions.append(act.Log("error", f"upstream refused SIDECAR_UPSTREAM_TOKEN with {outcome.status}; mend: {mend}"))
        else:
            actions += self._unreachable(outcome)
        return actions

    def _verified(self, outcome: Outcome) -> list[act.Action]:
        token, account = outcome.token, outcome.account
        self._unverified.discard(token)
        waiting = [c for c in self._conns.values() if c.token == token and c.state == OPENED]
        hints = waiting[0].hints if waiting else ""
        actions: list[act.Action] = []
        moved = [c for c in self._conns.values() if c.token == token and c.account and c.account != account]
        for conn in moved:
            actions += self._drop(conn, 1008, "token belongs to another agent now")
        if token in self._refused:
            # The socket refused this token before though REST knows it: only the link itself can tell (section 1, from 5.0.1 on).
            actions.append(self._own(token, account, hints))
            return actions
        if waiting or token == self._held:
            actions.append(self._own(token, account, hints))
        for conn in waiting:
            actions += self._admit(conn, account)
        if outcome.fresh:
            # Another token of this agent: it may have been rotated, then the earlier ones lead nowhere any more (R28).
            for other in [t for t, a in self._identities.verified.items() if a == account and t != token]:
                actions += self._identities.ask(other)
        return actions

    def _unreachable(self, outcome: Outcome) -> list[act.Action]:
        token = outcome.token
        actions: list[act.Action] = []
        waiting = [c for c in self._conns.values() if c.token == token and c.state == OPENED]
        if outcome.account and token not in self._refused:
            if waiting:
                self._unverified.add(token)
                actions.append(self._own(token, outcome.account, waiting[0].hints))
            for conn in waiting:
                actions += self._accept(conn, outcome.account)
        else:
            for conn in waiting:
                actions += self._refuse(conn, outcome.status)
        if token in self._unverified or token == self._held:
            self._held_tries += 1
            actions.append(act.StartTimer("verify", min(30.0, 0.5 * 2 ** min(self._held_tries, 6))))
        return actions

    def _reverify(self) -> list[act.Action]:
        tokens = set(self._unverified)
        held = self._held
        if held and (self._refused[held] <= self._now if held in self._refused else held not in self._identities.verified):
            tokens.add(held)
        return [action for token in sorted(tokens) for action in self._identities.ask(token)]

    def _refuse_token(self, token: str, status: int) -> list[act.Action]:
        """The upstream said no: sockets of this token go, new ones get the same answer at their upgrade."""
        self._unverified.discard(token)
        actions: list[act.Action] = []
        for conn in [c for c in self._conns.values() if c.token == token]:
            if conn.state == OPENED:
                actions += self._refuse(conn, status)
            else:
                actions += self._drop(conn, 1008, "token refused by the upstream")
        return actions

    def _said(self, event: ev.MessageFromUpstream) -> list[act.Action]:
        message = event.message
        if "refused" in message:
            token, status = message["refused"], message.get("status", 401)
            self._refused[token] = self._now + REFUSED_S
            self._refusals[token] = status
            actions = self._identities.forget(token) + self._refuse_token(token, status)
            # A server may refuse once and accept later: what is held from the environment is asked for again.
            return [*actions, act.StartTimer("verify", REFUSED_S)] if token == self._held else actions
        if message.get("link") == "up":
            self._held_tries = 0
            self._linked.add(event.account)
            actions = []
            for conn in [c for c in self._conns.values() if c.state == OPENED]:
                if self._identities.verified.get(conn.token) == event.account:
                    actions += self._accept(conn, event.account)
            for token in [t for t in self._refused if self._identities.verified.get(t) == event.account]:
                del self._refused[token]
            return actions + self._reverify()
        return []

    # --- conns -------------------------------------------------------------------------------------------------------------------

    def _opened(self, event: ev.ConnOpened, moment: ev.Moment) -> list[act.Action]:
        parts = urlsplit(event.head.target)
        query = dict(reversed(parse_qsl(parts.query, keep_blank_values=True)))
        token = query.get("token") or _bearer(event.head)
        if parts.path != "/v1/ws" or token.startswith(OTHER_TOKENS):
            return [act.Tunnel(event.conn)]
        if not token:
            return [act.Refuse(event.conn, 401)]
        if self._draining or event.stopping:
            return [act.Refuse(event.conn, 503)]
        conn = Conn(event.conn, token, event.head, query, f"{int(moment.random * 2**40):x}.{event.conn}")
        self._conns[conn.name] = conn
        if token in self._refused:
            if self._refused[token] > self._now:
                return self._refuse(conn, self._refusals[token])
        else:
            account = self._identities.verified.get(token)
            if account is not None:
                return [self._own(token, account, conn.hints), *self._admit(conn, account)]
        return [act.StartTimer("give-up:" + conn.name, VERIFY_S), *self._identities.ask(token)]

    def _admit(self, conn: Conn, account: str) -> list[act.Action]:
        """REST knows the token. Where no socket of this agent was open in this run yet, the socket's word is awaited a moment: a server
        from 5.0.1 on refuses there (section 1), and a client must not be accepted only to be closed (R20)."""
        if account in self._linked:
            return self._accept(conn, account)
        return [act.StartTimer("give-up:" + conn.name, LINK_S)]

    def _accept(self, conn: Conn, account: str) -> list[act.Action]:
        conn.account = account
        conn.state = ACCEPTED
        actions: list[act.Action] = [
            act.CancelTimer("give-up:" + conn.name),
            act.Accept(conn.name),
            # A first barrier at once: whether this client answers pings is known before anything depends on it.
            act.PingConn(conn.name, conn.barrier.payload(0)),
            act.StartTimer("mute:" + conn.name, MUTE_S),
        ]
        if conn.asks:
            return [*actions, act.StartTimer("ask:" + conn.name, ASK_S)]
        return actions + self._attach(conn)

    def _attach(self, conn: Conn, **start: Any) -> list[act.Action]:
        conn.state = ATTACHED
        quality: act.Quality = "buffered" if conn.weak else "handled"
        attach = act.Attach(conn.name, conn.account, CONSUMER, account=conn.account, quality=quality, **start)
        return [act.CancelTimer("ask:" + conn.name), attach]

    def _refuse(self, conn: Conn, status: int) -> list[act.Action]:
        del self._conns[conn.name]
        return [act.CancelTimer("give-up:" + conn.name), act.Refuse(conn.name, status)]

    def _drop(self, conn: Conn, code: int, reason: str) -> list[act.Action]:
        return [*self._forget(conn), act.CloseConn(conn.name, code, reason)]

    def _forget(self, conn: Conn) -> list[act.Action]:
        self._conns.pop(conn.name, None)
        return [
            act.CancelTimer("ask:" + conn.name),
            act.CancelTimer("mute:" + conn.name),
            act.CancelTimer("give-up:" + conn.name),
            act.Detach(conn.name),
        ]

    def _closed(self, event: ev.ConnClosed) -> list[act.Action]:
        conn = self._conns.get(event.conn)
        return self._forget(conn) if conn else []

    def _ousted(self, event: ev.Ousted) -> list[act.Action]:
        conn = self._conns.get(event.session)
        return self._drop(conn, 1012, event.reason) if conn else []

    # --- what clients send -----------------------------------------------------------------------------------------------------

    def _frames(self, event: ev.ConnFrames) -> list[act.Action]:
        conn = self._conns.get(event.conn)
        actions: list[act.Action] = []
        for data in event.frames:
            if conn is None or isinstance(data, ev.Binary):
                continue
            try:
                frame = msgspec.json.decode(data, type=_Frame)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue  # junk is ignored, the socket stays (R21)
            if frame.type == "ping":
                actions.append(act.SendConn(conn.name, [PONG]))
            elif frame.type == "resync" and _is_number(frame.last_seen_seq):
                actions += self._resync(conn, frame.last_seen_seq)
        return actions

    def _resync(self, conn: Conn, last: int | float) -> list[act.Action]:
        """R25: N is the client's cursor in the sidecar's own numbering, which starts at the stream's birth (R22)."""
        facts = self._view.facts(conn.account)
        if facts is None:
            return []
        if last > facts.base + facts.ordinal:
            ack = _ack(last, facts.base + facts.ordinal, 0, False)
            return [act.SendConn(conn.name, [ack]), *(self._attach(conn) if conn.state == ACCEPTED else [])]
        conn.serial += 1
        mark = str(conn.serial)
        conn.last_seqs[mark] = last
        ordinal = int(last // 1) - facts.base
        if conn.state == ACCEPTED:
            return self._attach(conn, after_ordinal=ordinal, mark=mark)
        # An SDK asks once, right after open: if it took longer than ASK_S, what went out meanwhile is on its way already.
        return [act.Seek(conn.name, ordinal, mark, on_wire=conn.asks and conn.serial == 1)]

    def _sought(self, event: ev.SeekDone) -> list[act.Action]:
        conn = self._conns.get(event.session)
        if conn is None:
            return []
        last = conn.last_seqs.pop(event.mark, 0)
        facts = self._view.facts(conn.account)
        base = facts.base if facts else 0
        return [act.SendConn(conn.name, [_ack(last, base + event.head, event.events, event.trimmed or last < base)])]

    # --- delivery and receipts -----------------------------------------------------------------------------------------------------

    def _records(self, event: ev.RecordsReady) -> list[act.Action]:
        conn = self._conns.get(event.session)
        if conn is None:
            return []
        facts = self._view.facts(conn.account)
        base = facts.base if facts else 0
        frames: list[bytes] = []
        for run in event.runs:
            if not run.is_gap:
                frames += renumber(run.payloads, base + run.ordinal)
        actions: list[act.Action] = [act.SendConn(conn.name, frames)] if frames else []
        conn.last_barrier = event.barrier
        if conn.written:
            actions.append(act.AwaitDrain(conn.name, str(event.barrier)))
        else:
            actions.append(act.PingConn(conn.name, conn.barrier.payload(event.barrier)))
        return actions

    def _pong(self, event: ev.ConnPong) -> list[act.Action]:
        conn = self._conns.get(event.conn)
        if conn is None:
            return []
        offset = conn.barrier.pong(event.payload)
        if offset is not None:
            return [act.Receipt(conn.name, offset)] if offset else []
        return self._downgrade(conn) if conn.barrier.useless else []

    def _downgrade(self, conn: Conn) -> list[act.Action]:
        """Its pongs prove nothing: what has left the process counts as taken, and status says so."""
        if conn.written:
            return []
        conn.written = True
        return [act.Downgrade(conn.name, "written"), act.AwaitDrain(conn.name, str(conn.last_barrier))]

    def _drained(self, event: ev.ConnDrained) -> list[act.Action]:
        conn = self._conns.get(event.conn)
        if conn is None or not conn.written:
            return []
        return [act.Receipt(conn.name, int(event.token))]

    def _timer(self, event: ev.TimerFired) -> list[act.Action]:
        kind, _, name = event.timer.partition(":")
        if kind == "verify":
            return self._reverify()
        conn = self._conns.get(name)
        if conn is None:
            return []
        if kind == "ask" and conn.state == ACCEPTED:
            return self._attach(conn)
        if kind == "mute" and not conn.barrier.works and conn.state == ATTACHED:
            # It never answered a ping, not even the first: such a client would hang at a full window for ever.
            return self._downgrade(conn)
        if kind == "give-up" and conn.state == OPENED:
            account = self._identities.verified.get(conn.token)
            if account is not None and conn.token not in self._refused:
                return self._accept(conn, account)
            # The upstream takes too long: as if it were away (R20).
            return self._unreachable(Outcome(conn.token, "unreachable", self._identities.vouched(conn.token) or ""))
        return []

    def _drain(self, _: ev.Draining) -> list[act.Action]:
        """R27: 1012 once receipts are on disk (the engine sends this input only then)."""
        self._draining = True
        actions: list[act.Action] = []
        for conn in list(self._conns.values()):
            if conn.state == OPENED:
                actions += self._refuse(conn, 503)
            else:
                actions.append(act.CloseConn(conn.name, 1012, "service restart"))
        return actions

    def _http(self, event: ev.HttpRequested) -> list[act.Action]:
        return [act.Route(event.exchange)]

    _INPUTS: dict[type, Callable[[DownstreamHalf, Any], list[act.Action]]] = {
        ev.RecordsReady: _records,
        ev.ConnPong: _pong,
        ev.ConnFrames: _frames,
        ev.ConnClosed: _closed,
        ev.Ousted: _ousted,
        ev.ConnDrained: _drained,
        ev.SeekDone: _sought,
        ev.TimerFired: _timer,
        ev.ResponseReceived: _answered,
        ev.RequestFailed: _answered,
        ev.MessageFromUpstream: _said,
        ev.HttpRequested: _http,
        ev.Started: _started,
        ev.Draining: _drain,
    }


def _ack(last: int | float, current: int, replayed: int, gap: bool) -> bytes:
    return msgspec.json.encode(
        {"type": "resync_ack", "last_seen_seq": last, "current_seq": current, "replayed": replayed, "gap_detected": gap}
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value and abs(value) != float("inf")


def _at_least(version: str, wanted: tuple[int, int]) -> bool:
    parts = version.split(".")[:2]
    return len(parts) == 2 and all(p.isdigit() for p in parts) and (int(parts[0]), int(parts[1])) >= wanted


def _bearer(head: ev.Head) -> str:
    scheme, _, token = (head.header("authorization") or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _without_token(target: str) -> str:
    """The query's other members, as they came (section 2: telemetry is passed on unchanged)."""
    query = target.partition("?")[2]
    return "&".join(p for p in query.split("&") if p and not p.startswith("token="))
